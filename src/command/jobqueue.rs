//! `jobqueue`: the job queue, of bots-ctl itself or Bots's own.

use crate::cli::{self, Global};
use crate::exit::{Error, Outcome};
use crate::model::ServiceName;

use super::{overrides, run_services};

/// Runs the command.
///
/// # Errors
/// All errors that keep the queue from starting.
pub fn run(global: &Global, flags: &cli::Jobqueue) -> Result<Outcome, Error> {
    let given = overrides([
        ("jobqueue.backend", "--backend", flags.backend.clone()),
        ("health.addr", "--health-addr", flags.health_addr.clone()),
    ]);
    run_services(global, given, Some(ServiceName::Jobqueue), &flags.args, false)
}
