//! The durable job queue: who asks gets an answer only when the database has it, jobs run in the documented order, and
//! none is lost.
//!
//! One task owns the connection, the line and the running jobs; everybody else holds a [`Queue`] and asks. What is
//! asked at the same time is kept in one transaction, so that many clients cost little more than one. A job is marked
//! as running before it is started and as ended after it has: whatever happens in between, it is run again, by this
//! queue or by the next one. A second run beside the first is kept apart by the engine's own lease.

mod db_link;
mod retry;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::command_line::JobCommand;
use super::request_id::RequestId;
use super::runner::RunLimits;
use crate::database::DatabaseConfig;
use crate::database::jobs::{AddOutcome, Job, NewJob, QueuedJob};
use crate::process::child::ProcessSpec;
use crate::process::reaper::Reaper;
use crate::telemetry::child_output::ServiceOutput;

pub use worker::Worker;

/// Requests that are kept in one transaction at most.
const MAX_BATCH: usize = 256;

/// How long the database may take for one thing.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How a task is started.
pub struct JobSpec {
    /// The process.
    pub spec: ProcessSpec,
    /// Whether it is an engine, whose exit code 3 means "not now".
    pub is_engine: bool,
}

/// Says how a task is started; nothing for one that is not authorised.
pub type CommandResolver = Arc<dyn Fn(&[String]) -> Option<JobSpec> + Send + Sync>;

/// What a queue is made from.
pub struct QueueConfig {
    /// Where jobs are kept.
    pub database: DatabaseConfig,
    /// Tells this process from all others.
    pub owner: String,
    /// How many jobs run at once.
    pub slots: usize,
    /// How long each may run.
    pub limits: RunLimits,
    /// How long running jobs may take at the end.
    pub stop_timeout: Duration,
    /// What may be run, and how.
    pub launcher: CommandResolver,
    /// Who starts processes.
    pub reaper: Reaper,
    /// Where their output goes.
    pub lines: ServiceOutput,
}

/// Whether this queue is the one that works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// It is not known yet.
    #[default]
    Starting,
    /// Another queue is active.
    Standby,
    /// This one is.
    Active,
    /// The database is away.
    Unavailable,
}

/// How the queue fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// Whether it works.
    pub activity: Role,
    /// Jobs that wait.
    pub waiting: u64,
    /// Jobs that run.
    pub running: u64,
    /// When the job was submitted that waits longest, in milliseconds since 1970.
    pub oldest: Option<i64>,
    /// Jobs that this queue has seen end well.
    pub done: u64,
    /// Those that have not.
    pub failed: u64,
    /// Those that have to run again.
    pub requeued: u64,
}

/// What a worker is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueCommand {
    /// Run jobs: the queue can be reached.
    Start,
    /// Start no more jobs, and end when those that run have ended, however long that takes.
    Drain,
    /// Stop; once more: do not wait for running jobs.
    Stop,
}

/// Nothing can be kept or read at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue cannot reach its database")]
pub struct Unavailable;

type Reply<T> = oneshot::Sender<Result<T, Unavailable>>;

/// Who waits for a job to be kept.
type ReplyTo = (RequestId, Reply<AddOutcome>);

enum Request {
    Add(NewJob, ReplyTo),
    List(Reply<Vec<QueuedJob>>),
    Clear(Reply<u64>),
    Take(Reply<Option<QueuedJob>>),
    Show(i64, Reply<Option<Job>>),
}

/// A queue that can be asked. Cheap to clone.
#[derive(Clone)]
pub struct Queue {
    requests: mpsc::Sender<Request>,
    launcher: CommandResolver,
}

impl Queue {
    /// Whether a task may be run.
    #[must_use]
    pub fn is_authorised(&self, task: &JobCommand) -> bool {
        (self.launcher)(task.argv()).is_some()
    }

    /// Keeps a job. An answer means that it is kept.
    ///
    /// # Errors
    /// When it is not, or nobody can say.
    pub async fn add(&self, task: &JobCommand, priority: i32, request: RequestId) -> Result<AddOutcome, Unavailable> {
        let new = NewJob { priority: i64::from(priority), task: task.to_json(), digest: task.digest() };
        self.request(|reply| Request::Add(new, (request, reply))).await
    }

    /// The jobs that wait, the first in line first.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn list(&self) -> Result<Vec<QueuedJob>, Unavailable> {
        self.request(Request::List).await
    }

    /// Forgets the jobs that wait; says how many those were.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub async fn clear(&self) -> Result<u64, Unavailable> {
        self.request(Request::Clear).await
    }

    /// Takes the first job out of the line, for somebody else to run.
    ///
    /// # Errors
    /// When it cannot be taken.
    pub async fn take(&self) -> Result<Option<QueuedJob>, Unavailable> {
        self.request(Request::Take).await
    }

    /// Everything that is known of a job.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn show(&self, number: i64) -> Result<Option<Job>, Unavailable> {
        self.request(|reply| Request::Show(number, reply)).await
    }

    async fn request<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Unavailable> {
        let (reply, response) = oneshot::channel();
        let requests = async {
            self.requests.send(request(reply)).await.map_err(|_| Unavailable)?;
            response.await.unwrap_or(Err(Unavailable))
        };
        timeout(REQUEST_TIMEOUT, requests).await.unwrap_or(Err(Unavailable))
    }
}

/// Makes a queue: what can be asked, how it fares, and what does the work.
#[must_use]
pub fn queue(setup: QueueConfig) -> (Queue, watch::Receiver<Status>, Worker) {
    let (sender, requests) = mpsc::channel(MAX_BATCH);
    let (status, seen) = watch::channel(Status::default());
    let queue = Queue { requests: sender, launcher: Arc::clone(&setup.launcher) };
    (queue, seen, Worker::new(setup, requests, status))
}
