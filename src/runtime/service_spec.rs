//! The services a command runs, and what each is made from.

use std::io;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::time::Duration;

use crate::bots::django_settings::DjangoSettings as DjangoFacts;
use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::bots::services::{BotsContext, BotsServiceSpec};
use crate::config::{Config, StopTimeouts};
use crate::exit::{Error, Kind};
use crate::health::state::ServiceHealth as ServiceFacts;
use crate::model::{LivenessProbe, RestartPolicy, RestartRules, ServiceName};
use crate::supervisor::state::ServicePolicy;
use crate::supervisor::task;
use crate::telemetry::child_output::ServiceOutput;

use super::dirmonitor_service::DirMonitorService;
use super::jobqueue_service::JobQueueService;

/// What services are made from.
pub(crate) struct LaunchContext<'a> {
    pub config: &'a Config,
    pub bots: BotsContext<'a>,
    pub django: &'a DjangoFacts,
    pub queue: &'a BotsJobQueueIni,
    /// Ports on which services of ours listen already.
    pub own_ports: &'a [u16],
}

/// A service and how this command runs it.
pub(crate) struct ServiceSpec {
    pub name: ServiceName,
    pub times: StopTimeouts,
    pub work: ServiceKind,
}

/// What a service is.
pub(crate) enum ServiceKind {
    /// A process of Bots.
    Child(Box<ChildService>),
    /// The job queue of our own.
    JobQueue(Box<JobQueueService>),
    /// The directory monitor of our own.
    DirMonitor(Box<DirMonitorService>),
}

/// A service that is a process of Bots.
pub(crate) struct ChildService {
    pub service: BotsServiceSpec,
    /// How often, for a service that is meant to end.
    pub every: Option<Duration>,
    /// How long what it leaves may delay the next process: another job queue beside an engine would lose jobs.
    leftover_timeout: Duration,
}

impl ServiceSpec {
    pub fn new(service: BotsServiceSpec, config: &Config) -> Self {
        let (name, times) = (service.name, stop_timeouts(service.name, config));
        let leftover_timeout = if name == ServiceName::Jobqueue { times.timeout } else { Duration::ZERO };
        Self {
            name,
            times,
            work: ServiceKind::Child(Box::new(ChildService { service, every: None, leftover_timeout })),
        }
    }

    /// A service that is meant to end, and is run so often.
    pub fn new_periodic(service: BotsServiceSpec, every: Duration, config: &Config) -> Self {
        let (name, times) = (service.name, stop_timeouts(service.name, config));
        let process = ChildService { service, every: Some(every), leftover_timeout: Duration::ZERO };
        Self { name, times, work: ServiceKind::Child(Box::new(process)) }
    }

    pub fn queue(queue: JobQueueService, config: &Config) -> Self {
        let name = ServiceName::Jobqueue;
        Self { name, times: stop_timeouts(name, config), work: ServiceKind::JobQueue(Box::new(queue)) }
    }

    pub fn monitor(monitor: DirMonitorService, config: &Config) -> Self {
        let name = ServiceName::Dirmonitor;
        Self { name, times: stop_timeouts(name, config), work: ServiceKind::DirMonitor(Box::new(monitor)) }
    }

    pub fn health(&self) -> ServiceFacts {
        let takes_work = !matches!(self.work, ServiceKind::Child(_)) || self.probe().is_some();
        ServiceFacts::new(self.name.as_str(), takes_work)
    }

    /// Where a person on this machine finds it.
    pub fn ready_message(&self) -> String {
        match self.probe() {
            Some(LivenessProbe::Http { port, tls, .. }) => {
                format!("the web UI answers on {}://localhost:{port}", if *tls { "https" } else { "http" })
            }
            Some(LivenessProbe::JobQueue { port }) => format!("the job queue answers on port {port}"),
            Some(LivenessProbe::Inotify) => "the directory monitor watches".to_owned(),
            None => String::new(),
        }
    }

    pub fn probe(&self) -> Option<&LivenessProbe> {
        match &self.work {
            ServiceKind::Child(process) => process.service.probe.as_ref(),
            ServiceKind::JobQueue(_) | ServiceKind::DirMonitor(_) => None,
        }
    }
}

impl ChildService {
    /// In the supervisor's terms.
    pub fn supervised(self, times: StopTimeouts, config: &Config, lines: ServiceOutput) -> task::SupervisedService {
        let Self { service, every, leftover_timeout } = self;
        let name = service.name.as_str();
        let plan = ServicePolicy {
            drain: times.drain,
            reload_drain: if service.name == ServiceName::Webserver { config.reload.drain } else { times.drain },
            timeout: times.timeout,
            stop_signal: service.stop_signal,
            leftover_timeout,
            restart: if every.is_some() { never_restart(config) } else { config.restart },
            lets_runs_finish: false,
        };
        let is_watched = service.probe.is_some();
        task::SupervisedService { name, spec: service.spec, plan, lines, has_liveness_probe: is_watched }
    }
}

fn stop_timeouts(name: ServiceName, config: &Config) -> StopTimeouts {
    config.stop.of(name)
}

/// For a service that ends by itself. Want of processes is waited for all the same.
pub(crate) fn never_restart(config: &Config) -> RestartRules {
    RestartRules { policy: RestartPolicy::Never, ..config.restart }
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
