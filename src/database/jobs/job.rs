//! A job of the queue. Times are milliseconds since 1970, tasks are JSON.

/// A job to add.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The lowest runs first.
    pub priority: i64,
    pub task: String,
    /// Equal for equal tasks only.
    pub digest: String,
}

/// The outcome for a job to add, with the number of the job that now waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddOutcome {
    Added(i64),
    /// The same task was already waiting, and now has this priority.
    PriorityChanged(i64),
    /// The same task waits already.
    Duplicate(i64),
}

/// A waiting job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedJob {
    pub number: i64,
    pub priority: i64,
    pub task: String,
    /// Earlier attempts, all of which were interrupted.
    pub attempts: i64,
}

/// All waiting jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WaitingJobs {
    pub count: u64,
    /// When the one that waits longest was submitted.
    pub oldest: Option<i64>,
}

/// A job in any state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub number: i64,
    /// waiting, running, done or failed.
    pub state: String,
    pub priority: i64,
    pub task: String,
    pub submitted: i64,
    pub started: Option<i64>,
    pub ended: Option<i64>,
    pub attempts: i64,
    pub exit_code: Option<i64>,
    /// The end of its output.
    pub output: Option<String>,
}

/// The end of a job.
#[derive(Debug, Clone)]
pub struct JobResult {
    pub is_success: bool,
    pub ended: i64,
    /// None if it did not run.
    pub exit_code: Option<i64>,
    /// The end of its output.
    pub output: String,
}
