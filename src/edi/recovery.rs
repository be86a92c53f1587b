//! Determines which engine run Bots has to recover.
//!
//! Bots recovers the newest run, and marks it as done before it begins. If that recovery is interrupted, the next one
//! recovers only the recovery, and the files of the original run are left behind permanently. So a row of
//! `botsctl_recovery` records the run that is being recovered; until it is done, interrupted recoveries are merged into
//! it, and Bots finds it as the newest run again.
//!
//! If the database fails during a run while its connection survives, the run exits without a report, and without the
//! row in `mutex` that makes Bots recover it. Its received files would be left behind as well.

use super::{failed, number_or_zero};
use crate::database::Error;
use crate::database::query::Connection;

/// The value of `mutexer` in `mutex` for an engine under the lease, as written by the hook of bots-ctl in that engine.
/// Bots leaves it at 0.
pub(crate) const OURS: u8 = 1;

/// How many recoveries of one run may fail. Further attempts would block all new files forever.
const MAX_FAILED_RECOVERIES: u32 = 3;

/// How many recoveries of one run may be killed. Most are killed for reasons that are none of the run's, such as the drain
/// of a node, but a file for which the engine runs out of memory would block all new files forever as well.
const MAX_KILLED_RECOVERIES: u32 = 10;

/// Has Bots recover the newest run. Written before it is counted: a process that dies in between leaves one attempt
/// more, and abandons nothing.
const INSERT_MUTEX_ROW: &str = "INSERT INTO mutex (mutexk, mutexer) VALUES (1, 1)";

/// The newest run, if it failed before its end. Bots writes the report last, and omits it on an error. A run that had nothing
/// to do has none either, but no row for a file; of one that received nothing only the report is left. After a later report the
/// run was given up. The report of a finished run may be deleted.
const FAILED_RUN: &str = "SELECT run.idta FROM ta run \
    WHERE run.idta = (SELECT MAX(idta) FROM ta WHERE script = 0) AND run.status = 1 \
    AND run.idta > (SELECT finished FROM botsctl_recovery) \
    AND (run.statust IN (0, 1) OR EXISTS (SELECT 1 FROM ta WHERE ta.idta > run.idta AND ta.status <> 1)) \
    AND NOT EXISTS (SELECT 1 FROM report WHERE report.idta >= run.idta)";

/// The run whose recovery has begun and has no report of type crashrecovery yet. A report of another type does not
/// count: after a failed recovery Bots continues with the requested run.
const PENDING: &str = "SELECT begun.run, begun.attempts, begun.failures FROM botsctl_recovery begun \
    WHERE EXISTS (SELECT 1 FROM ta WHERE ta.idta = begun.run AND ta.script = 0) \
    AND NOT EXISTS (SELECT 1 FROM report WHERE report.idta >= begun.run AND report.type = 'crashrecovery')";

/// A recovery that has begun and not finished.
#[derive(Debug, Clone, Copy)]
struct PendingRecovery {
    run: u64,
    attempts: u32,
    /// The attempts that ended without a report. The engines of the others were killed.
    failures: u32,
}

/// The state of an earlier run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreviousRun {
    /// Nothing: it came to its end.
    Completed,
    /// The run was interrupted, and Bots will recover it.
    Interrupted,
    /// It failed before its end, and Bots will recover it.
    Failed,
    /// Its recoveries failed or were killed too often for another attempt.
    Abandoned {
        /// Its number.
        run: u64,
        /// How many recoveries failed.
        failures: u32,
        /// How many recoveries were killed.
        kills: u32,
    },
}

/// Records the runs that have finished, and a recovery that has: a report that is deleted later, in the web UI or by Bots,
/// begins no recovery again. Requires the engine lease.
///
/// # Errors
/// If the database cannot be written.
pub async fn record_finished(connection: &mut Connection) -> Result<(), Error> {
    const CLOSE: &str = "UPDATE botsctl_recovery SET run = 0, attempts = 0, failures = 0 WHERE run > 0 AND EXISTS \
        (SELECT 1 FROM report WHERE report.idta >= botsctl_recovery.run AND report.type = 'crashrecovery')";
    // A number that no run has reached is of tables that were emptied or restored since.
    const FINISH: &str = "UPDATE botsctl_recovery SET finished = COALESCE((SELECT MAX(idta) FROM report), 0) \
        WHERE finished < (SELECT MAX(idta) FROM report) OR finished > COALESCE((SELECT MAX(idta) FROM ta), 0)";
    let recorded = connection.execute_batch(format!("{CLOSE}; {FINISH}")).await;
    recorded.map_err(|error| connection.settings.failed("record finished runs in", &error))
}

/// Finds an unfinished earlier run, and prepares the database so that Bots recovers it. Requires the engine lease.
///
/// # Errors
/// If the database cannot be read or written: then no engine may be started.
pub async fn check_previous_run(connection: &mut Connection) -> Result<PreviousRun, Error> {
    mark_for_recovery(connection).await.map_err(|error| failed(&connection.settings, &error))
}

/// Whether the last run, or the one that it was to recover, did not finish, so that the next run has to recover it.
///
/// # Errors
/// If the database cannot be read.
pub async fn is_open(connection: &mut Connection) -> Result<bool, Error> {
    let query = format!(
        "SELECT 1 FROM mutex WHERE mutexk = 1 UNION ALL SELECT 1 FROM ({PENDING}) pending \
         UNION ALL SELECT 1 FROM ({FAILED_RUN}) failed"
    );
    let found = connection.fetch_value(query).await;
    Ok(found.map_err(|error| failed(&connection.settings, &error))?.is_some())
}

