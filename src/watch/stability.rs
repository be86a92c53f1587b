//! Which files of a directory are complete, and which of those are news. Pure: names, stamps and times come from outside.
//!
//! [`evaluate`] is the one judgement of "complete", for the directory monitor and before every run of the engine. A file counts
//! once when it is complete. It counts again when it is another one, or has changed. What the engine takes away is forgotten.
//!
//! The judgement goes by what was observed, on our own clock. A time stamp only says more than that where its clock is known:
//! that of another machine may be ahead or behind by any time, and [`unchanged_for`] says what is left of it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::time::{Duration, Instant};

use crate::process::open_file::FileStamp;

/// An empty file has to stay as it is for so many times as long as another one: most are made before they are filled.
const EMPTY_FILE_FACTOR: u32 = 6;

/// What one observation of a file has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// What it is like.
    pub stamp: FileStamp,
    /// How long it is known not to have changed.
    pub quiet: Duration,
    /// Whether it is open for writing, on whatever machine; nothing where that cannot be known.
    pub has_writer: Option<bool>,
    /// Whether its name says that it is not complete.
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

/// How long a file has to stay as it is.
#[derive(Debug, Clone, Copy)]
pub struct StabilityRules {
    /// Where its close cannot be seen.
    pub stable_after: Duration,
    /// After this time a file is no longer waited for, whatever is known of it.
    pub limit: Duration,
}

/// Why a file is not known to be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is open for writing.
    Open,
    /// Its name says so.
    Name,
    /// It is empty, and has not been so for long.
    Empty,
    /// It was not observed for long enough, or has changed.
    Young,
}

impl Reason {
    /// In words, of a file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "it is open for writing",
            Self::Name => "its name says that it is not complete",
            Self::Empty => "it is empty",
            Self::Young => "it was written a moment ago",
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

/// What a look at a file has told.
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

/// Judges a file that was first seen as it is now at `since`. `is_being_written` says that a writer was seen who has not
/// closed it.
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
        // That the writer has closed it may not have been told.
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
    known: HashMap<OsString, TrackedFile>,
    round: u32,
}

#[derive(Debug)]
struct TrackedFile {
    state: State,
    /// The last round in which it was there.
    round: u32,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Not known to be complete. The stamp is what it had at the last look, and `since` when it was first seen to have that.
    Pending { stamp: Option<FileStamp>, since: Instant, is_being_written: bool, first: Instant },
    /// Complete, and told.
    Reported(FileStamp),
}

impl FileStamp {
    /// Whether the content is the same, as far as can be told without reading it.
    fn is_as_long_and_old_as(&self, other: &Self) -> bool {
        (self.size, self.modified, self.inode) == (other.size, other.modified, other.inode)
    }
}

impl FileTracker {
    /// Begins a round of looks at everything that is there.
    pub fn begin_round(&mut self) {
        self.round = self.round.wrapping_add(1);
    }

    /// Ends it: what was not looked at is gone.
    pub fn end_round(&mut self) {
        let round = self.round;
        self.known.retain(|_, known| known.round == round);
        if self.known.capacity() > 4 * self.known.len().max(8) {
            self.known.shrink_to_fit();
        }
    }

    /// Whether the file is one that has counted, by attributes that may be older than it is. Then it is still there.
    pub fn is_still(&mut self, name: &OsStr, stamp: FileStamp) -> bool {
        let is_still = self.counted(name) == Some(stamp);
        if is_still {
            self.set(name, State::Reported(stamp));
        }
        is_still
    }

