//! The figures that runs leave in the database, so that a pod that lasts can tell of one that is gone: a row for each of
//! the last runs of the engine, and totals that only grow.
//!
//! A run writes its row when it begins and completes it when it ends. One that was cut off in between is found by the
//! next, which has the lease and so knows that nobody works on it any more. Every change can be made twice and counts
//! once: whoever lost the connection before the answer came tries again.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::own_schema::{self, OwnTables};
use super::query::Connection;
use super::{DatabaseConfig, Error, errors};

/// Rows of runs that are kept; the totals include all.
const MAX_RUN_ROWS: usize = 500;

/// Longest name of a holder that is kept.
const MAX_NAME: usize = 200;

/// The upper ends of the classes into which runs are sorted by their time, in seconds. Bots itself needs one to start; a
/// run of an hour is one that hangs.
pub const DURATION_BUCKETS_S: [u16; 10] = [1, 2, 5, 10, 30, 60, 180, 600, 1800, 3600];

/// The sum of all waits for the lease.
const LEASE_WAIT: &str = "lease_wait";

/// Runs that Bots began with a crash recovery.
const RECOVERIES: &str = "recoveries";

/// The time that all runs took.
const TOOK: &str = "took";

/// Runs in no class.
const LONGER: &str = "took_longer";

/// No sum, but when the engine ran through last.
const LAST_SUCCESS: &str = "last_success";

/// How a run of the engine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunOutcome {
    /// All is well.
    Success,
    /// It ran through, and some files had errors.
    FileErrors,
    /// It gave up.
    Failed,
    /// Nothing was run: another engine had the lease.
    Busy,
    /// A signal ended it.
    Killed,
    /// It was killed since its lease was lost.
    LeaseLost,
    /// Its end was never told: its pod or node was gone first.
    Interrupted,
}

impl RunOutcome {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Success, Self::FileErrors, Self::Failed, Self::Busy, Self::Killed, Self::LeaseLost, Self::Interrupted];

    /// The word in the table and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::FileErrors => "errors",
            Self::Failed => "failed",
            Self::Busy => "busy",
            Self::Killed => "killed",
            Self::LeaseLost => "lost",
            Self::Interrupted => "interrupted",
        }
    }

    /// Whether the engine has done all there was to do.
    fn is_complete_run(self) -> bool {
        matches!(self, Self::Success | Self::FileErrors)
    }
}

/// A run that begins.
#[derive(Debug, Clone, Copy)]
pub struct RunRow<'a> {
    /// What tells it from every other.
    pub id: &'a str,
    /// Pod and process.
    pub holder: &'a str,
    /// How long it waited for the lease.
    pub waited: Duration,
    /// Whether Bots recovers an earlier run first.
    pub recovers: bool,
}

/// Everything that was added up, since the tables were made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunTotals {
    /// Runs by outcome, in the order of [`RunOutcome::ALL`].
    pub runs: [u64; RunOutcome::ALL.len()],
    /// Runs that ended, by the class of their time; the last ones are in none.
    pub classes: [u64; DURATION_BUCKETS_S.len() + 1],
    /// The time that these took.
    pub took: Duration,
    /// The time that was waited for the lease.
    pub waited: Duration,
    /// Runs that Bots began with a crash recovery.
    pub recoveries: u64,
    /// When the engine ran through last.
    pub last_success: Option<SystemTime>,
    /// Runs of `init-db` that had something to do, and those of them that failed.
    pub initialisations: (u64, u64),
}

/// Makes the tables and the rows of the totals that are missing.
///
/// # Errors
/// When the database refuses.
pub async fn ensure_totals(connection: &mut Connection, settings: &DatabaseConfig) -> Result<(), Error> {
    let failed = |error: sqlx::Error| Error::failed("make the rows of botsctl_counter in", settings, &error);
    let lacking = match missing_totals(connection).await {
        Err(error) if errors::is_missing_table(&error) => {
            own_schema::ensure(connection, settings, OwnTables::RUN_METRICS).await?;
            missing_totals(connection).await
        }
        lacking => lacking,
    };
    let rows: Vec<String> = lacking.map_err(failed)?.iter().map(|name| format!("('{name}', 0)")).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let insert = format!("INSERT INTO botsctl_counter (name, value) VALUES {}", rows.join(", "));
    let Err(error) = connection.execute_batch(insert).await else { return Ok(()) };
    // Another process may have made the same rows in this moment, which is a conflict.
    match missing_totals(connection).await {
        Ok(lacking) if lacking.is_empty() => Ok(()),
        _ => Err(failed(error)),
    }
}

