//! Detects a changed configuration while services run: validates it in a copy, and then applies it by executing
//! bots-ctl again.
//!
//! A rejected configuration changes nothing. If the process dies in between, its next start applies the mounted files.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep};
use tracing::{debug, error, info, warn};

use crate::bots;
use crate::bots::config_source::ConfigFiles;
use crate::bots::config_watcher::{Change, ConfigWatcher};
use crate::bots::context::BotsContext;
use crate::bots::dirmonitor_config::DirmonitorConfig;
use crate::bots::django_settings::DjangoSettings;
use crate::bots::environment::Environment;
use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::config::Config;
use crate::database::ping::DatabasePing;
use crate::exit::{Error, Kind};
use crate::fs::atomic;
use crate::health::state::ServiceHealth;
use crate::model::ServiceName;
use crate::process::periodic;

use super::bots_environment::blocking;
use super::control_socket::Requester;
use super::dry_run::dry_run;
use super::init_db;
use super::prepare::Prepared;
use super::reload_trial;
use super::service_spec::{LaunchContext, ServePlan};
use super::service_start::RuntimeContext;

/// Interval for retrying a rejected configuration: the cause may be outside the mounted files.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// A valid configuration, whose turn to restart has come.
pub(crate) struct PendingReload {
    pub config: Config,
    pub source: ConfigFiles,
    /// The settings of Django with it.
    pub django: DjangoSettings,
    pub turn: Turn,
    /// Whether the mounted files differ from those in use, which are then kept until the services are ready.
    pub is_trial: bool,
    /// The client that has asked for it.
    pub requester: Option<Requester>,
}

/// The right to restart now: the lock that holds up other replicas, if they have to be held up.
pub(crate) struct Turn(Option<File>);

impl Turn {
    /// The lock, which is held until the descriptor is closed.
    pub fn into_descriptor(self) -> Option<OwnedFd> {
        self.0.map(OwnedFd::from)
    }
}

/// The reasons for rejecting a configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strictness {
    /// What a start refuses.
    Start,
    /// Includes sections of the directory monitor that a start skips: the user reads the result.
    User,
}

/// Watches the mounted files, and takes requests to reload.
pub(crate) struct ConfigReloader<'a> {
    runtime: RuntimeContext<'a>,
    plan: &'a ServePlan,
    prepared: &'a Prepared,
    mount: ConfigWatcher,
    retry_at: Option<Instant>,
    requests: UnboundedReceiver<Requester>,
}

impl<'a> ConfigReloader<'a> {
    pub fn new(
        runtime: RuntimeContext<'a>,
        plan: &'a ServePlan,
        prepared: &'a Prepared,
        requests: UnboundedReceiver<Requester>,
    ) -> Self {
        let mount = ConfigWatcher::new(runtime.config.environment.config_source.clone(), prepared.applied);
        Self { runtime, plan, prepared, mount, retry_at: None, requests }
    }

    /// Waits for the next configuration: a changed one, or the current one if a user requests a reload.
    pub async fn next(&mut self) -> PendingReload {
        let config = self.runtime.config;
        let paths = &config.environment;
        let is_watched = config.reload.enabled && paths.config_source != paths.config_dir;
        loop {
            let reload = tokio::select! {
                () = periodic::due(config.reload.interval), if is_watched => self.poll().await,
                Some(requester) = self.requests.recv() => self.on_request(requester).await,
                else => std::future::pending().await,
            };
            if let Some(reload) = reload {
                return reload;
            }
        }
    }