    /// Takes down what a look at a file has shown.
    pub fn observe(&mut self, name: &OsStr, sight: &Observation, now: Instant, rules: StabilityRules) -> FileVerdict {
        let stamp = sight.stamp;
        let quiet_since = now.checked_sub(sight.quiet).unwrap_or(now);
        let (since, is_being_written, first) = match self.state(name) {
            Some(State::Reported(known)) if known == stamp => {
                self.set(name, State::Reported(stamp));
                return FileVerdict::AlreadyReported;
            }
            Some(State::Pending { stamp: Some(known), since, is_being_written, first })
                if known.is_as_long_and_old_as(&stamp) =>
            {
                (since, is_being_written, first)
            }
            // Events have told when it was touched last.
            Some(State::Pending { stamp: None, since, is_being_written, first }) => (since, is_being_written, first),
            Some(State::Pending { is_being_written, first, .. }) => (quiet_since, is_being_written, first),
            Some(State::Reported(_)) | None => (quiet_since, false, quiet_since),
        };
        match evaluate(sight, since, is_being_written, now, rules) {
            Stability::Complete => {
                self.set(name, State::Reported(stamp));
                FileVerdict::Complete
            }
            Stability::Incomplete(reason, until) => {
                // One that closes it unseen begins the time anew.
                let since = if sight.has_writer == Some(true) { quiet_since } else { since };
                let is_being_written = is_being_written && sight.has_writer != Some(false);
                self.set(name, State::Pending { stamp: Some(stamp), since, is_being_written, first });
                FileVerdict::Waiting(IncompleteSince { reason, until, since: first })
            }
        }
    }

    /// The same for a file that is about to be taken: one that was complete may have been opened again since.
    pub fn observe_before_taking(
        &mut self,
        name: &OsStr,
        observation: &Observation,
        now: Instant,
        rules: StabilityRules,
    ) -> FileVerdict {
        if observation.has_writer == Some(true) && self.counted(name).is_some() {
            self.on_created(name, now);
        }
        self.observe(name, observation, now, rules)
    }

    /// It appeared, by whatever means: a link is complete, a file that was opened to be written is not.
    pub fn on_created(&mut self, name: &OsStr, now: Instant) {
        self.on_attributes_changed(name, now, false);
    }

    /// A process writes it, and will close it.
    pub fn on_modified(&mut self, name: &OsStr, now: Instant) {
        self.on_attributes_changed(name, now, true);
    }

    fn on_attributes_changed(&mut self, name: &OsStr, now: Instant, is_being_written: bool) {
        let first = match self.state(name) {
            Some(State::Pending { first, .. }) => first,
            Some(State::Reported(_)) | None => now,
        };
        self.set(name, State::Pending { stamp: None, since: now, is_being_written, first });
    }

    /// It was closed by its writer, or renamed into place: it is complete unless a second writer has it, or it is empty. A
    /// look may have been faster than who tells this.
    pub fn on_closed(&mut self, name: &OsStr, sight: &Observation, now: Instant, rules: StabilityRules) -> FileVerdict {
        if let Some(State::Pending { first, .. }) = self.state(name) {
            self.set(name, State::Pending { stamp: None, since: now, is_being_written: false, first });
        }
        let is_free = Some(sight.has_writer.unwrap_or_default());
        self.observe(name, &Observation { has_writer: is_free, ..*sight }, now, rules)
    }

    /// It is gone.
    pub fn on_removed(&mut self, name: &OsStr) {
        self.known.remove(name);
    }

    /// The stamp with which it counted, if it did.
    #[must_use]
    pub fn counted(&self, name: &OsStr) -> Option<FileStamp> {
        match self.state(name) {
            Some(State::Reported(stamp)) => Some(stamp),
            Some(State::Pending { .. }) | None => None,
        }
    }

    /// When the file came, or was touched last, for which that is longest ago.
    #[must_use]
    pub fn oldest(&self) -> Option<i64> {
        let stamps = self.known.values().filter_map(|known| match known.state {
            State::Reported(stamp) | State::Pending { stamp: Some(stamp), .. } => Some(stamp),
            State::Pending { stamp: None, .. } => None,
        });
        stamps.map(|stamp| stamp.changed).min()
    }

    /// Files that are known.
    #[must_use]
    pub fn count(&self) -> usize {
        self.known.len()
    }

    fn state(&self, name: &OsStr) -> Option<State> {
        self.known.get(name).map(|known| known.state)
    }

    fn set(&mut self, name: &OsStr, state: State) {
        let known = TrackedFile { state, round: self.round };
        match self.known.get_mut(name) {
            Some(tracked) => *tracked = known,
            None => {
                self.known.insert(name.to_owned(), known);
            }
        }
    }
}

#[cfg(test)]
mod tests;
