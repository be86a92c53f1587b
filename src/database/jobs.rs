//! The rows of the job queue, for the one queue that is active: every change goes over the session that has the lock, so
//! a queue that has lost the lock cannot change anything any more.
//!
//! A node that vanishes leaves a session behind which the server takes for a living one. So the active queue gives signs
//! of life in a row of botsctl_lease, and one that stands by ends a session that has given none for its TTL.

mod job;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use super::advisory_lock::{LockName, LockSession};
use super::lease;
use super::lease::row::{self, LeaseKind};
use super::own_schema::{self, OwnTables};
use super::query::{Param, Row};
use super::retry::with_timeout;
use super::{DatabaseConfig, Error};
use Param::{Integer, Text};
pub use job::{AddOutcome, Job, JobResult, JobState, NewJob, QueuedJob};

/// How often one that stands by tries again.
const RETRY: Duration = Duration::from_millis(250);

/// The rows, and the right to change them.
pub struct JobStore {
    settings: DatabaseConfig,
    session: LockSession,
    owner: String,
    last_number: i64,
}

impl JobStore {
    /// Waits for the right to change the rows, and makes the table if there is none. `connected` is called when there
    /// is nothing left to wait for but another queue that has that right. `owner` tells this process from all others.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn open(settings: &DatabaseConfig, owner: &str, connected: impl FnOnce()) -> Result<Self, Error> {
        let mut session = LockSession::open(settings, LockName::JobQueue).await?;
        connected();
        for tables in [OwnTables::LEASE, OwnTables::JOBS] {
            with_timeout(settings, own_schema::ensure(&mut session.connection, settings, tables)).await?;
        }
        let mut jobs = Self { settings: settings.clone(), session, owner: owner.to_owned(), last_number: 0 };
        jobs.become_active().await?;
        with_timeout(settings, jobs.session.reject_transaction_pooler()).await?;
        let rows = with_timeout(settings, jobs.rows("SELECT max(number) FROM botsctl_job", &[], "read")).await?;
        jobs.last_number = rows.first().and_then(|row| integer(row, 0)).unwrap_or(0);
        Ok(jobs)
    }

    /// Waits for the lock. A session that has it and gives no sign of life is ended.
    async fn become_active(&mut self) -> Result<(), Error> {
        let (settings, mut logged) = (self.settings.clone(), false);
        while !with_timeout(&settings, self.session.try_acquire()).await? {
            if !std::mem::replace(&mut logged, true) {
                info!("another bots-ctl runs the jobs of the {}: standing by", settings.describe());
            }
            with_timeout(&settings, self.terminate_stale_session()).await?;
            sleep(RETRY).await;
        }
        let (connection, owner) = (&mut self.session.connection, (&*self.owner, &*self.owner));
        let claimed = row::claim_row(connection, &settings, LeaseKind::JOB_QUEUE, owner, None);
        with_timeout(&settings, claimed).await.map(|_| ())
    }

    async fn terminate_stale_session(&mut self) -> Result<(), Error> {
        let holder = row::read(&mut self.session.connection, &self.settings, LeaseKind::JOB_QUEUE).await?;
        let Some(holder) = holder else { return Ok(()) };
        if lease::terminate_stale(&mut self.session, LeaseKind::JOB_QUEUE, &holder, Duration::ZERO).await? {
            warn!("ended the session of a job queue that gave no sign of life");
        }
        Ok(())
    }

    /// Shows those who stand by that this queue lives. Beside SQLite the lock alone shows it.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn heartbeat(&mut self) -> Result<(), Error> {
        if matches!(self.settings, DatabaseConfig::Sqlite(_)) {
            return Ok(());
        }
        row::heartbeat(&mut self.session.connection, &self.settings, LeaseKind::JOB_QUEUE, &self.owner).await
    }

    /// Keeps jobs: all of them or none.
    ///
    /// # Errors
    /// When the database refuses; nothing is kept then.
    pub async fn add(&mut self, jobs: &[NewJob], now: i64) -> Result<Vec<AddOutcome>, Error> {
        let result = async {
            self.session.connection.execute_batch(begin(&self.settings)).await?;
            let (added, last_number) = self.add_all(jobs, now).await?;
            self.session.connection.execute_batch("COMMIT").await?;
            self.last_number = last_number;
            Ok(added)
        };
        let result = result.await;
        if result.is_err() {
            let _ = self.session.connection.execute_batch("ROLLBACK").await;
        }
        result.map_err(|error| self.failed("keep a job in", &error))
    }

    /// A few statements for any number of jobs: each costs an exchange with the server. Also gives the number of the
    /// last job.
    async fn add_all(&mut self, jobs: &[NewJob], now: i64) -> Result<(Vec<AddOutcome>, i64), sqlx::Error> {
        let mut waiting = self.find_waiting_duplicates(jobs).await?;
        let (mut last_number, mut fresh, mut changed) = (self.last_number, Vec::new(), BTreeMap::new());
        let added = jobs.iter().map(|job| match waiting.entry(job.digest.clone()) {
            Entry::Vacant(index) => {
                last_number += 1;
                index.insert((last_number, job.priority));
                fresh.push((last_number, job));
                AddOutcome::Added(last_number)
            }
            Entry::Occupied(same) if same.get().1 == job.priority => AddOutcome::Duplicate(same.get().0),
            Entry::Occupied(mut same) => {
                same.get_mut().1 = job.priority;
                changed.insert(same.get().0, job.priority);
                AddOutcome::PriorityChanged(same.get().0)
            }
        });
        let added = added.collect();
        self.insert(&fresh, now).await?;
        for (number, priority) in changed {
            const CHANGE: &str = "UPDATE botsctl_job SET priority = ? WHERE number = ?";
            self.run(CHANGE, &[Integer(priority), Integer(number)]).await?;
        }
        Ok((added, last_number))
    }

    /// Number and priority of the jobs that wait and have the same task as one of these, by its digest.
    async fn find_waiting_duplicates(&mut self, jobs: &[NewJob]) -> Result<BTreeMap<String, (i64, i64)>, sqlx::Error> {
        // A job that was put back may wait beside another of the same task: the older one is meant, which is read last.
        let query = format!(
            "SELECT digest, number, priority FROM botsctl_job WHERE state = 'waiting' AND digest IN ({}) \
             ORDER BY number DESC",
            repeated("?", jobs.len())
        );
        let digests: Vec<Param<'_>> = jobs.iter().map(|job| Text(&job.digest)).collect();
        let rows = self.session.connection.fetch(query, &digests).await?;
        let entry = |row: Row| Some((text(&row, 0)?, (integer(&row, 1)?, integer(&row, 2)?)));
        Ok(rows.into_iter().filter_map(entry).collect())
    }

    async fn insert(&mut self, jobs: &[(i64, &NewJob)], now: i64) -> Result<(), sqlx::Error> {
        if jobs.is_empty() {
            return Ok(());
        }
        let statement = format!(
            "INSERT INTO botsctl_job (number, state, priority, task, digest, submitted, attempts) VALUES {}",
            repeated("(?, 'waiting', ?, ?, ?, ?, 0)", jobs.len())
        );
        let values = jobs.iter().flat_map(|(number, job)| {
            [Integer(*number), Integer(job.priority), Text(&job.task), Text(&job.digest), Integer(now)]
        });
        self.session.connection.execute(statement, &values.collect::<Vec<_>>()).await.map(|_| ())
    }

    /// The job that is first in line.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn first(&mut self) -> Result<Option<QueuedJob>, Error> {
        const SELECT_FIRST: &str = "SELECT number, priority, task FROM botsctl_job WHERE state = 'waiting' \
             ORDER BY priority, number LIMIT 1";
        Ok(self.rows(SELECT_FIRST, &[], "read").await?.into_iter().find_map(waiting))
    }

    /// All that wait, the first in line first.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn list(&mut self) -> Result<Vec<QueuedJob>, Error> {
        const ALL: &str = "SELECT number, priority, task FROM botsctl_job WHERE state = 'waiting' \
             ORDER BY priority, number";
        Ok(self.rows(ALL, &[], "read").await?.into_iter().filter_map(waiting).collect())
    }

    /// How many wait, and when the one was submitted that waits longest.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn count(&mut self) -> Result<(u64, Option<i64>), Error> {
        // Numbers grow with time, and an index has those of the jobs that wait.
        const COUNT: &str = "SELECT count(*), (SELECT submitted FROM botsctl_job WHERE number = \
             (SELECT min(number) FROM botsctl_job WHERE state = 'waiting')) FROM botsctl_job WHERE state = 'waiting'";
        let rows = self.rows(COUNT, &[], "read").await?;
        let cell = |index: usize| rows.first().and_then(|row| integer(row, index));
        Ok((cell(0).and_then(|count| u64::try_from(count).ok()).unwrap_or(0), cell(1)))
    }

    /// Forgets all that wait; says how many those were.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn clear(&mut self) -> Result<u64, Error> {
        self.change("DELETE FROM botsctl_job WHERE state = 'waiting'", &[], "remove jobs from").await
    }

    /// Notes that a job has been started.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn start(&mut self, number: i64, now: i64) -> Result<(), Error> {
        const START: &str = "UPDATE botsctl_job SET state = 'running', started = ?, ended = NULL, exit_code = NULL, \
             attempts = attempts + 1, owner = ? WHERE number = ? AND state = 'waiting'";
        let owner = self.owner.clone();
        self.change(START, &[Integer(now), Text(&owner), Integer(number)], "start a job of").await.map(|_| ())
    }

    /// Notes how a job has ended, unless another queue has taken it over meanwhile.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn end(&mut self, number: i64, ended: &JobResult, now: i64) -> Result<(), Error> {
        const FINISH_JOB: &str = "UPDATE botsctl_job SET state = ?, ended = ?, exit_code = ?, output = ? \
             WHERE number = ? AND owner = ? AND state = 'running'";
        const END_WITHOUT_CODE: &str = "UPDATE botsctl_job SET state = ?, ended = ?, output = ? \
             WHERE number = ? AND owner = ? AND state = 'running'";
        let (state, output, owner) = (Text(ended.state.as_str()), Text(&ended.output), self.owner.clone());
        let (now, number, owner) = (Integer(now), Integer(number), Text(&owner));
        let changed = match ended.exit_code {
            Some(code) => {
                self.change(FINISH_JOB, &[state, now, Integer(code), output, number, owner], "end a job of").await
            }
            None => self.change(END_WITHOUT_CODE, &[state, now, output, number, owner], "end a job of").await,
        };
        changed.map(|_| ())
    }

    /// Puts a job that was running back to its place in the line.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn requeue(&mut self, number: i64) -> Result<(), Error> {
        const REQUEUE_JOB: &str = "UPDATE botsctl_job SET state = 'waiting', started = NULL, owner = NULL \
             WHERE number = ? AND state = 'running'";
        self.change(REQUEUE_JOB, &[Integer(number)], "put back a job of").await.map(|_| ())
    }

    /// Takes charge of a job that runs here, and that another queue had started again meanwhile.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn reclaim(&mut self, number: i64) -> Result<(), Error> {
        const RECLAIM_JOB: &str = "UPDATE botsctl_job SET owner = ? WHERE number = ? AND state = 'running'";
        let owner = self.owner.clone();
        self.change(RECLAIM_JOB, &[Text(&owner), Integer(number)], "take over a job of").await.map(|_| ())
    }

    /// The numbers of all jobs that run, as far as the table knows.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn running(&mut self) -> Result<Vec<i64>, Error> {
        let rows = self.rows("SELECT number FROM botsctl_job WHERE state = 'running'", &[], "read").await?;
        Ok(rows.iter().filter_map(|row| integer(row, 0)).collect())
    }

    /// Everything that is known of a job.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn show(&mut self, number: i64) -> Result<Option<Job>, Error> {
        const SHOW: &str = "SELECT number, state, priority, task, submitted, started, ended, attempts, exit_code, \
             output FROM botsctl_job WHERE number = ?";
        Ok(self.rows(SHOW, &[Integer(number)], "read").await?.into_iter().find_map(job))
    }

    /// Forgets all but the newest of the jobs that have ended.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn prune(&mut self, keep: i64) -> Result<(), Error> {
        const OLDEST: &str = "SELECT number FROM botsctl_job WHERE state IN ('done', 'failed') \
             ORDER BY number DESC LIMIT 1 OFFSET ?";
        const PRUNE: &str = "DELETE FROM botsctl_job WHERE state IN ('done', 'failed') AND number <= ?";
        let rows = self.rows(OLDEST, &[Integer(keep)], "read").await?;
        let Some(oldest) = rows.first().and_then(|row| integer(row, 0)) else { return Ok(()) };
        self.change(PRUNE, &[Integer(oldest)], "remove jobs from").await.map(|_| ())
    }

    async fn run(&mut self, statement: &'static str, arguments: &[Param<'_>]) -> Result<u64, sqlx::Error> {
        self.session.connection.execute(statement, arguments).await
    }

    async fn change(&mut self, statement: &'static str, arguments: &[Param<'_>], action: &str) -> Result<u64, Error> {
        self.run(statement, arguments).await.map_err(|error| self.failed(action, &error))
    }

    async fn rows(&mut self, query: &'static str, arguments: &[Param<'_>], action: &str) -> Result<Vec<Row>, Error> {
        self.session.connection.fetch(query, arguments).await.map_err(|error| self.failed(action, &error))
    }

    fn failed(&self, action: &str, error: &sqlx::Error) -> Error {
        Error::failed(action, &self.settings, error)
    }
}

