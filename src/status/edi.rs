//! What came of the EDI files, as the listener tells it. What is nothing is left out: 500 routes stay small.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::edi::stats::{EngineRunStats, FileCounts, FileState, RouteStats};
use crate::health::edi_refresh::CachedEdiStats;

/// What was read from the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultsStatus {
    /// How many seconds ago.
    pub age: u64,
    /// Why there is nothing newer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The last runs of the engine, newest first.
    pub runs: Vec<RunStatus>,
    /// Since when files are counted below: seconds since 1970, a day ago at the most.
    pub since: i64,
    /// Active routes, and others that had files.
    pub routes: Vec<RouteStatus>,
    /// How many routes are not told by name.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub more_routes: u64,
    /// Runs that were broken off, and not recovered or given up.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub lost_runs: u64,
    /// Whether Bots's own lock is set: an engine runs, or the next one recovers what one had begun.
    pub locked: bool,
}

/// A run of the engine that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStatus {
    /// Its number in Bots.
    pub id: i64,
    /// `new`, `resend`, `rereceive`, `automaticretrycommunication` or `crashrecovery`.
    pub kind: String,
    /// When it began: seconds since 1970.
    pub started: i64,
    /// How long it took, where it had anything to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// Its files.
    #[serde(flatten)]
    pub files: Files,
    /// Errors that belong to no file.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub process_errors: u64,
    /// Whether Bots calls it a failure.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// Its name.
    pub name: String,
    /// Whether no engine runs it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inactive: bool,
    /// When its last file was received: seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<i64>,
    /// What became of that: `done`, `error` or `stuck`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<FileState>,
    /// Its files.
    #[serde(flatten)]
    pub files: Files,
}

/// Files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// Taken in: the sum of the next three.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub received: u64,
    /// Of those, gone all the way.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub done: u64,
    /// With errors.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub errors: u64,
    /// Left in an unfinished state.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub stuck: u64,
    /// Sent.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub sent: u64,
}

impl RouteStatus {
    /// Whether a person should look at it.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.files.errors > 0 || self.files.stuck > 0 || self.state.is_some_and(|state| state != FileState::Done)
    }
}

/// What was read, as it is told.
pub(crate) fn results(last: &CachedEdiStats, now: Instant) -> ResultsStatus {
    let stats = &last.stats;
    ResultsStatus {
        age: now.saturating_duration_since(last.read).as_secs(),
        error: last.error.clone(),
        runs: stats.runs.iter().map(run).collect(),
        since: stats.recent_since,
        routes: stats.routes.iter().map(route).collect(),
        more_routes: u64::try_from(stats.rest.routes).unwrap_or_default(),
        lost_runs: stats.lost_runs,
        locked: stats.is_locked,
    }
}

fn run(run: &EngineRunStats) -> RunStatus {
    let EngineRunStats { id, kind, started, seconds, received, done, errors, stuck, sent, process_errors, failed } =
        run.clone();
    let files = Files { received, done, errors, stuck, sent };
    RunStatus { id, kind, started, seconds, files, process_errors, failed }
}

fn route(route: &RouteStats) -> RouteStatus {
    let FileCounts { received, done, errors, stuck, sent } = route.recent;
    RouteStatus {
        name: route.name.clone(),
        inactive: !route.is_active,
        last: route.last.map(|last| last.at),
        state: route.last.map(|last| last.state),
        files: Files { received, done, errors, stuck, sent },
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_nothing(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nothing_is_left_out() {
        let idle = RouteStatus { name: "r".into(), inactive: false, last: None, state: None, files: Files::default() };
        let text = serde_json::to_string(&idle).expect("it can be told");
        assert_eq!(text, "{\"name\":\"r\"}");
        assert_eq!(serde_json::from_str::<RouteStatus>(&text).ok(), Some(idle.clone()));
        let files = Files { received: 2, errors: 2, ..Files::default() };
        let bad = RouteStatus { last: Some(5), state: Some(FileState::Error), files, ..idle };
        let text = serde_json::to_string(&bad).expect("it can be told");
        assert_eq!(text, "{\"name\":\"r\",\"last\":5,\"state\":\"error\",\"received\":2,\"errors\":2}");
        assert_eq!(serde_json::from_str::<RouteStatus>(&text).ok(), Some(bad));
    }
}