/// The totals that have no row.
async fn missing_totals(connection: &mut Connection) -> Result<Vec<String>, sqlx::Error> {
    let rows = connection.fetch_text("SELECT name FROM botsctl_counter").await?;
    let there: BTreeSet<String> = rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect();
    Ok(total_names().into_iter().filter(|name| !there.contains(name)).collect())
}

/// A run has the lease and begins.
///
/// # Errors
/// When the database refuses.
pub async fn begin(connection: &mut Connection, settings: &DatabaseConfig, run: &RunRow<'_>) -> Result<(), Error> {
    ensure_totals(connection, settings).await?;
    let (now, id) = (connection.server_time_ms(), connection.quote_literal(run.id));
    let holder: String = run.holder.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    let (holder, waited) = (connection.quote_literal(&holder), milliseconds(run.waited));
    let interrupted = RunOutcome::Interrupted.as_str();
    let open = format!("outcome IS NULL AND id <> {id}");
    let is_new = format!("NOT EXISTS (SELECT 1 FROM botsctl_engine_run WHERE id = {id})");
    let totals =
        increment_sql(&[(LEASE_WAIT, waited.to_string()), (RECOVERIES, u8::from(run.recovers).to_string())], &is_new);
    let others = increment_sql(
        &[(&sum_of(RunOutcome::Interrupted), format!("(SELECT count(*) FROM botsctl_engine_run WHERE {open})"))],
        "1 = 1",
    );
    let statements = [
        others,
        format!("UPDATE botsctl_engine_run SET outcome = '{interrupted}', ended = {now} WHERE {open}"),
        totals,
        format!(
            "INSERT INTO botsctl_engine_run (id, holder, started, lease_wait, recovered) \
             SELECT {id}, {holder}, {now}, {waited}, {} FROM (SELECT 1) AS one WHERE {is_new}",
            u8::from(run.recovers)
        ),
    ];
    execute_in_transaction(connection, &statements)
        .await
        .map_err(|error| Error::failed("note a run in", settings, &error))
}

/// A run has ended, and still has the lease.
///
/// # Errors
/// When the database refuses.
pub async fn end(
    connection: &mut Connection,
    settings: &DatabaseConfig,
    id: &str,
    (outcome, exit_code): (RunOutcome, Option<u8>),
    took: Duration,
) -> Result<(), Error> {
    let (now, id) = (connection.server_time_ms(), connection.quote_literal(id));
    let is_open = format!("EXISTS (SELECT 1 FROM botsctl_engine_run WHERE id = {id} AND outcome IS NULL)");
    let (sum, class, took) = (sum_of(outcome), bucket_for(took), milliseconds(took));
    let mut totals = vec![(sum.as_str(), "1".to_owned()), (&class, "1".to_owned()), (TOOK, took.to_string())];
    if outcome.is_complete_run() {
        totals.push((LAST_SUCCESS, format!("({now} - value)")));
    }
    let (outcome, code) = (outcome.as_str(), exit_code.map_or_else(|| "NULL".to_owned(), |code| code.to_string()));
    let statements = [
        increment_sql(&totals, &is_open),
        format!(
            "UPDATE botsctl_engine_run SET outcome = '{outcome}', ended = {now}, exit_code = {code}, took = {took} \
             WHERE id = {id} AND outcome IS NULL"
        ),
        format!(
            "DELETE FROM botsctl_engine_run WHERE started < (SELECT min(started) FROM \
             (SELECT started FROM botsctl_engine_run ORDER BY started DESC LIMIT {MAX_RUN_ROWS}) AS newest)"
        ),
    ];
    execute_in_transaction(connection, &statements)
        .await
        .map_err(|error| Error::failed("note the end of a run in", settings, &error))
}

