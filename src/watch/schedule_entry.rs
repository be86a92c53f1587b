//! A target in the schedule of the monitor: its state, and when it is due.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::events::{Event, EventKind, TargetId, Watcher};
use super::observation::ClockSource;
use super::scan::{ScanOutcome, ScanScope, TargetScanner, WatchState};
use super::target::WatchTarget;
use super::unfinished::PendingFiles;

/// How often a directory that cannot be read is tried again.
const FAILED_RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Periodic work uses at most one part in this number of the time. This keeps an idle monitor of ten thousand
/// directories below one percent of a core.
pub(super) const MAX_SCAN_DUTY: u32 = 200;

/// As [`MAX_SCAN_DUTY`], for polling, where delays matter more.
const MAX_POLL_DUTY: u32 = 2;

/// Maximum number of events kept during a scan, which may hang for hours with its file system.
const MAX_QUEUED_EVENTS: usize = 16_384;

/// The total time of the last full scans of all targets, apart for polled ones. It is maintained incrementally, since there may
/// be too many targets for a sum.
#[derive(Debug, Default)]
pub struct ScanCost {
    polled: Duration,
    watched: Duration,
}

/// The part of one target.
#[derive(Debug, Clone, Copy, Default)]
struct CostShare {
    is_polled: bool,
    took: Duration,
}

impl ScanCost {
    /// The time of both kinds of targets.
    pub fn total(&self) -> Duration {
        self.polled + self.watched
    }

    /// Takes out the part of a target that is no longer scanned.
    pub fn remove(&mut self, target: &ScheduledTarget) {
        let part = self.part(target.share.is_polled);
        *part = part.saturating_sub(target.share.took);
    }

    fn part(&mut self, is_polled: bool) -> &mut Duration {
        if is_polled { &mut self.polled } else { &mut self.watched }
    }
}

/// An entry on the list.
pub struct ScheduledTarget {
    id: TargetId,
    /// The target.
    pub watch_target: Arc<WatchTarget>,
    /// `None` during a scan.
    pub scanner: Option<Box<TargetScanner>>,
    /// When the running scan began.
    pub began: Option<Instant>,
    /// What the target has added to the cost, which its state may no longer show.
    share: CostShare,
    /// Events since the beginning of the last scan.
    queued: Vec<Event>,
    /// Scope of the next scan.
    pub wants: ScanScope,
    /// When the next full scan is due.
    pub next_all: Instant,
    check_at: Option<Instant>,
    /// When the next scan is due.
    pub due: Instant,
    /// Whether the target is in the queue.
    pub is_queued: bool,
    /// How the directories are watched; nothing before the first scan.
    pub watch_state: Option<WatchState>,
    /// When the oldest file came, as of the last full scan.
    pub oldest: Option<SystemTime>,
    /// Files that are not complete, as of the last scan.
    pub unfinished: PendingFiles,
}

/// The result of a scan.
pub struct ScanResult {
    /// The scanned target.
    pub id: TargetId,
    /// The scanner, returned.
    pub scanner: Box<TargetScanner>,
    /// The outcome.
    pub found: ScanOutcome,
    /// How long the scan took.
    pub took: Duration,
}

impl ScheduledTarget {
    /// Nothing is known yet.
    pub fn new(entry: WatchTarget, id: TargetId, events: Arc<Watcher>) -> Self {
        let entry = Arc::new(entry);
        let scanner = TargetScanner::new(Arc::clone(&entry), id, events, ClockSource::Local);
        let now = Instant::now();
        Self {
            id,
            watch_target: entry,
            scanner: Some(Box::new(scanner)),
            began: None,
            share: CostShare::default(),
            queued: Vec::new(),
            wants: ScanScope::EventsOnly,
            next_all: now,
            check_at: None,
            due: now,
            is_queued: false,
            watch_state: None,
            oldest: None,
            unfinished: PendingFiles::default(),
        }
    }

    /// Whether an event may matter. Most do not: reading a directory is one, too.
    pub fn is_relevant(&self, event: &Event, is_watched_itself: bool) -> bool {
        let is_about_file = matches!(event.kind, EventKind::Closed | EventKind::Modified);
        let name = event.path.file_name().unwrap_or_default();
        !is_about_file || !is_watched_itself && self.watch_target.matches(name)
    }

    /// Keeps an event for the next scan. With more events than there is room for, the next scan is a full one.
    pub fn push_event(&mut self, event: Event) {
        if self.queued.len() == MAX_QUEUED_EVENTS {
            self.queued = Vec::new();
            self.wants = self.wants.max(ScanScope::Full);
        }
        self.queued.push(event);
    }

    fn polls(&self) -> bool {
        matches!(&self.watch_state, Some(WatchState::Watching { backend, .. }) if backend.polls)
    }

