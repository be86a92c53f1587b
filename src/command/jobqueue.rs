//! `jobqueue`: Bots's own job queue, supervised.

use tracing::warn;

use crate::bots::Generation;
use crate::bots::service::{Ground, JobQueue};
use crate::cli::{self, Global};
use crate::config::{Config, ServiceName};
use crate::exit::{Error, Outcome};

use super::services::{Choice, Launch, check_queue_port, serve};
use super::{health_override, load_config, with_session};

/// Runs the command.
///
/// # Errors
/// Whatever keeps the queue from starting.
pub fn run(global: &Global, flags: &cli::Service) -> Result<Outcome, Error> {
    with_session(load_config(global, health_override(flags.health_addr.as_ref()))?, async |session| {
        let choice = Choice { expected: vec![ServiceName::Jobqueue], initialise: false, restart_hung: false };
        serve(session, choice, |config, ground, _| {
            Ok(vec![launch(config, ground, &JobQueue::read(ground.environment)?, &flags.args)?])
        })
        .await
    })
}

/// The queue, when it can work.
pub(super) fn launch(
    config: &Config,
    ground: &Ground<'_>,
    queue: &JobQueue,
    args: &[std::ffi::OsString],
) -> Result<Launch, Error> {
    if !queue.enabled {
        return Err(queue.disabled(ServiceName::Jobqueue).into());
    }
    check_queue_port(config, queue)?;
    if ground.bots.generation() == Generation::Three {
        warn!("the job queue of Bots 3 takes jobs and never runs them");
    }
    Ok(Launch::new(ground.jobqueue(queue, args), config))
}
