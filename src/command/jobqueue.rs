//! `jobqueue`: the job queue, of our own or Bots's own.

use std::ffi::OsString;

use crate::bots::Generation;
use crate::bots::services::Ground;
use crate::cli::{self, Global};
use crate::config::{Backend, Config, Override, ServiceName};
use crate::exit::{Error, Kind, Outcome};

use super::{health_override, load_config, read_config};
use crate::runtime::init_db;
use crate::runtime::jobqueue_service::NativeQueue;
use crate::runtime::serve::serve_one;
use crate::runtime::service_spec::{Launch, Scene, check_queue_port};
use crate::runtime::session::with_session;

/// Runs the command.
///
/// # Errors
/// Whatever keeps the queue from starting.
pub fn run(global: &Global, flags: &cli::Jobqueue) -> Result<Outcome, Error> {
    let backend = flags.backend.clone();
    let backend = backend.map(|value| Override { path: "jobqueue.backend", flag: "--backend", value });
    let given: Vec<Override> = health_override(flags.health_addr.as_ref()).into_iter().chain(backend).collect();
    with_session(load_config(global, given.clone())?, async |session| {
        let read = || read_config(global, given.clone());
        serve_one(session, ServiceName::Jobqueue, &read, &|scene| launch(scene, &flags.args)).await
    })
}

/// The queue, when it can work.
pub(super) fn launch(scene: &Scene<'_>, args: &[OsString]) -> Result<Launch, Error> {
    let Scene { config, ground, django, queue, .. } = scene;
    if !queue.enabled {
        return Err(queue.disabled(ServiceName::Jobqueue).into());
    }
    match config.jobqueue.backend {
        Backend::Native if !args.is_empty() => {
            let text = "arguments after -- are for bots-jobqueueserver, which --backend python runs";
            Err(Error::new(Kind::Usage, text))
        }
        Backend::Native => {
            let addr = config.jobqueue.guarded_addr().map_err(|text| Error::new(Kind::Configuration, text))?;
            if !scene.held.is_empty() {
                // Nothing is taken over that the queue could not do.
                check_queue_port(scene)?;
            }
            let database = init_db::settings(config, django)?;
            Ok(Launch::queue(NativeQueue::new(config, ground, queue, database, addr), config))
        }
        Backend::Python => {
            check_python(config, ground)?;
            check_queue_port(scene)?;
            Ok(Launch::new(ground.jobqueue(queue, args), config))
        }
    }
}

/// What Bots's own server cannot do, and would not say.
fn check_python(config: &Config, ground: &Ground<'_>) -> Result<(), Error> {
    const INSTEAD: &str = "use BOTS_CTL_JOBQUEUE_BACKEND=native";
    let refused = |why: String| Err(Error::new(Kind::Configuration, format!("{why}; {INSTEAD}")));
    if ground.bots.generation() == Generation::Three {
        return refused("the job queue of Bots 3 takes jobs and never runs them".to_owned());
    }
    match config.jobqueue.addr {
        Some(addr) => refused(format!("BOTS_CTL_JOBQUEUE_ADDR={addr}: Bots's own job queue serves loopback alone")),
        None => Ok(()),
    }
}
