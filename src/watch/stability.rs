//! Decides which files of a directory are complete, and which of those are new. Pure: names, times and the clock are
//! inputs.
//!
//! [`evaluate`] is the single definition of "complete", for the directory monitor and before every engine run. A file
//! is reported once when it is complete, and again when it was replaced or changed. Deleted files are forgotten.
//!
//! The evaluation uses observations, on the clock of this machine. A file time only adds to that if its clock is known:
//! that of another machine may differ by any amount, and [`unchanged_for`] decides how much a file time is worth.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::time::{Duration, Instant};

use crate::fs::open_file::FileStamp;

/// An empty file must stay unchanged for this many times as long, since most files are created before they are filled.
const EMPTY_FILE_FACTOR: u32 = 6;

/// One observation of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Its metadata.
    pub stamp: FileStamp,
    /// How long it is known not to have changed.
    pub quiet: Duration,
    /// Whether it is open for writing, on any machine; `None` if unknown.
    pub has_writer: Option<bool>,
    /// Whether its name marks it as incomplete.
    pub is_named_unfinished: bool,
}

/// The clock by which a file system stamps its files, as of now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StampClock {
    /// Nanoseconds since 1970.
    pub now: i64,
    /// By how much a stamp may be older than it seems.
    pub error: Duration,
}

/// How long a file must stay unchanged.
#[derive(Debug, Clone, Copy)]
pub struct StabilityRules {
    /// Where its close cannot be seen.
    pub stable_after: Duration,
    /// After this time a file is no longer waited for, in any state.
    pub limit: Duration,
}

/// Why a file is not known to be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is open for writing.
    Open,
    /// Its name marks it as incomplete.
    Name,
    /// It is empty, and has not been so for long.
    Empty,
    /// It was not observed for long enough, or has changed.
    Young,
    /// Its name is not UTF-8: Bots, which stores names in the database, fails on it in each run.
    NotText,
}

impl Reason {
    /// In words, of a file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open for writing",
            Self::Name => "its name marks it as incomplete",
            Self::Empty => "empty",
            Self::Young => "written a moment ago",
            Self::NotText => "the file name is not UTF-8, so Bots cannot process it; rename the file",
        }
    }
}

/// Whether a file is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stability {
    /// It is.
    Complete,
    /// It is not known to be. If nothing changes it will be then, if ever.
    Incomplete(Reason, Option<Instant>),
}

/// The result of a check of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileVerdict {
    /// It is complete, and was not before.
    Complete,
    /// It is not known to be complete.
    Waiting(IncompleteSince),
    /// It was complete before.
    AlreadyReported,
}

/// A file that is not known to be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IncompleteSince {
    /// Why.
    pub reason: Reason,
    /// When it is complete if nothing changes, if ever.
    pub until: Option<Instant>,
    /// Since when it is known to be there and not complete.
    pub since: Instant,
}

/// Judges a file that has been in its current state since `since`. `is_being_written` means that a writer was seen that
/// has not closed it.
#[must_use]
pub fn evaluate(
    sight: &Observation,
    since: Instant,
    is_being_written: bool,
    now: Instant,
    rules: StabilityRules,
) -> Stability {
    let is_empty = sight.stamp.size == 0;
    let (reason, time) = match sight.has_writer {
        _ if sight.is_named_unfinished => return Stability::Incomplete(Reason::Name, None),
        Some(true) => return Stability::Incomplete(Reason::Open, None),
        // The event of the close may be missing.
        None if is_being_written => (Reason::Open, rules.limit),
        _ if is_empty => (Reason::Empty, rules.stable_after * EMPTY_FILE_FACTOR),
        Some(false) => return Stability::Complete,
        None => (Reason::Young, rules.stable_after),
    };
    let until = since + time;
    if until <= now { Stability::Complete } else { Stability::Incomplete(reason, Some(until)) }
}

