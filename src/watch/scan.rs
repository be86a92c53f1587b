//! The directories of one target: a scan of all of them, or of those with events.
//!
//! All of this may wait for a file system, so it runs on a thread for such work. A directory is watched before it is listed: a
//! file that comes in between is found twice and counts once.

mod before_taking;
mod listing;
mod reported;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use self::listing::{describe_io_error, describe_missing, list, real_directory};
use super::backend::{WatchBackend, dir_id, is_gone};
use super::events::{Event, TargetId, Watcher};
use super::observation::{ClockSource, file, observe};
use super::stability::{FileTracker, FileVerdict, StabilityRules};
use super::target::{WatchTarget, matches_dir};
use super::unfinished::{CompleteFiles, IncompleteFile, WaitingFiles, hold};
use crate::model::FileId;

/// The scope of a scan, in addition to events and files that were incomplete the last time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ScanScope {
    /// Nothing more.
    EventsOnly,
    /// Everything.
    Full,
    /// All files, as if for the first time. Files that are there at the beginning count only if the target takes them.
    Reset,
}

/// The outcome of a scan.
#[derive(Debug, Default)]
pub struct ScanOutcome {
    /// Newly complete files. None is reported while another file has to be waited for.
    pub complete: CompleteFiles,
    /// Files that are not complete.
    pub waiting: WaitingFiles,
    /// How the directories are watched; nothing after a partial scan that has changed nothing.
    pub watch_state: Option<WatchState>,
    /// After a full scan: when the oldest file came.
    pub oldest: Option<SystemTime>,
}

/// How the directories of an entry are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchState {
    /// The number of directories, and the backend.
    #[allow(missing_docs)]
    Watching { directories: usize, backend: WatchBackend, root: FileId },
    /// They are not all watched, for a reason that time or a person may mend.
    #[allow(missing_docs)]
    Failed { reason: String, root: Option<FileId> },
}

/// Scans the directories of one target.
pub struct TargetScanner {
    watch_target: Arc<WatchTarget>,
    target: TargetId,
    events: Arc<Watcher>,
    rules: StabilityRules,
    /// By their real paths.
    known: HashMap<PathBuf, ScannedDir>,
    root: Option<FileId>,
    round: u32,
    is_first: bool,
    /// Complete files that are held back by incomplete ones.
    held: CompleteFiles,
    clock: ClockSource,
    scanned: Arc<AtomicUsize>,
}

struct ScannedDir {
    identity: FileId,
    /// How many names of the pattern lead here.
    level: usize,
    is_watched: bool,
    backend: WatchBackend,
    files: FileTracker,
    /// The last round in which the directory was there.
    round: u32,
}

/// The results of a scan so far.
#[derive(Default)]
struct Found {
    complete: CompleteFiles,
    error: Option<String>,
    /// Whether a directory could not be read that may still be there, with others below it.
    is_partial: bool,
}

impl TargetScanner {
    /// A scanner that has scanned nothing yet.
    #[must_use]
    pub fn new(watch_target: Arc<WatchTarget>, target: TargetId, events: Arc<Watcher>, clock: ClockSource) -> Self {
        let rules = StabilityRules { stable_after: watch_target.stable_after, limit: watch_target.file_wait };
        Self {
            watch_target,
            target,
            events,
            rules,
            known: HashMap::new(),
            root: None,
            round: 0,
            is_first: true,
            held: CompleteFiles::default(),
            clock,
            scanned: Arc::default(),
        }
    }

    /// Scans the files and directories of these events, and the given extent.
    pub fn scan(&mut self, reported: Vec<Event>, scope: ScanScope) -> ScanOutcome {
        let mut found = Found::default();
        let before = self.known.len();
        let is_doubtful = self.scan_reported(reported, &mut found);
        self.scan_incomplete(&mut found.complete);
        // Without files that are there at the beginning, a reset has nothing to report again.
        if scope == ScanScope::Reset && self.watch_target.takes_existing {
            self.known.values_mut().for_each(|directory| directory.files = FileTracker::default());
        }
        let is_full = is_doubtful || scope != ScanScope::EventsOnly;
        if is_full {
            let all = self.scan_all();
            found.complete.append(all.complete);
            found.error = all.error;
        }
        let is_changed = is_full || self.known.len() != before || found.error.is_some();
        let directories = self.known.iter_mut().map(|(path, directory)| (path.as_path(), &mut directory.files));
        let (complete, waiting) = hold(&mut self.held, found.complete, directories, Instant::now(), self.rules.limit);
        ScanOutcome {
            complete,
            waiting,
            watch_state: is_changed.then(|| self.watch_state(found.error)),
            oldest: if is_full { self.oldest() } else { None },
        }
    }

