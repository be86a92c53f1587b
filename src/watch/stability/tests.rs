//! What is complete, as a table; and what counts, as stories.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Patience = Patience { settle: SECOND, limit: Duration::from_secs(60) };

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
        self.see(milliseconds, sight(size))
    }

    fn see(&mut self, milliseconds: u64, sight: Sight) -> Verdict {
        let now = self.at(milliseconds);
        self.files.look(name(), &sight, now, PATIENCE)
    }

    fn closed(&mut self, milliseconds: u64, size: u64) -> Verdict {
        let now = self.at(milliseconds);
        self.files.completed(name(), &sight(size), now, PATIENCE)
    }

    fn waits(&self, reason: Reason, until: u64, since: u64) -> Verdict {
        Verdict::Waits(Unfinished { reason, until: Some(self.at(until)), since: self.at(since) })
    }
}

fn stamp(size: u64) -> Stamp {
    Stamp { size, modified: size.cast_signed(), changed: 0, inode: 1 }
}

fn sight(size: u64) -> Sight {
    Sight { stamp: stamp(size), quiet: Duration::ZERO, has_writer: None, is_named_unfinished: false }
}

fn name() -> &'static OsStr {
    OsStr::new("a")
}

/// Size, what is known of writers, whether a writer was seen, whether the name says that it is unfinished; and why it is not
/// complete, and after how many seconds it is if it stays as it is.
#[test]
fn each_kind_of_file_is_judged() {
    let table = [
        (9, None, false, false, Some((Reason::Young, Some(1)))),
        (9, Some(false), false, false, None),
        (9, Some(true), false, false, Some((Reason::Open, None))),
        (9, Some(true), true, false, Some((Reason::Open, None))),
        (9, None, true, false, Some((Reason::Open, Some(60)))),
        // The close was not told, or is not told yet.
        (9, Some(false), true, false, None),
        (0, None, false, false, Some((Reason::Empty, Some(6)))),
        (0, Some(false), false, false, Some((Reason::Empty, Some(6)))),
        (0, Some(true), false, false, Some((Reason::Open, None))),
        (0, None, true, false, Some((Reason::Open, Some(60)))),
        (9, Some(false), false, true, Some((Reason::Name, None))),
        (0, None, true, true, Some((Reason::Name, None))),
    ];
    for (size, has_writer, is_being_written, is_named_unfinished, expected) in table {
        let sight = Sight { has_writer, is_named_unfinished, ..sight(size) };
        let since = Instant::now();
        let judged = |now| judge(&sight, since, is_being_written, now, PATIENCE);
        let row = format!("{sight:?} {is_being_written}");
        let Some((reason, seconds)) = expected else {
            assert_eq!(judged(since), Judgement::Complete, "{row}");
            continue;
        };
        let until = seconds.map(|seconds| since + SECOND * seconds);
        assert_eq!(judged(since), Judgement::Incomplete(reason, until), "{row}");
        match until {
            Some(until) => {
                assert_eq!(judged(until - SECOND / 2), Judgement::Incomplete(reason, Some(until)), "{row}");
                assert_eq!(judged(until), Judgement::Complete, "{row}");
            }
            None => assert_eq!(judged(since + PATIENCE.limit * 9), Judgement::Incomplete(reason, None), "{row}"),
        }
    }
}

/// What a stamp says by a clock, in seconds: the later time of the file, the clock, its error, and what is known.
#[test]
fn a_stamp_tells_as_much_as_its_clock_allows() {
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
            Stamp { modified: seconds(time), changed: i64::MIN, ..stamp(1) },
            Stamp { modified: i64::MIN, changed: seconds(time), ..stamp(1) },
        ] {
            assert_eq!(quiet(&stamp, clock).as_secs(), known, "{time} {clock:?}");
        }
    }
}

#[test]
fn a_file_counts_once_when_it_has_not_changed_for_a_while() {
    let mut case = Case::new();
    assert_eq!(case.look(0, 1), case.waits(Reason::Young, 1000, 0));
    assert_eq!(case.look(900, 1), case.waits(Reason::Young, 1000, 0));
    assert_eq!(case.look(950, 2), case.waits(Reason::Young, 1950, 0));
    assert_eq!(case.look(1950, 2), Verdict::Counts);
    assert_eq!(case.look(9000, 2), Verdict::Known);
}