/// How long a file is known not to have changed. The later of its times counts: a program that copies a file sets the other.
#[must_use]
pub fn unchanged_for(stamp: &FileStamp, clock: Option<StampClock>) -> Duration {
    let Some(StampClock { now, error }) = clock else { return Duration::ZERO };
    let age = now.saturating_sub(stamp.modified.max(stamp.changed));
    Duration::from_nanos(u64::try_from(age).unwrap_or_default()).saturating_sub(error)
}

/// The files of one directory that match.
#[derive(Debug, Default)]
pub struct FileTracker {
    reported: HashMap<OsString, ReportedFile>,
    pending: HashMap<OsString, PendingFile>,
    round: u32,
}

/// A complete file.
#[derive(Debug, Clone, Copy)]
struct ReportedFile {
    stamp: FileStamp,
    /// The last round in which the file was there.
    round: u32,
}

/// A file that is not known to be complete.
#[derive(Debug, Clone, Copy)]
pub(super) struct PendingFile {
    /// The stamp at the last observation; nothing where an event has come since.
    stamp: Option<FileStamp>,
    /// When the file was first seen to have that stamp.
    since: Instant,
    is_being_written: bool,
    /// When the file was first seen.
    first: Instant,
    /// The result of the last observation; `None` before the first one.
    pub unfinished: Option<IncompleteSince>,
    /// The file is no longer waited for.
    pub is_given_up: bool,
    round: u32,
}

impl FileStamp {
    /// Whether the content is probably the same, without reading it.
    fn is_as_long_and_old_as(&self, other: &Self) -> bool {
        (self.size, self.modified, self.inode) == (other.size, other.modified, other.inode)
    }
}

impl FileTracker {
    /// Begins a round of observations of all files in the directory.
    pub fn begin_round(&mut self) {
        self.round = self.round.wrapping_add(1);
    }

    /// Ends the round: files that were not observed in it are gone.
    pub fn end_round(&mut self) {
        let round = self.round;
        self.pending.retain(|_, pending| pending.round == round);
        self.reported.retain(|_, reported| reported.round == round);
        if self.reported.capacity() > 4 * self.reported.len().max(8) {
            self.reported.shrink_to_fit();
        }
    }

    /// Whether the file was reported with these attributes, which may be from a cache. Then it is still there.
    pub fn is_still(&mut self, name: &OsStr, stamp: FileStamp) -> bool {
        let is_still = self.counted(name) == Some(stamp);
        if is_still {
            self.report(name, stamp);
        }
        is_still
    }

    /// The file cannot be observed now, and may still be there.
    pub fn keep(&mut self, name: &OsStr) {
        let round = self.round;
        self.reported.get_mut(name).into_iter().for_each(|reported| reported.round = round);
        self.pending.get_mut(name).into_iter().for_each(|pending| pending.round = round);
    }

    /// Evaluates an observation of a file.
    pub fn observe(&mut self, name: &OsStr, sight: &Observation, now: Instant, rules: StabilityRules) -> FileVerdict {
        let stamp = sight.stamp;
        if self.is_still(name, stamp) {
            return FileVerdict::AlreadyReported;
        }
        let quiet_since = now.checked_sub(sight.quiet).unwrap_or(now);
        let file = match self.pending.get(name) {
            // The time of the last write according to events.
            Some(known) if known.stamp.is_none_or(|known| known.is_as_long_and_old_as(&stamp)) => *known,
            Some(known) => PendingFile { since: quiet_since, ..*known },
            None => PendingFile::new(quiet_since),
        };
        let stability = match name.to_str() {
            Some(_) => evaluate(sight, file.since, file.is_being_written, now, rules),
            None => Stability::Incomplete(Reason::NotText, None),
        };
        match stability {
            Stability::Complete => {
                self.report(name, stamp);
                FileVerdict::Complete
            }
            Stability::Incomplete(reason, until) => {
                // A writer that closes the file unseen begins the time again.
                let since = if sight.has_writer == Some(true) { quiet_since } else { file.since };
                let is_being_written = file.is_being_written && sight.has_writer != Some(false);
                let unfinished = IncompleteSince { reason, until, since: file.first };
                let (stamp, known) = (Some(stamp), Some(unfinished));
                self.wait_for(name, PendingFile { stamp, since, is_being_written, unfinished: known, ..file });
                FileVerdict::Waiting(unfinished)
            }
        }
    }

