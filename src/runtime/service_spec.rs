//! The services of a command, and their inputs.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::time::Duration;

use tracing::info;

use crate::bots;
use crate::bots::context::BotsContext;
use crate::bots::dirmonitor_config::DirmonitorConfig;
use crate::bots::django_settings::DjangoSettings;
use crate::bots::engine_shim;
use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::bots::services::BotsServiceSpec;
use crate::config::{Config, ServiceBackend};
use crate::exit::{Error, Kind};
use crate::health::state::ServiceHealth;
use crate::model::{BotsVersion, LivenessProbe, RestartPolicy, RestartRules, ServiceName};
use crate::supervisor::state::ServicePolicy;
use crate::supervisor::task::SupervisedService;
use crate::telemetry::child_output::ServiceOutput;

use super::config_inputs::ConfigInputs;
use super::dirmonitor_service::DirMonitorService;
use super::init_db;
use super::jobqueue_service::JobQueueService;

/// The services of a command.
pub(crate) struct ServePlan {
    /// The one service of a container; none for `up`, which runs all that are in use.
    pub only: Option<ServiceName>,
    /// Arguments for that service of Bots.
    pub args: Vec<OsString>,
    /// Where the configuration is read from.
    pub inputs: ConfigInputs,
}

impl ServePlan {
    /// The services that probes see until the real ones are known.
    pub fn expected(&self, config: &Config) -> Vec<ServiceName> {
        let of_up = || config.up.services.clone().unwrap_or_else(|| ServiceName::ALL.to_vec());
        self.only.map_or_else(of_up, |name| vec![name])
    }

    /// Whether the database is completed first, as for the web UI.
    pub fn initialises_database(&self) -> bool {
        self.only.is_none_or(|name| name == ServiceName::Webserver)
    }

    /// Whether an unresponsive service is restarted, unless the configuration overrides this. In a container with a
    /// single service the kubelet does it.
    pub fn restarts_unresponsive(&self) -> bool {
        self.only.is_none()
    }

    /// The services to run.
    ///
    /// # Errors
    /// The conditions under which one of them cannot start.
    pub fn services(&self, context: &LaunchContext<'_>) -> Result<Vec<ServiceSpec>, Error> {
        match self.only {
            Some(name) => Ok(vec![context.service(name, &self.args)?]),
            None => context.all_services(),
        }
    }
}

/// The inputs of services.
pub(crate) struct LaunchContext<'a> {
    pub config: &'a Config,
    pub bots: BotsContext<'a>,
    pub django: &'a DjangoSettings,
    pub queue: &'a BotsJobQueueIni,
    /// Ports on which the running services listen; none at a start.
    pub own_ports: Option<[u16; 2]>,
}

/// A service and how this command runs it.
pub(crate) struct ServiceSpec {
    pub name: ServiceName,
    /// The interval of its runs, if it is periodic.
    pub every: Option<Duration>,
    pub work: ServiceKind,
}

/// The kind of a service.
pub(crate) enum ServiceKind {
    /// A process of Bots.
    Child(Box<BotsServiceSpec>),
    /// The native job queue.
    JobQueue(Box<JobQueueService>),
    /// The native directory monitor.
    DirMonitor(Box<DirMonitorService>),
}

impl From<BotsServiceSpec> for ServiceSpec {
    fn from(service: BotsServiceSpec) -> Self {
        Self { name: service.name, every: None, work: ServiceKind::Child(Box::new(service)) }
    }
}

impl ServiceSpec {
    pub fn health(&self) -> ServiceHealth {
        let takes_work = !matches!(self.work, ServiceKind::Child(_)) || self.probe().is_some();
        ServiceHealth { every: self.every, ..ServiceHealth::new(self.name.as_str(), takes_work) }
    }

    /// Where a person on this machine finds it.
    pub fn ready_message(&self) -> Option<String> {
        Some(match self.probe()? {
            LivenessProbe::Http { port, tls, .. } => {
                format!("the web UI is ready on {}://localhost:{port}", if *tls { "https" } else { "http" })
            }
            LivenessProbe::JobQueue { port } => format!("the job queue is ready on port {port}"),
            LivenessProbe::Inotify => "the directory monitor is ready".to_owned(),
        })
    }

