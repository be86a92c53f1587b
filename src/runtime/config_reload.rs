//! Notices a changed configuration while services run: checked in a copy first, and then put into effect by a start of bots-ctl
//! in its own place.
//!
//! A refused configuration changes nothing. A process that ends in between is no loss: its next start applies the mounted
//! files.

use std::fs::File;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{debug, error, info, warn};

use crate::bots::config_source::ConfigFiles;
use crate::bots::config_watcher::{Change, ConfigWatcher};
use crate::bots::context::BotsContext;
use crate::bots::django_settings::DjangoSettings;
use crate::bots::environment::Environment;
use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::config::Config;
use crate::database::ping::DatabasePing;
use crate::exit::{Error, Kind};
use crate::fs::atomic;
use crate::model::ServiceName;

use super::bots_environment::blocking;
use super::dry_run::dry_run;
use super::init_db;
use super::prepare::Prepared;
use super::reload_trial;
use super::service_spec::{LaunchContext, ServePlan};
use super::service_start::RuntimeContext;

/// How often a refused configuration is tried again: the cause may lie elsewhere than in the mounted files.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// A configuration that is valid, and whose turn has come.
pub(crate) struct PendingReload {
    pub config: Config,
    pub source: ConfigFiles,
    /// The settings of Django with it.
    pub django: DjangoSettings,
    /// Holds up other replicas until it is closed.
    pub turn: Option<File>,
}

/// Watches the mounted files.
pub(crate) struct ConfigReloader<'a> {
    runtime: RuntimeContext<'a>,
    plan: &'a ServePlan,
    prepared: &'a Prepared,
    mount: ConfigWatcher,
    retry_at: Option<Instant>,
}

impl<'a> ConfigReloader<'a> {
    pub fn new(runtime: RuntimeContext<'a>, plan: &'a ServePlan, prepared: &'a Prepared) -> Self {
        let mount = ConfigWatcher::new(runtime.config.environment.config_source.clone(), prepared.applied);
        Self { runtime, plan, prepared, mount, retry_at: None }
    }

    /// Waits for a changed configuration to go on with.
    pub async fn next(&mut self) -> PendingReload {
        let config = self.runtime.config;
        let paths = &config.environment;
        if !config.reload.enabled || paths.config_source == paths.config_dir {
            std::future::pending::<()>().await;
        }
        loop {
            sleep(config.reload.interval).await;
            match self.poll_source().await {
                Ok(Change::New(source)) => match self.check(&source).await {
                    Ok((config, django)) => {
                        let Some(turn) = self.wait_for_turn().await else { continue };
                        // The replica before may have found meanwhile that it does not come up.
                        match self.keep_files(&config, &source).await {
                            Ok(()) => return PendingReload { config, source, django, turn },
                            Err(error) => self.record_rejected(error.faults()),
                        }
                    }
                    Err(faults) => self.record_rejected(&faults),
                },
                Ok(Change::Reverted) => {
                    debug!("what is mounted is in use");
                    self.record_accepted();
                }
                Ok(Change::Removed) => {
                    warn!("nothing is mounted at {} any more: going on with what was", paths.config_source.display());
                }
                Ok(Change::None) if self.retry_at.is_some_and(|at| at <= Instant::now()) => self.mount.invalidate(),
                Ok(Change::None | Change::InProgress) => {}
                Err(error) => self.record_rejected(&[error.to_string()]),
            }
        }
    }

    /// On a thread that may wait for a volume. The start has left one behind, so none has to be made for this.
    async fn poll_source(&mut self) -> Result<Change, Error> {
        let mut mount = self.mount.clone();
        let change = move || {
            let polled = mount.change();
            (mount, polled)
        };
        let looked = tokio::task::spawn_blocking(change).await;
        let (mount, looked) = looked.map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
        self.mount = mount;
        Ok(looked?)
    }