    /// The same for a file that is about to be taken: a process may have opened a complete file again.
    pub fn observe_before_taking(
        &mut self,
        name: &OsStr,
        observation: &Observation,
        now: Instant,
        rules: StabilityRules,
    ) -> FileVerdict {
        if observation.has_writer == Some(true) && self.counted(name).is_some() {
            self.on_written(name, now, false);
        }
        self.observe(name, observation, now, rules)
    }

    /// The file appeared, or was written by a process that will close it (`is_being_written`). A link that appears is complete, a
    /// file that was opened to be written is not.
    pub fn on_written(&mut self, name: &OsStr, now: Instant, is_being_written: bool) {
        let known = self.pending.get(name).copied().unwrap_or(PendingFile::new(now));
        self.wait_for(name, PendingFile { stamp: None, since: now, is_being_written, ..known });
    }

    /// The file was closed by its writer, or renamed into place: it is complete unless a second writer has it, or it is empty. A
    /// scan may have been faster than the event.
    pub fn on_closed(&mut self, name: &OsStr, sight: &Observation, now: Instant, rules: StabilityRules) -> FileVerdict {
        if self.pending.contains_key(name) {
            self.on_written(name, now, false);
        }
        let is_free = Some(sight.has_writer.unwrap_or_default());
        self.observe(name, &Observation { has_writer: is_free, ..*sight }, now, rules)
    }

    /// The file is gone.
    pub fn on_removed(&mut self, name: &OsStr) {
        self.reported.remove(name);
        self.pending.remove(name);
    }

    /// The stamp with which the file was reported, if it was.
    #[must_use]
    pub fn counted(&self, name: &OsStr) -> Option<FileStamp> {
        self.reported.get(name).map(|reported| reported.stamp)
    }

    /// When the oldest of the files came, or was written last.
    #[must_use]
    pub fn oldest(&self) -> Option<i64> {
        let reported = self.reported.values().map(|reported| reported.stamp.changed);
        reported.chain(self.pending.values().filter_map(|pending| Some(pending.stamp?.changed))).min()
    }

    /// Files to observe again. If events report a writer, they report its close as well.
    pub fn due(&self, now: Instant) -> impl Iterator<Item = &OsString> {
        let is_due = move |unfinished: IncompleteSince| {
            unfinished.reason != Reason::Open || unfinished.until.is_some_and(|until| until <= now)
        };
        self.pending.iter().filter(move |(_, file)| file.unfinished.is_none_or(is_due)).map(|(name, _)| name)
    }

    /// The files that are not known to be complete.
    pub(super) fn pending(&mut self) -> impl Iterator<Item = (&OsString, &mut PendingFile)> {
        self.pending.iter_mut()
    }

    fn report(&mut self, name: &OsStr, stamp: FileStamp) {
        self.pending.remove(name);
        let file = ReportedFile { stamp, round: self.round };
        match self.reported.get_mut(name) {
            Some(reported) => *reported = file,
            None => drop(self.reported.insert(name.to_owned(), file)),
        }
    }

    fn wait_for(&mut self, name: &OsStr, file: PendingFile) {
        self.reported.remove(name);
        self.pending.insert(name.to_owned(), PendingFile { round: self.round, ..file });
    }
}

impl PendingFile {
    fn new(first: Instant) -> Self {
        Self {
            stamp: None,
            since: first,
            is_being_written: false,
            first,
            unfinished: None,
            is_given_up: false,
            round: 0,
        }
    }
}

#[cfg(test)]
mod tests;
