//! The rows of the job queue. All changes use the session that holds the lock, so a queue that has lost the lock cannot
//! change any row.
//!
//! A vanished node leaves a session behind that the server considers alive. So the active queue writes heartbeats to a
//! row of botsctl_lease, and a standby terminates a session whose row has expired.

pub mod failures;
mod job;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{info, warn};

use super::advisory_lock::{LockName, LockSession};
use super::lease::row::{Claim, Claimable, LeaseKind};
use super::lease::stale_session::StaleSession;
use super::own_schema::{self, OwnTables};
use super::query::Param::{Integer, OptionalInteger, Text};
use super::query::{Connection, Param, Row, number, text};
use super::retry::with_timeout;
use super::{DatabaseConfig, Error};
use crate::model::LATEST_JOB;
pub use job::{AddOutcome, Job, JobResult, NewJob, QueuedJob, WaitingJobs};

/// Time between two attempts of a standby.
const RETRY: Duration = Duration::from_millis(250);

/// Jobs that are listed at most.
const MAX_LISTED_JOBS: u32 = 200;

/// The number of the job that waits longest. Numbers grow with time, and an index has those of the waiting jobs.
const OLDEST_WAITING: &str = "(SELECT min(number) FROM botsctl_job WHERE state = 'waiting')";

/// The columns that [`job()`] reads, but for the output.
const JOB_COLUMNS: &str = "number, state, priority, task, submitted, started, ended, attempts, exit_code";

/// The rows, and the right to change them.
pub struct JobStore {
    session: LockSession,
    owner: String,
    last_number: i64,
}

impl JobStore {
    /// Waits for the right to change the rows, and creates a missing table. Notifies `connected` when only another
    /// active queue is left to wait for. `owner` is a unique name of this process.
    ///
    /// # Errors
    /// If the database cannot be used.
    pub async fn open(settings: &DatabaseConfig, owner: &str, connected: &Notify) -> Result<Self, Error> {
        let mut session = LockSession::open(settings, LockName::JobQueue).await?;
        connected.notify_one();
        if settings.is_sqlite() {
            with_timeout(settings, keep_sqlite_journal(&mut session.connection)).await?;
        }
        for tables in [OwnTables::LEASE, OwnTables::JOBS] {
            with_timeout(settings, own_schema::ensure(&mut session.connection, tables)).await?;
        }
        become_active(settings, &mut session, owner).await?;
        session.reject_transaction_pooler(Duration::ZERO).await?;
        let newest = session.connection.select("read", "SELECT max(number) FROM botsctl_job", &[]);
        let newest = with_timeout(settings, newest).await?;
        let last_number = newest.first().and_then(|row| number(row, 0)).unwrap_or(0);
        Ok(Self { session, owner: owner.to_owned(), last_number })
    }

