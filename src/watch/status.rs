//! What the monitor tells: files that came, and how each entry fares.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tracing::{debug, info, warn};

use super::scan::Condition;
use super::target::Entry;
use super::unfinished::Pending;

/// With more entries than this the log does not name each that is well.
const NAMED: usize = 50;

/// New files for a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// The route.
    pub route: String,
    /// How many files.
    pub files: usize,
    /// One of them.
    pub example: PathBuf,
}

/// How one entry fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What is watched.
    pub entry: Arc<Entry>,
    /// How; nothing before the first look.
    pub condition: Option<Condition>,
    /// Since when the file is there that came first and still waits.
    pub oldest: Option<SystemTime>,
    /// Files that are not complete.
    pub unfinished: Pending,
}

/// How all entries fare.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overview {
    /// Each, in the order in which they were given.
    pub reports: Vec<Report>,
    /// Whether each is watched, or known to be in trouble.
    pub is_complete: bool,
}

/// Logs a change once each way.
pub(super) fn tell_change(entry: &Entry, before: Option<&Condition>, after: Option<&Condition>, entries: usize) {
    let (files, route) = (entry.files(), &entry.route);
    match (before, after) {
        (Some(Condition::Watched { backend: old, .. }), Some(Condition::Watched { backend, .. })) if old != backend => {
            info!("{files} for route {route}: now by {} ({})", backend.name(), backend.why);
        }
        (Some(Condition::Watched { .. }), Some(Condition::Watched { directories, .. })) => {
            debug!("{files} for route {route}: now {directories} directories");
        }
        (None, Some(Condition::Watched { backend, .. })) if entries > NAMED => {
            debug!("watching {files} for route {route}, by {} ({})", backend.name(), backend.why);
        }
        (before, Some(Condition::Watched { directories, backend, .. })) => {
            let again = if before.is_some() { " again" } else { "" };
            let places = if *directories == 1 { String::new() } else { format!(", {directories} directories") };
            let (name, why) = (backend.name(), &backend.why);
            info!("watching {files} for route {route}{again}, by {name} ({why}){places}");
        }
        (_, Some(Condition::Trouble { why, .. })) => {
            warn!("{why}: files for route {route} ({}) wait until that is mended", entry.origin);
        }
        (_, None) => {}
    }
}

/// Logs that a file keeps its route from being started no longer.
pub(super) fn tell_given_up(entry: &Entry, file: &Path, unfinished: &Pending) {
    let reason =
        unfinished.oldest.iter().find(|(path, _)| path == file).map(|(_, unfinished)| unfinished.reason.as_str());
    let (seconds, route) = (entry.file_wait.as_secs_f64(), &entry.route);
    let why = reason.unwrap_or("it is not at rest");
    warn!(
        file = %file.display(),
        route,
        "no longer waiting for {} after {seconds} s: {why}; route {route} is started for other files, and its run takes this \
         one as it is",
        file.display()
    );
}
