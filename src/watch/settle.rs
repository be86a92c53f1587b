//! Which files of a directory are complete, and which of those are news. Pure: names, stamps and times come from outside.
//!
//! A file counts once when it was closed by its writer or renamed into place, or when nothing about it has changed for a
//! while. It counts again when it is another one, or has changed. What the engine takes away is forgotten.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::time::{Duration, Instant};

/// What a file is recognised by. Times are nanoseconds since 1970, by the clock of its file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes.
    pub size: u64,
    /// When its content changed last.
    pub modified: i64,
    /// When anything about it changed last: a rename does.
    pub changed: i64,
    /// Its number on its file system.
    pub inode: u64,
}

/// How long a file has to stay as it is.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// When nobody is known to write it.
    pub settle: Duration,
    /// When somebody was seen to write it, who will close it.
    pub writer: Duration,
}

/// What a look at a file has told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is complete, and was not before.
    Counts,
    /// It may be complete by then.
    WaitUntil(Instant),
    /// It is being written, and whoever does will close it; or it was seen before.
    Nothing,
}

/// The files of one directory that match.
#[derive(Debug, Default)]
pub struct Files {
    known: HashMap<OsString, Known>,
    round: u32,
}

#[derive(Debug)]
struct Known {
    state: State,
    /// The last round in which it was there.
    round: u32,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Not known to be complete. The stamp is what it had at the last look.
    Settling { stamp: Option<Stamp>, since: Instant, has_writer: bool },
    /// Complete, and told.
    Counted(Stamp),
}

impl Stamp {
    /// Whether the content is the same, as far as can be told without reading it.
    fn is_as_long_and_old_as(&self, other: &Self) -> bool {
        (self.size, self.modified) == (other.size, other.modified)
    }
}

impl Files {
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

    /// Takes down what a look at a file has shown. `quiet` is how long its content is known not to have changed.
    pub fn look(&mut self, name: &OsStr, stamp: Stamp, quiet: Duration, now: Instant, patience: Patience) -> Verdict {
        let quiet_since = now.checked_sub(quiet).unwrap_or(now);
        let (since, has_writer) = match self.state(name) {
            Some(State::Counted(known)) if known == stamp => {
                self.set(name, State::Counted(stamp));
                return Verdict::Nothing;
            }
            Some(State::Settling { stamp: Some(known), since, has_writer }) if known.is_as_long_and_old_as(&stamp) => {
                (since, has_writer)
            }
            // Events have told when it was touched last.
            Some(State::Settling { stamp: None, since, has_writer }) => (since, has_writer),
            Some(State::Settling { has_writer, .. }) => (quiet_since, has_writer),
            Some(State::Counted(_)) | None => (quiet_since, false),
        };
        let complete = since + if has_writer { patience.writer } else { patience.settle };
        if complete <= now {
            self.set(name, State::Counted(stamp));
            return Verdict::Counts;
        }
        self.set(name, State::Settling { stamp: Some(stamp), since, has_writer });
        if has_writer { Verdict::Nothing } else { Verdict::WaitUntil(complete) }
    }

    /// It appeared, by whatever means: a link is complete, a file that was opened to be written is not.
    pub fn appeared(&mut self, name: &OsStr, now: Instant) {
        self.set(name, State::Settling { stamp: None, since: now, has_writer: false });
    }

    /// Somebody opened it. That may be a reader, so it only tells something of a file that is not complete.
    pub fn opened(&mut self, name: &OsStr, now: Instant) {
        if let Some(State::Settling { .. }) = self.state(name) {
            self.written(name, now);
        }
    }

    /// Somebody writes it, and will close it.
    pub fn written(&mut self, name: &OsStr, now: Instant) {
        self.set(name, State::Settling { stamp: None, since: now, has_writer: true });
    }

    /// It was closed by its writer, or renamed into place. A look may have been faster than who tells this.
    pub fn completed(&mut self, name: &OsStr, stamp: Stamp) -> Verdict {
        let is_known = self.counted(name) == Some(stamp);
        self.set(name, State::Counted(stamp));
        if is_known { Verdict::Nothing } else { Verdict::Counts }
    }

    /// It is gone.
    pub fn vanished(&mut self, name: &OsStr) {
        self.known.remove(name);
    }

    /// The stamp with which it counted, if it did.
    #[must_use]
    pub fn counted(&self, name: &OsStr) -> Option<Stamp> {
        match self.state(name) {
            Some(State::Counted(stamp)) => Some(stamp),
            Some(State::Settling { .. }) | None => None,
        }
    }

