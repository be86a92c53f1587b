//! Metrics of engine runs in the database, so that a pod that lasts can export those of a pod that has ended: a row for each
//! of the last runs, and counters.
//!
//! A run inserts its row when it begins and completes it when it ends. The next run, which holds the lease, finds the row of
//! an interrupted one. Every change may be repeated and counts once: a client that lost its connection before the answer
//! came tries again. The row of the lease changes in the same transactions: SQLite flushes four times for each.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::lease::row::LeaseKind;
use super::own_schema::{self, OwnTables};
use super::query::{Connection, number, text};
use super::{DatabaseConfig, Error, errors};

/// Rows of runs that are kept; the counters include all runs.
const MAX_RUN_ROWS: usize = 500;

/// The upper bounds of the duration buckets, in seconds. Starting Bots takes one second; a run of an hour probably
/// hangs.
pub const DURATION_BUCKETS_S: [u16; 10] = [1, 2, 5, 10, 30, 60, 180, 600, 1800, 3600];

// Counters; times are in milliseconds.
const LEASE_WAIT: &str = "lease_wait";
const RECOVERIES: &str = "recoveries";
const TOOK: &str = "took";
const TOOK_LONGER: &str = "took_longer";
/// The time of the last complete run, the one value that is replaced.
const LAST_SUCCESS: &str = "last_success";

/// The outcome of an engine run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunOutcome {
    /// Without errors.
    Success,
    /// Complete, and some files had errors.
    FileErrors,
    /// The engine failed.
    Failed,
    /// Not run: another engine held the lease.
    Busy,
    /// Ended by a signal.
    Killed,
    /// Killed since its lease was lost.
    LeaseLost,
    /// Its end was never recorded: its pod or node was gone first.
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

    /// Whether the engine processed all files.
    fn is_complete_run(self) -> bool {
        matches!(self, Self::Success | Self::FileErrors)
    }
}

/// A run that begins.
#[derive(Debug, Clone, Copy)]
pub struct RunRow<'a> {
    /// Its random name, which is that of its lease.
    pub id: &'a str,
    /// Pod and process.
    pub holder: &'a str,
    /// The time that it waited for the lease.
    pub waited: Duration,
    /// Whether Bots recovers an earlier run first.
    pub recovers: bool,
}

/// A run that has ended.
#[derive(Debug, Clone, Copy)]
pub struct RunEnd {
    pub outcome: RunOutcome,
    /// None without an engine.
    pub exit_code: Option<u8>,
    pub took: Duration,
    /// The number of the newest report that Bots has written for it; 0 without one.
    pub newest_report: u64,
}

/// All counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunTotals {
    /// Runs by outcome, in the order of [`RunOutcome::ALL`].
    pub runs: [u64; RunOutcome::ALL.len()],
    /// Runs that ended, by duration bucket; the last one has no upper bound.
    pub classes: [u64; DURATION_BUCKETS_S.len() + 1],
    /// The duration of these runs.
    pub took: Duration,
    /// The time that runs waited for the lease.
    pub waited: Duration,
    /// Runs that Bots began with a crash recovery.
    pub recoveries: u64,
    /// The end of the last complete run.
    pub last_success: Option<SystemTime>,
    /// Runs of `init-db` that changed the database.
    pub initialisations: u64,
    /// Runs of `init-db` that tried to change the database, and failed.
    pub failed_initialisations: u64,
}

