//! `webserver`: prepares the environment, runs the web UI, and stops it.

use crate::cli::{self, Global};
use crate::exit::{Error, Outcome};
use crate::model::ServiceName;

use super::{overrides, run_services};

/// Runs the command.
///
/// # Errors
/// All errors that keep the web UI from starting.
pub fn run(global: &Global, flags: &cli::Webserver) -> Result<Outcome, Error> {
    let given = overrides([
        ("webserver.port", "--port", flags.port.clone()),
        ("health.addr", "--health-addr", flags.health_addr.clone()),
    ]);
    run_services(global, given, Some(ServiceName::Webserver), &flags.args, flags.install)
}
