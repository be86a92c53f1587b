//! The services a command runs, and what each is made from.

use std::io;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::time::Duration;

use crate::bots::django_settings::Facts as DjangoFacts;
use crate::bots::services::{Ground, JobQueue, Service, Sign};
use crate::config::{Config, RestartPolicy, ServiceName, StopTimes};
use crate::exit::{Error, Kind};
use crate::health::liveness::{HttpService, SignOfLife};
use crate::health::state::Service as ServiceFacts;
use crate::supervisor::state::{Plan, Policy, Restart};
use crate::supervisor::task;
use crate::telemetry::child_output::LineSink;

use super::dirmonitor_service::NativeMonitor;
use super::jobqueue_service::NativeQueue;

/// What services are made from.
pub(crate) struct Scene<'a> {
    pub config: &'a Config,
    pub ground: Ground<'a>,
    pub django: &'a DjangoFacts,
    pub queue: &'a JobQueue,
    /// Ports on which services of ours listen already.
    pub held: &'a [u16],
}

/// A service and how this command runs it.
pub(crate) struct Launch {
    pub name: ServiceName,
    pub times: StopTimes,
    pub work: Work,
}

/// What a service is.
pub(crate) enum Work {
    /// A process of Bots.
    Process(Box<Process>),
    /// The job queue of our own.
    Queue(Box<NativeQueue>),
    /// The directory monitor of our own.
    Monitor(Box<NativeMonitor>),
}

/// A service that is a process of Bots.
pub(crate) struct Process {
    pub service: Service,
    /// How often, for a service that is meant to end.
    pub every: Option<Duration>,
    /// How long what it leaves may delay the next process: another job queue beside an engine would lose jobs.
    settle: Duration,
}

impl Launch {
    pub fn new(service: Service, config: &Config) -> Self {
        let (name, times) = (service.name, times(service.name, config));
        let settle = if name == ServiceName::Jobqueue { times.timeout } else { Duration::ZERO };
        Self { name, times, work: Work::Process(Box::new(Process { service, every: None, settle })) }
    }

    /// A service that is meant to end, and is run so often.
    pub fn every(service: Service, every: Duration, config: &Config) -> Self {
        let (name, times) = (service.name, times(service.name, config));
        let process = Process { service, every: Some(every), settle: Duration::ZERO };
        Self { name, times, work: Work::Process(Box::new(process)) }
    }

    pub fn queue(queue: NativeQueue, config: &Config) -> Self {
        let name = ServiceName::Jobqueue;
        Self { name, times: times(name, config), work: Work::Queue(Box::new(queue)) }
    }

    pub fn monitor(monitor: NativeMonitor, config: &Config) -> Self {
        let name = ServiceName::Dirmonitor;
        Self { name, times: times(name, config), work: Work::Monitor(Box::new(monitor)) }
    }

    pub fn facts(&self) -> ServiceFacts {
        let takes_work = !matches!(self.work, Work::Process(_)) || *self.sign() != Sign::None;
        ServiceFacts::new(self.name.as_str(), takes_work)
    }

    pub fn sign_of_life(&self) -> Option<SignOfLife> {
        match self.sign() {
            Sign::Web { port, path, https } => {
                Some(SignOfLife::Http(HttpService { port: *port, path: path.clone(), tls: *https }))
            }
            Sign::JobQueue { port } => Some(SignOfLife::JobQueue(*port)),
            Sign::Inotify => Some(SignOfLife::Inotify),
            Sign::None => None,
        }
    }

    /// Where a person on this machine finds it.
    pub fn place(&self) -> String {
        match self.sign() {
            Sign::Web { port, https, .. } => {
                format!("the web UI answers on {}://localhost:{port}", if *https { "https" } else { "http" })
            }
            Sign::JobQueue { port } => format!("the job queue answers on port {port}"),
            Sign::Inotify => "the directory monitor watches".to_owned(),
            Sign::None => String::new(),
        }
    }

    pub fn sign(&self) -> &Sign {
        match &self.work {
            Work::Process(process) => &process.service.sign,
            Work::Queue(_) | Work::Monitor(_) => &Sign::None,
        }
    }
}

impl Process {
    /// In the supervisor's terms.
    pub fn supervised(self, times: StopTimes, config: &Config, lines: LineSink) -> task::Service {
        let Self { service, every, settle } = self;
        let name = service.name.as_str();
        let plan = Plan {
            drain: times.drain,
            renewal_drain: if service.name == ServiceName::Webserver { config.reload.drain } else { times.drain },
            timeout: times.timeout,
            stop_signal: service.stop_signal,
            settle,
            restart: if every.is_some() { never(config) } else { restart(config) },
        };
        let is_watched = service.sign != Sign::None;
        task::Service { name, spec: service.spec, plan, lines, is_watched }
    }
}

fn times(name: ServiceName, config: &Config) -> StopTimes {
    match name {
        ServiceName::Webserver => config.stop.webserver,
        ServiceName::Jobqueue => config.stop.jobqueue,
        ServiceName::Dirmonitor => config.stop.dirmonitor,
        ServiceName::Engine => config.stop.engine,
    }
}

/// The restart rules of the configuration, in the supervisor's terms.
fn restart(config: &Config) -> Restart {
    let policy = match config.restart.policy {
        RestartPolicy::Never => Policy::Never,
        RestartPolicy::OnFailure => Policy::OnFailure,
        RestartPolicy::Always => Policy::Always,
    };
    let crate::config::Restart { limit, delay, longest_delay, reset_after, .. } = config.restart;
    Restart { policy, limit, delay, longest_delay, reset_after }
}

/// For a service that ends by itself. Want of processes is waited for all the same.
pub(crate) fn never(config: &Config) -> Restart {
    Restart { policy: Policy::Never, ..restart(config) }
}

/// Bots itself would only find out after its start-up, and print a traceback.
pub(crate) fn check_web_port(scene: &Scene<'_>) -> Result<(), Error> {
    let ini = scene.ground.environment.config.join("bots.ini");
    let place = format!("[webserver] port in {}, or PORT, or --port", ini.display());
    check_port(scene, Ipv4Addr::UNSPECIFIED, scene.django.web_port, "serve the web UI", &place)
}

/// Bots's job queue would print a traceback and stay alive without a listener.
pub(crate) fn check_queue_port(scene: &Scene<'_>) -> Result<(), Error> {
    let place = format!("[jobqueue] port in {}", scene.queue.file.display());
    check_port(scene, Ipv4Addr::LOCALHOST, scene.queue.port, "serve the job queue", &place)
}

fn check_port(scene: &Scene<'_>, address: Ipv4Addr, port: u16, what: &str, place: &str) -> Result<(), Error> {
    if scene.held.contains(&port) {
        return Ok(());
    }
    let Err(error) = StdListener::bind((address, port)) else { return Ok(()) };
    let reason = match error.kind() {
        io::ErrorKind::AddrInUse if port == scene.config.health.addr.port() => "the health listener has it".to_owned(),
        io::ErrorKind::AddrInUse => "another program listens there".to_owned(),
        _ => error.to_string(),
    };
    Err(Error::new(Kind::Unavailable, format!("cannot {what} on port {port}: {reason}; set {place}")))
}
