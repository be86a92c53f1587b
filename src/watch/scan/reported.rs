//! Files and directories with events of the kernel.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::Instant;

use super::{Found, TargetScanner, count};
use crate::watch::events::{Event, EventKind};
use crate::watch::observation::{file, observe};
use crate::watch::target::matches_dir;
use crate::watch::unfinished::CompleteFiles;

impl TargetScanner {
    /// Scans files and directories with events. Returns whether a full scan is necessary.
    pub(super) fn scan_reported(&mut self, reported: Vec<Event>, found: &mut Found) -> bool {
        let mut is_doubtful = false;
        for Event { path, kind: event_kind } in reported {
            let is_other = matches!(event_kind, EventKind::Removed | EventKind::AttributesChanged);
            match self.known.get_mut(&path).filter(|_| is_other) {
                // The watch may be gone with the directory; a full scan sets it again.
                Some(directory) => (directory.is_watched, is_doubtful) = (false, true),
                None => self.scan_name(&path, event_kind, found),
            }
        }
        is_doubtful
    }

    fn scan_name(&mut self, path: &Path, kind: EventKind, found: &mut Found) {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
        let Some(level) = self.known.get(parent).map(|directory| directory.level) else { return };
        let may_be_directory = matches!(kind, EventKind::DirCreated | EventKind::RenamedIn | EventKind::Created);
        match self.watch_target.directory.rest.get(level) {
            Some(mask) => {
                if may_be_directory
                    && matches_dir(mask, name)
                    && let Ok(real) = fs::canonicalize(path)
                {
                    self.scan_dir(real, level + 1, found);
                }
            }
            None if self.watch_target.is_recursive && may_be_directory && is_real_directory(path) => {
                self.scan_dir(path.to_owned(), level, found);
            }
            None if self.watch_target.matches(name) => self.scan_file(path, parent, name, kind, &mut found.complete),
            None => {}
        }
    }

    fn scan_file(&mut self, path: &Path, parent: &Path, name: &OsStr, kind: EventKind, complete: &mut CompleteFiles) {
        let (now, rules) = (Instant::now(), self.rules);
        let Some(directory) = self.known.get_mut(parent) else { return };
        let meta = match file(path) {
            Ok(Some(meta)) if kind != EventKind::Removed => meta,
            // Where the event is not a removal, the engine was faster.
            Ok(_) => return directory.files.on_removed(name),
            // A scan finds it once it can be read.
            Err(_) => return,
        };
        match kind {
            EventKind::Closed | EventKind::RenamedIn => {
                let clock = self.clock.begin(parent, &directory.backend);
                let sight = observe(path, &meta, &directory.backend, &clock, false);
                count(complete, directory.files.on_closed(name, &sight, now, rules), path);
            }
            // An earlier scan was faster than this event.
            EventKind::Created | EventKind::Modified if directory.files.counted(name) == Some((&meta).into()) => {}
            EventKind::Created | EventKind::Modified => {
                directory.files.on_written(name, now, kind == EventKind::Modified);
            }
            EventKind::Removed | EventKind::DirCreated | EventKind::AttributesChanged => {}
        }
    }
}

fn is_real_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}
