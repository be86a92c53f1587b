//! The statistics of EDI files in the status document. Values that are zero or absent are omitted, so that 500 routes stay
//! small.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::edi::stats::model::{EngineRunStats, FileCounts, FileState, RouteStats, is_zero};
use crate::health::state::CachedEdiStats;

/// Statistics from the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultsStatus {
    /// How many seconds ago.
    pub age: u64,
    /// Why there is nothing newer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The last runs of the engine, newest first.
    pub runs: Vec<EngineRunStats>,
    /// The beginning of the period in which files are counted: seconds since 1970, at most a day ago.
    pub since: i64,
    /// Active routes, and others with files.
    pub routes: Vec<RouteStatus>,
    /// Number of routes that are not listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_routes: u64,
    /// Interrupted runs that were neither recovered nor given up.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_runs: u64,
    /// Whether Bots's own lock is set: an engine runs, or the next one recovers an interrupted run.
    pub locked: bool,
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
    /// The state of that file: `done`, `error` or `stuck`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<FileState>,
    /// Its files.
    #[serde(flatten)]
    pub files: FileCounts,
}

impl RouteStatus {
    /// Whether the route has errors.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.files.errors > 0 || self.files.stuck > 0 || self.state.is_some_and(|state| state != FileState::Done)
    }
}

/// The statistics, for the status document.
pub(crate) fn results(last: &CachedEdiStats, now: Instant) -> ResultsStatus {
    let stats = &last.stats;
    ResultsStatus {
        age: now.saturating_duration_since(last.read).as_secs(),
        error: last.error.clone(),
        runs: stats.runs.clone(),
        since: stats.recent_since,
        routes: stats.routes.iter().map(route).collect(),
        more_routes: u64::try_from(stats.rest.routes).unwrap_or_default(),
        lost_runs: stats.lost_runs,
        locked: stats.is_locked,
    }
}

fn route(route: &RouteStats) -> RouteStatus {
    RouteStatus {
        name: route.name.clone(),
        inactive: !route.is_active,
        last: route.last.map(|last| last.at),
        state: route.last.map(|last| last.state),
        files: route.recent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_counts_are_omitted() {
        let idle =
            RouteStatus { name: "r".into(), inactive: false, last: None, state: None, files: FileCounts::default() };
        let text = serde_json::to_string(&idle).expect("it can be told");
        assert_eq!(text, "{\"name\":\"r\"}");
        assert_eq!(serde_json::from_str::<RouteStatus>(&text).ok(), Some(idle.clone()));
        let files = FileCounts { received: 2, errors: 2, ..FileCounts::default() };
        let bad = RouteStatus { last: Some(5), state: Some(FileState::Error), files, ..idle };
        let text = serde_json::to_string(&bad).expect("it can be told");
        assert_eq!(text, "{\"name\":\"r\",\"last\":5,\"state\":\"error\",\"received\":2,\"errors\":2}");
        assert_eq!(serde_json::from_str::<RouteStatus>(&text).ok(), Some(bad));
    }
}
