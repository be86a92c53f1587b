//! The definition of "complete", as a table; and the sequence of reports, as scenarios.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const RULES: StabilityRules = StabilityRules { stable_after: SECOND, limit: Duration::from_secs(60) };

struct Case {
    files: FileTracker,
    start: Instant,
}

impl Case {
    fn new() -> Self {
        Self { files: FileTracker::default(), start: Instant::now() }
    }

    fn at(&self, milliseconds: u64) -> Instant {
        self.start + Duration::from_millis(milliseconds)
    }

    /// A check at this time, of a file of this size without other knowledge.
    fn observe(&mut self, milliseconds: u64, size: u64) -> FileVerdict {
        self.see(milliseconds, sight(size))
    }

    fn see(&mut self, milliseconds: u64, sight: Observation) -> FileVerdict {
        let now = self.at(milliseconds);
        self.files.observe(name(), &sight, now, RULES)
    }

    fn closed(&mut self, milliseconds: u64, size: u64) -> FileVerdict {
        let now = self.at(milliseconds);
        self.files.on_closed(name(), &sight(size), now, RULES)
    }

    fn count(&self) -> usize {
        self.files.reported.len() + self.files.pending.len()
    }

    fn waits(&self, reason: Reason, until: u64, since: u64) -> FileVerdict {
        FileVerdict::Waiting(IncompleteSince { reason, until: Some(self.at(until)), since: self.at(since) })
    }
}

fn stamp(size: u64) -> FileStamp {
    FileStamp { size, modified: size.cast_signed(), changed: 0, inode: 1 }
}

fn sight(size: u64) -> Observation {
    Observation { stamp: stamp(size), quiet: Duration::ZERO, has_writer: None, is_named_unfinished: false }
}

fn name() -> &'static OsStr {
    OsStr::new("a")
}

/// Size, known state of writers, whether a writer was seen, whether the name marks it as incomplete; and the reason why
/// it is incomplete, and after how many seconds without a change it is complete.
#[test]
fn evaluate_judges_each_kind_of_file() {
    let table = [
        (9, None, false, false, Some((Reason::Young, Some(1)))),
        (9, Some(false), false, false, None),
        (9, Some(true), false, false, Some((Reason::Open, None))),
        (9, Some(true), true, false, Some((Reason::Open, None))),
        (9, None, true, false, Some((Reason::Open, Some(60)))),
        // The event of the close is missing or late.
        (9, Some(false), true, false, None),
        (0, None, false, false, Some((Reason::Empty, Some(6)))),
        (0, Some(false), false, false, Some((Reason::Empty, Some(6)))),
        (0, Some(true), false, false, Some((Reason::Open, None))),
        (0, None, true, false, Some((Reason::Open, Some(60)))),
        (9, Some(false), false, true, Some((Reason::Name, None))),
        (0, None, true, true, Some((Reason::Name, None))),
    ];
    for (size, has_writer, is_being_written, is_named_unfinished, expected) in table {
        let sight = Observation { has_writer, is_named_unfinished, ..sight(size) };
        let since = Instant::now();
        let judged = |now| evaluate(&sight, since, is_being_written, now, RULES);
        let row = format!("{sight:?} {is_being_written}");
        let Some((reason, seconds)) = expected else {
            assert_eq!(judged(since), Stability::Complete, "{row}");
            continue;
        };
        let until = seconds.map(|seconds| since + SECOND * seconds);
        assert_eq!(judged(since), Stability::Incomplete(reason, until), "{row}");
        match until {
            Some(until) => {
                assert_eq!(judged(until - SECOND / 2), Stability::Incomplete(reason, Some(until)), "{row}");
                assert_eq!(judged(until), Stability::Complete, "{row}");
            }
            None => assert_eq!(judged(since + RULES.limit * 9), Stability::Incomplete(reason, None), "{row}"),
        }
    }
}

/// Weight of a file time, in seconds: the later time of the file, the clock, its error, and the known clock.
#[test]
fn unchanged_time_depends_on_clock_error() {
    let table = [
        (100, Some((107, 0)), 7),
        // The file is ahead.
        (110, Some((107, 0)), 0),
        (100, Some((107, 10)), 0),
        (100, Some((170, 10)), 60),
        (100, None, 0),
        (i64::MIN / 1_000_000_000, Some((107, 0)), i64::MAX.unsigned_abs() / 1_000_000_000),
    ];
    for (time, clock, known) in table {
        let seconds = |seconds: i64| seconds.saturating_mul(1_000_000_000);
        let clock = clock.map(|(now, error)| StampClock { now: seconds(now), error: SECOND * error });
        for stamp in [
            FileStamp { modified: seconds(time), changed: i64::MIN, ..stamp(1) },
            FileStamp { modified: i64::MIN, changed: seconds(time), ..stamp(1) },
        ] {
            assert_eq!(unchanged_for(&stamp, clock).as_secs(), known, "{time} {clock:?}");
        }
    }
}

#[test]
fn file_is_reported_once_after_stable_period() {
    let mut case = Case::new();
    assert_eq!(case.observe(0, 1), case.waits(Reason::Young, 1000, 0));
    assert_eq!(case.observe(900, 1), case.waits(Reason::Young, 1000, 0));
    assert_eq!(case.observe(950, 2), case.waits(Reason::Young, 1950, 0));
    assert_eq!(case.observe(1950, 2), FileVerdict::Complete);
    assert_eq!(case.observe(9000, 2), FileVerdict::AlreadyReported);
}