/// SQLite would find out that another connection writes only at the end, when it is too late to wait.
fn begin(settings: &DatabaseConfig) -> &'static str {
    match settings {
        DatabaseConfig::Sqlite(_) => "BEGIN IMMEDIATE",
        DatabaseConfig::Mysql(_) | DatabaseConfig::Postgres(_) => "BEGIN",
    }
}

/// The same so many times, as a list.
fn repeated(part: &str, times: usize) -> String {
    vec![part; times].join(", ")
}

fn waiting(row: Row) -> Option<QueuedJob> {
    Some(QueuedJob { number: integer(&row, 0)?, priority: integer(&row, 1)?, task: text(&row, 2)? })
}

fn job(row: Row) -> Option<Job> {
    Some(Job {
        number: integer(&row, 0)?,
        state: JobState::of(&text(&row, 1)?),
        priority: integer(&row, 2)?,
        task: text(&row, 3)?,
        submitted: integer(&row, 4)?,
        started: integer(&row, 5),
        ended: integer(&row, 6),
        attempts: integer(&row, 7)?,
        exit_code: integer(&row, 8),
        output: text(&row, 9),
    })
}

fn text(row: &Row, index: usize) -> Option<String> {
    row.get(index).cloned().flatten()
}

fn integer(row: &Row, index: usize) -> Option<i64> {
    row.get(index)?.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests;
