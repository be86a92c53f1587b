//! Whether files are at rest, for one who is about to take them: a run of the engine, which takes whatever its channels find.
//!
//! What was seen is kept from one look to the next, so that a file has to be observed once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::events::Watcher;
use super::observation::ClockSource;
use super::scan::{ScanScope, TargetScanner};
use super::stability::IncompleteSince;
use super::target::WatchTarget;
use crate::process::blocking;

/// Pause between two looks while a file is not at rest.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Looks take at most one part in so many of the time.
const MAX_SCAN_DUTY: u32 = 10;

/// A look that takes longer is left alone.
const SCAN_TIMEOUT: Duration = Duration::from_secs(5);

/// A file that is not known to be complete.
#[derive(Debug, Clone)]
pub struct IncompleteFile {
    /// The file.
    pub path: PathBuf,
    /// Why it is not, and since when.
    pub unfinished: IncompleteSince,
    /// Whether it is still waited for.
    pub is_awaited: bool,
}

/// The files of some entries.
pub struct ChannelFiles {
    targets: Vec<(Arc<WatchTarget>, TargetScanner)>,
    events: Arc<Watcher>,
    took: Duration,
}

impl Default for ChannelFiles {
    fn default() -> Self {
        Self { targets: Vec::new(), events: Arc::new(Watcher::none()), took: Duration::ZERO }
    }
}

impl ChannelFiles {
    /// Looks at the files of these entries from now on. What is known of one that stays is kept.
    pub fn set_targets(&mut self, entries: Vec<WatchTarget>) {
        let mut before = std::mem::take(&mut self.targets);
        let scanner_for = |watch_target: WatchTarget| {
            let known = before.iter().position(|(known, _)| **known == watch_target);
            known.map(|known| before.swap_remove(known)).unwrap_or_else(|| {
                let entry = Arc::new(watch_target);
                (Arc::clone(&entry), TargetScanner::new(entry, 0, Arc::clone(&self.events), ClockSource::Probed))
            })
        };
        self.targets = entries.into_iter().map(scanner_for).collect();
    }

    /// Looks at all files; the answer is which are not known to be complete, and why.
    ///
    /// # Errors
    /// When a file system does not answer, or there is no thread to wait for it.
    pub async fn scan(&mut self) -> Result<Vec<IncompleteFile>, String> {
        if self.targets.is_empty() {
            return Ok(Vec::new());
        }
        let (mut targets, began) = (std::mem::take(&mut self.targets), Instant::now());
        let scan = move || {
            let mut restless = Vec::new();
            for (_, directories) in &mut targets {
                directories.scan(Vec::new(), ScanScope::Full);
                let found = directories.unfinished();
                restless.extend(found.map(|(path, unfinished, is_awaited)| IncompleteFile {
                    path,
                    unfinished,
                    is_awaited,
                }));
            }
            // A file that two channels take is one file.
            restless.sort_by(|one: &IncompleteFile, other| one.path.cmp(&other.path));
            restless.dedup_by(|one, other| one.path == other.path);
            (targets, restless)
        };
        let late = |_| Err(std::io::Error::other(format!("no answer within {} s", SCAN_TIMEOUT.as_secs())));
        let scanned = timeout(SCAN_TIMEOUT, blocking::run(scan)).await.unwrap_or_else(late);
        let (scanners, restless) = scanned.map_err(|error| error.to_string())?;
        (self.targets, self.took) = (scanners, began.elapsed());
        Ok(restless)
    }

    /// Waits until no file has to be waited for, at most for so long.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    pub async fn wait(&mut self, limit: Duration) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            let remaining = limit.saturating_sub(begin.elapsed());
            sleep(POLL_INTERVAL.max(self.took * MAX_SCAN_DUTY).min(remaining)).await;
            let is_over = self.scan().await?.iter().all(|file| !file.is_awaited);
            if is_over || begin.elapsed() >= limit {
                return Ok(());
            }
        }
    }
}
