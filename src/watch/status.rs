//! The reports of the monitor: new files, and the state of each target.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tracing::{debug, info, warn};

use super::scan::WatchState;
use super::stability::Reason;
use super::target::WatchTarget;
use super::unfinished::{IncompleteFile, PendingFiles};

/// With more entries than this the log does not name each that is well.
const MAX_LISTED_FILES: usize = 50;

/// New files for a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFiles {
    /// The route.
    pub route: String,
    /// How many files.
    pub files: usize,
    /// One of them.
    pub example: PathBuf,
}

/// The state of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetStatus {
    /// The target.
    pub target: Arc<WatchTarget>,
    /// How its directories are watched; nothing before the first scan.
    pub watch_state: Option<WatchState>,
    /// The arrival of the oldest waiting file.
    pub oldest: Option<SystemTime>,
    /// Files that are not complete.
    pub unfinished: PendingFiles,
}

/// The state of all targets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MonitorReport {
    /// Each, in the order in which they were given.
    pub reports: Vec<TargetStatus>,
    /// Whether each is watched, or known to be in trouble.
    pub is_complete: bool,
}

/// Logs a change once each way.
pub(super) fn log_change(watch_target: &WatchTarget, before: Option<&WatchState>, after: &WatchState, entries: usize) {
    let (files, route) = (watch_target.files(), &watch_target.route);
    match (before, after) {
        (Some(WatchState::Watching { backend: old, .. }), WatchState::Watching { backend, .. }) if old != backend => {
            info!("{files} for route {route}: now by {} ({})", backend.name(), backend.reason);
        }
        (Some(WatchState::Watching { .. }), WatchState::Watching { directories, .. }) => {
            debug!("{files} for route {route}: now {directories} directories");
        }
        (None, WatchState::Watching { backend, .. }) if entries > MAX_LISTED_FILES => {
            debug!("watching {files} for route {route}, by {} ({})", backend.name(), backend.reason);
        }
        (before, WatchState::Watching { directories, backend, .. }) => {
            let again = if before.is_some() { " again" } else { "" };
            let targets = if *directories == 1 { String::new() } else { format!(", {directories} directories") };
            let (name, why) = (backend.name(), &backend.reason);
            info!("watching {files} for route {route}{again}, by {name} ({why}){targets}");
        }
        (_, WatchState::Failed { reason: why, .. }) => {
            warn!("cannot watch files for route {route} ({}): {why}; retrying", watch_target.origin);
        }
    }
}

/// Logs that the route no longer waits for a file.
pub(super) fn log_given_up(watch_target: &WatchTarget, file: &IncompleteFile) {
    let (file, reason) = (&file.path, file.unfinished.reason);
    if reason == Reason::NotText {
        let (file, route) = (file.display(), &watch_target.route);
        warn!(%file, route, "ignoring file {file} for route {route}: {}", reason.as_str());
        return;
    }
    let (seconds, route, why) = (watch_target.file_wait.as_secs_f64(), &watch_target.route, reason.as_str());
    warn!(
        file = %file.display(),
        route,
        "no longer waiting for {} after {seconds} s: {why}; the next run of route {route} \
         processes it as it is",
        file.display()
    );
}
