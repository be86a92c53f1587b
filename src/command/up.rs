//! `up`: all services in one process tree, for a laptop or a single host.

use crate::cli::{self, Global};
use crate::exit::{Error, Outcome};

use super::{overrides, run_services};

/// Runs the command.
///
/// # Errors
/// All errors that keep a service from starting.
pub fn run(global: &Global, flags: &cli::Up) -> Result<Outcome, Error> {
    let given = overrides([
        ("up.services", "--services", flags.services.clone()),
        ("webserver.port", "--port", flags.port.clone()),
        ("health.addr", "--health-addr", flags.health_addr.clone()),
    ]);
    run_services(global, given, None, &[], flags.install)
}
