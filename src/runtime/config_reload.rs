//! Takes over a changed configuration while services run: checked in a copy first, then copied, and only then are services
//! restarted that are made from what has changed.
//!
//! What is refused leaves everything as it was. Whatever ends bots-ctl in between, the next start copies what is mounted.

use std::cell::Cell;
use std::fs::File;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info, warn};

use crate::bots::config_source::{ConfigFiles, FileDigests};
use crate::bots::config_watcher::{Change, ConfigWatcher};
use crate::bots::services::{BotsContext, BotsJobQueueIni};
use crate::config::diff::ConfigDiff;
use crate::config::{Config, ReloadPolicy};
use crate::exit;
use crate::exit::Error;
use crate::fs::atomic;
use crate::health::checks::CheckTargets;
use crate::health::state::{CheckResult, HealthState, Phase};
use crate::model::ServiceName;

use super::bots_environment::{blocking, health_targets, prepare_from, service_variables};
use super::dry_run::dry_run;
use super::events::Reconfiguration;
use super::init_db;
use super::relay::RelayListeners;
use super::serve::{Prepared, ServePlan, load_django_settings};
use super::service_handle::{HandleKind, RuntimeContext, ServiceHandle};
use super::service_spec::{LaunchContext, ServiceSpec};

/// The file that says what bots-ctl itself does. Nothing of Bots reads it.
const OWN_FILE: &str = "bots-ctl.toml";

/// How often something is tried again that was refused: the cause may lie elsewhere than in the mounted files.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// How long other web UIs wait for one that does not come back.
const MAX_TURN: Duration = Duration::from_secs(120);

/// What runs, as far as it can change.
pub(crate) struct LiveServices {
    pub handles: Vec<ServiceHandle>,
    pub relays: RelayListeners,
    /// The health checks.
    pub checking: Vec<JoinHandle<()>>,
    pub reconfigurations: mpsc::Sender<Reconfiguration>,
}

/// Looks at what is mounted, and takes it over.
pub(crate) struct ConfigReloader<'a> {
    config: Config,
    runtime: RuntimeContext<'a>,
    plan: &'a ServePlan<'a>,
    /// Set while a database is being changed.
    no_cancel: &'a Cell<bool>,
    prepared: Prepared,
    running: LiveServices,
    mount: ConfigWatcher,
    retry_at: Option<Instant>,
}

impl<'a> ConfigReloader<'a> {
    pub fn new(
        runtime_context: RuntimeContext<'a>,
        choice: &'a ServePlan<'a>,
        critical: &'a Cell<bool>,
        ready: Prepared,
        running: LiveServices,
    ) -> Self {
        let config = runtime_context.config.clone();
        let mount = ConfigWatcher::new(config.environment.config_source.clone(), ready.contents.clone());
        Self {
            config,
            runtime: runtime_context,
            plan: choice,
            no_cancel: critical,
            prepared: ready,
            running,
            mount,
            retry_at: None,
        }
    }

    /// Works until everything is asked to stop.
    pub async fn run(mut self) {
        let (no_cancel, mut stopping) = (self.no_cancel, self.runtime.health.subscribe());
        let watching = self.watch();
        tokio::pin!(watching);
        tokio::select! {
            () = &mut watching => {}
            _ = stopping.wait_for(|health| health.stopping) => {
                // A schema that is being changed is finished first.
                if no_cancel.get() {
                    watching.await;
                }
            }
        }
    }