/// Makes a failed run look like an interrupted one.
async fn mark_for_recovery(connection: &mut Connection) -> Result<PreviousRun, sqlx::Error> {
    // Only an orderly exit of the engine deletes this row.
    let is_interrupted = connection.fetch_value("SELECT 1 FROM mutex WHERE mutexk = 1").await?.is_some();
    let Some(PendingRecovery { run, attempts, failures }) = pending_recovery(connection).await? else {
        if is_interrupted {
            return Ok(PreviousRun::Interrupted);
        }
        if connection.fetch_value(FAILED_RUN).await?.is_none() {
            return Ok(PreviousRun::Completed);
        }
        return connection.execute_batch(INSERT_MUTEX_ROW).await.map(|()| PreviousRun::Failed);
    };
    let failures = failures + u32::from(!is_interrupted);
    let kills = attempts.saturating_sub(failures);
    if failures >= MAX_FAILED_RECOVERIES || kills >= MAX_KILLED_RECOVERIES {
        abandon(connection, run).await?;
        return Ok(PreviousRun::Abandoned { run, failures, kills });
    }
    if is_interrupted {
        return Ok(PreviousRun::Interrupted);
    }
    connection.execute_batch(INSERT_MUTEX_ROW).await?;
    connection.execute_batch(format!("UPDATE botsctl_recovery SET failures = {failures}")).await?;
    Ok(PreviousRun::Failed)
}

/// Has neither bots-ctl nor Bots recover the run any more.
async fn abandon(connection: &mut Connection, run: u64) -> Result<(), sqlx::Error> {
    let statements = [
        // A recovery that was killed is a part of the run, as in `join_recoveries`.
        format!("UPDATE ta SET script = {run} WHERE script = 0 AND idta > {run} AND status = 1 AND statust = 0"),
        // Bots's own mark of a run that is open, which figures and status count as lost.
        format!("UPDATE ta SET statust = 0 WHERE idta = {run}"),
        "DELETE FROM mutex WHERE mutexk = 1".to_owned(),
        "UPDATE botsctl_recovery SET run = 0, attempts = 0, failures = 0, \
         finished = (SELECT MAX(idta) FROM ta WHERE script = 0)"
            .to_owned(),
    ];
    connection.execute_in_transaction(&statements).await
}

/// Makes Bots recover everything that is unfinished, and counts the attempt. Requires the engine lease and an interrupted
/// engine. Returns whether an earlier recovery did not finish.
///
/// # Errors
/// If the database cannot be read or written: then no engine may be started.
pub async fn prepare(connection: &mut Connection) -> Result<bool, Error> {
    join_recoveries(connection).await.map_err(|error| failed(&connection.settings, &error))
}

async fn join_recoveries(connection: &mut Connection) -> Result<bool, sqlx::Error> {
    // From here on the run is that of a holder of the lease, whatever engine began it.
    connection.execute_batch(format!("UPDATE mutex SET mutexer = {OURS} WHERE mutexk = 1")).await?;
    let newest = connection.fetch_value("SELECT MAX(idta) FROM ta WHERE script = 0").await?;
    let Some(newest) = newest.and_then(|number| number.parse::<u64>().ok()) else { return Ok(false) };
    let pending = pending_recovery(connection).await?;
    let statements = match pending {
        Some(PendingRecovery { run, .. }) => format!(
            "UPDATE ta SET script = {run} WHERE script = 0 AND idta > {run}; \
             UPDATE botsctl_recovery SET attempts = attempts + 1"
        ),
        // For the recovery that comes after this one.
        None => format!("UPDATE botsctl_recovery SET run = {newest}, attempts = 1, failures = 0"),
    };
    connection.execute_batch(statements).await?;
    Ok(pending.is_some())
}

async fn pending_recovery(connection: &mut Connection) -> Result<Option<PendingRecovery>, sqlx::Error> {
    let rows = connection.fetch_text(PENDING).await?;
    Ok(rows.first().map(|row| PendingRecovery {
        run: number_or_zero(row, 0),
        attempts: number_or_zero(row, 1),
        failures: number_or_zero(row, 2),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::DatabaseConfig;
    use crate::database::connect::{ConnectMode, connect};
    use crate::database::own_schema::{self, OwnTables};

    /// The tables as Bots leaves them after a run whose database failed: rows of the run and of a file, and no report.
    const FAILED: &str = "CREATE TABLE ta (idta INTEGER, script INTEGER, status INTEGER, statust INTEGER); \
        CREATE TABLE report (idta INTEGER, type TEXT); CREATE TABLE mutex (mutexk INTEGER, mutexer INTEGER); \
        INSERT INTO ta VALUES (5, 0, 1, 0), (6, 5, 220, 3)";

    #[tokio::test]
    async fn failed_run_is_found_in_tables_that_were_emptied_since() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let settings = DatabaseConfig::Sqlite(dir.path().join("db"));
        let mut on = connect(&settings, ConnectMode::Create).await.expect("opened");
        own_schema::ensure(&mut on, OwnTables::RECOVERY).await.expect("created");
        on.execute_batch(FAILED).await.expect("created");
        on.execute_batch("UPDATE botsctl_recovery SET finished = 70").await.expect("set");
        assert!(!is_open(&mut on).await.expect("read"), "of an earlier numbering");
        record_finished(&mut on).await.expect("recorded");
        assert!(is_open(&mut on).await.expect("read"));
        on.execute_batch("INSERT INTO report VALUES (5, 'new')").await.expect("added");
        record_finished(&mut on).await.expect("recorded");
        on.execute_batch("DELETE FROM report").await.expect("deleted");
        record_finished(&mut on).await.expect("recorded");
        assert!(!is_open(&mut on).await.expect("read"), "its report was deleted");
    }
}
