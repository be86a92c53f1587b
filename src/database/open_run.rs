//! A run of Bots's engine that has not come to its end: cut off, or still at work.
//!
//! The lease keeps engines of bots-ctl apart. An engine that bots-ctl did not start takes no lease, and the row in `mutex`
//! that Bots takes for a crash may be that of a living one. So two rows of `botsctl_lease` say more: `run` has the run of
//! the last holder, which is over when the lease is free; `watched` has the look of an open run that is not known to be
//! that one, and the moment when it last changed, by the server's clock. All processes share what they have seen.

use std::fmt;
use std::time::Duration;

use super::connection::Connection;
use super::lease_row::{self, Row};
use super::{Error, Settings, recovery, runs};

/// The row that has the run of the last holder of the lease.
const HOLDERS: &str = "run";

/// The row that has the look of a run which is watched.
const WATCHED: &str = "watched";

/// Rows of `ta` whose states are a part of the look.
const NEWEST_ROWS: u32 = 200;

/// A run, and the row in `mutex` that belongs to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Mark {
    /// The newest run, 0 when there is none.
    run: u64,
    /// When the row in `mutex` was written, in the words of the database; empty without that row.
    locked_at: String,
}

impl Mark {
    /// What tells the engine from those before and after it: it may begin several runs.
    fn engine(&self) -> String {
        if self.locked_at.is_empty() { self.run.to_string() } else { self.locked_at.clone() }
    }
}

/// What the tables of Bots show.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Traces {
    mark: Mark,
    /// The newest rows, in short: it differs after each step of an engine.
    look: String,
}

/// A look that was noted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Watched {
    engine: String,
    look: String,
    /// How long ago it was noted.
    age: Duration,
    /// Whether the run had another look before.
    has_changed: bool,
}

/// A run that has not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenRun {
    /// Its number; none when the engine has not got so far.
    pub run: Option<u64>,
    /// Whether it is that of the last holder of the lease.
    pub is_ours: bool,
    /// For how long its rows are known not to have changed.
    pub unchanged: Duration,
    /// Whether its rows were seen to change.
    pub has_changed: bool,
}

impl OpenRun {
    /// Whether no engine works on it any more, for one that has the lease: the run is that of the last holder, or has made
    /// no progress for the `timeout`.
    #[must_use]
    pub fn is_cut_off(&self, timeout: Duration) -> bool {
        self.is_ours || self.unchanged >= timeout
    }
}

impl fmt::Display for OpenRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let run = self.run.map_or_else(|| "before its first row".to_owned(), |run| format!("run {run}"));
        let unchanged = self.unchanged.as_secs();
        if self.has_changed {
            write!(f, "an engine that bots-ctl did not start is running ({run}, last row {unchanged} s ago)")
        } else {
            write!(f, "an engine that bots-ctl did not start may be running ({run}, no new row for {unchanged} s)")
        }
    }
}

/// The runs that an engine of ours is about to begin.
#[derive(Debug)]
pub struct Claim {
    /// The newest run before them.
    after: u64,
    /// How many there will be at most. Further ones are those of another engine.
    most: usize,
    noted: Option<Mark>,
}

/// The newest run, if it has not come to its end.
///
/// # Errors
/// When the database cannot be read or written.
pub async fn observe(connection: &mut Connection, settings: &Settings) -> Result<Option<OpenRun>, Error> {
    if !recovery::is_open(connection, settings).await? {
        return Ok(None);
    }
    let observed = async {
        let traces = traces(connection).await?;
        let holders = lease_row::find(connection, HOLDERS).await?.map(mark);
        let before = lease_row::find(connection, WATCHED).await?.map(watched);
        let open = judge(&traces, holders.as_ref(), before.as_ref());
        if !open.is_ours && before.is_none_or(|before| before.look != traces.look) {
            lease_row::put(connection, WATCHED, &traces.mark.engine(), &traces.look, open.has_changed).await?;
        }
        Ok(Some(open))
    };
    observed.await.map_err(|error| runs::failed(settings, &error))
}

fn judge(traces: &Traces, holders: Option<&Mark>, before: Option<&Watched>) -> OpenRun {
    let mark = &traces.mark;
    let before = before.filter(|before| before.engine == mark.engine());
    OpenRun {
        run: (mark.run > 0).then_some(mark.run),
        is_ours: holders == Some(mark),
        unchanged: before.filter(|before| before.look == traces.look).map_or(Duration::ZERO, |before| before.age),
        has_changed: before.is_some_and(|before| before.has_changed || before.look != traces.look),
    }
}

/// Begins to claim: the next runs, at most so many, are those of the holder of the lease. An open run that is there already
/// is to be recovered by its engine, and counts as the holder's from here on.
///
/// # Errors
/// When the database cannot be read or written.
pub async fn claim(
    connection: &mut Connection,
    settings: &Settings,
    most: usize,
    recovers: bool,
) -> Result<Claim, Error> {
    let claimed = async {
        let mark = current(connection, 0).await?;
        let mut claim = Claim { after: mark.run, most, noted: None };
        if recovers {
            write(connection, &mut claim, mark).await?;
        }
        Ok(claim)
    };
    claimed.await.map_err(|error| runs::failed(settings, &error))
}

