//! `jobqueue`: the job queue, of bots-ctl itself or Bots's own.

use crate::cli::{self, Global};
use crate::exit::{Error, Outcome};
use crate::model::ServiceName;

use super::{config_inputs, load_config, overrides};
use crate::runtime::serve::serve;
use crate::runtime::service_spec::ServePlan;
use crate::runtime::session::with_session;

/// Runs the command.
///
/// # Errors
/// Whatever keeps the queue from starting.
pub fn run(global: &Global, flags: &cli::Jobqueue) -> Result<Outcome, Error> {
    let given = overrides([
        ("jobqueue.backend", "--backend", flags.backend.clone()),
        ("health.addr", "--health-addr", flags.health_addr.clone()),
    ]);
    with_session(load_config(global, given.clone())?, async |session| {
        let inputs = config_inputs(global, given);
        serve(session, ServePlan { only: Some(ServiceName::Jobqueue), args: flags.args.clone(), inputs }).await
    })
}
