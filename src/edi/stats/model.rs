//! The statistics of runs, routes and files.

use serde::{Deserialize, Serialize};

pub use crate::database::jobs::failures::{FailedTask, JobFailures, WaitingJob};
use crate::database::run_metrics::RunTotals;

/// Maximum number of runs.
pub const MAX_RUNS: usize = 50;

/// Maximum number of routes with their names.
pub const MAX_ROUTES: usize = 500;

/// Maximum number of stored files, since a broken mapping may fail any number of them.
pub const MAX_FILES: usize = 500;

/// The result of a reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EdiStats {
    /// The last runs of the engine, newest first; at most [`MAX_RUNS`].
    pub runs: Vec<EngineRunStats>,
    /// The active routes, and others with files of the last day; at most [`MAX_ROUTES`].
    pub routes: Vec<RouteStats>,
    /// Those that are not named, all together.
    pub rest: UnnamedRoutes,
    /// The beginning of the last day, or of the period that was read: seconds since 1970.
    pub recent_since: i64,
    /// When counting the totals began.
    pub counted_since: i64,
    /// Interrupted runs of the last day that were neither recovered nor given up.
    pub lost_runs: u64,
    /// Whether Bots's lock is set: an engine is running, or the next one will recover an interrupted run.
    pub is_locked: bool,
    /// The totals that runs have recorded, if there are any.
    pub totals: Option<RunTotals>,
    /// Problems of the last day that need attention.
    pub failures: Failures,
    /// All routes, active or not.
    pub all_routes: Vec<Route>,
}

/// A run of the engine that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineRunStats {
    /// Its number, as in Bots's reports and in the names of its logs.
    pub id: i64,
    /// `new`, `resend`, `rereceive`, `automaticretrycommunication` or `crashrecovery`.
    pub kind: String,
    /// When it began: seconds since 1970.
    pub started: i64,
    /// The time from the start to the last step, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// Its files.
    #[serde(flatten)]
    pub files: FileCounts,
    /// Errors that belong to no file, such as a channel that cannot be reached.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub process_errors: u64,
    /// How it was started, as far as Bots records it.
    #[serde(skip)]
    pub command_line: String,
    /// Whether Bots calls it a failure.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
}

/// A route, as the engine can be asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Whether an engine runs it.
    pub is_active: bool,
}

/// The results of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteStats {
    /// Its name.
    pub name: String,
    /// Whether an engine runs it.
    pub is_active: bool,
    /// Its last file in the period that was read.
    pub last: Option<LastFile>,
    /// In the last day.
    pub recent: FileCounts,
    /// Since [`EdiStats::counted_since`]; never less than before, as long as the process lives.
    pub total: FileCounts,
}

/// The last file of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastFile {
    /// When it was received: seconds since 1970.
    pub at: i64,
    /// Its state.
    pub state: FileState,
}

/// A file that an engine has received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReceivedFile {
    /// Its number in Bots.
    pub id: i64,
    /// The number of the run that received it.
    pub run: i64,
    /// When: seconds since 1970.
    pub received: i64,
    pub route: String,
    pub name: String,
    pub state: FileState,
    /// The name of the sent file, if there is exactly one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// Bots's own words, of several lines at times.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// Failures, as of a reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures {
    /// Files with errors and files that are stuck, the newest first; at most [`MAX_FILES`].
    pub files: Vec<ReceivedFile>,
    /// Errors of runs that belong to no file.
    pub processes: Vec<ProcessError>,
    pub jobs: JobFailures,
}

/// An error of a run that belongs to no file, such as a channel that cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessError {
    pub run: i64,
    /// When the run began: seconds since 1970.
    pub at: i64,
    pub route: String,
    pub reason: String,
}

/// The state of a received file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// All steps succeeded.
    Done,
    /// It had errors.
    Error,
    /// It was left in an unfinished state.
    Stuck,
}

impl FileState {
    /// The value of `statust` in Bots's tables.
    pub(in crate::edi) fn of_statust(statust: i64) -> Self {
        match statust {
            1 => Self::Error,
            0 | 2 => Self::Stuck,
            // DONE; RESEND (4) and NO_RETRY (5) are set later, on files that were done.
            _ => Self::Done,
        }
    }
}

/// Routes that are not named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnnamedRoutes {
    /// How many.
    pub routes: usize,
    /// Their files of the last day.
    pub recent: FileCounts,
    /// Their files since [`EdiStats::counted_since`].
    pub total: FileCounts,
}

/// Files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCounts {
    /// Taken in: the sum of the next three.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub received: u64,
    /// Of those, files of which all steps succeeded.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub done: u64,
    /// With errors.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub errors: u64,
    /// Left in an unfinished state.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stuck: u64,
    /// Sent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sent: u64,
}

/// Counts of zero are omitted, so that the status of 500 routes stays small.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(crate) fn is_zero(count: &u64) -> bool {
    *count == 0
}
