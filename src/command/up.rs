//! `up`: all services in one process tree, for a laptop or a single host.

use std::ffi::OsString;

use tracing::info;

use crate::bots::service::{Ground, JobQueue};
use crate::cli::{self, Global};
use crate::config::{Config, Override, ServiceName};
use crate::exit::{Error, Outcome};

use super::services::{Choice, Launch, check_web_port, serve};
use super::webserver::install_if_missing;
use super::{dirmonitor, jobqueue, load_config, with_session};

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
    with_session(load_config(global, given.collect())?, async |mut session| {
        if flags.install
            && let Some(interrupted) = install_if_missing(&mut session).await?
        {
            return Ok(interrupted);
        }
        let expected = session.config.up.services.clone().unwrap_or_else(|| ServiceName::ALL.to_vec());
        let choice = Choice { expected, initialise: true, restart_hung: true };
        serve(session, choice, |config, ground, django| {
            let queue = JobQueue::read(ground.environment)?;
            let chosen = config.up.services.clone().unwrap_or_else(|| in_use(&queue));
            let launch = |name| match name {
                ServiceName::Jobqueue => jobqueue::launch(config, ground, django, &queue, &[]),
                ServiceName::Webserver => {
                    check_web_port(config, ground, django)?;
                    Ok(Launch::new(ground.webserver(django, &[]), config))
                }
                ServiceName::Dirmonitor => dirmonitor::launch(config, ground, django, &queue, &[]),
                ServiceName::Engine => Ok(engine(config, ground)),
            };
            chosen.into_iter().map(launch).collect()
        })
        .await
    })
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