    /// Shows standbys that this queue is alive. With SQLite the lock alone shows it.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn heartbeat(&mut self) -> Result<(), Error> {
        if self.session.connection.settings.is_sqlite() {
            return Ok(());
        }
        LeaseKind::JOB_QUEUE.heartbeat(&mut self.session.connection, &self.owner).await
    }

    /// Adds jobs: all of them or none.
    ///
    /// # Errors
    /// When the database refuses; then no job is added.
    pub async fn add(&mut self, jobs: &[NewJob], now: i64) -> Result<Vec<AddOutcome>, Error> {
        let last = self.last_number;
        let added = add_all(&mut self.session.connection, jobs, last, now).await;
        let (added, last_number) =
            added.map_err(|error| self.session.connection.settings.failed("add a job to", &error))?;
        self.last_number = last_number;
        Ok(added)
    }

    /// The job that is first in line.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn first(&mut self) -> Result<Option<QueuedJob>, Error> {
        const FIRST: &str = "SELECT number, priority, task, attempts FROM botsctl_job WHERE state = 'waiting' \
             ORDER BY priority, number LIMIT 1";
        Ok(self.rows(FIRST, &[]).await?.iter().find_map(waiting))
    }

    /// All waiting jobs, the first in line first.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn list(&mut self) -> Result<Vec<QueuedJob>, Error> {
        const ALL: &str = "SELECT number, priority, task, attempts FROM botsctl_job WHERE state = 'waiting' \
             ORDER BY priority, number";
        Ok(self.rows(ALL, &[]).await?.iter().filter_map(waiting).collect())
    }

    /// The number of waiting jobs, and the time when the oldest was submitted.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn count(&mut self) -> Result<WaitingJobs, Error> {
        let query = format!(
            "SELECT count(*), (SELECT submitted FROM botsctl_job WHERE number = {OLDEST_WAITING}) \
             FROM botsctl_job WHERE state = 'waiting'"
        );
        let rows = self.rows(&query, &[]).await?;
        let counted = |row: &Row| WaitingJobs { count: number(row, 0).unwrap_or(0), oldest: number(row, 1) };
        Ok(rows.first().map(counted).unwrap_or_default())
    }

    /// Removes all waiting jobs; returns how many.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn clear(&mut self) -> Result<u64, Error> {
        self.change("remove jobs from", "DELETE FROM botsctl_job WHERE state = 'waiting'", &[]).await
    }

    /// Records the start of a job.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn start(&mut self, number: i64, now: i64) -> Result<(), Error> {
        const START: &str = "UPDATE botsctl_job SET state = 'running', started = ?, ended = NULL, exit_code = NULL, \
             attempts = attempts + 1, owner = ? WHERE number = ? AND state = 'waiting'";
        let owner = self.owner.clone();
        self.change("start a job of", START, &[Integer(now), Text(&owner), Integer(number)]).await.map(|_| ())
    }

    /// Records the end of a job, unless another queue has taken it over.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn end(&mut self, number: i64, result: &JobResult) -> Result<(), Error> {
        const END: &str = "UPDATE botsctl_job SET state = ?, ended = ?, exit_code = ?, output = ? \
             WHERE number = ? AND owner = ? AND state = 'running'";
        let (state, owner) = (if result.is_success { "done" } else { "failed" }, self.owner.clone());
        let result = [Text(state), Integer(result.ended), OptionalInteger(result.exit_code), Text(&result.output)];
        let arguments = [&result[..], &[Integer(number), Text(&owner)]].concat();
        self.change("end a job of", END, &arguments).await.map(|_| ())
    }

    /// Returns a running job to its position in the queue, without counting its start as an attempt.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn postpone(&mut self, number: i64) -> Result<(), Error> {
        const POSTPONE: &str = "UPDATE botsctl_job SET state = 'waiting', started = NULL, owner = NULL, \
             attempts = attempts - 1 WHERE number = ? AND state = 'running'";
        self.change("requeue a job of", POSTPONE, &[Integer(number)]).await.map(|_| ())
    }

    /// Returns an interrupted job to its position in the queue.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn requeue(&mut self, number: i64) -> Result<(), Error> {
        const REQUEUE: &str = "UPDATE botsctl_job SET state = 'waiting', started = NULL, owner = NULL \
             WHERE number = ? AND state = 'running'";
        self.change("requeue a job of", REQUEUE, &[Integer(number)]).await.map(|_| ())
    }

    /// Makes this process the owner of a job that runs here; the queue that was active meanwhile had become its owner.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn reclaim(&mut self, number: i64) -> Result<(), Error> {
        const RECLAIM: &str = "UPDATE botsctl_job SET owner = ? WHERE number = ? AND state = 'running'";
        let owner = self.owner.clone();
        self.change("take over a job of", RECLAIM, &[Text(&owner), Integer(number)]).await.map(|_| ())
    }

    /// The numbers of all jobs that run, according to the table, each with its attempts.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn running(&mut self) -> Result<Vec<(i64, i64)>, Error> {
        let rows = self.rows("SELECT number, attempts FROM botsctl_job WHERE state = 'running'", &[]).await?;
        Ok(rows.iter().filter_map(|row| Some((number(row, 0)?, number(row, 1)?))).collect())
    }

    /// A job in any state, or the newest one.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn show(&mut self, number: i64) -> Result<Option<Job>, Error> {
        let latest = "(SELECT max(number) FROM botsctl_job)";
        let (which, arguments): (&str, &[Param<'_>]) =
            if number == i64::from(LATEST_JOB) { (latest, &[]) } else { ("?", &[Integer(number)]) };
        let query = format!("SELECT {JOB_COLUMNS}, output FROM botsctl_job WHERE number = {which}");
        Ok(self.rows(&query, arguments).await?.iter().find_map(job))
    }

    /// The newest jobs in any state, or only failed ones, newest first, without their output.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn history(&mut self, only_failed: bool) -> Result<Vec<Job>, Error> {
        let failed = if only_failed { "WHERE state = 'failed'" } else { "" };
        let query =
            format!("SELECT {JOB_COLUMNS} FROM botsctl_job {failed} ORDER BY number DESC LIMIT {MAX_LISTED_JOBS}");
        Ok(self.rows(&query, &[]).await?.iter().filter_map(job).collect())
    }

    /// Deletes finished jobs except the newest ones.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn prune(&mut self, keep: i64) -> Result<(), Error> {
        const OLDEST: &str = "SELECT number FROM botsctl_job WHERE state IN ('done', 'failed') \
             ORDER BY number DESC LIMIT 1 OFFSET ?";
        const PRUNE: &str = "DELETE FROM botsctl_job WHERE state IN ('done', 'failed') AND number <= ?";
        let rows = self.rows(OLDEST, &[Integer(keep)]).await?;
        let Some(oldest) = rows.first().and_then(|row| number(row, 0)) else { return Ok(()) };
        self.change("remove jobs from", PRUNE, &[Integer(oldest)]).await.map(|_| ())
    }

    async fn change(&mut self, action: &str, statement: &str, arguments: &[Param<'_>]) -> Result<u64, Error> {
        self.session.connection.change(action, statement, arguments).await
    }

    async fn rows(&mut self, query: &str, arguments: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        self.session.connection.select("read", query, arguments).await
    }
}