/// A run did not get the lease.
///
/// # Errors
/// When the database refuses.
pub async fn add_busy(connection: &mut Connection, settings: &DatabaseConfig, waited: Duration) -> Result<(), Error> {
    ensure_totals(connection, settings).await?;
    let busy = sum_of(RunOutcome::Busy);
    let totals = increment_sql(&[(&busy, "1".to_owned()), (LEASE_WAIT, milliseconds(waited).to_string())], "1 = 1");
    connection.execute_batch(totals).await.map_err(|error| Error::failed("note a run in", settings, &error))
}

/// An `init-db` had something to do, and has done it or not.
///
/// # Errors
/// When the database refuses.
pub async fn add_initialisation(
    connection: &mut Connection,
    settings: &DatabaseConfig,
    is_success: bool,
) -> Result<(), Error> {
    let sum = increment_sql(&[(initialisation(is_success), "1".to_owned())], "1 = 1");
    connection.execute_batch(sum).await.map_err(|error| Error::failed("note what was done in", settings, &error))
}

/// Everything that was added up; nothing before the tables were made.
///
/// # Errors
/// When the database cannot be read.
pub async fn read(connection: &mut Connection) -> Result<Option<RunTotals>, sqlx::Error> {
    let rows = match connection.fetch_text("SELECT name, value FROM botsctl_counter").await {
        Err(error) if errors::is_missing_table(&error) => return Ok(None),
        rows => rows?,
    };
    let value = |wanted: &str| -> u64 {
        let row = rows.iter().find(|row| row.first().is_some_and(|name| name.as_deref() == Some(wanted)));
        row.and_then(|row| row.get(1)?.as_ref()?.parse().ok()).unwrap_or_default()
    };
    let span = |name: &str| Duration::from_millis(value(name));
    let last_success = value(LAST_SUCCESS);
    Ok(Some(RunTotals {
        runs: RunOutcome::ALL.map(|outcome| value(&sum_of(outcome))),
        classes: std::array::from_fn(|index| value(&class(DURATION_BUCKETS_S.get(index)))),
        took: span(TOOK),
        waited: span(LEASE_WAIT),
        recoveries: value(RECOVERIES),
        last_success: (last_success > 0).then(|| UNIX_EPOCH + Duration::from_millis(last_success)),
        initialisations: (value(initialisation(true)), value(initialisation(false))),
    }))
}

/// The names of all totals.
fn total_names() -> Vec<String> {
    let others = [LEASE_WAIT, RECOVERIES, TOOK, LAST_SUCCESS, initialisation(true), initialisation(false)];
    let runs = RunOutcome::ALL.map(sum_of).into_iter();
    let classes = (0..=DURATION_BUCKETS_S.len()).map(|index| class(DURATION_BUCKETS_S.get(index)));
    runs.chain(classes).chain(others.map(str::to_owned)).collect()
}

fn sum_of(outcome: RunOutcome) -> String {
    format!("run_{}", outcome.as_str())
}

fn bucket_for(took: Duration) -> String {
    class(DURATION_BUCKETS_S.iter().find(|end| took <= Duration::from_secs(u64::from(**end))))
}

fn class(end: Option<&u16>) -> String {
    end.map_or_else(|| LONGER.to_owned(), |end| format!("took_{end}"))
}

fn initialisation(is_success: bool) -> &'static str {
    if is_success { "init_success" } else { "init_failed" }
}

/// One statement that adds to several totals, where a condition holds.
fn increment_sql(changes: &[(&str, String)], condition: &str) -> String {
    let mut statement = "UPDATE botsctl_counter SET value = value + CASE name".to_owned();
    for (name, change) in changes {
        let _ = write!(statement, " WHEN '{name}' THEN {change}");
    }
    let names: Vec<String> = changes.iter().map(|(name, _)| format!("'{name}'")).collect();
    let _ = write!(statement, " ELSE 0 END WHERE name IN ({}) AND {condition}", names.join(", "));
    statement
}

