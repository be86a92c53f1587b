//! Targets to watch: one for each section of bots.ini and each flagged route.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::config::WatchMethod;
use crate::pycompat::fnmatch::{FnMatch, has_magic};

/// Ends of names of files that are not complete: programs rename the file when it is.
const INCOMPLETE_SUFFIXES: [&str; 3] = [".tmp", ".part", ".filepart"];

/// Files that start a route, and how they are found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WatchTarget {
    /// Where the target was configured, for people: `[dirmonitor1] of …/bots.ini`.
    pub origin: String,
    /// The route that is started.
    pub route: String,
    /// The directories.
    pub directory: PathPattern,
    /// Names of files.
    pub mask: FnMatch,
    /// Whether subdirectories count as well.
    pub is_recursive: bool,
    /// Whether files that are there at the beginning start the route.
    pub takes_existing: bool,
    /// Names that are locks of Bots's channels, not files for them.
    pub locks: Vec<String>,
    /// How new files are detected.
    pub watch_by: WatchMethod,
    /// Interval of scans without events.
    pub poll_interval: Duration,
    /// How long a file must stay unchanged to be complete, if its close is not visible.
    pub stable_after: Duration,
    /// How long an incomplete file delays others.
    pub file_wait: Duration,
    /// Whether these are the files that a run processes, independently of their names.
    pub is_channel: bool,
}

impl WatchTarget {
    /// Whether a file of this name belongs to the target.
    #[must_use]
    pub fn matches(&self, name: &OsStr) -> bool {
        // Python's `glob`, by which channels find their files, has this rule for directories and files alike.
        let is_found = if self.is_channel { matches_dir(&self.mask, name) } else { self.mask.matches(name) };
        is_found && !self.is_lock(name) && (self.is_channel || !self.is_unfinished(name))
    }

    /// Whether a file of this name is the lock of a channel.
    #[must_use]
    pub fn is_lock(&self, name: &OsStr) -> bool {
        self.locks.iter().any(|lock| name == lock.as_str())
    }

    /// Whether a name marks a file as incomplete. A leading dot or one of these endings does so only if the mask lacks
    /// it.
    #[must_use]
    pub fn is_unfinished(&self, name: &OsStr) -> bool {
        let (name, mask) = (name.as_encoded_bytes(), self.mask.as_str());
        let is_hidden = name.starts_with(b".") && !mask.starts_with('.');
        is_hidden || INCOMPLETE_SUFFIXES.iter().any(|end| name.ends_with(end.as_bytes()) && !mask.ends_with(end))
    }

    /// Names that match the entry and mark a file as incomplete.
    #[must_use]
    pub fn unfinished_names(&self) -> Vec<&'static str> {
        let stem = self.mask.as_str().replace(['*', '?'], "a");
        let is_taken = |end: &&str| {
            let name = OsString::from(format!("{stem}{end}"));
            self.matches(&name) && self.is_unfinished(&name)
        };
        INCOMPLETE_SUFFIXES.iter().copied().filter(is_taken).collect()
    }

    /// Whether directories below the root belong to it.
    #[must_use]
    pub fn has_directories_below(&self) -> bool {
        self.is_recursive || !self.directory.rest.is_empty()
    }

    /// The files, as people write them.
    #[must_use]
    pub fn files(&self) -> String {
        let mask = self.mask.as_str();
        let below = if self.is_recursive { " and below" } else { "" };
        format!("{}{below}", Path::new(&self.directory.to_string()).join(mask).display())
    }
}

/// Directories: a path in which names may be masks, as in `/in/*/orders`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathPattern {
    /// The path before the first mask.
    pub root: PathBuf,
    /// The names below the root, from the first mask on.
    pub rest: Vec<FnMatch>,
}

impl PathPattern {
    /// From an absolute path.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let mut root = PathBuf::new();
        let mut rest = Vec::new();
        for component in path.components() {
            let text = component.as_os_str().to_string_lossy();
            match component {
                Component::Normal(_) if !rest.is_empty() || has_magic(&text) => rest.push(FnMatch::new(&text)),
                other => root.push(other),
            }
        }
        Self { root, rest }
    }
}

impl std::fmt::Display for PathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.rest.iter().map(|mask| OsString::from(mask.as_str()));
        write!(f, "{}", self.root.join(names.collect::<PathBuf>()).display())
    }
}

/// Whether a directory matches a component of a pattern. As in Python's `glob`, a leading dot must be matched
/// explicitly.
#[must_use]
pub fn matches_dir(mask: &FnMatch, name: &OsStr) -> bool {
    let is_hidden = name.as_encoded_bytes().starts_with(b".") && !mask.as_str().starts_with('.');
    !is_hidden && mask.matches(name)
}

#[cfg(test)]
pub(super) mod tests;