/// Makes SQLite overwrite its journal instead of deleting it. A deleted journal can be back after a power cut, and undo an
/// acknowledged transaction; an overwritten one is synced. WAL stays as it is.
async fn keep_sqlite_journal(connection: &mut Connection) -> Result<(), Error> {
    let mode = connection.select("read", "PRAGMA journal_mode", &[]).await?;
    if mode.first().and_then(|row| text(row, 0)).as_deref() == Some("delete") {
        connection.change("set the journal of", "PRAGMA journal_mode = PERSIST", &[]).await?;
    }
    Ok(())
}

/// Waits for the lock. A session that holds it without heartbeats is ended.
async fn become_active(settings: &DatabaseConfig, session: &mut LockSession, owner: &str) -> Result<(), Error> {
    let (mut logged, mut stale) = (false, StaleSession::default());
    while !with_timeout(settings, try_become_active(session, owner)).await? {
        if !std::mem::replace(&mut logged, true) {
            info!("standby: another bots-ctl runs the job queue of the {}", settings.describe());
        }
        with_timeout(settings, terminate_stale_session(session, &mut stale)).await?;
        sleep(RETRY).await;
    }
    Ok(())
}

/// Acquires the lock and writes the row, within one timeout: standbys terminate a session that takes longer.
async fn try_become_active(session: &mut LockSession, owner: &str) -> Result<bool, Error> {
    if !session.try_acquire().await? {
        return Ok(false);
    }
    let claim = Claim { owner, holder: owner };
    LeaseKind::JOB_QUEUE.claim(&mut session.connection, &claim, Claimable::Any).await.map(|_| true)
}

async fn terminate_stale_session(session: &mut LockSession, stale: &mut StaleSession) -> Result<(), Error> {
    let Some(holder) = LeaseKind::JOB_QUEUE.read(&mut session.connection).await? else { return Ok(()) };
    if stale.terminate(session, LeaseKind::JOB_QUEUE, &holder).await? {
        warn!("terminated the session of a job queue without a heartbeat");
    }
    Ok(())
}

