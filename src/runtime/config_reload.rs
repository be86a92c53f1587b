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

use crate::bots::config_source::{Contents, Source};
use crate::bots::config_watcher::{Look, Mount};
use crate::bots::django_settings::Context;
use crate::bots::services::{Ground, JobQueue};
use crate::config::diff::Difference;
use crate::config::{Config, ReloadPolicy, ServiceName};
use crate::exit;
use crate::exit::Error;
use crate::fs::atomic;
use crate::health::checks::Targets;
use crate::health::state::{Fact, Facts, Phase};

use super::bots_environment::{blocking, health_targets, prepare_from, service_variables};
use super::dry_run::rehearse;
use super::events::Renewal;
use super::init_db;
use super::relay::Relays;
use super::serve::{Choice, Ready, known_facts};
use super::service_handle::{House, Kind, Seat};
use super::service_spec::{Launch, Scene};

/// The file that says what bots-ctl itself does. Nothing of Bots reads it.
const OWN_FILE: &str = "bots-ctl.toml";

/// How often something is tried again that was refused: the cause may lie elsewhere than in the mounted files.
const RETRY: Duration = Duration::from_secs(60);

/// How long other web UIs wait for one that does not come back.
const LONGEST_TURN: Duration = Duration::from_secs(120);

/// What runs, as far as it can change.
pub(crate) struct Running {
    pub seats: Vec<Seat>,
    pub relays: Relays,
    /// The health checks.
    pub checking: Vec<JoinHandle<()>>,
    pub renewals: mpsc::Sender<Renewal>,
}

/// Looks at what is mounted, and takes it over.
pub(crate) struct Reloader<'a> {
    config: Config,
    house: House<'a>,
    choice: &'a Choice<'a>,
    /// Set while a database is being changed.
    critical: &'a Cell<bool>,
    ready: Ready,
    running: Running,
    mount: Mount,
    retry_at: Option<Instant>,
}

impl<'a> Reloader<'a> {
    pub fn new(
        house: House<'a>,
        choice: &'a Choice<'a>,
        critical: &'a Cell<bool>,
        ready: Ready,
        running: Running,
    ) -> Self {
        let config = house.config.clone();
        let mount = Mount::new(config.environment.config_source.clone(), ready.contents.clone());
        Self { config, house, choice, critical, ready, running, mount, retry_at: None }
    }

    /// Works until everything is asked to stop.
    pub async fn follow(mut self) {
        let (critical, mut stopping) = (self.critical, self.house.facts.subscribe());
        let watching = self.watch();
        tokio::pin!(watching);
        tokio::select! {
            () = &mut watching => {}
            _ = stopping.wait_for(|facts| facts.stopping) => {
                // A schema that is being changed is finished first.
                if critical.get() {
                    watching.await;
                }
            }
        }
    }

