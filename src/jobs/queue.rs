//! The durable job queue: a client gets its answer only when the database has the job, jobs run in the documented order,
//! and none is lost.
//!
//! One task, the [`worker::Worker`], owns the connection, the waiting and the running jobs; clients hold a [`Queue`]. Jobs that are
//! added during a commit are written together by the next one, so that many clients cost little more than one. A job is marked
//! as running before it is started and as ended after its end: whatever happens in between, this queue or the next one runs it
//! again. The engine's own lease keeps a second run apart from the first.

mod batch_window;
mod db_link;
mod requests;
mod retry;
pub mod worker;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::command_line::JobCommand;
use super::engine_host::EngineHost;
use super::request_id::RequestId;
use super::runner::RunLimits;
use crate::bots::job_policy::JobPolicy;
use crate::database::DatabaseConfig;
use crate::database::jobs::{AddOutcome, Job, NewJob, QueuedJob};
use crate::model::QueueCounts;
use crate::process::reaper::Reaper;
use crate::telemetry::child_output::ServiceOutput;

/// Requests that are handled together at most.
const MAX_BATCH: usize = 256;

/// Limit of one request to the database.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The configuration of a queue.
pub struct QueueConfig {
    pub database: DatabaseConfig,
    /// A name that no other process has.
    pub owner: String,
    /// How many jobs run at once.
    pub slots: usize,
    /// Time limits of a job. `stop_timeout` also limits how long a stopping queue waits for running jobs.
    pub limits: RunLimits,
    pub policy: Arc<JobPolicy>,
    pub reaper: Reaper,
    pub host: EngineHost,
    /// The output of the jobs.
    pub lines: ServiceOutput,
}

/// The role of this queue among all queues of its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Not known yet.
    #[default]
    Starting,
    /// Another queue is active.
    Standby,
    Active,
    /// The database is away.
    Unavailable,
}

/// The role of a queue and its jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueStatus {
    pub role: Role,
    pub counts: QueueCounts,
}

/// A command for the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueCommand {
    /// Run jobs: clients can reach the queue.
    Start,
    /// Start no more jobs, and end when the running ones have ended, however long that takes.
    Drain,
    /// Stop; the second one does not wait for running jobs.
    Stop,
}

/// The queue cannot write or read at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the job queue cannot reach its database")]
pub struct Unavailable;

type Reply<T> = oneshot::Sender<Result<T, Unavailable>>;

enum Request {
    Add(NewJob, RequestId, Reply<AddOutcome>),
    List(Reply<Vec<QueuedJob>>),
    /// All, or only those that have failed.
    History(bool, Reply<Vec<Job>>),
    Clear(Reply<u64>),
    Take(Reply<Option<QueuedJob>>),
    Show(i64, Reply<Option<Job>>),
}

/// A client's handle of the queue. Cheap to clone.
#[derive(Clone)]
pub struct Queue {
    requests: mpsc::Sender<Request>,
    policy: Arc<JobPolicy>,
}

impl Queue {
    /// Whether a task may be run.
    #[must_use]
    pub fn is_authorised(&self, task: &JobCommand) -> bool {
        self.policy.process(task.argv()).is_some()
    }

    /// Adds a job. With an answer it is in the database.
    ///
    /// # Errors
    /// If the job was not added, or the answer came too late to tell.
    pub async fn add(&self, task: &JobCommand, priority: i32, request: RequestId) -> Result<AddOutcome, Unavailable> {
        let job = NewJob { priority: i64::from(priority), task: task.to_json(), digest: task.digest() };
        self.ask_worker(|reply| Request::Add(job, request, reply)).await
    }

    /// The waiting jobs, the first in line first.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn list(&self) -> Result<Vec<QueuedJob>, Unavailable> {
        self.ask_worker(Request::List).await
    }

    /// The newest jobs in any state, or those that have failed, without their output; the newest first.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn history(&self, only_failed: bool) -> Result<Vec<Job>, Unavailable> {
        self.ask_worker(|reply| Request::History(only_failed, reply)).await
    }

    /// Removes the waiting jobs; returns how many.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub async fn clear(&self) -> Result<u64, Unavailable> {
        self.ask_worker(Request::Clear).await
    }

    /// Takes the first job out of the line, for the client to run.
    ///
    /// # Errors
    /// When it cannot be taken.
    pub async fn take(&self) -> Result<Option<QueuedJob>, Unavailable> {
        self.ask_worker(Request::Take).await
    }

    /// A job in any state.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn show(&self, number: i64) -> Result<Option<Job>, Unavailable> {
        self.ask_worker(|reply| Request::Show(number, reply)).await
    }

    async fn ask_worker<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Unavailable> {
        let (reply, response) = oneshot::channel();
        let exchange = async {
            self.requests.send(request(reply)).await.map_err(|_| Unavailable)?;
            response.await.unwrap_or(Err(Unavailable))
        };
        timeout(REQUEST_TIMEOUT, exchange).await.unwrap_or(Err(Unavailable))
    }
}
