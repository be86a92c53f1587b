//! Decides which target is scanned when, from events, schedules and checks of the roots. One task, which never blocks.
//!
//! Each target is scanned by one thread at a time, and few targets concurrently. A scan that does not return, for
//! example on an unreachable server, does not delay other scans.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::backend::dir_id;
use super::events::{Event, EventReceiver, TargetId, Watcher};
use super::mounts::{MountTable, is_above};
use super::scan::{ScanScope, WatchState};
use super::schedule_entry::{MAX_SCAN_DUTY, ScanCost, ScanResult, ScheduledTarget};
pub use super::status::NewFiles;
use super::status::{MonitorReport, TargetStatus, log_change, log_given_up};
use super::target::WatchTarget;
use super::unfinished::{CompleteFiles, WaitingFiles};
use crate::model::FileId;
use crate::telemetry::counters::{CountedEvent, Counters};

/// Scans that run at once: enough to use the time that a disk takes, too few to load the machine.
const MAX_PARALLEL_SCANS: usize = 2;

/// The maximum number of threads with scans that do not return. The other parts of bots-ctl need some of tokio's 512 threads.
const MAX_SCAN_THREADS: usize = 384;

/// After this time a scan no longer counts for [`MAX_PARALLEL_SCANS`].
const SLOW_SCAN_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval of the check that each path still leads to the directory that is watched.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Interval of full scans while events are lost again and again.
const MIN_OVERFLOW_RESCAN_INTERVAL: Duration = Duration::from_secs(2);

/// Interval of status updates during continuous changes.
const STATUS_INTERVAL: Duration = Duration::from_millis(200);

/// A command for the monitor.
#[derive(Debug)]
pub enum MonitorCommand {
    /// Replace the watched entries with these, which are distinct.
    SetTargets(Vec<WatchTarget>),
    /// Scan all files as if for the first time.
    Rescan,
}

/// Watches until the task is dropped. `rescan` is the interval of full scans where events come.
pub async fn run(
    mut commands: mpsc::Receiver<MonitorCommand>,
    rescan: Duration,
    counters: &Counters,
    arrived: impl Fn(NewFiles),
    observe: impl Fn(MonitorReport),
) {
    let (events, mut received) = Watcher::start();
    let mut monitor = Monitor::new(events, rescan, counters, arrived, observe);
    let mut reported = Vec::new();
    loop {
        let wake = monitor.next_wake();
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => monitor.run(command),
                None => std::future::pending().await,
            },
            () = received.next(&mut reported) => monitor.on_events(&mut reported, &received),
            Some(done) = monitor.scans.join_next() => done.into_iter().for_each(|scan| monitor.on_scan_done(scan)),
            Some(check) = monitor.checks.join_next() => check.into_iter().for_each(|check| monitor.on_check_done(check)),
            () = sleep_until(wake) => {}
        }
        monitor.run_due();
    }
}

/// Targets whose path leads to another directory than before, or below which something was mounted.
struct RootCheck {
    other: Vec<TargetId>,
    mounts: MountTable,
    took: Duration,
}

struct Monitor<'a, A, O> {
    events: Arc<Watcher>,
    rescan: Duration,
    counters: &'a Counters,
    arrived: A,
    observe: O,
    targets: HashMap<TargetId, ScheduledTarget>,
    /// As the entries were given.
    order: Vec<TargetId>,
    last: TargetId,
    /// When each target is due.
    due: BTreeSet<(Instant, TargetId)>,
    /// Targets that are due, in the order in which they became so.
    queue: VecDeque<TargetId>,
    scans: JoinSet<ScanResult>,
    /// Targets with a running scan, except those whose scan takes too long.
    running: Vec<TargetId>,
    cost: ScanCost,
    checks: JoinSet<RootCheck>,
    next_check: Instant,
    /// Empty while a check has it.
    mounts: MountTable,
    has_lost: bool,
    next_loss: Instant,
    has_changed: bool,
    next_overview: Instant,
}

impl<'a, A: Fn(NewFiles), O: Fn(MonitorReport)> Monitor<'a, A, O> {
    fn new(events: Watcher, rescan: Duration, counters: &'a Counters, arrived: A, observe: O) -> Self {
        let now = Instant::now();
        Self {
            events: Arc::new(events),
            rescan,
            counters,
            arrived,
            observe,
            targets: HashMap::new(),
            order: Vec::new(),
            last: 0,
            due: BTreeSet::new(),
            queue: VecDeque::new(),
            scans: JoinSet::new(),
            running: Vec::new(),
            cost: ScanCost::default(),
            checks: JoinSet::new(),
            next_check: now,
            mounts: MountTable::default(),
            has_lost: false,
            next_loss: now,
            has_changed: false,
            next_overview: now,
        }
    }

    fn run(&mut self, command: MonitorCommand) {
        match command {
            MonitorCommand::SetTargets(targets) => self.set_targets(targets),
            MonitorCommand::Rescan => {
                for id in self.order.clone() {
                    self.request_scan(id, ScanScope::Reset);
                }
            }
        }
    }

