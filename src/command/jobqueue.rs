//! `jobqueue`: the job queue, of our own or Bots's own.

use std::ffi::OsString;

use crate::bots::services::BotsContext;
use crate::cli::{self, Global};
use crate::config::{Config, ServiceBackend};
use crate::exit::{Error, Kind, Outcome};
use crate::model::{BotsVersion, ServiceName};

use super::{load_config, overrides, read_config};
use crate::runtime::init_db;
use crate::runtime::jobqueue_service::JobQueueService;
use crate::runtime::serve::serve_one;
use crate::runtime::service_spec::{LaunchContext, ServiceSpec, check_queue_port};
use crate::runtime::session::with_app;

/// Runs the command.
///
/// # Errors
/// Whatever keeps the queue from starting.
pub fn run(global: &Global, flags: &cli::Jobqueue) -> Result<Outcome, Error> {
    let given = overrides([
        ("jobqueue.backend", "--backend", flags.backend.clone()),
        ("health.addr", "--health-addr", flags.health_addr.clone()),
    ]);
    with_app(load_config(global, given.clone())?, async |session| {
        let read = || read_config(global, given.clone());
        serve_one(session, ServiceName::Jobqueue, &read, &|context| service_spec(context, &flags.args)).await
    })
}

/// The queue, when it can work.
pub(super) fn service_spec(context: &LaunchContext<'_>, args: &[OsString]) -> Result<ServiceSpec, Error> {
    let LaunchContext { config, bots, django, queue, .. } = context;
    if !queue.enabled {
        return Err(queue.disabled_error(ServiceName::Jobqueue).into());
    }
    match config.jobqueue.backend {
        ServiceBackend::Native if !args.is_empty() => {
            let text = "arguments after -- are for bots-jobqueueserver, which --backend python runs";
            Err(Error::new(Kind::Usage, text))
        }
        ServiceBackend::Native => {
            let addr = config.jobqueue.guarded_addr().map_err(|text| Error::new(Kind::Configuration, text))?;
            if !context.own_ports.is_empty() {
                // Nothing is taken over that the queue could not do.
                check_queue_port(context)?;
            }
            let database = init_db::database_config(config, django)?;
            Ok(JobQueueService::new(config, bots, queue, database, addr).into())
        }
        ServiceBackend::Python => {
            check_python(config, bots)?;
            check_queue_port(context)?;
            Ok(bots.jobqueue(queue, args).into())
        }
    }
}

/// What Bots's own server cannot do, and would not say.
fn check_python(config: &Config, bots: &BotsContext<'_>) -> Result<(), Error> {
    const REMEDY: &str = "use BOTS_CTL_JOBQUEUE_BACKEND=native";
    let refused = |reason: String| Err(Error::new(Kind::Configuration, format!("{reason}; {REMEDY}")));
    if bots.bots.bots_version() == BotsVersion::V3 {
        return refused("the job queue of Bots 3 takes jobs and never runs them".to_owned());
    }
    match config.jobqueue.addr {
        Some(addr) => refused(format!("BOTS_CTL_JOBQUEUE_ADDR={addr}: Bots's own job queue serves loopback alone")),
        None => Ok(()),
    }
}
