//! Files of a target that are not complete, and complete files that wait for them: a run would take all of them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::stability::{FileTracker, IncompleteSince, Reason};

/// A file that is not known to be complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncompleteFile {
    /// The file.
    pub path: PathBuf,
    /// Why it is not, and since when.
    pub unfinished: IncompleteSince,
    /// Whether it is still waited for.
    pub is_awaited: bool,
}

/// Files that are not known to be complete.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PendingFiles {
    /// How many.
    pub count: usize,
    /// The file that was seen first.
    pub oldest: Option<IncompleteFile>,
    /// The number of files that are no longer waited for.
    pub given_up: usize,
    /// Complete files that are held back by incomplete ones.
    pub held: usize,
}

/// Complete files that are new.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CompleteFiles {
    /// How many.
    pub count: usize,
    /// One of them.
    pub example: Option<PathBuf>,
}

impl CompleteFiles {
    pub(super) fn append(&mut self, other: Self) {
        self.count += other.count;
        self.example = self.example.take().or(other.example);
    }
}

/// The effect of incomplete files on the others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WaitingFiles {
    /// When the next file may be complete, or is no longer waited for.
    pub check_at: Option<Instant>,
    /// Files that are no longer waited for from now on.
    pub given_up: Vec<IncompleteFile>,
    /// The files that are not complete.
    pub pending: PendingFiles,
}

/// Adds new complete files to those that are `held` back, and releases all unless a file of the `directories` has to be
/// waited for, at most `limit` after that file was first seen.
pub(super) fn hold<'a>(
    held: &mut CompleteFiles,
    complete: CompleteFiles,
    directories: impl Iterator<Item = (&'a Path, &'a mut FileTracker)>,
    now: Instant,
    limit: Duration,
) -> (CompleteFiles, WaitingFiles) {
    let (mut waiting, mut is_held) = (WaitingFiles::default(), false);
    let WaitingFiles { check_at, given_up, pending } = &mut waiting;
    for (directory, files) in directories {
        for (name, file) in files.pending() {
            pending.count += 1;
            let Some(unfinished) = file.unfinished else {
                is_held = true;
                continue;
            };
            let IncompleteSince { reason, until, since } = unfinished;
            let is_over = reason == Reason::NotText || since + limit <= now;
            let is_new = is_over && !std::mem::replace(&mut file.is_given_up, true);
            let is_awaited = !file.is_given_up;
            let incomplete = || IncompleteFile { path: directory.join(name), unfinished, is_awaited };
            if is_new {
                given_up.push(incomplete());
            }
            let end = is_awaited.then_some(since + limit);
            *check_at = [*check_at, until, end].into_iter().flatten().min();
            is_held |= is_awaited;
            pending.given_up += usize::from(!is_awaited);
            if pending.oldest.as_ref().is_none_or(|oldest| since < oldest.unfinished.since) {
                pending.oldest = Some(incomplete());
            }
        }
    }
    held.append(complete);
    if is_held {
        pending.held = held.count;
        return (CompleteFiles::default(), waiting);
    }
    (std::mem::take(held), waiting)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::fs::open_file::FileStamp;
    use crate::watch::stability::{Observation, StabilityRules};

    const LIMIT: Duration = Duration::from_secs(60);
    const RULES: StabilityRules = StabilityRules { stable_after: LIMIT, limit: LIMIT };

    /// A file is observed that is open for writing.
    fn see(files: &mut FileTracker, name: &str, inode: u64, now: Instant) {
        let stamp = FileStamp { size: 1, modified: 0, changed: 0, inode };
        let open = Observation { stamp, quiet: Duration::ZERO, has_writer: Some(true), is_named_unfinished: false };
        files.observe(OsStr::new(name), &open, now, RULES);
    }

    #[test]
    fn complete_files_wait_for_incomplete_one_up_to_limit() {
        let (mut files, mut held, start) = (FileTracker::default(), CompleteFiles::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut scan = |files: &mut FileTracker, seconds, count: usize| {
            let complete = CompleteFiles { count, example: (count > 0).then(|| "/in/complete".into()) };
            let directories = std::iter::once((Path::new("/in"), files));
            let (complete, WaitingFiles { pending, given_up, .. }) =
                hold(&mut held, complete, directories, at(seconds), LIMIT);
            (complete.count, pending.held, given_up.len(), pending.given_up)
        };
        assert_eq!(scan(&mut files, 0, 1), (1, 0, 0, 0), "there is nothing to wait for");
        files.on_written("open".as_ref(), at(1), true);
        assert_eq!(scan(&mut files, 1, 2), (0, 2, 0, 0));
        see(&mut files, "open", 1, at(1));
        assert_eq!(scan(&mut files, 2, 1), (0, 3, 0, 0));
        files.on_removed("open".as_ref());
        assert_eq!(scan(&mut files, 3, 0), (3, 0, 0, 0));

        see(&mut files, "open", 1, at(1));
        assert_eq!(scan(&mut files, 60, 1), (0, 1, 0, 0));
        assert_eq!(scan(&mut files, 61, 0), (1, 0, 1, 1), "it is logged");
        files.begin_round();
        see(&mut files, "open", 1, at(62));
        files.end_round();
        assert_eq!(scan(&mut files, 62, 1), (1, 0, 0, 1), "and logged once");
        // Another file of the same name is waited for again.
        files.begin_round();
        files.end_round();
        see(&mut files, "open", 2, at(63));
        assert_eq!(scan(&mut files, 63, 1), (0, 1, 0, 0));
    }

    #[test]
    fn scan_is_due_only_when_files_may_have_changed() {
        let (mut files, start) = (FileTracker::default(), Instant::now());
        let due = |files: &FileTracker, now| files.due(now).cloned().collect::<Vec<_>>();
        files.on_written("open".as_ref(), start, true);
        let stamp = FileStamp { size: 1, modified: 0, changed: 0, inode: 1 };
        let sight = Observation { stamp, quiet: Duration::ZERO, has_writer: None, is_named_unfinished: false };
        files.observe("open".as_ref(), &sight, start, StabilityRules { limit: LIMIT * 2, ..RULES });
        let directories = std::iter::once((Path::new("/in"), &mut files));
        let (_, waiting) = hold(&mut CompleteFiles::default(), CompleteFiles::default(), directories, start, LIMIT);
        assert_eq!(
            (waiting.check_at, due(&files, start)),
            (Some(start + LIMIT), Vec::new()),
            "events tell of its close"
        );
        assert_eq!(due(&files, start + LIMIT * 2), ["open"]);
        files.observe("young".as_ref(), &sight, start, RULES);
        assert_eq!(due(&files, start), ["young"]);
        files.on_written("touched".as_ref(), start, false);
        assert_eq!(due(&files, start).len(), 2);
        assert_eq!(files.pending().filter(|(_, file)| file.unfinished.is_some()).count(), 2);
    }
}