/// Records the begin of a run that holds the lease.
///
/// # Errors
/// When the database refuses.
pub async fn begin(connection: &mut Connection, run: &RunRow<'_>) -> Result<(), Error> {
    own_schema::ensure(connection, OwnTables::RUN_METRICS).await?;
    let (now, waited, recovers) = (connection.server_time_ms(), milliseconds(run.waited), i64::from(run.recovers));
    let [id, holder] = [run.id, run.holder].map(|text| connection.quote_literal(text));
    let lease = connection
        .settings
        .is_sqlite()
        .then(|| LeaseKind::ENGINE.name_holder_statement(connection, run.id, run.holder));
    let interrupted = RunOutcome::Interrupted.as_str();
    let interrupt = format!(
        "UPDATE botsctl_engine_run SET outcome = '{interrupted}', ended = {now} WHERE outcome IS NULL AND id <> {id}"
    );
    let insert = format!(
        "INSERT INTO botsctl_engine_run (id, holder, started, lease_wait, recovered) \
         SELECT {id}, {holder}, {now}, {waited}, {recovers} FROM (SELECT 1) AS one \
         WHERE NOT EXISTS (SELECT 1 FROM botsctl_engine_run WHERE id = {id})"
    );
    let recorded = connection.in_transaction(async |connection| {
        if let Some(lease) = lease {
            connection.execute_batch(lease).await?;
        }
        let interrupted = i64::try_from(connection.execute(interrupt, &[]).await?).unwrap_or_default();
        let mut counts = vec![(outcome_counter(RunOutcome::Interrupted), interrupted)];
        if connection.execute(insert, &[]).await? > 0 {
            counts.extend([(LEASE_WAIT.to_owned(), waited), (RECOVERIES.to_owned(), recovers)]);
        }
        count(connection, &counts).await
    });
    recorded.await.map_err(|error| connection.settings.failed("record a run in", &error))
}

/// Records the end of a run, and releases its lease. A run with a report needs no recovery any more.
///
/// # Errors
/// When the database refuses.
pub async fn end(connection: &mut Connection, id: &str, end: RunEnd) -> Result<(), Error> {
    let RunEnd { outcome, exit_code, took, newest_report } = end;
    let (now, quoted_id, ms) = (connection.server_time_ms(), connection.quote_literal(id), milliseconds(took));
    let code = exit_code.map_or_else(|| "NULL".to_owned(), |code| code.to_string());
    let update = format!(
        "UPDATE botsctl_engine_run SET outcome = '{}', ended = {now}, exit_code = {code}, took = {ms} \
         WHERE id = {quoted_id} AND outcome IS NULL",
        outcome.as_str()
    );
    let release = LeaseKind::ENGINE.release_statement(connection, id);
    let last_success = format!("UPDATE botsctl_counter SET value = {now} WHERE name = '{LAST_SUCCESS}'");
    let prune = format!(
        "DELETE FROM botsctl_engine_run WHERE started < (SELECT min(started) FROM \
         (SELECT started FROM botsctl_engine_run ORDER BY started DESC LIMIT {MAX_RUN_ROWS}) AS newest)"
    );
    let finish = format!("UPDATE botsctl_recovery SET finished = {newest_report} WHERE finished < {newest_report}");
    let bucket = DURATION_BUCKETS_S.iter().find(|bound| took <= Duration::from_secs(u64::from(**bound)));
    let recorded = connection.in_transaction(async |connection| {
        if connection.execute(update, &[]).await? > 0 {
            let counts = [(outcome_counter(outcome), 1), (bucket_counter(bucket), 1), (TOOK.to_owned(), ms)];
            count(connection, &counts).await?;
            if outcome.is_complete_run() {
                count(connection, &[(LAST_SUCCESS.to_owned(), 0)]).await?;
                connection.execute_batch(last_success).await?;
            }
        }
        connection.execute_batch(format!("{prune}; {finish}; {release}")).await
    });
    recorded.await.map_err(|error| connection.settings.failed("record the end of a run in", &error))
}

/// Counts a run that did not get the lease.
///
/// # Errors
/// When the database refuses.
pub async fn add_busy(connection: &mut Connection, waited: Duration) -> Result<(), Error> {
    own_schema::ensure(connection, OwnTables::RUN_METRICS).await?;
    let counts = [(outcome_counter(RunOutcome::Busy), 1), (LEASE_WAIT.to_owned(), milliseconds(waited))];
    count(connection, &counts).await.map_err(|error| connection.settings.failed("count a run in", &error))
}

