//! Which run of the engine Bots is to recover.
//!
//! Bots takes up the newest run and marks it as done before it has begun with it. When that recovery is cut off in turn,
//! the next one would take up the recovery, and the files of the run that it was for would stay behind for ever. So a
//! row of `botsctl_recovery` says which run is being recovered; until that has been done, recoveries that were cut off are
//! made a part of it, and Bots finds it as the newest one again.
//!
//! A run that the database fails, while its connection lives, ends by itself: without a report, and without the row in
//! `mutex` that Bots would recover it for. The files that it had taken would stay behind as well.

use super::{failed, runs};
use crate::database::query::Connection;
use crate::database::{DatabaseConfig, Error};

/// What `mutexer` of the row in `mutex` is for an engine that holds the lease, as the hook of bots-ctl in that engine writes it.
/// Bots itself leaves it at 0.
pub(crate) const OURS: u8 = 1;

/// How many recoveries of one run may end in failure. More of them would keep all that is new waiting for ever.
const FAILURES: u32 = 3;

/// Has Bots recover the newest run. Written before it is counted: a process that dies in between leaves one attempt
/// more, and abandons nothing.
const LOCK: &str = "INSERT INTO mutex (mutexk, mutexer) VALUES (1, 1)";

/// The newest run, if it failed before its end. Bots writes the report last, and passes over it when it cannot. A run that
/// had nothing to do has none either, but no row for a file; of one that received nothing only the report is left. After a
/// later report the run was given up.
const FAILED: &str = "SELECT run.idta FROM ta run \
    WHERE run.idta = (SELECT MAX(idta) FROM ta WHERE script = 0) AND run.status = 1 \
    AND (run.statust IN (0, 1) OR EXISTS (SELECT 1 FROM ta WHERE ta.idta > run.idta AND ta.status <> 1)) \
    AND NOT EXISTS (SELECT 1 FROM report WHERE report.idta >= run.idta)";

/// The state of an earlier run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreviousRun {
    /// Nothing: it came to its end.
    Completed,
    /// It was cut off, and Bots will recover it.
    Interrupted,
    /// It failed before its end, and Bots will recover it.
    Failed,
    /// Its recoveries failed as well, too often for another one.
    Abandoned {
        /// Its number.
        run: u64,
        /// How many recoveries failed.
        failures: u32,
    },
}

/// Looks for an earlier run that did not come to its end, and sees to it that Bots recovers it. Under the engine lease.
///
/// # Errors
/// When the database cannot be read or written: no engine may be started then.
pub async fn check_previous_run(connection: &mut Connection, settings: &DatabaseConfig) -> Result<PreviousRun, Error> {
    if runs::was_cut_off(connection, settings).await? {
        return Ok(PreviousRun::Interrupted);
    }
    mark_for_recovery(connection).await.map_err(|error| failed(settings, &error))
}

/// Whether the run that has just ended, or the one that it was to recover, did not come to its end: the next one has
/// something to recover.
pub async fn is_open(connection: &mut Connection, settings: &DatabaseConfig) -> Result<bool, Error> {
    if runs::was_cut_off(connection, settings).await? {
        return Ok(true);
    }
    let is_open =
        async { Ok(pending_recovery(connection).await?.is_some() || connection.fetch_value(FAILED).await?.is_some()) };
    is_open.await.map_err(|error| failed(settings, &error))
}

/// Makes a run that failed before its end look like one that was cut off.
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

/// Sees to it that Bots, about to recover, recovers everything that is not done. Under the engine lease, and only when
/// an engine was cut off. The answer is whether an earlier recovery was cut off, too.
///
/// # Errors
/// When the database cannot be read or written: no engine may be started then.
pub async fn prepare(connection: &mut Connection, settings: &DatabaseConfig) -> Result<bool, Error> {
    join_recoveries(connection).await.map_err(|error| failed(settings, &error))
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

/// The run whose recovery was begun and has not come to its end: then there would be a report of that type. One of another
/// type says nothing: Bots goes on with what it was asked for when a recovery has failed.
async fn pending_recovery(connection: &mut Connection) -> Result<Option<u64>, sqlx::Error> {
    const PENDING: &str = "SELECT begun.run FROM botsctl_recovery begun \
        WHERE EXISTS (SELECT 1 FROM ta WHERE ta.idta = begun.run AND ta.script = 0) \
        AND NOT EXISTS (SELECT 1 FROM report WHERE report.idta >= begun.run AND report.type = 'crashrecovery')";
    Ok(connection.fetch_value(PENDING).await?.and_then(|number| number.parse().ok()))
}
