//! `up`: all services in one process tree, for a laptop or a single host.

use std::ffi::OsString;

use tracing::info;

use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::bots::services::BotsContext;
use crate::cli::{self, Global};
use crate::config::Config;
use crate::exit::{Error, Outcome};
use crate::model::ServiceName;

use super::webserver::install_if_missing;
use super::{dirmonitor, jobqueue, load_config, overrides, read_config, webserver};
use crate::runtime::serve::{ServePlan, serve};
use crate::runtime::service_spec::{LaunchContext, ServiceSpec};
use crate::runtime::session::with_app;

/// Runs the command.
///
/// # Errors
/// Whatever keeps a service from starting.
pub fn run(global: &Global, flags: &cli::Up) -> Result<Outcome, Error> {
    let given = overrides([
        ("up.services", "--services", flags.services.clone()),
        ("webserver.port", "--port", flags.port.clone()),
        ("health.addr", "--health-addr", flags.health_addr.clone()),
    ]);
    with_app(load_config(global, given.clone())?, async |mut session| {
        if flags.install
            && let Some(interrupted) = install_if_missing(&mut session).await?
        {
            return Ok(interrupted);
        }
        let plan = ServePlan {
            expected: session.config.up.services.clone().unwrap_or_else(|| ServiceName::ALL.to_vec()),
            initialise: true,
            restart_hung: true,
            read: &|| read_config(global, given.clone()),
            choose: &select_services,
        };
        serve(session, plan).await
    })
}

fn select_services(context: &LaunchContext<'_>) -> Result<Vec<ServiceSpec>, Error> {
    let chosen = context.config.up.services.clone().unwrap_or_else(|| enabled_services(context.queue));
    let service_spec = |name| match name {
        ServiceName::Jobqueue => jobqueue::service_spec(context, &[]),
        ServiceName::Webserver => webserver::service_spec(context, &[]),
        ServiceName::Dirmonitor => dirmonitor::service_spec(context, &[]),
        ServiceName::Engine => Ok(engine(context.config, &context.bots)),
    };
    chosen.into_iter().map(service_spec).collect()
}

fn engine(config: &Config, bots: &BotsContext<'_>) -> ServiceSpec {
    let new = [OsString::from("--new")];
    ServiceSpec { every: Some(config.up.engine_interval), ..bots.engine_via_shim(&new).into() }
}

/// What bots.ini has in use.
fn enabled_services(queue: &BotsJobQueueIni) -> Vec<ServiceName> {
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