#[test]
fn a_file_that_is_known_to_be_old_counts_at_once() {
    let mut case = Case::new();
    assert_eq!(case.see(0, Sight { quiet: SECOND, ..sight(1) }), Verdict::Counts);
}

#[test]
fn a_counted_file_counts_again_when_it_is_another_one() {
    let mut case = Case::new();
    assert_eq!(case.closed(0, 1), Verdict::Counts);
    assert_eq!(case.look(0, 1), Verdict::Known);
    assert!(case.files.is_still(name(), stamp(1)) && !case.files.is_still(name(), stamp(2)));
    // Away and back between two looks: only the time of the change tells.
    let moved = Stamp { changed: 5, ..stamp(1) };
    assert_eq!(case.see(10, Sight { stamp: moved, quiet: SECOND * 5, ..sight(1) }), Verdict::Counts);
    assert_eq!(case.look(20, 2), case.waits(Reason::Young, 1020, 20));
}

#[test]
fn a_writer_is_waited_for() {
    let mut case = Case::new();
    case.files.appeared(name(), case.start);
    case.files.written(name(), case.start);
    assert_eq!(case.look(5000, 1), case.waits(Reason::Open, 60_000, 0));
    case.files.written(name(), case.at(50_000));
    assert_eq!(case.look(70_000, 2), case.waits(Reason::Open, 110_000, 0));
    assert_eq!(case.closed(71_000, 2), Verdict::Counts);
    assert_eq!(case.look(72_000, 2), Verdict::Known);
    assert_eq!(case.closed(72_000, 2), Verdict::Known, "it is not told twice");
}

#[test]
fn a_second_writer_is_waited_for_and_so_is_an_empty_file() {
    let mut case = Case::new();
    case.files.written(name(), case.start);
    let second = Sight { has_writer: Some(true), ..sight(1) };
    let now = case.at(500);
    let open = Unfinished { reason: Reason::Open, until: None, since: case.start };
    assert_eq!(case.files.completed(name(), &second, now, PATIENCE), Verdict::Waits(open));
    assert_eq!(case.closed(1000, 1), Verdict::Counts);
    assert_eq!(case.closed(2000, 0), case.waits(Reason::Empty, 8000, 2000));
    assert_eq!(case.look(8000, 0), Verdict::Counts);
}

/// A writer whose end is not told, as on a share that this machine writes to.
#[test]
fn the_time_begins_when_the_file_was_last_seen_open() {
    let mut case = Case::new();
    for seconds in 0..10 {
        let open = Sight { has_writer: Some(true), ..sight(1) };
        let verdict = case.see(1000 * seconds, open);
        assert!(matches!(verdict, Verdict::Waits(Unfinished { reason: Reason::Open, .. })), "{verdict:?}");
    }
    assert_eq!(case.look(9500, 1), case.waits(Reason::Young, 10_000, 0));
    assert_eq!(case.look(10_000, 1), Verdict::Counts);
}

#[test]
fn a_writer_who_never_closes_is_not_waited_for_forever() {
    let mut case = Case::new();
    case.files.written(name(), case.start);
    assert_eq!(case.look(10_000, 1), case.waits(Reason::Open, 60_000, 0));
    assert_eq!(case.look(60_000, 1), Verdict::Counts);
}

#[test]
fn a_link_has_no_writer() {
    let mut case = Case::new();
    case.files.appeared(name(), case.start);
    assert_eq!(case.look(500, 1), case.waits(Reason::Young, 1000, 0));
    assert_eq!(case.look(1000, 1), Verdict::Counts);
}

#[test]
fn what_is_gone_is_forgotten() {
    let mut case = Case::new();
    assert_eq!(case.closed(0, 1), Verdict::Counts);
    case.files.begin_round();
    case.files.end_round();
    assert_eq!(case.files.count(), 0);
    assert_eq!(case.look(0, 1), case.waits(Reason::Young, 1000, 0));
    case.files.vanished(name());
    assert_eq!(case.files.count(), 0);
}

#[test]
fn what_is_looked_at_in_a_round_stays() {
    let mut case = Case::new();
    assert_eq!(case.closed(0, 1), Verdict::Counts);
    case.files.begin_round();
    assert_eq!(case.look(0, 1), Verdict::Known);
    case.files.end_round();
    assert_eq!(case.files.count(), 1);
}