    pub fn probe(&self) -> Option<&LivenessProbe> {
        match &self.work {
            ServiceKind::Child(service) => service.probe.as_ref(),
            ServiceKind::JobQueue(_) | ServiceKind::DirMonitor(_) => None,
        }
    }
}

/// A process of Bots in the supervisor's terms.
pub(crate) fn supervised(
    service: BotsServiceSpec,
    ends_by_itself: bool,
    config: &Config,
    lines: ServiceOutput,
) -> SupervisedService {
    SupervisedService {
        name: service.name.as_str(),
        policy: policy(&service, ends_by_itself, config),
        has_liveness_probe: service.probe.is_some(),
        port: match service.probe {
            Some(LivenessProbe::Http { port, .. } | LivenessProbe::JobQueue { port }) => Some(port),
            Some(LivenessProbe::Inotify) | None => None,
        },
        // A stopped engine would have to be recovered, or lose the files that it has received.
        spared: engine_shim::NAME,
        spec: service.spec,
        lines,
    }
}

/// The restart and stop policy of a process of Bots.
fn policy(service: &BotsServiceSpec, ends_by_itself: bool, config: &Config) -> ServicePolicy {
    let (name, times) = (service.name, config.stop.of(service.name));
    ServicePolicy {
        drain: times.drain,
        // That of the web UI comes before its stop.
        reload_drain: if name == ServiceName::Webserver { Duration::ZERO } else { times.drain },
        timeout: times.timeout,
        stop_signal: service.stop_signal,
        // A second job queue with its own engine would lose jobs.
        leftover_timeout: if name == ServiceName::Jobqueue { times.timeout } else { Duration::ZERO },
        restart: RestartRules {
            // A lack of processes or memory is always waited for.
            policy: if ends_by_itself { RestartPolicy::Never } else { config.restart.policy },
            ..config.restart
        },
        lets_runs_finish: false,
    }
}