/// Notes the run that the holder's engine has begun. The answer is whether there is one.
///
/// # Errors
/// When the database cannot be read or written.
pub async fn note(connection: &mut Connection, settings: &Settings, claim: &mut Claim) -> Result<bool, Error> {
    let noted = async {
        let mark = current(connection, claim.after).await?;
        let is_new = mark.run > claim.after;
        if claim.noted.as_ref() == Some(&mark) || !is_new && mark.locked_at.is_empty() {
            return Ok(is_new);
        }
        if is_new && begun_since(connection, claim.after).await? > claim.most {
            return Ok(true);
        }
        write(connection, claim, mark).await?;
        Ok(is_new)
    };
    noted.await.map_err(|error| runs::failed(settings, &error))
}

async fn write(connection: &mut Connection, claim: &mut Claim, mark: Mark) -> Result<(), sqlx::Error> {
    lease_row::put(connection, HOLDERS, &mark.run.to_string(), &mark.locked_at, false).await?;
    claim.noted = Some(mark);
    Ok(())
}

async fn begun_since(connection: &mut Connection, run: u64) -> Result<usize, sqlx::Error> {
    let count = connection.value(format!("SELECT count(*) FROM ta WHERE script = 0 AND idta > {run}")).await?;
    Ok(count.and_then(|count| count.parse().ok()).unwrap_or_default())
}

const LOCKED_AT: &str = "(SELECT MAX(CAST(ts AS CHAR(40))) FROM mutex)";

/// The newest run after this one, or this one, and the row in `mutex`.
async fn current(connection: &mut Connection, after: u64) -> Result<Mark, sqlx::Error> {
    let query = format!("SELECT MAX(idta), {LOCKED_AT} FROM ta WHERE script = 0 AND idta > {after}");
    let row = connection.rows(query).await?.into_iter().next().unwrap_or_default();
    let text = |place: usize| row.get(place).cloned().flatten().unwrap_or_default();
    Ok(Mark { run: text(0).parse().unwrap_or(after), locked_at: text(1).trim_end().to_owned() })
}

async fn traces(connection: &mut Connection) -> Result<Traces, sqlx::Error> {
    let mark = current(connection, 0).await?;
    let query = format!(
        "SELECT MAX(idta), SUM(status), SUM(statust) FROM ta WHERE idta > (SELECT MAX(idta) FROM ta) - {NEWEST_ROWS}"
    );
    let row = connection.rows(query).await?.into_iter().next().unwrap_or_default();
    let newest: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
    let look = format!("{} {}", mark.locked_at, newest.join(" "));
    Ok(Traces { mark, look })
}

fn mark(row: Row) -> Mark {
    Mark { run: row.owner.parse().unwrap_or_default(), locked_at: row.holder }
}

fn watched(row: Row) -> Watched {
    Watched { engine: row.owner, look: row.holder, age: row.age, has_changed: row.released }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(300);

    /// An open run 7 with this row in `mutex`, beside the holder's mark and the look that was noted before.
    fn open(holders: Option<(u64, &str)>, before: Option<(&str, &str, u64, bool)>) -> OpenRun {
        let mark = |(run, locked_at): (u64, &str)| Mark { run, locked_at: locked_at.to_owned() };
        let watched = |(engine, look, age, has_changed): (&str, &str, u64, bool)| Watched {
            engine: engine.to_owned(),
            look: look.to_owned(),
            age: Duration::from_secs(age),
            has_changed,
        };
        let traces = Traces { mark: mark((7, "noon")), look: "noon 9 1 1".to_owned() };
        judge(&traces, holders.map(mark).as_ref(), before.map(watched).as_ref())
    }

    #[test]
    fn a_run_is_cut_off_when_it_was_the_last_holders_or_makes_no_progress() {
        let look = "noon 9 1 1";
        for (what, holders, before, is_cut_off, has_changed) in [
            ("nothing is known yet", None, None, false, false),
            ("the last holder's", Some((7, "noon")), None, true, false),
            ("an engine began a run after the last holder's", Some((6, "noon")), None, false, false),
            ("the row in mutex is another engine's", Some((7, "eleven")), None, false, false),
            ("the last holder's engine has removed its row", Some((7, "")), None, false, false),
            ("it rests", None, Some(("noon", look, 299, false)), false, false),
            ("it has rested long enough", None, Some(("noon", look, 300, false)), true, false),
            ("it has moved, and rests", None, Some(("noon", look, 299, true)), false, true),
            ("it has moved, and rested long enough", None, Some(("noon", look, 300, true)), true, true),
            ("it moves", None, Some(("noon", "noon 8 1 1", 4000, false)), false, true),
            ("an engine before it had rested", None, Some(("eleven", look, 4000, true)), false, false),
        ] {
            let open = open(holders, before);
            assert_eq!((open.is_cut_off(TIMEOUT), open.has_changed), (is_cut_off, has_changed), "{what}");
        }
    }

    #[test]
    fn it_is_named() {
        let told = |run, seconds, has_changed| {
            OpenRun { run, is_ours: false, unchanged: Duration::from_secs(seconds), has_changed }.to_string()
        };
        let running = "an engine that bots-ctl did not start is running (run 4711, last row 2 s ago)";
        assert_eq!(told(Some(4711), 2, true), running);
        let perhaps = "an engine that bots-ctl did not start may be running (before its first row, no new row for 9 s)";
        assert_eq!(told(None, 9, false), perhaps);
    }
}