    async fn watch(&mut self) {
        let paths = &self.config.environment;
        if self.config.reload.policy == ReloadPolicy::Off || paths.config_source == paths.config_dir {
            std::future::pending::<()>().await;
        }
        while !self.is_stopping() {
            sleep(self.config.reload.interval).await;
            match self.poll_source().await {
                Ok(Change::New(source)) => self.apply_if_valid(source).await,
                Ok(Change::Reverted) => {
                    debug!("what is mounted is in use");
                    self.record_applied(false);
                }
                Ok(Change::Removed) => {
                    let source = self.config.environment.config_source.display();
                    warn!("nothing is mounted at {source} any more: going on with what was");
                }
                Ok(Change::None) if self.retry_at.is_some_and(|at| at <= Instant::now()) => self.mount.invalidate(),
                Ok(Change::None | Change::InProgress) => {}
                Err(error) => self.record_rejected(&[error.to_string()]),
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.runtime.health.borrow().stopping
    }

    /// On a thread that may wait for a volume. The start has left one behind, so none has to be made for this.
    async fn poll_source(&mut self) -> Result<Change, Error> {
        let mut mount = self.mount.clone();
        let change = move || {
            let polled = mount.change();
            (mount, polled)
        };
        let looked = tokio::task::spawn_blocking(change).await;
        let (mount, looked) = looked.map_err(|error| Error::new(exit::Kind::Internal, error.to_string()))?;
        self.mount = mount;
        Ok(looked?)
    }

    async fn apply_if_valid(&mut self, source: ConfigFiles) {
        let (config, difference) = match self.check(&source).await {
            Ok(valid) => valid,
            Err(faults) => return self.record_rejected(&faults),
        };
        let is_felt = difference.needs_service_restart || affects_bots(&self.prepared.contents, &source.digests());
        let Some(turn) = self.wait_for_turn(is_felt).await else { return };
        match self.install_config(&config, source, &difference).await {
            Ok(_) if self.is_stopping() => {}
            Ok(next) => self.reconfigure(config, next, &difference, turn).await,
            Err(error) => self.record_rejected(error.faults()),
        }
    }

    /// Everything that is wrong with what is mounted; else the configuration to go on with.
    async fn check(&self, source: &ConfigFiles) -> Result<(Config, ConfigDiff), Vec<String>> {
        let as_faults = |error: Error| error.faults().to_vec();
        let (next, faults) = (self.plan.read)().map_err(as_faults)?;
        let (config, difference) = self.config.merge_reloadable(next);
        let mut faults: Vec<String> = faults.into_iter().map(|fault| fault.text).collect();
        let rehearsed = dry_run(&config, self.runtime.reaper, Some(source), !faults.is_empty()).await;
        faults.extend(rehearsed.map_err(as_faults)?.faults);
        if faults.is_empty() { Ok((config, difference)) } else { Err(faults) }
    }

    /// Waits so that replicas are not restarted together, and web UIs that share a volume one after the other; nothing when
    /// what is mounted has changed meanwhile. What is in the answer holds up the next one.
    async fn wait_for_turn(&mut self, is_felt: bool) -> Option<Option<File>> {
        if is_felt {
            let part = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
            sleep(self.config.reload.jitter.mul_f64(part)).await;
        }
        let has_web = self.running.handles.iter().any(|handle| handle.name == ServiceName::Webserver);
        let lock = self.prepared.environment.root.join(".bots-ctl-restart.lock");
        loop {
            if !matches!(self.poll_source().await, Ok(Change::None)) {
                // Whatever it is, the next look tells.
                self.mount.invalidate();
                return None;
            }
            if !(is_felt && has_web) {
                return Some(None);
            }
            let index = lock.clone();
            match blocking(move || atomic::try_lock(&index)).await {
                Ok(Ok(Some(turn))) => return Some(Some(turn)),
                Ok(Ok(None)) => {
                    debug!("another web UI is being restarted");
                    sleep(self.config.reload.interval).await;
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

    /// Copies what is mounted, as a start does, and learns what Bots is configured with now. When that fails, all is as it
    /// was before.
    async fn install_config(
        &self,
        config: &Config,
        source: ConfigFiles,
        difference: &ConfigDiff,
    ) -> Result<Prepared, Error> {
        let config_dir = config.environment.config_dir.clone();
        let before = blocking(move || ConfigFiles::read(&config_dir)).await??;
        let copied = self.prepare(config, source, difference).await;
        if copied.is_err() {
            let environment = self.prepared.environment.clone();
            let restored = blocking(move || environment.restore(&before)).await.and_then(|done| Ok(done?));
            if let Err(reason) = restored {
                error!("the configuration before is not whole again: {}", reason.faults().join("; "));
            }
        }
        copied
    }

    async fn prepare(&self, config: &Config, source: ConfigFiles, difference: &ConfigDiff) -> Result<Prepared, Error> {
        let (bots, reaper) = (self.prepared.bots.clone(), self.runtime.reaper);
        let variables = service_variables(config, &bots);
        let (own, installed) = (config.clone(), bots.clone());
        let prepare =
            move || prepare_from(&own, &installed, &source).map(|environment| (environment, source.digests()));
        let (environment, contents) = blocking(prepare).await??;
        let context = BotsContext { reaper, bots: &bots, environment: &environment, variables: &variables };
        let mut django = load_django_settings(&context).await?;
        let is_other_database =
            difference.needs_service_restart || !self.prepared.django.database.is_same(&django.database);
        if is_other_database && self.plan.initialise && !config.database.init_skip {
            django = init_db::ensure_database(config, &context, self.no_cancel).await?;
        }
        let queue = BotsJobQueueIni::read(&environment)?;
        let held = [self.prepared.django.web_port, self.prepared.queue.port];
        let specs = (self.plan.choose)(&LaunchContext {
            config,
            bots: context,
            django: &django,
            queue: &queue,
            own_ports: &held,
        })?;
        let targets = health_targets(config, &django)?;
        Ok(Prepared { bots, environment, django, queue, contents, specs, targets })
    }

    /// Has the services that are made from what has changed restarted.
    async fn reconfigure(&mut self, config: Config, mut next: Prepared, difference: &ConfigDiff, turn: Option<File>) {
        let is_felt = affects_bots(&self.prepared.contents, &next.contents);
        let is_other_database =
            difference.needs_service_restart || !self.prepared.django.database.is_same(&next.django.database);
        let is_other_queue = is_other_database || self.prepared.queue != next.queue;
        let is_due = |kind: &HandleKind| match kind {
            HandleKind::Child => difference.needs_service_restart || is_felt,
            HandleKind::Periodic => difference.needs_service_restart,
            HandleKind::JobQueue(_) => is_other_queue,
            HandleKind::DirMonitor(_) => is_other_database,
        };
        let specs = std::mem::take(&mut next.specs);
        self.log_plan(&specs, difference, &is_due);
        self.restart_checks(&next.targets, is_other_database);
        if self.running.handles.iter().all(|handle| handle.name != ServiceName::Jobqueue) && is_other_queue {
            self.running.relays.listen(&config, next.queue.port, self.runtime.counters).await;
        }
        if let Some(turn) = turn {
            self.hold_turn_until_ready(turn);
        }
        let runtime = RuntimeContext { config: &config, ..self.runtime };
        for spec in specs {
            let service = self.running.handles.iter_mut().find(|seat| seat.name == spec.name);
            if let Some(seat) = service.filter(|seat| is_due(&seat.kind)) {
                seat.reconfigure(spec, &runtime, &self.running.reconfigurations).await;
            }
        }
        self.mount.set_applied(next.contents.clone());
        (self.config, self.prepared) = (config, next);
        self.record_applied(true);
    }

    fn log_plan(&self, specs: &[ServiceSpec], difference: &ConfigDiff, is_due: &impl Fn(&HandleKind) -> bool) {
        let handles = &self.running.handles;
        let due: Vec<&str> =
            handles.iter().filter(|handle| is_due(&handle.kind)).map(|service| service.name.as_str()).collect();
        let restarted = if due.is_empty() { "nothing".to_owned() } else { due.join(", ") };
        info!("the mounted configuration has changed and was taken over; to be restarted with it: {restarted}");
        let mut later = difference.needs_own_restart.clone();
        let is_same = specs.iter().map(|spec| spec.name).eq(handles.iter().map(|seat| seat.name));
        if !is_same {
            later.push("which services run");
        }
        if !later.is_empty() {
            warn!(
                "of the new configuration this takes effect when bots-ctl itself is started again: {}",
                later.join(", ")
            );
        }
    }

    /// The health checks look at what is configured now.
    fn restart_checks(&mut self, targets: &CheckTargets, is_other_database: bool) {
        self.running.checking.iter().for_each(JoinHandle::abort);
        if is_other_database {
            self.runtime.health.send_modify(|health| health.tables = CheckResult::Pending);
        }
        self.running.checking = self.runtime.spawn_checks(targets);
    }

    /// Holds up others until the web UI is back, and those who spread requests have noticed that.
    fn hold_turn_until_ready(&self, turn: File) {
        let Some(index) = self.running.handles.iter().position(|handle| handle.name == ServiceName::Webserver) else {
            return;
        };
        let (mut health, drain) = (self.runtime.health.subscribe(), self.config.reload.drain);
        let before = health.borrow().services[index].pid;
        tokio::spawn(async move {
            let is_back = |state: &HealthState| {
                let web = state.services[index];
                web.phase == Phase::Running && web.alive && web.pid != before
            };
            let _ = timeout(MAX_TURN, health.wait_for(is_back)).await;
            sleep(drain).await;
            drop(turn);
        });
    }

    fn record_rejected(&mut self, faults: &[String]) {
        self.retry_at = Some(Instant::now() + RETRY_INTERVAL);
        if *self.runtime.health.borrow().refused != *faults {
            self.runtime.counters.count_reload(false);
            error!("the mounted configuration is refused, and the one before stays in use: {}", faults.join("; "));
            self.runtime.health.send_modify(|health| health.refused = faults.into());
        }
    }

    /// What is mounted is in use, since now or again.
    fn record_applied(&mut self, is_new: bool) {
        self.retry_at = None;
        let was_refused = !self.runtime.health.borrow().refused.is_empty();
        if is_new || was_refused {
            self.runtime.counters.count_reload(true);
        }
        if was_refused {
            info!("the mounted configuration is no longer refused");
            self.runtime.health.send_modify(|health| health.refused = [].into());
        }
    }
}

/// Whether Bots's own processes would notice the difference.
fn affects_bots(before: &FileDigests, after: &FileDigests) -> bool {
    let is_ours = |name: &std::ffi::OsString| name == OWN_FILE;
    let [before, after] = [before, after].map(|contents| contents.iter().filter(|(name, _)| !is_ours(name)));
    !before.eq(after)
}