    /// Looks at the mounted files once.
    async fn poll(&mut self) -> Option<PendingReload> {
        match self.poll_source().await {
            Ok(Change::New(source)) => match self.check(&source, Strictness::Start).await {
                Ok((config, django)) => {
                    let turn = self.wait_for_turn().await?;
                    // Another replica may have found that the services do not start with it.
                    match self.keep_files(&config, &source).await {
                        Ok(()) => {
                            return Some(PendingReload {
                                config,
                                source,
                                django,
                                turn,
                                is_trial: true,
                                requester: None,
                            });
                        }
                        Err(error) => self.record_rejected(error.faults()),
                    }
                }
                Err(faults) => self.record_rejected(&faults),
            },
            Ok(Change::Reverted) => {
                debug!("the mounted configuration is in use");
                self.record_accepted();
            }
            Ok(Change::Removed) => {
                let source = self.runtime.config.environment.config_source.display();
                warn!("{source} is no longer mounted; keeping the current configuration");
                self.retry_at = None;
                self.runtime.health.send_modify(|health| health.refused = [].into());
            }
            Ok(Change::None) if self.retry_at.is_some_and(|at| at <= Instant::now()) => self.mount.invalidate(),
            Ok(Change::None | Change::InProgress) => {}
            Err(error) => self.record_rejected(&[error.to_string()]),
        }
        None
    }

    /// Validates the current configuration, changed or not, and reports its errors to the user.
    async fn on_request(&mut self, requester: Requester) -> Option<PendingReload> {
        match self.prepare_requested(&requester).await {
            Ok(reload) => Some(PendingReload { requester: Some(requester), ..reload }),
            Err(faults) => {
                let faults = faults.join("; ");
                let text = format!("configuration rejected; keeping the previous one: {faults}");
                error!("{text}");
                requester.failed(Kind::Configuration, &text);
                None
            }
        }
    }

    async fn prepare_requested(&mut self, requester: &Requester) -> Result<PendingReload, Vec<String>> {
        let paths = self.runtime.config.environment.clone();
        let read = blocking(move || ConfigFiles::mounted(&paths.config_source, &paths.config_dir)).await;
        let source = read.map_err(Error::into_faults)?.map_err(|error| vec![error.to_string()])?;
        let (config, django) = self.check(&source, Strictness::User).await?;
        requester.report("the configuration is valid; restarting the services with it");
        let turn = loop {
            if let Some(turn) = self.try_turn().await {
                break turn;
            }
            sleep(self.runtime.config.reload.interval).await;
        };
        let is_trial = source.digest() != self.prepared.applied;
        if is_trial {
            self.keep_files(&config, &source).await.map_err(Error::into_faults)?;
        }
        Ok(PendingReload { config, source, django, turn, is_trial, requester: None })
    }

    /// On a blocking thread, since the volume may hang. The start has left one behind, so no thread has to be created.
    async fn poll_source(&mut self) -> Result<Change, Error> {
        let mut mount = self.mount.clone();
        let change = move || {
            let polled = mount.change();
            (mount, polled)
        };
        let looked = periodic::run_blocking(change).await;
        let (mount, looked) = looked.map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
        self.mount = mount;
        Ok(looked?)
    }