    /// A target that stays keeps the state of its files.
    fn set_targets(&mut self, targets: Vec<WatchTarget>) {
        let mut before: HashMap<Arc<WatchTarget>, TargetId> =
            self.targets.iter().map(|(id, target)| (Arc::clone(&target.watch_target), *id)).collect();
        self.order.clear();
        for watch_target in targets {
            let id = before.remove(&watch_target).unwrap_or_else(|| self.add(watch_target));
            self.order.push(id);
        }
        for (_, id) in before {
            let Some(target) = self.targets.remove(&id) else { continue };
            self.due.remove(&(target.due, id));
            self.cost.remove(&target);
            // A target that is being scanned is unwatched when the scan has ended.
            if let Some(scanner) = target.scanner {
                tokio::task::spawn_blocking(|| scanner.unwatch_all());
            }
        }
        self.has_changed = true;
    }

    fn add(&mut self, watch_target: WatchTarget) -> TargetId {
        self.last += 1;
        let target = ScheduledTarget::new(watch_target, self.last, Arc::clone(&self.events));
        self.targets.insert(self.last, target);
        self.request_scan(self.last, ScanScope::Full);
        self.last
    }

    fn request_scan(&mut self, id: TargetId, scope: ScanScope) {
        if let Some(target) = self.targets.get_mut(&id) {
            target.wants = target.wants.max(scope);
            self.enqueue(id);
        }
    }

    fn enqueue(&mut self, id: TargetId) {
        if let Some(target) = self.targets.get_mut(&id).filter(|target| !target.is_queued) {
            target.is_queued = true;
            self.queue.push_back(id);
        }
    }

    fn on_events(&mut self, reported: &mut Vec<Event>, received: &EventReceiver) {
        self.has_lost |= received.was_incomplete();
        self.counters.add(CountedEvent::InotifyEvents, reported.len() as u64);
        for event in reported.drain(..) {
            let its_own = self.events.users(&event.path);
            let of_parent = event.path.parent().map(|parent| self.events.users(parent)).unwrap_or_default();
            let is_watched = !its_own.is_empty();
            for id in its_own.into_iter().chain(of_parent) {
                let Some(target) = self.targets.get_mut(&id).filter(|target| target.is_relevant(&event, is_watched))
                else {
                    continue;
                };
                target.push_event(event.clone());
                self.enqueue(id);
            }
        }
    }

    /// Does everything whose time has come.
    fn run_due(&mut self) {
        let now = Instant::now();
        while let Some((when, id)) = self.due.first().copied().filter(|(when, _)| *when <= now) {
            self.due.remove(&(when, id));
            if self.targets.get(&id).is_some_and(|target| target.next_all <= now) {
                self.request_scan(id, ScanScope::Full);
            }
            self.enqueue(id);
        }
        if self.has_lost && self.next_loss <= now {
            self.rescan_after_overflow(now);
        }
        self.abandon_slow_scans(now);
        self.start_scans(now);
        if self.next_check <= now && self.checks.is_empty() {
            self.start_check();
        }
        if self.has_changed && (self.next_overview <= now || self.is_idle()) {
            self.has_changed = false;
            self.next_overview = now + STATUS_INTERVAL;
            (self.observe)(self.status());
        }
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let slow =
            self.running.iter().filter_map(|id| self.targets.get(id)?.began).map(|began| began + SLOW_SCAN_TIMEOUT);
        let times = [
            self.due.first().map(|(when, _)| *when),
            slow.min(),
            self.checks.is_empty().then_some(self.next_check),
            self.has_lost.then_some(self.next_loss),
            self.has_changed.then_some(self.next_overview),
        ];
        times.into_iter().flatten().min().unwrap_or(now + CHECK_INTERVAL)
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.running.is_empty()
    }

    fn rescan_after_overflow(&mut self, now: Instant) {
        warn!("inotify queue overflow; rescanning all directories");
        self.counters.count(CountedEvent::EventOverflows);
        self.has_lost = false;
        self.next_loss = now + MIN_OVERFLOW_RESCAN_INTERVAL.max(self.cost.total() * 10);
        for id in self.order.clone() {
            self.request_scan(id, ScanScope::Full);
        }
    }

    fn abandon_slow_scans(&mut self, now: Instant) {
        let is_slow = |target: &ScheduledTarget| target.began.is_some_and(|began| began + SLOW_SCAN_TIMEOUT <= now);
        let slow: Vec<TargetId> =
            self.running.iter().copied().filter(|id| self.targets.get(id).is_none_or(is_slow)).collect();
        for id in slow {
            self.running.retain(|other| *other != id);
            let seconds = SLOW_SCAN_TIMEOUT.as_secs();
            self.change(id, |target| {
                let root = target.watch_target.directory.root.display();
                let reason = format!("{root} has not responded for {seconds} s");
                WatchState::Failed { reason, root: None }
            });
        }
    }