    /// When the file came, or was touched last, for which that is longest ago.
    #[must_use]
    pub fn oldest(&self) -> Option<i64> {
        let stamps = self.known.values().filter_map(|known| match known.state {
            State::Counted(stamp) | State::Settling { stamp: Some(stamp), .. } => Some(stamp),
            State::Settling { stamp: None, .. } => None,
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
        let known = Known { state, round: self.round };
        match self.known.get_mut(name) {
            Some(place) => *place = known,
            None => {
                self.known.insert(name.to_owned(), known);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { settle: Duration::from_secs(1), writer: Duration::from_secs(60) };

    struct Case {
        files: Files,
        start: Instant,
    }

    impl Case {
        fn new() -> Self {
            Self { files: Files::default(), start: Instant::now() }
        }

        fn at(&self, milliseconds: u64) -> Instant {
            self.start + Duration::from_millis(milliseconds)
        }

        /// A look at this time, at a file of this size that nothing is known of but what is seen.
        fn look(&mut self, milliseconds: u64, size: u64) -> Verdict {
            let now = self.at(milliseconds);
            self.files.look(OsStr::new("a"), stamp(size), Duration::ZERO, now, PATIENCE)
        }
    }

    fn stamp(size: u64) -> Stamp {
        Stamp { size, modified: size.cast_signed(), changed: 0, inode: 1 }
    }

    fn name() -> &'static OsStr {
        OsStr::new("a")
    }

    #[test]
    fn a_file_counts_once_when_it_has_not_changed_for_a_while() {
        let mut case = Case::new();
        assert_eq!(case.look(0, 1), Verdict::WaitUntil(case.at(1000)));
        assert_eq!(case.look(900, 1), Verdict::WaitUntil(case.at(1000)));
        assert_eq!(case.look(950, 2), Verdict::WaitUntil(case.at(1950)));
        assert_eq!(case.look(1950, 2), Verdict::Counts);
        assert_eq!(case.look(9000, 2), Verdict::Nothing);
    }

    #[test]
    fn a_file_that_is_known_to_be_old_counts_at_once() {
        let mut case = Case::new();
        let old = Duration::from_secs(1);
        assert_eq!(case.files.look(name(), stamp(1), old, case.start, PATIENCE), Verdict::Counts);
    }

    #[test]
    fn a_counted_file_counts_again_when_it_is_another_one() {
        let mut case = Case::new();
        case.files.completed(name(), stamp(1));
        assert_eq!(case.look(0, 1), Verdict::Nothing);
        // Away and back between two looks: only the time of the change tells.
        let moved = Stamp { changed: 5, ..stamp(1) };
        let old = Duration::from_secs(5);
        assert_eq!(case.files.look(name(), moved, old, case.at(10), PATIENCE), Verdict::Counts);
        assert_eq!(case.look(20, 2), Verdict::WaitUntil(case.at(1020)));
    }

    #[test]
    fn a_writer_is_waited_for() {
        let mut case = Case::new();
        case.files.appeared(name(), case.start);
        case.files.opened(name(), case.start);
        assert_eq!(case.look(5000, 1), Verdict::Nothing);
        case.files.written(name(), case.at(50_000));
        assert_eq!(case.look(70_000, 2), Verdict::Nothing);
        assert_eq!(case.files.completed(name(), stamp(2)), Verdict::Counts);
        assert_eq!(case.look(71_000, 2), Verdict::Nothing);
        assert_eq!(case.files.completed(name(), stamp(2)), Verdict::Nothing, "it is not told twice");
    }

    #[test]
    fn a_writer_who_never_closes_is_not_waited_for_forever() {
        let mut case = Case::new();
        case.files.written(name(), case.start);
        assert_eq!(case.look(10_000, 1), Verdict::Nothing);
        assert_eq!(case.look(59_000, 1), Verdict::Nothing);
        assert_eq!(case.look(60_000, 1), Verdict::Counts);
    }

    #[test]
    fn a_link_has_no_writer() {
        let mut case = Case::new();
        case.files.appeared(name(), case.start);
        assert_eq!(case.look(500, 1), Verdict::WaitUntil(case.at(1000)));
        assert_eq!(case.look(1000, 1), Verdict::Counts);
        case.files.opened(name(), case.at(1100));
        assert_eq!(case.look(1200, 1), Verdict::Nothing, "a reader changes nothing");
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut case = Case::new();
        case.files.completed(name(), stamp(1));
        case.files.begin_round();
        case.files.end_round();
        assert_eq!(case.files.count(), 0);
        assert_eq!(case.look(0, 1), Verdict::WaitUntil(case.at(1000)));
        case.files.vanished(name());
        assert_eq!(case.files.count(), 0);
    }

    #[test]
    fn what_is_looked_at_in_a_round_stays() {
        let mut case = Case::new();
        case.files.completed(name(), stamp(1));
        case.files.begin_round();
        assert_eq!(case.look(0, 1), Verdict::Nothing);
        case.files.end_round();
        assert_eq!(case.files.count(), 1);
    }
}
