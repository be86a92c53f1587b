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

/// As many events are kept during a scan, which may hang for hours with its file system.
const MAX_QUEUED_EVENTS: usize = 16_384;

/// An entry on the list.
pub struct ScheduledTarget {
    id: TargetId,
    /// The target.
    pub watch_target: Arc<WatchTarget>,
    /// Away during a scan.
    pub directories: Option<Box<TargetScanner>>,
    /// When the running scan began.
    pub began: Option<Instant>,
    /// Time of the last full scan.
    pub took: Duration,
    /// Events since then.
    queued: Vec<Event>,
    /// Extent of the next scan.
    pub wants: ScanScope,
    /// When the next full scan is due.
    pub next_all: Instant,
    check_at: Option<Instant>,
    /// When the next scan is due.
    pub due: Instant,
    /// Whether the target is in the queue.
    pub is_queued: bool,
    /// How the directories are watched; nothing before the first scan.
    pub condition: Option<WatchState>,
    /// When the oldest file came, as of the last full scan.
    pub oldest: Option<SystemTime>,
    /// Files that are not complete, as of the last scan.
    pub unfinished: PendingFiles,
}

/// The result of a scan.
pub struct ScanResult {
    /// Whose.
    pub index: TargetId,
    /// Given back.
    pub directories: Box<TargetScanner>,
    /// The outcome.
    pub found: ScanOutcome,
    /// How long the scan took.
    pub took: Duration,
}

impl ScheduledTarget {
    /// Nothing is known yet.
    pub fn new(entry: WatchTarget, id: TargetId, events: Arc<Watcher>) -> Self {
        let entry = Arc::new(entry);
        let directories = TargetScanner::new(Arc::clone(&entry), id, events, ClockSource::Local);
        let now = Instant::now();
        Self {
            id,
            watch_target: entry,
            directories: Some(Box::new(directories)),
            began: None,
            took: Duration::ZERO,
            queued: Vec::new(),
            wants: ScanScope::EventsOnly,
            next_all: now,
            check_at: None,
            due: now,
            is_queued: false,
            condition: None,
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

    /// Whether the target is polled.
    pub fn polls(&self) -> bool {
        matches!(&self.condition, Some(WatchState::Watching { backend, .. }) if backend.polls)
    }

    /// Whether there is something to scan now.
    pub fn needs_scan(&self) -> bool {
        self.wants != ScanScope::EventsOnly || !self.queued.is_empty()
    }

    /// The scan that is due, for a thread that may block; none while another scan runs.
    pub fn begin(&mut self, now: Instant) -> Option<impl FnOnce() -> ScanResult + use<>> {
        let is_due = self.needs_scan() || self.check_at.is_some_and(|when| when <= now);
        let mut directories = is_due.then(|| self.directories.take()).flatten()?;
        self.began = Some(now);
        let (target, queued) = (self.id, std::mem::take(&mut self.queued));
        let extent = std::mem::replace(&mut self.wants, ScanScope::EventsOnly);
        Some(move || {
            let began = std::time::Instant::now();
            let found = directories.scan(queued, extent);
            ScanResult { index: target, directories, found, took: began.elapsed() }
        })
    }

    /// Takes back the scanner after a scan; `full_scan` is the time that a full scan took.
    pub fn end(
        &mut self,
        directories: Box<TargetScanner>,
        full_scan: Option<Duration>,
        check_at: Option<std::time::Instant>,
    ) {
        self.directories = Some(directories);
        self.began = None;
        self.check_at = check_at.map(Instant::from_std);
        self.took = full_scan.unwrap_or(self.took);
    }

    /// Decides when the next scan is due. `cost` is the total time of full scans of all polled targets, or of all
    /// others.
    pub fn schedule_next(&mut self, was_full: bool, cost: Duration, rescan: Duration) {
        if was_full {
            let pause = match &self.condition {
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
    use crate::watch::target::tests::watch_target;

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
