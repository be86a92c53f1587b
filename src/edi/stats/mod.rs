//! The results of EDI files, from Bots's tables. Read-only.
//!
//! `filereport` and `ta` have no index on route or state, and may contain millions of rows. So all queries use ranges
//! of the primary key: `idta` only grows, and rows of a finished run do not change. A [`EdiStatsReader`] remembers how
//! far it has read, adds new rows, and drops data older than a day.

mod accumulator;
pub mod model;
pub(super) mod sql_time;
mod utc_offset;

use super::failures::FailureReader;
use super::{failed, is_set, number_or_zero, runs, text_or_empty};
use crate::database::connect::{ConnectMode, connect};
use crate::database::query::{Connection, Row};
use crate::database::run_metrics;
use crate::database::{DatabaseConfig, Error, errors};
use accumulator::{EdiStatsAccumulator, RangeRows};
use model::{EdiStats, EngineRunStats, FileCounts, MAX_RUNS};
use sql_time::{TimeDialect, now};
use utc_offset::DjangoTimeZone;

/// Numbers of `idta` that one query covers: some tens of milliseconds for a server, at most.
const ROWS_PER_QUERY: i64 = 20_000;

/// Maximum number of such queries in one reading; it also limits how far back the first reading goes.
const QUERIES_PER_READ: i64 = 10;

/// Reads the statistics of a database repeatedly. Each reading adds the new rows to the counts of the last one.
#[derive(Debug)]
pub struct EdiStatsReader {
    settings: DatabaseConfig,
    zone: DjangoTimeZone,
    dialect: TimeDialect,
    accumulator: EdiStatsAccumulator,
    /// How far `ta` and `filereport` were read; `None` before the first time.
    read_to: Option<i64>,
    newest_run: i64,
    /// The runs as last read, with the known durations.
    runs: Vec<EngineRunStats>,
    failures: FailureReader,
}

/// The number up to which rows no longer change.
struct ReadHorizon {
    /// Newest number that was given.
    newest: i64,
    is_locked: bool,
    now: i64,
}

impl EdiStatsReader {
    /// Connects with each reading, and not in between: they are rare, and a server or a file may have been replaced.
    /// `time_zone` is Django's.
    pub fn new(settings: DatabaseConfig, time_zone: Option<&str>) -> Self {
        let zone = DjangoTimeZone::named(time_zone);
        let dialect = TimeDialect::of(&settings, zone.offsets(now()));
        let accumulator = EdiStatsAccumulator::default();
        let failures = FailureReader::default();
        Self { settings, zone, dialect, accumulator, read_to: None, newest_run: 0, runs: Vec::new(), failures }
    }

    /// Reads new rows; does nothing while another connection has locked the database. If it is cancelled, the next call
    /// continues where it stopped.
    ///
    /// # Errors
    /// If the database cannot be read, or was never initialized.
    pub async fn read(&mut self) -> Result<Option<EdiStats>, Error> {
        // The clocks may have been changed since the last time.
        self.dialect = TimeDialect::of(&self.settings, self.zone.offsets(now()));
        let mut connection = connect(&self.settings, ConnectMode::Probe).await?;
        let read = self.read_with(&mut connection).await;
        connection.close().await;
        match read {
            Ok(stats) => Ok(Some(stats)),
            Err(error) if errors::is_busy(&error) => Ok(None),
            Err(error) => Err(failed(&self.settings, &error)),
        }
    }

    async fn read_with(&mut self, connection: &mut Connection) -> Result<EdiStats, sqlx::Error> {
        let ReadHorizon { newest, is_locked, now } = self.horizon(connection).await?;
        let mut runs = self.runs(connection).await?;
        let all_routes = runs::read_routes(connection).await?;
        let active: Vec<String> =
            all_routes.iter().filter(|route| route.is_active).map(|route| route.name.clone()).collect();
        // While an engine runs, or has left its lock behind, what follows the newest report is still changing.
        let newest_run = runs.first().map_or(0, |run| run.id);
        let done_to = if is_locked { newest_run - 1 } else { newest }.max(0);
        if !is_locked {
            self.detect_restore(newest_run, done_to);
        }
        self.begin(done_to, now);
        self.read_new_rows(connection, done_to).await?;
        self.measure_durations(connection, &mut runs, done_to).await?;
        self.runs.clone_from(&runs);
        self.accumulator.forget(now);
        let totals = run_metrics::read(connection).await?;
        let failures = self.failures.read(connection, &runs, now).await?;
        let (routes, rest) = self.accumulator.routes(&active);
        Ok(EdiStats {
            runs,
            routes,
            rest,
            recent_since: self.accumulator.recent_since(now),
            counted_since: self.accumulator.counted_since,
            lost_runs: self.accumulator.lost_runs(),
            is_locked,
            totals,
            failures,
            all_routes,
        })
    }

    /// All three from one moment: if the lock is released, every run with one of these numbers has ended.
    async fn horizon(&self, connection: &mut Connection) -> Result<ReadHorizon, sqlx::Error> {
        let now = self.dialect.now();
        let query = format!("SELECT (SELECT MAX(idta) FROM ta), (SELECT COUNT(*) FROM mutex), {now}");
        let row = connection.fetch_text(query).await?.into_iter().next().unwrap_or_default();
        Ok(ReadHorizon {
            newest: number_or_zero(&row, 0),
            is_locked: number_or_zero::<i64>(&row, 1) > 0,
            now: number_or_zero(&row, 2),
        })
    }

