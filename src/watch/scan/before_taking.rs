//! Checks files that Bots has listed and is about to process, each by its path, without another listing. Results of
//! earlier scans count as well.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{ScannedDir, TargetScanner};
use crate::watch::backend::{WatchBackend, dir_id};
use crate::watch::observation::{file, observe};
use crate::watch::stability::{FileTracker, FileVerdict, Reason};
use crate::watch::unfinished::IncompleteFile;

impl TargetScanner {
    /// Judges files of one directory, as of now. Returns one item for each; nothing for a complete file, and for a name without
    /// a file.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn judge(&mut self, parent: &Path, names: &[OsString]) -> io::Result<Vec<Option<IncompleteFile>>> {
        let real = match fs::canonicalize(parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names.iter().map(|_| None).collect()),
            real => real?,
        };
        let (target, rules, clock) = (Arc::clone(&self.watch_target), self.rules, self.clock);
        let scanned = self.scanned_files();
        let directory = self.directory(&real)?;
        let clock = clock.begin(&real, &directory.backend);
        let judge = |name: &OsString| {
            scanned.fetch_add(1, Ordering::Relaxed);
            let path = real.join(name);
            let meta = (!target.is_lock(name)).then(|| file(&path).ok().flatten()).flatten()?;
            let observation = observe(&path, &meta, &directory.backend, &clock, target.is_unfinished(name));
            let now = Instant::now();
            let FileVerdict::Waiting(unfinished) =
                directory.files.observe_before_taking(name, &observation, now, rules)
            else {
                return None;
            };
            let is_awaited = unfinished.reason == Reason::NotText || unfinished.since + rules.limit > now;
            Some(IncompleteFile { path, unfinished, is_awaited })
        };
        Ok(names.iter().map(judge).collect())
    }

    /// The state of a directory, which no scan may have found yet.
    fn directory(&mut self, real: &Path) -> io::Result<&mut ScannedDir> {
        let identity = dir_id(real)?;
        if self.known.get(real).is_none_or(|known| known.identity != identity) {
            let (backend, level) =
                (WatchBackend::of(real, self.watch_target.watch_by)?, self.watch_target.directory.rest.len());
            let files = FileTracker::default();
            let directory = ScannedDir { identity, level, is_watched: false, backend, files, round: self.round };
            self.known.insert(real.to_owned(), directory);
        }
        Ok(self.known.get_mut(real).ok_or(io::ErrorKind::NotFound)?)
    }
}