/// Counts an `init-db` that changed the database or tried to.
///
/// # Errors
/// When the database refuses.
pub async fn add_initialisation(connection: &mut Connection, is_success: bool) -> Result<(), Error> {
    let counted = count(connection, &[(init_counter(is_success).to_owned(), 1)]).await;
    counted.map_err(|error| connection.settings.failed("count init-db in", &error))
}

/// Reads the counters; none before the tables exist.
///
/// # Errors
/// When the database cannot be read.
pub async fn read(connection: &mut Connection) -> Result<Option<RunTotals>, sqlx::Error> {
    let rows = match connection.fetch_text("SELECT name, value FROM botsctl_counter").await {
        Err(error) if errors::is_missing_table(&error) => return Ok(None),
        rows => rows?,
    };
    let counters: BTreeMap<String, u64> =
        rows.iter().filter_map(|row| Some((text(row, 0)?, number(row, 1)?))).collect();
    let value = |name: &str| counters.get(name).copied().unwrap_or_default();
    let last_success = Duration::from_millis(value(LAST_SUCCESS));
    Ok(Some(RunTotals {
        runs: RunOutcome::ALL.map(|outcome| value(&outcome_counter(outcome))),
        classes: std::array::from_fn(|index| value(&bucket_counter(DURATION_BUCKETS_S.get(index)))),
        took: Duration::from_millis(value(TOOK)),
        waited: Duration::from_millis(value(LEASE_WAIT)),
        recoveries: value(RECOVERIES),
        last_success: (!last_success.is_zero()).then(|| UNIX_EPOCH + last_success),
        initialisations: value(init_counter(true)),
        failed_initialisations: value(init_counter(false)),
    }))
}

fn outcome_counter(outcome: RunOutcome) -> String {
    format!("run_{}", outcome.as_str())
}

fn bucket_counter(bound: Option<&u16>) -> String {
    bound.map_or_else(|| TOOK_LONGER.to_owned(), |bound| format!("{TOOK}_{bound}"))
}

fn init_counter(is_success: bool) -> &'static str {
    if is_success { "init_success" } else { "init_failed" }
}

/// Adds to several counters in one statement, which creates missing ones.
async fn count(connection: &mut Connection, counts: &[(String, i64)]) -> Result<(), sqlx::Error> {
    let rows: Vec<String> = counts.iter().map(|(name, more)| format!("('{name}', {more})")).collect();
    let on_conflict = match connection.settings {
        DatabaseConfig::Mysql(_) => "DUPLICATE KEY UPDATE value = value + VALUES(value)",
        DatabaseConfig::Sqlite(_) | DatabaseConfig::Postgres(_) => {
            "CONFLICT (name) DO UPDATE SET value = botsctl_counter.value + excluded.value"
        }
    };
    let statement = format!("INSERT INTO botsctl_counter (name, value) VALUES {} ON {on_conflict}", rows.join(", "));
    connection.execute_batch(statement).await
}