    async fn watch(&mut self) {
        let places = &self.config.environment;
        if self.config.reload.policy == ReloadPolicy::Off || places.config_source == places.config_dir {
            std::future::pending::<()>().await;
        }
        while !self.is_stopping() {
            sleep(self.config.reload.interval).await;
            match self.look().await {
                Ok(Look::Changed(source)) => self.consider(source).await,
                Ok(Look::AsInUse) => {
                    debug!("what is mounted is in use");
                    self.accept(false);
                }
                Ok(Look::Gone) => {
                    let source = self.config.environment.config_source.display();
                    warn!("nothing is mounted at {source} any more: going on with what was");
                }
                Ok(Look::Same) if self.retry_at.is_some_and(|at| at <= Instant::now()) => self.mount.judge_again(),
                Ok(Look::Same | Look::Unsettled) => {}
                Err(error) => self.refuse(&[error.to_string()]),
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.house.facts.borrow().stopping
    }

    /// On a thread that may wait for a volume. The start has left one behind, so none has to be made for this.
    async fn look(&mut self) -> Result<Look, Error> {
        let mut mount = self.mount.clone();
        let look = move || {
            let looked = mount.look();
            (mount, looked)
        };
        let looked = tokio::task::spawn_blocking(look).await;
        let (mount, looked) = looked.map_err(|error| Error::new(exit::Kind::Internal, error.to_string()))?;
        self.mount = mount;
        Ok(looked?)
    }

    async fn consider(&mut self, source: Source) {
        let (config, difference) = match self.check(&source).await {
            Ok(valid) => valid,
            Err(faults) => return self.refuse(&faults),
        };
        let is_felt = difference.is_other || is_felt(&self.ready.contents, &source.contents());
        let Some(turn) = self.wait_for_turn(is_felt).await else { return };
        match self.copy(&config, source, &difference).await {
            Ok(_) if self.is_stopping() => {}
            Ok(next) => self.renew(config, next, &difference, turn).await,
            Err(error) => self.refuse(error.faults()),
        }
    }

    /// Everything that is wrong with what is mounted; else the configuration to go on with.
    async fn check(&self, source: &Source) -> Result<(Config, Difference), Vec<String>> {
        let as_faults = |error: Error| error.faults().to_vec();
        let (next, faults) = (self.choice.read)().map_err(as_faults)?;
        let (config, difference) = self.config.followed_by(next);
        let mut faults: Vec<String> = faults.into_iter().map(|fault| fault.text).collect();
        let rehearsed = rehearse(&config, self.house.reaper, Some(source), !faults.is_empty()).await;
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
        let has_web = self.running.seats.iter().any(|seat| seat.name == ServiceName::Webserver);
        let lock = self.ready.environment.root.join(".bots-ctl-restart.lock");
        loop {
            if !matches!(self.look().await, Ok(Look::Same)) {
                // Whatever it is, the next look tells.
                self.mount.judge_again();
                return None;
            }
            if !(is_felt && has_web) {
                return Some(None);
            }
            let place = lock.clone();
            match blocking(move || atomic::try_lock(&place)).await {
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
    async fn copy(&self, config: &Config, source: Source, difference: &Difference) -> Result<Ready, Error> {
        let config_dir = config.environment.config_dir.clone();
        let before = blocking(move || Source::read(&config_dir)).await??;
        let copied = self.prepare(config, source, difference).await;
        if copied.is_err() {
            let environment = self.ready.environment.clone();
            let restored = blocking(move || environment.restore(&before)).await.and_then(|done| Ok(done?));
            if let Err(why) = restored {
                error!("the configuration before is not whole again: {}", why.faults().join("; "));
            }
        }
        copied
    }

    async fn prepare(&self, config: &Config, source: Source, difference: &Difference) -> Result<Ready, Error> {
        let (bots, reaper) = (self.ready.bots.clone(), self.house.reaper);
        let variables = service_variables(config, &bots);
        let (own, installed) = (config.clone(), bots.clone());
        let prepare =
            move || prepare_from(&own, &installed, &source).map(|environment| (environment, source.contents()));
        let (environment, contents) = blocking(prepare).await??;
        let context = Context { reaper, bots: &bots, environment: &environment, variables: &variables };
        let mut django = known_facts(&context).await?;
        let is_other_database = difference.is_other || !self.ready.django.database.is_same(&django.database);
        if is_other_database && self.choice.initialise && !config.database.init_skip {
            django = init_db::settle(config, &context, self.critical).await?;
        }
        let queue = JobQueue::read(&environment)?;
        let ground = Ground { bots: &bots, environment: &environment, variables: &variables };
        let held = [self.ready.django.web_port, self.ready.queue.port];
        let launches = (self.choice.choose)(&Scene { config, ground, django: &django, queue: &queue, held: &held })?;
        let targets = health_targets(config, &django)?;
        Ok(Ready { bots, environment, django, queue, contents, launches, targets })
    }

    /// Has the services that are made from what has changed restarted.
    async fn renew(&mut self, config: Config, mut next: Ready, difference: &Difference, turn: Option<File>) {
        let is_felt = is_felt(&self.ready.contents, &next.contents);
        let is_other_database = difference.is_other || !self.ready.django.database.is_same(&next.django.database);
        let is_other_queue = is_other_database || self.ready.queue != next.queue;
        let is_due = |kind: &Kind| match kind {
            Kind::Process => difference.is_other || is_felt,
            Kind::Scheduled => difference.is_other,
            Kind::Queue(_) => is_other_queue,
            Kind::Monitor(_) => is_other_database,
        };
        let launches = std::mem::take(&mut next.launches);
        self.tell(&launches, difference, &is_due);
        self.look_elsewhere(&next.targets, is_other_database);
        if self.running.seats.iter().all(|seat| seat.name != ServiceName::Jobqueue) && is_other_queue {
            self.running.relays.begin(&config, next.queue.port, self.house.counters).await;
        }
        if let Some(turn) = turn {
            self.hold(turn);
        }
        let house = House { config: &config, ..self.house };
        for launch in launches {
            let seat = self.running.seats.iter_mut().find(|seat| seat.name == launch.name);
            if let Some(seat) = seat.filter(|seat| is_due(&seat.kind)) {
                seat.renew(launch, &house, &self.running.renewals).await;
            }
        }
        self.mount.take(next.contents.clone());
        (self.config, self.ready) = (config, next);
        self.accept(true);
    }

    fn tell(&self, launches: &[Launch], difference: &Difference, is_due: &impl Fn(&Kind) -> bool) {
        let seats = &self.running.seats;
        let due: Vec<&str> = seats.iter().filter(|seat| is_due(&seat.kind)).map(|seat| seat.name.as_str()).collect();
        let restarted = if due.is_empty() { "nothing".to_owned() } else { due.join(", ") };
        info!("the mounted configuration has changed and was taken over; to be restarted with it: {restarted}");
        let mut later = difference.later.clone();
        let is_same = launches.iter().map(|launch| launch.name).eq(seats.iter().map(|seat| seat.name));
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
    fn look_elsewhere(&mut self, targets: &Targets, is_other_database: bool) {
        self.running.checking.iter().for_each(JoinHandle::abort);
        if is_other_database {
            self.house.facts.send_modify(|facts| facts.tables = Fact::Unknown);
        }
        self.running.checking = self.house.check(targets);
    }

    /// Holds up others until the web UI is back, and those who spread requests have noticed that.
    fn hold(&self, turn: File) {
        let Some(place) = self.running.seats.iter().position(|seat| seat.name == ServiceName::Webserver) else {
            return;
        };
        let (mut facts, drain) = (self.house.facts.subscribe(), self.config.reload.drain);
        let before = facts.borrow().services[place].pid;
        tokio::spawn(async move {
            let is_back = |facts: &Facts| {
                let web = facts.services[place];
                web.phase == Phase::Running && web.answered && web.pid != before
            };
            let _ = timeout(LONGEST_TURN, facts.wait_for(is_back)).await;
            sleep(drain).await;
            drop(turn);
        });
    }

    fn refuse(&mut self, faults: &[String]) {
        self.retry_at = Some(Instant::now() + RETRY);
        if *self.house.facts.borrow().refused != *faults {
            self.house.counters.count_reload(false);
            error!("the mounted configuration is refused, and the one before stays in use: {}", faults.join("; "));
            self.house.facts.send_modify(|facts| facts.refused = faults.into());
        }
    }

    /// What is mounted is in use, since now or again.
    fn accept(&mut self, is_new: bool) {
        self.retry_at = None;
        let was_refused = !self.house.facts.borrow().refused.is_empty();
        if is_new || was_refused {
            self.house.counters.count_reload(true);
        }
        if was_refused {
            info!("the mounted configuration is no longer refused");
            self.house.facts.send_modify(|facts| facts.refused = [].into());
        }
    }
}

/// Whether Bots's own processes would notice the difference.
fn is_felt(before: &Contents, after: &Contents) -> bool {
    let is_ours = |name: &std::ffi::OsString| name == OWN_FILE;
    let [before, after] = [before, after].map(|contents| contents.iter().filter(|(name, _)| !is_ours(name)));
    !before.eq(after)
}