impl LaunchContext<'_> {
    /// The services of `up`.
    ///
    /// # Errors
    /// The conditions under which one of them cannot start.
    pub fn all_services(&self) -> Result<Vec<ServiceSpec>, Error> {
        let names = self.config.up.services.clone().unwrap_or_else(|| self.enabled_services());
        names.into_iter().map(|name| self.service(name, &[])).collect()
    }

    fn service(&self, name: ServiceName, args: &[OsString]) -> Result<ServiceSpec, Error> {
        match name {
            ServiceName::Webserver => {
                self.check_web_port()?;
                Ok(self.bots.webserver(self.django, args).into())
            }
            ServiceName::Jobqueue => self.jobqueue(args),
            ServiceName::Dirmonitor => self.dirmonitor(args),
            ServiceName::Engine => {
                let engine = self.bots.engine_via_shim(&[OsString::from("--new")]);
                Ok(ServiceSpec { every: Some(self.config.up.engine_interval), ..engine.into() })
            }
        }
    }

    fn jobqueue(&self, args: &[OsString]) -> Result<ServiceSpec, Error> {
        let Self { config, bots, django, queue, .. } = self;
        self.check_enabled(ServiceName::Jobqueue)?;
        match config.jobqueue.backend {
            ServiceBackend::Native => {
                refuse_arguments(args, "bots-jobqueueserver")?;
                let addr = config.jobqueue.guarded_addr().map_err(|text| Error::new(Kind::Configuration, text))?;
                // At a start, the queue waits for its port; a reload is rejected if the queue could not work.
                if self.own_ports.is_some() {
                    self.check_queue_port()?;
                }
                let database = init_db::database_config(config, django)?;
                let queue = JobQueueService::new(config, bots, queue, database, addr);
                let work = ServiceKind::JobQueue(Box::new(queue));
                Ok(ServiceSpec { name: ServiceName::Jobqueue, every: None, work })
            }
            ServiceBackend::Python => {
                check_python_queue(config, bots)?;
                self.check_queue_port()?;
                Ok(bots.jobqueue(queue, args).into())
            }
        }
    }

    fn dirmonitor(&self, args: &[OsString]) -> Result<ServiceSpec, Error> {
        let Self { config, bots, django, queue, .. } = self;
        self.check_enabled(ServiceName::Dirmonitor)?;
        match config.dirmonitor.backend {
            ServiceBackend::Native => {
                refuse_arguments(args, "bots-dirmonitor")?;
                let database = init_db::database_config(config, django)?;
                let work = ServiceKind::DirMonitor(Box::new(DirMonitorService::new(config, bots, queue, database)?));
                Ok(ServiceSpec { name: ServiceName::Dirmonitor, every: None, work })
            }
            ServiceBackend::Python => {
                // Bots's own monitor exits on the first of them.
                bots::Error::fail_if_any(DirmonitorConfig::read(bots.environment, bots.bots)?.faults)?;
                Ok(bots.dirmonitor(args).into())
            }
        }
    }

    /// The services that bots.ini has in use.
    fn enabled_services(&self) -> Vec<ServiceName> {
        let is_in_use = |name: &ServiceName| match name {
            ServiceName::Webserver | ServiceName::Engine => true,
            ServiceName::Jobqueue | ServiceName::Dirmonitor => self.queue.enabled,
        };
        let (chosen, left_out): (Vec<_>, Vec<_>) = ServiceName::ALL.into_iter().partition(is_in_use);
        if !left_out.is_empty() {
            let names: Vec<&str> = left_out.iter().map(|name| name.as_str()).collect();
            let file = self.queue.file.display();
            info!("not starting {}: [jobqueue] enabled is not True in {file}", names.join(" and "));
        }
        chosen
    }

    fn check_enabled(&self, name: ServiceName) -> Result<(), Error> {
        if self.queue.enabled { Ok(()) } else { Err(self.queue.disabled_error(name).into()) }
    }

    /// Bots would fail only after its start-up, with a traceback.
    fn check_web_port(&self) -> Result<(), Error> {
        let ini = self.bots.environment.ini_file();
        let setting = format!("[webserver] port in {}, or PORT, or --port", ini.display());
        self.check_port(Ipv4Addr::UNSPECIFIED, self.django.web_port, "serve the web UI", &setting)
    }

    /// Bots's job queue would print a traceback and stay alive without a listener.
    fn check_queue_port(&self) -> Result<(), Error> {
        let setting = format!("[jobqueue] port in {}", self.queue.file.display());
        self.check_port(Ipv4Addr::LOCALHOST, self.queue.port, "serve the job queue", &setting)
    }

    fn check_port(&self, address: Ipv4Addr, port: u16, purpose: &str, setting: &str) -> Result<(), Error> {
        let health = self.config.health.addr;
        // The running services may have exchanged their ports.
        if port == health.port() && (address.is_unspecified() || health.ip().is_unspecified() || health.ip() == address)
        {
            let text = format!("cannot {purpose} on port {port}: the health listener has it (BOTS_CTL_HEALTH_ADDR)");
            return Err(Error::new(Kind::Configuration, format!("{text}; set {setting}")));
        }
        if self.own_ports.is_some_and(|ports| ports.contains(&port)) {
            return Ok(());
        }
        let Err(error) = StdListener::bind((address, port)) else { return Ok(()) };
        let reason = match error.kind() {
            io::ErrorKind::AddrInUse => "another program uses it".to_owned(),
            _ => error.to_string(),
        };
        Err(Error::new(Kind::Unavailable, format!("cannot {purpose} on port {port}: {reason}; set {setting}")))
    }
}

fn refuse_arguments(args: &[OsString], program: &str) -> Result<(), Error> {
    if args.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Usage,
        format!("arguments after -- are only valid for {program}, which --backend python runs"),
    ))
}

/// Rejects configurations that Bots's own server silently does not support.
fn check_python_queue(config: &Config, bots: &BotsContext<'_>) -> Result<(), Error> {
    const REMEDY: &str = "use BOTS_CTL_JOBQUEUE_BACKEND=native";
    let refused = |reason: String| Err(Error::new(Kind::Configuration, format!("{reason}; {REMEDY}")));
    if bots.bots.bots_version() == BotsVersion::V3 {
        return refused("the job queue of Bots 3 accepts jobs and never runs them".to_owned());
    }
    match config.jobqueue.addr {
        Some(addr) => refused(format!("BOTS_CTL_JOBQUEUE_ADDR={addr}: Bots's own job queue listens on loopback only")),
        None => Ok(()),
    }
}