    /// Whether there is something to scan now.
    pub fn needs_scan(&self) -> bool {
        self.wants != ScanScope::EventsOnly || !self.queued.is_empty()
    }

    /// The scan that is due, for a thread that may block; none while another scan runs.
    pub fn begin(&mut self, now: Instant) -> Option<impl FnOnce() -> ScanResult + use<>> {
        let is_due = self.needs_scan() || self.check_at.is_some_and(|when| when <= now);
        let mut scanner = is_due.then(|| self.scanner.take()).flatten()?;
        self.began = Some(now);
        let (id, queued) = (self.id, std::mem::take(&mut self.queued));
        let scope = std::mem::replace(&mut self.wants, ScanScope::EventsOnly);
        Some(move || {
            let began = std::time::Instant::now();
            let found = scanner.scan(queued, scope);
            ScanResult { id, scanner, found, took: began.elapsed() }
        })
    }

    /// Takes back the scanner after a scan.
    pub fn end(&mut self, scanner: Box<TargetScanner>, check_at: Option<std::time::Instant>) {
        self.scanner = Some(scanner);
        self.began = None;
        self.check_at = check_at.map(Instant::from_std);
    }

    /// Decides when the next scan is due, and updates the cost; `full_scan` is the time that a full scan took, except for one that
    /// hung: that is no measure of the next one.
    pub fn schedule_next(
        &mut self,
        was_full: bool,
        full_scan: Option<Duration>,
        cost: &mut ScanCost,
        rescan: Duration,
    ) {
        cost.remove(self);
        self.share = CostShare { is_polled: self.polls(), took: full_scan.unwrap_or(self.share.took) };
        let cost = cost.part(self.share.is_polled);
        *cost += self.share.took;
        if was_full {
            let cost = *cost;
            let pause = match &self.watch_state {
                Some(WatchState::Watching { backend, .. }) if backend.polls => {
                    self.watch_target.poll_interval.max(cost * MAX_POLL_DUTY)
                }
                Some(WatchState::Failed { root: Some(_), .. }) => FAILED_RETRY_INTERVAL.max(cost * MAX_SCAN_DUTY),
                _ => rescan.max(cost * MAX_SCAN_DUTY),
            };
            self.next_all = Instant::now() + pause;
        }
        self.due = self.check_at.map_or(self.next_all, |when| when.min(self.next_all));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::WatchMethod;
    use crate::watch::backend::{WatchBackend, dir_id};
    use crate::watch::target::tests::watch_target;

    #[test]
    fn a_hung_scan_delays_no_later_one() {
        const HANG: Duration = Duration::from_secs(300);
        let (events, _heard) = Watcher::start();
        let events = Arc::new(events);
        let backend = WatchBackend::of("/".as_ref(), WatchMethod::Poll).expect("readable");
        let root = dir_id("/".as_ref()).expect("readable");
        let polled = || Some(WatchState::Watching { directories: 1, backend: backend.clone(), root });
        let failed = || Some(WatchState::Failed { reason: "no response".to_owned(), root: None });
        let mut cost = ScanCost::default();
        let mut targets: Vec<ScheduledTarget> =
            (0..10).map(|id| ScheduledTarget::new(watch_target("/".as_ref(), "*"), id, Arc::clone(&events))).collect();
        let took = Duration::from_millis(10);
        for target in &mut targets {
            target.watch_state = polled();
            target.schedule_next(true, Some(took), &mut cost, HANG);
        }
        for target in &mut targets {
            // It is given up, and returns at last.
            target.watch_state = failed();
            target.watch_state = polled();
            target.schedule_next(true, None, &mut cost, HANG);
            let pause = target.next_all - Instant::now();
            assert!(pause <= target.watch_target.poll_interval, "{pause:?}");
        }
        assert_eq!(cost.total(), took * 10);
        for target in &mut targets {
            target.watch_state = failed();
            cost.remove(target);
        }
        assert_eq!(cost.total(), Duration::ZERO);
    }

    #[test]
    fn events_during_hung_scan_use_bounded_memory() {
        let watch_target = watch_target("/nowhere".as_ref(), "*");
        let (events, _heard) = Watcher::start();
        let mut target = ScheduledTarget::new(watch_target, 1, Arc::new(events));
        let event = Event { path: "/nowhere/file".into(), kind: EventKind::Closed };
        for _ in 0..MAX_QUEUED_EVENTS {
            target.push_event(event.clone());
        }
        assert_eq!(
            (target.queued.len(), target.wants),
            (MAX_QUEUED_EVENTS, ScanScope::EventsOnly),
            "what fits is looked at alone"
        );
        for _ in 0..3 * MAX_QUEUED_EVENTS {
            target.push_event(event.clone());
        }
        assert!(
            target.queued.capacity() <= MAX_QUEUED_EVENTS && target.wants == ScanScope::Full,
            "{}",
            target.queued.capacity()
        );
    }
}
