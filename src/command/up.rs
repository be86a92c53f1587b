//! `up`: all services in one process tree, for a laptop or a single host.

use std::ffi::OsString;

use tracing::info;

use crate::bots::services::{Ground, JobQueue};
use crate::cli::{self, Global};
use crate::config::{Config, Override, ServiceName};
use crate::exit::{Error, Outcome};

use super::webserver::install_if_missing;
use super::{dirmonitor, jobqueue, load_config, read_config, webserver};
use crate::runtime::serve::{Choice, serve};
use crate::runtime::service_spec::{Launch, Scene};
use crate::runtime::session::with_session;

/// Runs the command.
///
/// # Errors
/// Whatever keeps a service from starting.
pub fn run(global: &Global, flags: &cli::Up) -> Result<Outcome, Error> {
    let given = [
        ("up.services", "--services", &flags.services),
        ("webserver.port", "--port", &flags.port),
        ("health.addr", "--health-addr", &flags.health_addr),
    ];
    let given =
        given.into_iter().filter_map(|(path, flag, value)| Some(Override { path, flag, value: value.clone()? }));
    let given: Vec<Override> = given.collect();
    with_session(load_config(global, given.clone())?, async |mut session| {
        if flags.install
            && let Some(interrupted) = install_if_missing(&mut session).await?
        {
            return Ok(interrupted);
        }
        let choice = Choice {
            expected: session.config.up.services.clone().unwrap_or_else(|| ServiceName::ALL.to_vec()),
            initialise: true,
            restart_hung: true,
            read: &|| read_config(global, given.clone()),
            choose: &choose,
        };
        serve(session, choice).await
    })
}

fn choose(scene: &Scene<'_>) -> Result<Vec<Launch>, Error> {
    let chosen = scene.config.up.services.clone().unwrap_or_else(|| in_use(scene.queue));
    let launch = |name| match name {
        ServiceName::Jobqueue => jobqueue::launch(scene, &[]),
        ServiceName::Webserver => webserver::launch(scene, &[]),
        ServiceName::Dirmonitor => dirmonitor::launch(scene, &[]),
        ServiceName::Engine => Ok(engine(scene.config, &scene.ground)),
    };
    chosen.into_iter().map(launch).collect()
}

fn engine(config: &Config, ground: &Ground<'_>) -> Launch {
    let new = [OsString::from("--new")];
    Launch::every(ground.engine_by_link(&new), config.up.engine_every, config)
}

/// What bots.ini has in use.
fn in_use(queue: &JobQueue) -> Vec<ServiceName> {
    let is_in_use = |name: &ServiceName| match name {
        ServiceName::Webserver | ServiceName::Engine => true,
        ServiceName::Jobqueue | ServiceName::Dirmonitor => queue.enabled,
    };
    let (chosen, left_out): (Vec<_>, Vec<_>) = ServiceName::ALL.into_iter().partition(is_in_use);
    if !left_out.is_empty() {
        let names: Vec<&str> = left_out.iter().map(|name| name.as_str()).collect();
        info!("leaving out {}: [jobqueue] enabled is not True in {}", names.join(" and "), queue.file.display());
    }
    chosen
}