    async fn runs(&self, connection: &mut Connection) -> Result<Vec<EngineRunStats>, sqlx::Error> {
        let started = self.dialect.seconds("ts");
        let query = format!(
            "SELECT idta, type, {started}, lastreceived, lastdone, lasterror, lastok + lastopen, send, processerrors, \
             CASE WHEN status THEN 1 ELSE 0 END, rsrv1 FROM report ORDER BY idta DESC LIMIT {MAX_RUNS}"
        );
        let rows = connection.fetch_text(query).await?;
        Ok(rows.iter().map(run).collect())
    }

    /// If the newest numbers are lower than at the last read, the database was restored from a backup: everything is
    /// read again.
    fn detect_restore(&mut self, newest_run: i64, done_to: i64) {
        if newest_run < self.newest_run && self.read_to.is_some_and(|read_to| done_to < read_to) {
            self.runs.clear();
            (self.accumulator, self.read_to) = (EdiStatsAccumulator::default(), None);
            self.failures = FailureReader::default();
        }
        self.newest_run = newest_run;
    }

    /// The first reading covers the recent past, which does not count in the totals.
    fn begin(&mut self, done_to: i64, now: i64) {
        if self.read_to.is_none() {
            self.read_to = Some((done_to - ROWS_PER_QUERY * QUERIES_PER_READ).max(0));
            self.accumulator.count_from(done_to, now);
        }
    }

    async fn read_new_rows(&mut self, connection: &mut Connection, done_to: i64) -> Result<(), sqlx::Error> {
        for _ in 0..QUERIES_PER_READ {
            let from = self.read_to.unwrap_or(done_to);
            if from >= done_to {
                return Ok(());
            }
            let to = done_to.min(from + ROWS_PER_QUERY).min(self.accumulator.range_limit(from));
            let rows = self.range(connection, from, to).await?;
            self.failures.add(connection, self.dialect, (from, to)).await?;
            self.accumulator.add(&rows, to);
            self.read_to = Some(to);
        }
        Ok(())
    }

    /// The rows after `from`, up to `to`.
    async fn range(&self, connection: &mut Connection, from: i64, to: i64) -> Result<RangeRows, sqlx::Error> {
        let range = range(from, to);
        let (hour, seconds) = (self.dialect.hour("ts"), self.dialect.seconds("ts"));
        let files = format!(
            "SELECT idroute, {hour}, statust, COUNT(*), MAX({seconds}), MAX(idta) FROM filereport \
             WHERE {range} GROUP BY 1, 2, 3"
        );
        // Sent files; and runs that are neither finished nor block the next one.
        let steps = format!(
            "SELECT idroute, {hour}, COUNT(CASE WHEN status = 520 THEN 1 END), COUNT(CASE WHEN status = 1 THEN 1 END) \
             FROM ta WHERE {range} AND (status = 520 AND statust = 3 OR status = 1 AND statust = 0 AND script = 0) \
             GROUP BY 1, 2"
        );
        Ok(RangeRows { files: connection.fetch_text(files).await?, steps: connection.fetch_text(steps).await? })
    }

    /// The durations of runs that are not known yet: from the first to the last of their steps. Runs without files have left
    /// none.
    async fn measure_durations(
        &self,
        connection: &mut Connection,
        runs: &mut [EngineRunStats],
        done_to: i64,
    ) -> Result<(), sqlx::Error> {
        let seconds = self.dialect.seconds("ts");
        let mut next = done_to + 1;
        let mut queries = Vec::new();
        for run in runs.iter_mut() {
            let (id, end) = (run.id, std::mem::replace(&mut next, run.id));
            let known = self.runs.iter().find(|known| (known.id, &known.kind) == (id, &run.kind));
            run.seconds = known.and_then(|known| known.seconds);
            let has_steps = run.files.received > 0 || run.process_errors > 0 || run.files.sent > 0;
            if run.seconds.is_none() && has_steps && id < end {
                let steps = format!("SELECT {seconds} FROM ta WHERE idta >= {id} AND idta < {end} ORDER BY idta");
                queries.push(format!("SELECT {id}, ABS(({steps} DESC LIMIT 1) - ({steps} ASC LIMIT 1))"));
            }
        }
        if !queries.is_empty() {
            for row in connection.fetch_text(queries.join(" UNION ALL ")).await? {
                if let Some(run) = runs.iter_mut().find(|run| run.id == number_or_zero::<i64>(&row, 0)) {
                    run.seconds = text_or_empty(&row, 1).parse().ok();
                }
            }
        }
        Ok(())
    }
}

/// After `from`, up to `to`.
fn range(from: i64, to: i64) -> String {
    format!("idta > {from} AND idta <= {to}")
}

fn run(row: &Row) -> EngineRunStats {
    EngineRunStats {
        id: number_or_zero(row, 0),
        kind: text_or_empty(row, 1),
        started: number_or_zero(row, 2),
        seconds: None,
        files: FileCounts {
            received: number_or_zero(row, 3),
            done: number_or_zero(row, 4),
            errors: number_or_zero(row, 5),
            stuck: number_or_zero(row, 6),
            sent: number_or_zero(row, 7),
        },
        process_errors: number_or_zero(row, 8),
        failed: is_set(row, 9),
        command_line: text_or_empty(row, 10),
    }
}
