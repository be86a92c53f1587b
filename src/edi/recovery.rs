//! Determines which engine run Bots has to recover.
//!
//! Bots recovers the newest run, and marks it as done before it begins. If that recovery is interrupted, the next one
//! recovers only the recovery, and the files of the original run are left behind permanently. So a row of
//! `botsctl_recovery` records the run that is being recovered; until it is done, interrupted recoveries are merged into
//! it, and Bots finds it as the newest run again.
//!
//! If the database fails during a run while its connection survives, the run exits without a report, and without the
//! row in `mutex` that makes Bots recover it. Its received files would be left behind as well.

use super::{failed, runs};
use crate::database::Error;
use crate::database::query::Connection;

/// The value of `mutexer` in `mutex` for an engine under the lease, as written by the hook of bots-ctl in that engine.
/// Bots leaves it at 0.
pub(crate) const OURS: u8 = 1;

/// How many recoveries of one run may end in failure. Further attempts would block all new files forever.
const FAILURES: u32 = 3;

/// Has Bots recover the newest run. Written before it is counted: a process that dies in between leaves one attempt
/// more, and abandons nothing.
const LOCK: &str = "INSERT INTO mutex (mutexk, mutexer) VALUES (1, 1)";

/// The newest run, if it failed before its end. Bots writes the report last, and omits it on an error. A run that had nothing
/// to do has none either, but no row for a file; of one that received nothing only the report is left. After a later report the
/// run was given up.
const FAILED: &str = "SELECT run.idta FROM ta run \
    WHERE run.idta = (SELECT MAX(idta) FROM ta WHERE script = 0) AND run.status = 1 \
    AND (run.statust IN (0, 1) OR EXISTS (SELECT 1 FROM ta WHERE ta.idta > run.idta AND ta.status <> 1)) \
    AND NOT EXISTS (SELECT 1 FROM report WHERE report.idta >= run.idta)";

/// The run whose recovery has begun and has no report of type crashrecovery yet. A report of another type does not
/// count: after a failed recovery Bots continues with the requested run.
const PENDING: &str = "SELECT begun.run FROM botsctl_recovery begun \
    WHERE EXISTS (SELECT 1 FROM ta WHERE ta.idta = begun.run AND ta.script = 0) \
    AND NOT EXISTS (SELECT 1 FROM report WHERE report.idta >= begun.run AND report.type = 'crashrecovery')";

/// The state of an earlier run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreviousRun {
    /// Nothing: it came to its end.
    Completed,
    /// The run was interrupted, and Bots will recover it.
    Interrupted,
    /// It failed before its end, and Bots will recover it.
    Failed,
    /// Its recoveries also failed, too often for another attempt.
    Abandoned {
        /// Its number.
        run: u64,
        /// How many recoveries failed.
        failures: u32,
    },
}

/// Finds an unfinished earlier run, and prepares the database so that Bots recovers it. Requires the engine lease.
///
/// # Errors
/// If the database cannot be read or written: then no engine may be started.
pub async fn check_previous_run(connection: &mut Connection) -> Result<PreviousRun, Error> {
    if runs::was_cut_off(connection).await? {
        return Ok(PreviousRun::Interrupted);
    }
    mark_for_recovery(connection).await.map_err(|error| failed(&connection.settings, &error))
}

/// Whether the last run, or the one that it was to recover, did not finish, so that the next run has to recover it.
pub async fn is_open(connection: &mut Connection) -> Result<bool, Error> {
    let query = format!(
        "SELECT 1 FROM mutex WHERE mutexk = 1 UNION ALL SELECT 1 FROM ({PENDING}) pending \
         UNION ALL SELECT 1 FROM ({FAILED}) failed"
    );
    let found = connection.fetch_value(query).await;
    Ok(found.map_err(|error| failed(&connection.settings, &error))?.is_some())
}

/// Makes a failed run look like an interrupted one.
async fn mark_for_recovery(connection: &mut Connection) -> Result<PreviousRun, sqlx::Error> {
    let begun = pending_recovery(connection).await?;
    if begun.is_none() && connection.fetch_value(FAILED).await?.is_none() {
        return Ok(PreviousRun::Completed);
    }
    let Some(run) = begun else { return connection.execute_batch(LOCK).await.map(|()| PreviousRun::Failed) };
    let failures = connection.fetch_value("SELECT failures FROM botsctl_recovery").await?;
    let failures = failures.and_then(|count| count.parse::<u32>().ok()).unwrap_or(0) + 1;
    if failures >= FAILURES {
        // Bots's own mark of a run that is open, which figures and status count as lost.
        connection.execute_batch(format!("UPDATE ta SET statust = 0 WHERE idta = {run}")).await?;
        connection.execute_batch("UPDATE botsctl_recovery SET run = 0, failures = 0").await?;
        return Ok(PreviousRun::Abandoned { run, failures });
    }
    connection.execute_batch(LOCK).await?;
    connection.execute_batch(format!("UPDATE botsctl_recovery SET failures = {failures}")).await?;
    Ok(PreviousRun::Failed)
}

/// Makes Bots recover everything that is unfinished. Requires the engine lease and an interrupted engine. Returns
/// whether an earlier recovery was also interrupted.
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
    let interrupted = pending_recovery(connection).await?.filter(|begun| *begun < newest);
    let statement = match interrupted {
        Some(begun) => format!("UPDATE ta SET script = {begun} WHERE script = 0 AND idta > {begun}"),
        // For the recovery that comes after this one.
        None => format!("UPDATE botsctl_recovery SET run = {newest}, failures = 0"),
    };
    connection.execute_batch(statement).await?;
    Ok(interrupted.is_some())
}

async fn pending_recovery(connection: &mut Connection) -> Result<Option<u64>, sqlx::Error> {
    Ok(connection.fetch_value(PENDING).await?.and_then(|number| number.parse().ok()))
}