/// Few statements for any number of jobs: each costs an exchange with the server. Also returns the number of the last job.
async fn add_all(
    connection: &mut Connection,
    jobs: &[NewJob],
    mut last_number: i64,
    now: i64,
) -> Result<(Vec<AddOutcome>, i64), sqlx::Error> {
    let mut waiting = find_waiting_duplicates(connection, jobs).await?;
    let (mut values, mut changed) = (Vec::new(), BTreeMap::new());
    let added = jobs.iter().map(|job| match waiting.entry(job.digest.clone()) {
        Entry::Vacant(entry) => {
            last_number += 1;
            entry.insert((last_number, job.priority));
            let (task, digest) = (Text(&job.task), Text(&job.digest));
            values.extend([Integer(last_number), Integer(job.priority), task, digest, Integer(now)]);
            AddOutcome::Added(last_number)
        }
        Entry::Occupied(same) if same.get().1 == job.priority => AddOutcome::Duplicate(same.get().0),
        Entry::Occupied(mut same) => {
            same.get_mut().1 = job.priority;
            changed.insert(same.get().0, job.priority);
            AddOutcome::PriorityChanged(same.get().0)
        }
    });
    let added: Vec<AddOutcome> = added.collect();
    let mut statements = Vec::new();
    if !values.is_empty() {
        let rows = vec!["(?, 'waiting', ?, ?, ?, ?, 0)"; values.len() / 5].join(", ");
        let columns = "number, state, priority, task, digest, submitted, attempts";
        statements.push((format!("INSERT INTO botsctl_job ({columns}) VALUES {rows}"), values));
    }
    statements.extend(changed.into_iter().map(|(number, priority)| {
        let change = "UPDATE botsctl_job SET priority = ? WHERE number = ?";
        (change.to_owned(), vec![Integer(priority), Integer(number)])
    }));
    execute_all(connection, statements).await?;
    Ok((added, last_number))
}

/// Executes all of the statements or none. A single statement needs no transaction around it, which costs two exchanges.
async fn execute_all(
    connection: &mut Connection,
    mut statements: Vec<(String, Vec<Param<'_>>)>,
) -> Result<(), sqlx::Error> {
    if statements.len() > 1 {
        return connection
            .in_transaction(async |connection| {
                for (statement, arguments) in statements {
                    connection.execute(statement, &arguments).await?;
                }
                Ok(())
            })
            .await;
    }
    let Some((statement, arguments)) = statements.pop() else { return Ok(()) };
    connection.execute(statement, &arguments).await.map(|_| ())
}

/// Number and priority, by digest, of waiting jobs with the task of one of these.
async fn find_waiting_duplicates(
    connection: &mut Connection,
    jobs: &[NewJob],
) -> Result<BTreeMap<String, (i64, i64)>, sqlx::Error> {
    // A requeued job may duplicate another waiting one: the older one, which comes last, wins.
    let query = format!(
        "SELECT digest, number, priority FROM botsctl_job WHERE state = 'waiting' AND digest IN ({}) \
         ORDER BY number DESC",
        vec!["?"; jobs.len()].join(", ")
    );
    let digests: Vec<Param<'_>> = jobs.iter().map(|job| Text(&job.digest)).collect();
    let rows = connection.fetch(query, &digests).await?;
    Ok(rows.iter().filter_map(|row| Some((text(row, 0)?, (number(row, 1)?, number(row, 2)?)))).collect())
}

fn waiting(row: &Row) -> Option<QueuedJob> {
    Some(QueuedJob {
        number: number(row, 0)?,
        priority: number(row, 1)?,
        task: text(row, 2)?,
        attempts: number(row, 3)?,
    })
}

fn job(row: &Row) -> Option<Job> {
    Some(Job {
        number: number(row, 0)?,
        state: text(row, 1)?,
        priority: number(row, 2)?,
        task: text(row, 3)?,
        submitted: number(row, 4)?,
        started: number(row, 5),
        ended: number(row, 6),
        attempts: number(row, 7)?,
        exit_code: number(row, 8),
        output: text(row, 9),
    })
}

#[cfg(test)]
mod tests;