    /// The configuration to go on with, or everything that is wrong with the mounted files.
    async fn check(&self, source: &ConfigFiles) -> Result<(Config, DjangoSettings), Vec<String>> {
        let as_faults = |error: Error| error.faults().to_vec();
        if let Some(reason) = reload_trial::refusal(self.runtime.config.environment_root(), source) {
            return Err(vec![reason]);
        }
        let (config, faults) = self.plan.inputs.read().map_err(as_faults)?;
        let mut faults: Vec<String> = faults.into_iter().map(|fault| fault.text).collect();
        let services = |context: &BotsContext<'_>, django: &DjangoSettings| {
            let queue = BotsJobQueueIni::read(&config, context.environment)?;
            let own_ports = [self.prepared.django.web_port, self.prepared.queue.port];
            let (config, bots, queue) = (&config, *context, &queue);
            self.plan.services(&LaunchContext { config, bots, django, queue, own_ports: &own_ports }).map(|_| ())
        };
        let (reaper, bots) = (self.runtime.reaper, &self.prepared.bots);
        let checked = dry_run(&config, reaper, bots, Ok(source.clone()), services).await.map_err(as_faults)?;
        faults.extend(checked.faults);
        match checked.django {
            Some(django) if faults.is_empty() => {
                self.check_outside(&config, source, &django).await.map_err(as_faults)?;
                Ok((config, django))
            }
            _ => Err(faults),
        }
    }

    /// Keeps the files that are about to be replaced, unless the mounted ones did not come up in another replica.
    async fn keep_files(&self, config: &Config, source: &ConfigFiles) -> Result<(), Error> {
        if let Some(reason) = reload_trial::refusal(config.environment_root(), source) {
            return Err(Error::new(Kind::Configuration, reason));
        }
        let (config, bots, source) = (config.clone(), self.prepared.bots.clone(), source.clone());
        Ok(blocking(move || reload_trial::keep(&config, &bots, &source)).await??)
    }

    /// Checks that a copy cannot do: whether there is room for the files, and whether another database answers.
    async fn check_outside(&self, config: &Config, source: &ConfigFiles, django: &DjangoSettings) -> Result<(), Error> {
        if !django.database.is_sqlite() && !django.database.is_same(&self.prepared.django.database) {
            DatabasePing::new(init_db::database_config(config, django)?).ping().await?;
        }
        let (config, bots, source) = (config.clone(), self.prepared.bots.clone(), source.clone());
        Ok(blocking(move || Environment::try_write(&config, &bots, &source)).await??)
    }

    /// Waits so that replicas are not restarted together, and web UIs that share a volume one after the other. None where the
    /// mounted files have changed meanwhile; the file in the result holds up the next replica.
    async fn wait_for_turn(&mut self) -> Option<Option<File>> {
        let config = self.runtime.config;
        let part = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
        sleep(config.reload.jitter.mul_f64(part)).await;
        let has_web = self.runtime.health.borrow().services.iter().any(|s| s.name == ServiceName::Webserver.as_str());
        let lock = config.environment_root().join(".bots-ctl-restart.lock");
        loop {
            if !matches!(self.poll_source().await, Ok(Change::None)) {
                // The next poll finds the change again.
                self.mount.invalidate();
                return None;
            }
            if !has_web {
                return Some(None);
            }
            let path = lock.clone();
            match blocking(move || atomic::try_lock(&path)).await {
                Ok(Ok(Some(turn))) => return Some(Some(turn)),
                Ok(Ok(None)) => {
                    debug!("another web UI is being restarted");
                    sleep(config.reload.interval).await;
                }
                // Without a lock the pauses alone have to keep replicas apart.
                Ok(Err(error)) => {
                    debug!("{error}");
                    return Some(None);
                }
                Err(_) => return Some(None),
            }
        }
    }

    fn record_rejected(&mut self, faults: &[String]) {
        self.retry_at = Some(Instant::now() + RETRY_INTERVAL);
        if *self.runtime.health.borrow().refused != *faults {
            self.runtime.counters.count_reload(false);
            error!("the mounted configuration is refused, and the one before stays in use: {}", faults.join("; "));
            self.runtime.health.send_modify(|health| health.refused = faults.into());
        }
    }

    /// The mounted files are those in use again.
    fn record_accepted(&mut self) {
        self.retry_at = None;
        if !self.runtime.health.borrow().refused.is_empty() {
            self.runtime.counters.count_reload(true);
            info!("the mounted configuration is no longer refused");
            self.runtime.health.send_modify(|health| health.refused = [].into());
        }
    }
}
