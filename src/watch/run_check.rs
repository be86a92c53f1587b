//! Checks whether the files of an engine run are complete; the run processes all files that match its channels.
//!
//! Observations are kept between scans, so that a file has to be observed only once.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::events::Watcher;
use super::observation::ClockSource;
use super::scan::{ScanScope, TargetScanner};
use super::target::WatchTarget;
pub use super::unfinished::IncompleteFile;
use crate::process::blocking;

/// Pause between two scans while a file is not complete.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Scans use at most one part in this number of the time.
const MAX_SCAN_DUTY: u32 = 10;

/// A scan that reaches no further file for this time is abandoned.
const SCAN_TIMEOUT: Duration = Duration::from_secs(5);

/// The files of some targets.
pub struct ChannelFiles {
    scanners: Vec<TargetScanner>,
    events: Arc<Watcher>,
    took: Duration,
}

impl Default for ChannelFiles {
    fn default() -> Self {
        Self { scanners: Vec::new(), events: Arc::new(Watcher::none()), took: Duration::ZERO }
    }
}

impl ChannelFiles {
    /// Scans the files of these targets from now on. The state of a target that stays is kept.
    pub fn set_targets(&mut self, targets: Vec<WatchTarget>) {
        let mut before = std::mem::take(&mut self.scanners);
        let scanner = |target: WatchTarget| {
            let known = before.iter().position(|known| *known.watch_target() == target);
            known.map(|known| before.swap_remove(known)).unwrap_or_else(|| self.scanner_for(target))
        };
        self.scanners = targets.into_iter().map(scanner).collect();
    }

    /// Scans all files, and returns those that are not known to be complete.
    ///
    /// # Errors
    /// If a file system does not respond, or no thread can be started.
    pub async fn scan(&mut self) -> Result<Vec<IncompleteFile>, String> {
        if self.scanners.is_empty() {
            return Ok(Vec::new());
        }
        let began = Instant::now();
        let scan = |scanners: &mut Vec<TargetScanner>| {
            let mut restless = Vec::new();
            for scanner in scanners {
                scanner.scan(Vec::new(), ScanScope::Full);
                restless.extend(scanner.unfinished());
            }
            // A file that two channels take is one file.
            restless.sort_by(|one: &IncompleteFile, other| one.path.cmp(&other.path));
            restless.dedup_by(|one, other| one.path == other.path);
            restless
        };
        let restless = self.on_a_thread(scan).await?;
        self.took = began.elapsed();
        Ok(restless)
    }

    /// Checks files of a target now. Returns one item for each: `None` if the file is complete.
    ///
    /// # Errors
    /// As [`scan`](Self::scan), and if their directory cannot be read.
    pub async fn judge(
        &mut self,
        target: WatchTarget,
        files: Vec<PathBuf>,
    ) -> Result<Vec<Option<IncompleteFile>>, String> {
        let known = self.scanners.iter().position(|known| *known.watch_target() == target);
        let index = known.unwrap_or(self.scanners.len());
        if known.is_none() {
            self.scanners.push(self.scanner_for(target));
        }
        let judge = move |scanners: &mut Vec<TargetScanner>| judge_all(&mut scanners[index], &files);
        self.on_a_thread(judge).await?.map_err(|error| error.to_string())
    }

    fn scanner_for(&self, target: WatchTarget) -> TargetScanner {
        TargetScanner::new(Arc::new(target), 0, Arc::clone(&self.events), ClockSource::Probed)
    }

    /// The state of the files stays with a thread that does not return.
    async fn on_a_thread<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Vec<TargetScanner>) -> T + Send + 'static,
    ) -> Result<T, String> {
        let mut scanners = std::mem::take(&mut self.scanners);
        let counts: Vec<_> = scanners.iter().map(TargetScanner::scanned_files).collect();
        let scanned = || counts.iter().map(|count| count.load(Ordering::Relaxed)).sum::<usize>();
        let work = move || {
            let result = work(&mut scanners);
            (scanners, result)
        };
        let mut working = pin!(blocking::run(work));
        let done = loop {
            let before = scanned();
            match timeout(SCAN_TIMEOUT, &mut working).await {
                Ok(done) => break done,
                Err(_) if scanned() != before => {}
                Err(_) => return Err(format!("no response within {} s", SCAN_TIMEOUT.as_secs())),
            }
        };
        let (scanners, result) = done.map_err(|error| error.to_string())?;
        self.scanners = scanners;
        Ok(result)
    }

    /// Waits until all files are complete, with a time limit.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    pub async fn wait(&mut self, limit: Duration) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            let left = limit.saturating_sub(begin.elapsed());
            sleep(POLL_INTERVAL.max(self.took * MAX_SCAN_DUTY).min(left)).await;
            let is_over = self.scan().await?.iter().all(|file| !file.is_awaited);
            if is_over || begin.elapsed() >= limit {
                return Ok(());
            }
        }
    }
}

/// Most files that are listed together are in one directory, which is then read once.
fn judge_all(scanner: &mut TargetScanner, files: &[PathBuf]) -> io::Result<Vec<Option<IncompleteFile>>> {
    let mut judged = Vec::with_capacity(files.len());
    for of_directory in files.chunk_by(|one, other| one.parent() == other.parent()) {
        let parent = of_directory[0].parent().unwrap_or("/".as_ref());
        let names: Vec<OsString> =
            of_directory.iter().map(|file| file.file_name().unwrap_or_default().into()).collect();
        judged.extend(scanner.judge(parent, &names)?);
    }
    Ok(judged)
}
