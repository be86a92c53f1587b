//! `dirmonitor`: Bots's own directory monitor, supervised.

use crate::bots::service::JobQueue;
use crate::cli::{self, Global};
use crate::config::ServiceName;
use crate::exit::{Error, Outcome};

use super::services::{Choice, Launch, serve};
use super::{health_override, load_config, with_session};

/// Runs the command.
///
/// # Errors
/// Whatever keeps the monitor from starting.
pub fn run(global: &Global, flags: &cli::Service) -> Result<Outcome, Error> {
    with_session(load_config(global, health_override(flags.health_addr.as_ref()))?, async |session| {
        let choice = Choice { expected: vec![ServiceName::Dirmonitor], initialise: false, restart_hung: false };
        serve(session, choice, |config, ground, _| {
            let queue = JobQueue::read(ground.environment)?;
            if !queue.enabled {
                return Err(queue.disabled(ServiceName::Dirmonitor).into());
            }
            Ok(vec![Launch::new(ground.dirmonitor(&flags.args), config)])
        })
        .await
    })
}