    fn start_scans(&mut self, now: Instant) {
        while self.running.len() < MAX_PARALLEL_SCANS && self.scans.len() < MAX_SCAN_THREADS {
            let Some(id) = self.queue.pop_front() else { return };
            let Some(target) = self.targets.get_mut(&id) else { continue };
            target.is_queued = false;
            // A target that is being scanned is scanned again afterwards if there is reason to.
            if let Some(scan) = target.begin(now) {
                self.running.push(id);
                self.scans.spawn_blocking(scan);
            }
        }
    }

    fn on_scan_done(&mut self, scan: ScanResult) {
        let (id, found) = (scan.id, scan.found);
        let was_slow = !self.running.contains(&id);
        self.running.retain(|other| *other != id);
        let Some(target) = self.targets.get_mut(&id) else {
            tokio::task::spawn_blocking(|| scan.scanner.unwatch_all());
            return;
        };
        let WaitingFiles { check_at, given_up, pending } = found.waiting;
        self.counters.add(CountedEvent::FileGivenUp, given_up.len() as u64);
        given_up.iter().for_each(|file| log_given_up(&target.watch_target, file));
        self.has_changed |= target.unfinished != pending;
        target.unfinished = pending;
        if let CompleteFiles { count: files, example: Some(example) } = found.complete {
            (self.arrived)(NewFiles { route: target.watch_target.route.clone(), files, example });
        }
        if found.watch_state.is_some() {
            let took = scan.took.as_secs_f64();
            debug!("the full scan of {} took {took:.3} s", target.watch_target.files());
            self.counters.count(CountedEvent::FullScans);
            self.has_changed |= target.oldest != found.oldest;
            target.oldest = found.oldest;
        }
        let was_full = found.watch_state.is_some();
        target.end(scan.scanner, check_at);
        self.due.remove(&(target.due, id));
        if let Some(watch_state) = found.watch_state {
            self.change(id, |_| watch_state);
        }
        let Some(target) = self.targets.get_mut(&id) else { return };
        let full_scan = (was_full && !was_slow).then_some(scan.took);
        target.schedule_next(was_full, full_scan, &mut self.cost, self.rescan);
        self.due.insert((target.due, id));
        if target.needs_scan() {
            self.enqueue(id);
        }
    }

    fn change(&mut self, id: TargetId, to: impl FnOnce(&ScheduledTarget) -> WatchState) {
        let count = self.targets.len();
        let Some(target) = self.targets.get_mut(&id) else { return };
        let watch_state = to(target);
        if target.watch_state.as_ref() != Some(&watch_state) {
            log_change(&target.watch_target, target.watch_state.as_ref(), &watch_state, count);
            target.watch_state = Some(watch_state);
            self.has_changed = true;
        }
    }

    /// There is no event if a path resolves to another directory, after a volume was mounted or unmounted.
    fn start_check(&mut self) {
        let expected =
            |(id, target): (&TargetId, &ScheduledTarget)| -> Option<(TargetId, Arc<WatchTarget>, Option<FileId>)> {
                let root = match target.watch_state.as_ref()? {
                    WatchState::Watching { backend, .. } if backend.polls => return None,
                    WatchState::Watching { root, .. } => Some(*root),
                    WatchState::Failed { root: None, .. } if target.scanner.is_some() => None,
                    WatchState::Failed { .. } => return None,
                };
                Some((*id, Arc::clone(&target.watch_target), root))
            };
        let expected: Vec<_> = self.targets.iter().filter_map(expected).collect();
        let mut mounts = std::mem::take(&mut self.mounts);
        self.checks.spawn_blocking(move || {
            let began = std::time::Instant::now();
            let changed = mounts.read_changes();
            let is_other = |(_, watch_target, root): &(TargetId, Arc<WatchTarget>, Option<FileId>)| {
                let directory = &watch_target.directory.root;
                dir_id(directory).ok() != *root || watch_target.has_directories_below() && is_above(directory, &changed)
            };
            let other = expected.into_iter().filter(is_other).map(|(id, ..)| id).collect();
            RootCheck { other, mounts, took: began.elapsed() }
        });
    }

    fn on_check_done(&mut self, check: RootCheck) {
        self.mounts = check.mounts;
        // A check that hung is no measure of the next one.
        let took = if check.took < SLOW_SCAN_TIMEOUT { check.took } else { Duration::ZERO };
        self.next_check = Instant::now() + CHECK_INTERVAL.max(took * MAX_SCAN_DUTY);
        for id in check.other {
            self.request_scan(id, ScanScope::Full);
        }
    }

    fn status(&self) -> MonitorReport {
        let report = |id: &TargetId| {
            let target = self.targets.get(id)?;
            Some(TargetStatus {
                target: Arc::clone(&target.watch_target),
                watch_state: target.watch_state.clone(),
                oldest: target.oldest,
                unfinished: target.unfinished.clone(),
            })
        };
        let reports: Vec<TargetStatus> = self.order.iter().filter_map(report).collect();
        let is_complete = reports.iter().all(|report| report.watch_state.is_some());
        MonitorReport { reports, is_complete }
    }
}
