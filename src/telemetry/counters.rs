//! Counters of events since the start. Neither counting nor reading ever waits.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The paths of the health listener that are counted by name; every other one is `other`.
pub const PATHS: [&str; 8] =
    ["/health/ping", "/health/live", "/health/ready", "/health/startup", "/status", "/metrics", "/", "other"];

/// The status codes of the health listener.
pub const CODES: [u16; 4] = [200, 404, 405, 503];

/// The place of a path in [`PATHS`].
#[must_use]
pub fn path_index(path: &str) -> usize {
    PATHS.iter().position(|known| *known == path).unwrap_or(PATHS.len() - 1)
}

/// A counted event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountedEvent {
    /// The kernel reported an event in a watched directory.
    InotifyEvents,
    /// All files of a target of the directory monitor were scanned.
    FullScans,
    /// The kernel reported more events than could be read.
    EventOverflows,
    /// An incomplete file is no longer waited for.
    FileGivenUp,
    /// The relay forwarded a call to the job queue.
    RelayForwarded,
    /// The relay could not reach the job queue.
    RelayUnreachable,
    /// The relay received a request that is not a valid call.
    RelayRefused,
    /// The job queue got a call without its token.
    JobCallRefused,
    /// A changed configuration was applied.
    ReloadApplied,
    /// A changed configuration was rejected.
    ReloadRefused,
}

const EVENTS: usize = CountedEvent::ReloadRefused as usize + 1;

/// The time that a background check takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckTimer {
    /// The connection to the database.
    Database,
    /// Whether the tables that every service needs exist.
    Tables,
    /// Whether botssys and usersys exist and are writable.
    Directories,
}

const CHECK_TIMERS: usize = CheckTimer::Directories as usize + 1;

/// The duration and the end of the last check of a kind.
#[derive(Debug, Default)]
struct CheckTiming {
    microseconds: AtomicU64,
    /// Milliseconds since 1970; 0 before the first one.
    ended: AtomicU64,
}

/// All counters of this process.
#[derive(Debug)]
pub struct Counters {
    started: SystemTime,
    events: [AtomicU64; EVENTS],
    responses: [[AtomicU64; CODES.len()]; PATHS.len()],
    checks: [CheckTiming; CHECK_TIMERS],
    is_refused: AtomicBool,
    /// Free bytes on the volume of botssys; unknown if `u64::MAX`.
    free: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            started: SystemTime::now(),
            events: Default::default(),
            responses: Default::default(),
            checks: Default::default(),
            is_refused: AtomicBool::default(),
            free: AtomicU64::new(u64::MAX),
        }
    }
}

impl Counters {
    /// The time of the start of the process.
    #[must_use]
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// Counts an event.
    pub fn count(&self, event: CountedEvent) {
        self.add(event, 1);
    }

    /// Adds a number of events.
    pub fn add(&self, event: CountedEvent, times: u64) {
        self.events[event as usize].fetch_add(times, Relaxed);
    }

    /// The count of an event.
    #[must_use]
    pub fn of(&self, event: CountedEvent) -> u64 {
        self.events[event as usize].load(Relaxed)
    }

    /// Sets the number of free bytes on the volume of botssys.
    pub fn record_free(&self, bytes: u64) {
        self.free.store(bytes, Relaxed);
    }

    /// The number of free bytes on that volume, once it is known.
    #[must_use]
    pub fn free(&self) -> Option<u64> {
        Some(self.free.load(Relaxed)).filter(|free| *free != u64::MAX)
    }

    /// Counts an applied or rejected configuration change.
    pub fn count_reload(&self, is_applied: bool) {
        self.count(if is_applied { CountedEvent::ReloadApplied } else { CountedEvent::ReloadRefused });
        self.is_refused.store(!is_applied, Relaxed);
    }

    /// Whether the last change of the configuration was rejected.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.is_refused.load(Relaxed)
    }

    /// The health listener has answered a request for a path, which is an index into [`PATHS`].
    pub fn count_response(&self, path: usize, code: u16) {
        if let Some(code) = CODES.iter().position(|known| *known == code) {
            self.responses[path.min(PATHS.len() - 1)][code].fetch_add(1, Relaxed);
        }
    }

    /// The responses that were sent at least once: path, code and number.
    pub fn responses(&self) -> impl Iterator<Item = (&'static str, u16, u64)> {
        let of_path = |(path, codes): (&'static str, &'_ [AtomicU64; CODES.len()])| {
            let counts: [u64; CODES.len()] = std::array::from_fn(|index| codes[index].load(Relaxed));
            CODES.into_iter().zip(counts).map(move |(code, count)| (path, code, count))
        };
        PATHS.into_iter().zip(&self.responses).flat_map(of_path).filter(|(_, _, count)| *count > 0)
    }

    /// A check has ended.
    pub fn record_check(&self, timer: CheckTimer, took: Duration) {
        let CheckTiming { microseconds, ended } = &self.checks[timer as usize];
        microseconds.store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        ended.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The duration of the last such check, and when it ended; `None` before the first one.
    #[must_use]
    pub fn last_check(&self, timer: CheckTimer) -> Option<(Duration, SystemTime)> {
        let CheckTiming { microseconds, ended } = &self.checks[timer as usize];
        let ended = Some(ended.load(Relaxed)).filter(|ended| *ended > 0)?;
        Some((Duration::from_micros(microseconds.load(Relaxed)), UNIX_EPOCH + Duration::from_millis(ended)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_counted_by_path_and_code() {
        let counters = Counters::default();
        for (path, code) in [("/health/ready", 503), ("/health/ready", 503), ("/etc/passwd", 404), ("/health/x", 404)] {
            counters.count_response(path_index(path), code);
        }
        let responses: Vec<_> = counters.responses().collect();
        assert_eq!(responses, [("/health/ready", 503, 2), ("other", 404, 2)]);
    }

    #[test]
    fn last_reload_decides_refused_state() {
        let counters = Counters::default();
        assert!(!counters.is_refused());
        counters.count_reload(false);
        assert!(counters.is_refused());
        counters.count_reload(true);
        assert!(!counters.is_refused());
        assert_eq!((counters.of(CountedEvent::ReloadApplied), counters.of(CountedEvent::ReloadRefused)), (1, 1));
    }
}