    /// The target.
    #[must_use]
    pub fn watch_target(&self) -> &WatchTarget {
        &self.watch_target
    }

    /// Counts scanned files, to distinguish a long scan from a hung one.
    #[must_use]
    pub fn scanned_files(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.scanned)
    }

    /// Files that are there and not known to be complete.
    pub fn unfinished(&mut self) -> impl Iterator<Item = IncompleteFile> + '_ {
        self.known.iter_mut().flat_map(|(directory, known)| {
            known.files.pending().filter_map(|(name, file)| {
                let is_awaited = !file.is_given_up;
                Some(IncompleteFile { path: directory.join(name), unfinished: file.unfinished?, is_awaited })
            })
        })
    }

    /// Ends the watches of this target.
    pub fn unwatch_all(mut self) {
        self.round = self.round.wrapping_add(1);
        self.forget_stale(false);
    }

    fn scan_all(&mut self) -> Found {
        self.round = self.round.wrapping_add(1);
        let mut found = Found::default();
        let root = &self.watch_target.directory.root;
        let read = dir_id(root).and_then(|identity| Ok((identity, fs::canonicalize(root)?)));
        self.root = read.as_ref().ok().map(|(identity, _)| *identity);
        match read {
            Ok((_, real)) => self.scan_dir(real, 0, &mut found),
            Err(error) => {
                found.error = Some(describe_missing(root, &error));
                found.is_partial = !is_gone(&error);
            }
        }
        self.forget_stale(found.is_partial);
        if self.is_first && !self.watch_target.takes_existing {
            found.complete = CompleteFiles::default();
        }
        self.is_first &= self.root.is_none() && found.is_partial;
        found
    }

    fn oldest(&self) -> Option<SystemTime> {
        let oldest = self.known.values().filter_map(|directory| directory.files.oldest()).min()?;
        Some(SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(oldest).ok()?))
    }

    fn watch_state(&self, error: Option<String>) -> WatchState {
        // Prefers a polled directory, which determines the latency.
        let polled = self.known.values().find(|directory| directory.backend.polls);
        let typical = polled.or(self.known.values().next());
        match (error, typical, self.root) {
            (None, Some(directory), Some(root)) => {
                WatchState::Watching { directories: self.targets(), backend: directory.backend.clone(), root }
            }
            (error, _, root) => {
                let gone = io::ErrorKind::NotFound.into();
                let why = error.unwrap_or_else(|| describe_missing(&self.watch_target.directory.root, &gone));
                WatchState::Failed { reason: why, root }
            }
        }
    }

    fn targets(&self) -> usize {
        let level = self.watch_target.directory.rest.len();
        self.known.values().filter(|directory| directory.level == level).count()
    }

    /// Scans a directory, by its real path, and those below it that belong to the target.
    fn scan_dir(&mut self, real: PathBuf, level: usize, found: &mut Found) {
        let mut open = vec![(real, level)];
        while let Some((real, level)) = open.pop() {
            match self.scan_one_dir(&real, level, &mut open, found) {
                Ok(()) => {}
                // A directory that is gone again was never there.
                Err(error) if is_gone(&error) => {}
                Err(error) => {
                    let error = || format!("cannot read {}: {}", real.display(), describe_io_error(&error));
                    found.error.get_or_insert_with(error);
                    found.is_partial = true;
                }
            }
        }
    }

    fn scan_one_dir(
        &mut self,
        real: &Path,
        level: usize,
        open: &mut Vec<(PathBuf, usize)>,
        found: &mut Found,
    ) -> io::Result<()> {
        let (identity, backend) = (dir_id(real)?, WatchBackend::of(real, self.watch_target.watch_by)?);
        let before = self.known.remove(real).filter(|known| known.identity == identity);
        let is_watched = before.as_ref().is_some_and(|known| known.is_watched);
        let (is_watched, backend) = self.watch(real, is_watched, before.is_some(), backend);
        let files = before.map(|known| known.files).unwrap_or_default();
        let mut directory = ScannedDir { identity, level, is_watched, backend, files, round: self.round };
        let watch_target = Arc::clone(&self.watch_target);
        let listed = match watch_target.directory.rest.get(level) {
            Some(mask) if !mask.is_pattern() => {
                fs::canonicalize(real.join(mask.as_str())).map(|below| open.push((below, level + 1)))
            }
            Some(mask) => list(real, |entry| {
                if matches_dir(mask, &entry.file_name()) {
                    match real_directory(entry) {
                        Ok(below) => open.extend(below.map(|below| (below, level + 1))),
                        Err(error) => found.is_partial |= !is_gone(&error),
                    }
                }
            }),
            None => self.list_files(real, level, &mut directory, open, &mut found.complete),
        };
        self.known.insert(real.to_owned(), directory);
        listed
    }

    /// Watches a directory if its file system allows that.
    fn watch(&self, real: &Path, is_watched: bool, is_known: bool, backend: WatchBackend) -> (bool, WatchBackend) {
        if !backend.events {
            if is_watched {
                self.events.forget(real, self.target);
            }
            return (false, backend);
        }
        if is_watched {
            return (true, backend);
        }
        match self.events.watch(real, self.target, !is_known) {
            Ok(()) => (true, backend),
            Err(reason) => (false, backend.without_events(&reason)),
        }
    }

    fn list_files(
        &mut self,
        real: &Path,
        level: usize,
        directory: &mut ScannedDir,
        open: &mut Vec<(PathBuf, usize)>,
        complete: &mut CompleteFiles,
    ) -> io::Result<()> {
        let (watch_target, rules, now) = (Arc::clone(&self.watch_target), self.rules, Instant::now());
        let clock = self.clock.begin(real, &directory.backend);
        directory.files.begin_round();
        let scanned = self.scanned_files();
        let listed = list(real, |entry| {
            scanned.fetch_add(1, Ordering::Relaxed);
            let (name, path) = (entry.file_name(), entry.path());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if watch_target.is_recursive {
                    open.push((path, level));
                }
                return;
            }
            if !watch_target.matches(&name) {
                return;
            }
            let meta = match file(&path) {
                Ok(Some(meta)) => meta,
                Ok(None) => return,
                Err(_) => return directory.files.keep(&name),
            };
            // Most files are known.
            if directory.files.is_still(&name, (&meta).into()) {
                return;
            }
            let is_unfinished = watch_target.is_channel && watch_target.is_unfinished(&name);
            let sight = observe(&path, &meta, &directory.backend, &clock, is_unfinished);
            count(complete, directory.files.observe(&name, &sight, now, rules), &path);
        });
        if listed.is_ok() {
            directory.files.end_round();
        }
        listed
    }

    /// If events report a writer, the next event is awaited; all other incomplete files are observed.
    fn scan_incomplete(&mut self, complete: &mut CompleteFiles) {
        let (target, now) = (&self.watch_target, Instant::now());
        for (parent, directory) in &mut self.known {
            let due: Vec<OsString> = directory.files.due(now).cloned().collect();
            for name in due {
                let path = parent.join(&name);
                let meta = match file(&path) {
                    Ok(Some(meta)) => meta,
                    Ok(None) => {
                        directory.files.on_removed(&name);
                        continue;
                    }
                    Err(_) => continue,
                };
                let clock = self.clock.begin(parent, &directory.backend);
                let is_unfinished = target.is_channel && target.is_unfinished(&name);
                let sight = observe(&path, &meta, &directory.backend, &clock, is_unfinished);
                count(complete, directory.files.observe(&name, &sight, now, self.rules), &path);
            }
        }
    }

    /// Forgets the directories that were not found in this round; after a partial one only those that are gone.
    fn forget_stale(&mut self, is_partial: bool) {
        let may_be_there = |path: &Path, identity| match dir_id(path) {
            Ok(found) => found == identity,
            Err(error) => !is_gone(&error),
        };
        self.known.retain(|path, directory| {
            let is_there = directory.round == self.round || is_partial && may_be_there(path, directory.identity);
            if !is_there && directory.is_watched {
                self.events.forget(path, self.target);
            }
            is_there
        });
    }
}

fn count(complete: &mut CompleteFiles, verdict: FileVerdict, path: &Path) {
    if verdict == FileVerdict::Complete {
        complete.count += 1;
        complete.example.get_or_insert_with(|| path.to_owned());
    }
}

#[cfg(test)]
mod tests;
