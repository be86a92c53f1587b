//! A run of Bots's engine that has not finished: interrupted, or still active.
//!
//! The lease excludes concurrent engines of bots-ctl. An engine that bots-ctl did not start holds no lease, and the row
//! in `mutex` that Bots takes for a crash may be that of an active run. Engines under the lease mark that row: for the
//! next holder of the lease, a marked row means an interrupted run. Any other run is watched: `botsctl_recovery` has a
//! snapshot of the run and the time of its last change, by the server's clock. All processes share it.

use std::fmt;
use std::time::Duration;

use super::recovery::{self, OURS};
use super::{failed, is_set, number_or_zero, text_or_empty};
use crate::database::Error;
use crate::database::own_schema::{self, OwnTables};
use crate::database::query::Connection;

/// Rows of `ta` whose states are a part of the snapshot.
const NEWEST_ROWS: u32 = 200;

/// The newest run in the tables of Bots.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RunTraces {
    /// The newest run; 0 if there is none.
    run: u64,
    /// When the row in `mutex` was written, in the words of the database; empty without that row. It identifies an
    /// engine among those before and after it, which may begin several runs.
    locked_at: String,
    /// Whether no engine can work on the run when the lease is free: the row is that of a holder, or Bots has removed it.
    is_ours: bool,
    /// The newest rows, in short: it differs after each step of an engine.
    snapshot: String,
}

/// A snapshot that was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
struct WatchedRun {
    engine: String,
    snapshot: String,
    /// How long ago it was recorded.
    age: Duration,
    /// Whether the run had another snapshot before.
    has_changed: bool,
}

/// A run that has not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenRun {
    /// Its number; none when the engine has not got so far.
    pub run: Option<u64>,
    /// Whether its engine held the lease, or has removed its row in `mutex`.
    pub is_ours: bool,
    /// For how long its rows are known not to have changed.
    pub unchanged: Duration,
    /// Whether its rows were seen to change.
    pub has_changed: bool,
}