#[test]
fn old_file_is_complete_at_once() {
    let mut case = Case::new();
    assert_eq!(case.see(0, Observation { quiet: SECOND, ..sight(1) }), FileVerdict::Complete);
}

#[test]
fn replaced_file_is_reported_again() {
    let mut case = Case::new();
    assert_eq!(case.closed(0, 1), FileVerdict::Complete);
    assert_eq!(case.observe(0, 1), FileVerdict::AlreadyReported);
    assert!(case.files.is_still(name(), stamp(1)) && !case.files.is_still(name(), stamp(2)));
    // Deleted and recreated between two checks: only ctime differs.
    let moved = FileStamp { changed: 5, ..stamp(1) };
    assert_eq!(case.see(10, Observation { stamp: moved, quiet: SECOND * 5, ..sight(1) }), FileVerdict::Complete);
    assert_eq!(case.observe(20, 2), case.waits(Reason::Young, 1020, 20));
}

#[test]
fn file_is_complete_only_after_writer_closes() {
    let mut case = Case::new();
    case.files.on_written(name(), case.start, false);
    case.files.on_written(name(), case.start, true);
    assert_eq!(case.observe(5000, 1), case.waits(Reason::Open, 60_000, 0));
    case.files.on_written(name(), case.at(50_000), true);
    assert_eq!(case.observe(70_000, 2), case.waits(Reason::Open, 110_000, 0));
    assert_eq!(case.closed(71_000, 2), FileVerdict::Complete);
    assert_eq!(case.observe(72_000, 2), FileVerdict::AlreadyReported);
    assert_eq!(case.closed(72_000, 2), FileVerdict::AlreadyReported, "it is not told twice");
}

#[test]
fn second_writer_and_empty_file_delay_completion() {
    let mut case = Case::new();
    case.files.on_written(name(), case.start, true);
    let second = Observation { has_writer: Some(true), ..sight(1) };
    let now = case.at(500);
    let open = IncompleteSince { reason: Reason::Open, until: None, since: case.start };
    assert_eq!(case.files.on_closed(name(), &second, now, RULES), FileVerdict::Waiting(open));
    assert_eq!(case.closed(1000, 1), FileVerdict::Complete);
    assert_eq!(case.closed(2000, 0), case.waits(Reason::Empty, 8000, 2000));
    assert_eq!(case.observe(8000, 0), FileVerdict::Complete);
}

/// A writer whose close is not reported, as on a share that this machine writes to.
#[test]
fn stable_period_starts_when_file_was_last_seen_open() {
    let mut case = Case::new();
    for seconds in 0..10 {
        let open = Observation { has_writer: Some(true), ..sight(1) };
        let verdict = case.see(1000 * seconds, open);
        assert!(matches!(verdict, FileVerdict::Waiting(IncompleteSince { reason: Reason::Open, .. })), "{verdict:?}");
    }
    assert_eq!(case.observe(9500, 1), case.waits(Reason::Young, 10_000, 0));
    assert_eq!(case.observe(10_000, 1), FileVerdict::Complete);
}

#[test]
fn wait_for_unclosed_writer_ends_at_limit() {
    let mut case = Case::new();
    case.files.on_written(name(), case.start, true);
    assert_eq!(case.observe(10_000, 1), case.waits(Reason::Open, 60_000, 0));
    assert_eq!(case.observe(60_000, 1), FileVerdict::Complete);
}

#[test]
fn created_link_does_not_count_as_open() {
    let mut case = Case::new();
    case.files.on_written(name(), case.start, false);
    assert_eq!(case.observe(500, 1), case.waits(Reason::Young, 1000, 0));
    assert_eq!(case.observe(1000, 1), FileVerdict::Complete);
}

#[test]
fn removed_files_are_forgotten() {
    let mut case = Case::new();
    assert_eq!(case.closed(0, 1), FileVerdict::Complete);
    case.files.begin_round();
    case.files.end_round();
    assert_eq!(case.count(), 0);
    assert_eq!(case.observe(0, 1), case.waits(Reason::Young, 1000, 0));
    case.files.on_removed(name());
    assert_eq!(case.count(), 0);
}

#[test]
fn files_observed_in_a_round_are_kept() {
    let mut case = Case::new();
    assert_eq!(case.closed(0, 1), FileVerdict::Complete);
    case.files.begin_round();
    assert_eq!(case.observe(0, 1), FileVerdict::AlreadyReported);
    case.files.end_round();
    assert_eq!(case.count(), 1);
}

/// A look still knows the file; a run that took it would lose what its writer is about to write.
#[test]
fn reopened_complete_file_is_not_taken() {
    let mut case = Case::new();
    let at_rest = Observation { quiet: RULES.limit * 60, has_writer: Some(false), ..sight(9) };
    assert_eq!(case.see(0, at_rest), FileVerdict::Complete);
    let open = Observation { has_writer: Some(true), ..at_rest };
    assert_eq!(case.see(100, open), FileVerdict::AlreadyReported);
    let now = case.at(200);
    // However old it is, it is waited for from now on.
    let waits = FileVerdict::Waiting(IncompleteSince { reason: Reason::Open, until: None, since: now });
    assert_eq!(case.files.observe_before_taking(name(), &open, now, RULES), waits);
    let now = case.at(300);
    assert_eq!(case.files.observe_before_taking(name(), &at_rest, now, RULES), FileVerdict::Complete);
}