fn milliseconds(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// All of them or none.
async fn execute_in_transaction(connection: &mut Connection, statements: &[String]) -> Result<(), sqlx::Error> {
    // SQLite would find out that another connection writes only at the end, when it is too late to wait.
    let begin = if matches!(connection, Connection::Sqlite(_)) { "BEGIN IMMEDIATE" } else { "BEGIN" };
    let done = connection.execute_batch(format!("{begin}; {}; COMMIT", statements.join("; "))).await;
    if done.is_err() {
        // It may have failed before it began, or the connection may be gone: then there is nothing to take back.
        let _ = connection.execute_batch("ROLLBACK").await;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::connect::{ConnectMode, connect};

    async fn database(dir: &tempfile::TempDir) -> (DatabaseConfig, Connection) {
        let settings = DatabaseConfig::Sqlite(dir.path().join("db"));
        let connection = connect(&settings, ConnectMode::Create).await.expect("opened");
        (settings, connection)
    }

    fn run(id: &str) -> RunRow<'_> {
        RunRow { id, holder: "pod's (process 1)", waited: Duration::from_millis(1500), recovers: id == "b" }
    }

    #[tokio::test]
    async fn each_run_counts_once_however_often_it_is_told() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (settings, mut on) = database(&dir).await;
        assert_eq!(read(&mut on).await.expect("read"), None);
        let ends = [
            ("a", RunOutcome::Success, Duration::from_millis(800)),
            ("b", RunOutcome::FileErrors, Duration::from_secs(7)),
            ("c", RunOutcome::Killed, Duration::from_secs(9000)),
        ];
        for (id, outcome, took) in ends {
            for _ in 0..2 {
                begin(&mut on, &settings, &run(id)).await.expect("begun");
            }
            for _ in 0..2 {
                end(&mut on, &settings, id, (outcome, Some(0)), took).await.expect("ended");
            }
        }
        add_busy(&mut on, &settings, Duration::from_millis(500)).await.expect("added");
        add_initialisation(&mut on, &settings, false).await.expect("added");
        let totals = read(&mut on).await.expect("read").expect("they are there");
        assert_eq!(totals.runs, [1, 1, 0, 1, 1, 0, 0]);
        assert_eq!(totals.classes, [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]);
        let spans = (totals.took, totals.waited);
        assert_eq!((spans, totals.recoveries), ((Duration::from_millis(9_007_800), Duration::from_secs(5)), 1));
        assert_eq!(totals.initialisations, (0, 1));
        let ago = SystemTime::now().duration_since(totals.last_success.expect("known")).expect("in the past");
        assert!(ago < Duration::from_secs(3600), "{ago:?}");
    }

    #[tokio::test]
    async fn a_run_that_never_told_its_end_is_counted_by_the_next() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (settings, mut on) = database(&dir).await;
        begin(&mut on, &settings, &run("a")).await.expect("begun");
        begin(&mut on, &settings, &run("c")).await.expect("begun");
        // One that was only slow to tell.
        end(&mut on, &settings, "a", (RunOutcome::LeaseLost, None), Duration::from_secs(1)).await.expect("ended");
        end(&mut on, &settings, "c", (RunOutcome::Success, Some(0)), Duration::from_secs(1)).await.expect("ended");
        let totals = read(&mut on).await.expect("read").expect("they are there");
        assert_eq!(totals.runs, [1, 0, 0, 0, 0, 0, 1]);
    }

    #[tokio::test]
    async fn old_rows_go_and_sums_stay() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (settings, mut on) = database(&dir).await;
        on.execute_batch("PRAGMA synchronous = OFF").await.expect("set");
        for number in 0..MAX_RUN_ROWS + 20 {
            let id = format!("{number:05}");
            begin(&mut on, &settings, &run(&id)).await.expect("begun");
            // Runs of the same millisecond are of the same age.
            let spread = format!("UPDATE botsctl_engine_run SET started = {number} WHERE id = '{id}'");
            on.execute_batch(spread).await.expect("changed");
            end(&mut on, &settings, &id, (RunOutcome::Success, Some(0)), Duration::ZERO).await.expect("ended");
        }
        let rows = on.fetch_value("SELECT count(*) FROM botsctl_engine_run").await.expect("counted");
        assert_eq!(rows, Some(MAX_RUN_ROWS.to_string()));
        let totals = read(&mut on).await.expect("read").expect("they are there");
        assert_eq!(totals.runs[0], MAX_RUN_ROWS as u64 + 20);
    }
}
