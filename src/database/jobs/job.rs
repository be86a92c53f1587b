//! What is known of a job.

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum JobState {
    Waiting,
    Running,
    Done,
    Failed,
}

/// A job that is to be kept.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The lowest runs first.
    pub priority: i64,
    /// What runs, as JSON.
    pub task: String,
    /// What equal tasks have in common.
    pub digest: String,
}

/// What became of a job that was to be kept. Each has the number of the job that now waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddOutcome {
    /// It is kept.
    Added(i64),
    /// The same task waited already, and now has this priority.
    PriorityChanged(i64),
    /// The same task waits already.
    Duplicate(i64),
}

/// A job that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedJob {
    /// Its number.
    pub number: i64,
    /// Its priority.
    pub priority: i64,
    /// What is to run, as JSON.
    pub task: String,
}

/// Everything that is known of a job. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Job {
    pub number: i64,
    pub state: JobState,
    pub priority: i64,
    pub task: String,
    pub submitted: i64,
    pub started: Option<i64>,
    pub ended: Option<i64>,
    pub attempts: i64,
    pub exit_code: Option<i64>,
    /// The end of what it printed.
    pub output: Option<String>,
}

/// How a job ended.
#[derive(Debug, Clone)]
pub struct JobResult {
    /// Done or failed.
    pub state: JobState,
    /// Its exit code, if it ran.
    pub exit_code: Option<i64>,
    /// The end of what it printed.
    pub output: String,
}

impl JobState {
    /// The word in the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// Its reverse; what nobody knows has failed.
    pub(super) fn of(word: &str) -> Self {
        [Self::Waiting, Self::Running, Self::Done].into_iter().find(|s| s.as_str() == word).unwrap_or(Self::Failed)
    }
}
