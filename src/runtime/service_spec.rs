//! The services a command runs, and what each is made from.

use std::io;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::time::Duration;

use crate::bots::django_settings::DjangoSettings;
use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::bots::services::{BotsContext, BotsServiceSpec};
use crate::config::Config;
use crate::exit::{Error, Kind};
use crate::health::state::ServiceHealth;
use crate::model::{LivenessProbe, RestartPolicy, RestartRules, ServiceName};
use crate::supervisor::state::ServicePolicy;

use super::dirmonitor_service::DirMonitorService;
use super::jobqueue_service::JobQueueService;

/// What services are made from.
pub(crate) struct LaunchContext<'a> {
    pub config: &'a Config,
    pub bots: BotsContext<'a>,
    pub django: &'a DjangoSettings,
    pub queue: &'a BotsJobQueueIni,
    /// Ports on which services of ours listen already.
    pub own_ports: &'a [u16],
}

/// A service and how this command runs it.
pub(crate) struct ServiceSpec {
    pub name: ServiceName,
    /// How often it is run, where it is meant to end.
    pub every: Option<Duration>,
    pub work: ServiceKind,
}

/// What a service is.
pub(crate) enum ServiceKind {
    /// A process of Bots.
    Child(Box<BotsServiceSpec>),
    /// The job queue of our own.
    JobQueue(Box<JobQueueService>),
    /// The directory monitor of our own.
    DirMonitor(Box<DirMonitorService>),
}

impl From<BotsServiceSpec> for ServiceSpec {
    fn from(service: BotsServiceSpec) -> Self {
        Self { name: service.name, every: None, work: ServiceKind::Child(Box::new(service)) }
    }
}

impl From<JobQueueService> for ServiceSpec {
    fn from(queue: JobQueueService) -> Self {
        Self { name: ServiceName::Jobqueue, every: None, work: ServiceKind::JobQueue(Box::new(queue)) }
    }
}

impl From<DirMonitorService> for ServiceSpec {
    fn from(monitor: DirMonitorService) -> Self {
        Self { name: ServiceName::Dirmonitor, every: None, work: ServiceKind::DirMonitor(Box::new(monitor)) }
    }
}

impl ServiceSpec {
    pub fn health(&self) -> ServiceHealth {
        let takes_work = !matches!(self.work, ServiceKind::Child(_)) || self.probe().is_some();
        ServiceHealth::new(self.name.as_str(), takes_work)
    }

    /// Where a person on this machine finds it.
    pub fn ready_message(&self) -> Option<String> {
        Some(match self.probe()? {
            LivenessProbe::Http { port, tls, .. } => {
                format!("the web UI answers on {}://localhost:{port}", if *tls { "https" } else { "http" })
            }
            LivenessProbe::JobQueue { port } => format!("the job queue answers on port {port}"),
            LivenessProbe::Inotify => "the directory monitor watches".to_owned(),
        })
    }

    pub fn probe(&self) -> Option<&LivenessProbe> {
        match &self.work {
            ServiceKind::Child(service) => service.probe.as_ref(),
            ServiceKind::JobQueue(_) | ServiceKind::DirMonitor(_) => None,
        }
    }
}

/// How a process of Bots is kept running, and stopped.
pub(crate) fn policy(service: &BotsServiceSpec, ends_by_itself: bool, config: &Config) -> ServicePolicy {
    let (name, times) = (service.name, config.stop.of(service.name));
    ServicePolicy {
        drain: times.drain,
        reload_drain: if name == ServiceName::Webserver { config.reload.drain } else { times.drain },
        timeout: times.timeout,
        stop_signal: service.stop_signal,
        // Another job queue beside an engine would lose jobs.
        leftover_timeout: if name == ServiceName::Jobqueue { times.timeout } else { Duration::ZERO },
        restart: RestartRules {
            // Processes or memory that are exhausted are waited for all the same.
            policy: if ends_by_itself { RestartPolicy::Never } else { config.restart.policy },
            ..config.restart
        },
        lets_runs_finish: false,
    }
}

/// Bots itself would only find out after its start-up, and print a traceback.
pub(crate) fn check_web_port(context: &LaunchContext<'_>) -> Result<(), Error> {
    let ini = context.bots.environment.config.join("bots.ini");
    let setting = format!("[webserver] port in {}, or PORT, or --port", ini.display());
    check_port(context, Ipv4Addr::UNSPECIFIED, context.django.web_port, "serve the web UI", &setting)
}

/// Bots's job queue would print a traceback and stay alive without a listener.
pub(crate) fn check_queue_port(context: &LaunchContext<'_>) -> Result<(), Error> {
    let setting = format!("[jobqueue] port in {}", context.queue.file.display());
    check_port(context, Ipv4Addr::LOCALHOST, context.queue.port, "serve the job queue", &setting)
}

fn check_port(
    context: &LaunchContext<'_>,
    address: Ipv4Addr,
    port: u16,
    what: &str,
    setting: &str,
) -> Result<(), Error> {
    if context.own_ports.contains(&port) {
        return Ok(());
    }
    let Err(error) = StdListener::bind((address, port)) else { return Ok(()) };
    let reason = match error.kind() {
        io::ErrorKind::AddrInUse if port == context.config.health.addr.port() => {
            "the health listener has it".to_owned()
        }
        io::ErrorKind::AddrInUse => "another program listens there".to_owned(),
        _ => error.to_string(),
    };
    Err(Error::new(Kind::Unavailable, format!("cannot {what} on port {port}: {reason}; set {setting}")))
}