impl OpenRun {
    /// Whether the run was interrupted, as judged by the lease holder: it is that of an earlier holder, or has made no progress
    /// for the `timeout`.
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

/// The newest run, if it has not finished.
///
/// # Errors
/// If the database cannot be read or written.
pub async fn observe(connection: &mut Connection) -> Result<Option<OpenRun>, Error> {
    own_schema::ensure(connection, OwnTables::RECOVERY).await?;
    if !recovery::is_open(connection).await? {
        return Ok(None);
    }
    let observed = async {
        let traces = traces(connection).await?;
        let before = watched(connection).await?;
        let open = judge(&traces, before.as_ref());
        if !open.is_ours && before.is_none_or(|before| before.snapshot != traces.snapshot) {
            watch(connection, &traces, open.has_changed).await?;
        }
        Ok(Some(open))
    };
    observed.await.map_err(|error| failed(&connection.settings, &error))
}

fn judge(traces: &RunTraces, before: Option<&WatchedRun>) -> OpenRun {
    let before = before.filter(|before| before.engine == traces.locked_at);
    OpenRun {
        run: (traces.run > 0).then_some(traces.run),
        is_ours: traces.is_ours,
        unchanged: before
            .filter(|before| before.snapshot == traces.snapshot)
            .map_or(Duration::ZERO, |before| before.age),
        has_changed: before.is_some_and(|before| before.has_changed || before.snapshot != traces.snapshot),
    }
}

async fn traces(connection: &mut Connection) -> Result<RunTraces, sqlx::Error> {
    let query = format!(
        "SELECT (SELECT MAX(idta) FROM ta WHERE script = 0), (SELECT MAX(CAST(ts AS CHAR(40))) FROM mutex WHERE mutexk = 1), \
         (SELECT MAX(mutexer) FROM mutex WHERE mutexk = 1), MAX(idta), SUM(status), SUM(statust) \
         FROM ta WHERE idta > (SELECT MAX(idta) FROM ta) - {NEWEST_ROWS}"
    );
    let row = connection.fetch_text(query).await?.into_iter().next().unwrap_or_default();
    let locked_at = text_or_empty(&row, 1).trim_end().to_owned();
    Ok(RunTraces {
        run: number_or_zero(&row, 0),
        is_ours: locked_at.is_empty() || number_or_zero::<u8>(&row, 2) == OURS,
        snapshot: format!(
            "{locked_at} {} {} {}",
            text_or_empty(&row, 3),
            text_or_empty(&row, 4),
            text_or_empty(&row, 5)
        ),
        locked_at,
    })
}

async fn watched(connection: &mut Connection) -> Result<Option<WatchedRun>, sqlx::Error> {
    let now = connection.server_time_ms();
    let query =
        format!("SELECT engine, snapshot, {now} - changed, has_changed FROM botsctl_recovery WHERE engine <> ''");
    Ok(connection.fetch_text(query).await?.first().map(|row| WatchedRun {
        engine: text_or_empty(row, 0),
        snapshot: text_or_empty(row, 1),
        age: Duration::from_millis(number_or_zero(row, 2)),
        has_changed: is_set(row, 3),
    }))
}

async fn watch(connection: &mut Connection, traces: &RunTraces, has_changed: bool) -> Result<(), sqlx::Error> {
    let update = format!(
        "UPDATE botsctl_recovery SET engine = {}, snapshot = {}, changed = {}, has_changed = {}",
        connection.quote_literal(&traces.locked_at),
        connection.quote_literal(&traces.snapshot),
        connection.server_time_ms(),
        u8::from(has_changed)
    );
    connection.execute_batch(update).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(300);

    const LOOK: &str = "noon 9 1 1";

    /// An open run, compared with the stored snapshot.
    fn open(is_ours: bool, before: Option<(&str, &str, u64, bool)>) -> OpenRun {
        let watched = |(engine, look, age, has_changed): (&str, &str, u64, bool)| WatchedRun {
            engine: engine.to_owned(),
            snapshot: look.to_owned(),
            age: Duration::from_secs(age),
            has_changed,
        };
        let traces = RunTraces { run: 7, locked_at: "noon".to_owned(), is_ours, snapshot: LOOK.to_owned() };
        judge(&traces, before.map(watched).as_ref())
    }

    #[test]
    fn run_is_interrupted_after_lease_or_without_progress() {
        for (what, is_ours, before, is_cut_off, has_changed) in [
            ("nothing is known yet", false, None, false, false),
            ("its engine held the lease", true, None, true, false),
            (
                "its engine held the lease, and another one was watched",
                true,
                Some(("eleven", LOOK, 9, true)),
                true,
                false,
            ),
            ("it rests", false, Some(("noon", LOOK, 299, false)), false, false),
            ("it has rested long enough", false, Some(("noon", LOOK, 300, false)), true, false),
            ("it has moved, and rests", false, Some(("noon", LOOK, 299, true)), false, true),
            ("it has moved, and rested long enough", false, Some(("noon", LOOK, 300, true)), true, true),
            ("it moves", false, Some(("noon", "noon 8 1 1", 4000, false)), false, true),
            ("an engine before it had rested", false, Some(("eleven", LOOK, 4000, true)), false, false),
        ] {
            let open = open(is_ours, before);
            assert_eq!((open.is_cut_off(TIMEOUT), open.has_changed), (is_cut_off, has_changed), "{what}");
        }
    }

    #[test]
    fn open_run_display_names_run_and_age() {
        let told = |run, seconds, has_changed| {
            OpenRun { run, is_ours: false, unchanged: Duration::from_secs(seconds), has_changed }.to_string()
        };
        let running = "an engine that bots-ctl did not start is running (run 4711, last row 2 s ago)";
        assert_eq!(told(Some(4711), 2, true), running);
        let perhaps = "an engine that bots-ctl did not start may be running (before its first row, no new row for 9 s)";
        assert_eq!(told(None, 9, false), perhaps);
    }
}