    /// The validated configuration, or all errors of the mounted files.
    async fn check(
        &self,
        source: &ConfigFiles,
        strictness: Strictness,
    ) -> Result<(Config, DjangoSettings), Vec<String>> {
        let (root, mounted) = (self.runtime.config.environment_root().to_path_buf(), source.clone());
        let refusal = blocking(move || reload_trial::refusal(&root, &mounted)).await;
        if let Some(reason) = refusal.map_err(Error::into_faults)? {
            return Err(vec![reason]);
        }
        let (config, faults) = self.plan.inputs.read().map_err(Error::into_faults)?;
        let mut faults: Vec<String> = faults.into_iter().map(|fault| fault.text).collect();
        let services = |context: &BotsContext<'_>, django: &DjangoSettings| {
            let queue = BotsJobQueueIni::read(&config, context.environment)?;
            let own_ports = [self.prepared.django.web_port, self.prepared.queue.port];
            let (config, bots, queue) = (&config, *context, &queue);
            if strictness == Strictness::User && self.plan.expected(config).contains(&ServiceName::Dirmonitor) {
                bots::Error::fail_if_any(DirmonitorConfig::read(context.environment, context.bots)?.faults)?;
            }
            self.plan.services(&LaunchContext { config, bots, django, queue, own_ports: Some(own_ports) }).map(|_| ())
        };
        let (reaper, bots) = (self.runtime.reaper, &self.prepared.bots);
        let checked = dry_run(&config, reaper, bots, Ok(source.clone()), services).await.map_err(Error::into_faults)?;
        faults.extend(checked.faults);
        match checked.django {
            Some(django) if faults.is_empty() => {
                self.check_outside(&config, source, &django).await.map_err(Error::into_faults)?;
                Ok((config, django))
            }
            _ => Err(faults),
        }
    }

    /// Keeps the files that are about to be replaced, unless the services failed with the mounted ones in another replica.
    async fn keep_files(&self, config: &Config, source: &ConfigFiles) -> Result<(), Error> {
        let (config, bots, source) = (config.clone(), self.prepared.bots.clone(), source.clone());
        let keep = move || match reload_trial::refusal(config.environment_root(), &source) {
            Some(reason) => Err(Error::new(Kind::Configuration, reason)),
            None => Ok(reload_trial::keep(&config, &bots, &source)?),
        };
        blocking(keep).await?
    }

    /// Checks that a copy cannot do: whether there is room for the files, and whether another database answers.
    async fn check_outside(&self, config: &Config, source: &ConfigFiles, django: &DjangoSettings) -> Result<(), Error> {
        if !django.database.is_sqlite() && !django.database.is_same(&self.prepared.django.database) {
            DatabasePing::new(init_db::database_config(config, django)?).ping().await?;
        }
        let (config, bots, source) = (config.clone(), self.prepared.bots.clone(), source.clone());
        Ok(blocking(move || Environment::try_write(&config, &bots, &source)).await??)
    }

    /// Waits for this replica's turn, so that replicas do not restart together, and web UIs that share a volume restart
    /// one by one. `None` if the mounted files have changed again.
    async fn wait_for_turn(&mut self) -> Option<Turn> {
        let config = self.runtime.config;
        let part = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
        sleep(config.reload.jitter.mul_f64(part)).await;
        loop {
            if !matches!(self.poll_source().await, Ok(Change::None)) {
                // The next poll finds the change again.
                self.mount.invalidate();
                return None;
            }
            if let Some(turn) = self.try_turn().await {
                return Some(turn);
            }
            sleep(config.reload.interval).await;
        }
    }

    /// The turn of a web UI, which is a lock on the volume; other services need none. `None` while another web UI holds it.
    async fn try_turn(&self) -> Option<Turn> {
        let is_web = |service: &ServiceHealth| service.name == ServiceName::Webserver.as_str();
        if !self.runtime.health.borrow().services.iter().any(is_web) {
            return Some(Turn(None));
        }
        let lock = self.runtime.config.environment_root().join(".bots-ctl-restart.lock");
        match blocking(move || atomic::try_lock(&lock)).await {
            Ok(Ok(Some(lock))) => Some(Turn(Some(lock))),
            Ok(Ok(None)) => {
                debug!("another web UI is restarting");
                None
            }
            // Without a lock, only the random delays keep replicas apart.
            Ok(Err(error)) => {
                debug!("{error}");
                Some(Turn(None))
            }
            Err(_) => Some(Turn(None)),
        }
    }

    fn record_rejected(&mut self, faults: &[String]) {
        self.retry_at = Some(Instant::now() + RETRY_INTERVAL);
        if *self.runtime.health.borrow().refused != *faults {
            self.runtime.counters.count_reload(false);
            error!("rejected the mounted configuration; keeping the current one: {}", faults.join("; "));
            self.runtime.health.send_modify(|health| health.refused = faults.into());
        }
    }

    /// The mounted files are those in use again.
    fn record_accepted(&mut self) {
        self.retry_at = None;
        if !self.runtime.health.borrow().refused.is_empty() {
            self.runtime.counters.count_reload(true);
            info!("the mounted configuration is valid again");
            self.runtime.health.send_modify(|health| health.refused = [].into());
        }
    }
}