fn milliseconds(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::connect::{ConnectMode, connect};

    async fn database(dir: &tempfile::TempDir) -> Connection {
        let settings = DatabaseConfig::Sqlite(dir.path().join("db"));
        let mut connection = connect(&settings, ConnectMode::Create).await.expect("opened");
        for tables in [OwnTables::LEASE, OwnTables::RECOVERY] {
            own_schema::ensure(&mut connection, tables).await.expect("created");
        }
        connection
    }

    #[tokio::test]
    async fn lease_row_names_holder_of_last_run_until_its_end() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut on = database(&dir).await;
        let holder = async |on: &mut Connection| {
            let holder = LeaseKind::ENGINE.read(on).await.expect("read").expect("there");
            (holder.owner, holder.name, holder.released)
        };
        let name = "pod's (process 1)".to_owned();
        for id in ["a", "b"] {
            begin(&mut on, &run(id)).await.expect("begun");
            assert_eq!(holder(&mut on).await, (id.to_owned(), name.clone(), false));
        }
        // The run before, which records its end late, releases nothing.
        for (id, released) in [("a", false), ("b", true)] {
            end(&mut on, id, ended(RunOutcome::Success, Duration::ZERO)).await.expect("ended");
            assert_eq!(holder(&mut on).await, ("b".to_owned(), name.clone(), released), "{id}");
        }
    }

    fn ended(outcome: RunOutcome, took: Duration) -> RunEnd {
        RunEnd { outcome, exit_code: Some(0), took, newest_report: 0 }
    }

    fn run(id: &str) -> RunRow<'_> {
        RunRow { id, holder: "pod's (process 1)", waited: Duration::from_millis(1500), recovers: id == "b" }
    }

    #[tokio::test]
    async fn each_run_counts_once_despite_repeated_records() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut on = database(&dir).await;
        assert_eq!(read(&mut on).await.expect("read"), None);
        let ends = [
            ("a", RunOutcome::Success, Duration::from_millis(800)),
            ("b", RunOutcome::FileErrors, Duration::from_secs(7)),
            ("c", RunOutcome::Killed, Duration::from_secs(9000)),
        ];
        for (id, outcome, took) in ends {
            for _ in 0..2 {
                begin(&mut on, &run(id)).await.expect("begun");
            }
            for _ in 0..2 {
                end(&mut on, id, ended(outcome, took)).await.expect("ended");
            }
        }
        add_busy(&mut on, Duration::from_millis(500)).await.expect("added");
        add_initialisation(&mut on, false).await.expect("added");
        let totals = read(&mut on).await.expect("read").expect("they are there");
        assert_eq!(totals.runs, [1, 1, 0, 1, 1, 0, 0]);
        assert_eq!(totals.classes, [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]);
        let spans = (totals.took, totals.waited);
        assert_eq!((spans, totals.recoveries), ((Duration::from_millis(9_007_800), Duration::from_secs(5)), 1));
        assert_eq!((totals.initialisations, totals.failed_initialisations), (0, 1));
        let ago = SystemTime::now().duration_since(totals.last_success.expect("known")).expect("in the past");
        assert!(ago < Duration::from_secs(3600), "{ago:?}");
    }

    #[tokio::test]
    async fn next_run_counts_run_without_recorded_end() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut on = database(&dir).await;
        begin(&mut on, &run("a")).await.expect("begun");
        begin(&mut on, &run("c")).await.expect("begun");
        // One that records its end late.
        end(&mut on, "a", ended(RunOutcome::LeaseLost, Duration::from_secs(1))).await.expect("ended");
        end(&mut on, "c", ended(RunOutcome::Success, Duration::from_secs(1))).await.expect("ended");
        let totals = read(&mut on).await.expect("read").expect("they are there");
        assert_eq!(totals.runs, [1, 0, 0, 0, 0, 0, 1]);
    }

    #[tokio::test]
    async fn old_rows_are_removed_and_counters_stay() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut on = database(&dir).await;
        on.execute_batch("PRAGMA synchronous = OFF").await.expect("set");
        for number in 0..MAX_RUN_ROWS + 20 {
            let id = format!("{number:05}");
            begin(&mut on, &run(&id)).await.expect("begun");
            // Runs of the same millisecond are of the same age.
            let spread = format!("UPDATE botsctl_engine_run SET started = {number} WHERE id = '{id}'");
            on.execute_batch(spread).await.expect("changed");
            end(&mut on, &id, ended(RunOutcome::Success, Duration::ZERO)).await.expect("ended");
        }
        let rows = on.fetch_value("SELECT count(*) FROM botsctl_engine_run").await.expect("counted");
        assert_eq!(rows, Some(MAX_RUN_ROWS.to_string()));
        let totals = read(&mut on).await.expect("read").expect("they are there");
        assert_eq!(totals.runs[0], MAX_RUN_ROWS as u64 + 20);
    }
}
