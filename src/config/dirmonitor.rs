//! Who watches directories, and how, where bots.ini says nothing of a directory.

use std::time::Duration;

use super::ServiceBackend;
use super::keys;
use super::layers::LayeredConfig;

/// The directory monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirmonitorSection {
    /// Who does the work.
    pub backend: ServiceBackend,
    /// How new files are found.
    pub watch_by: WatchMethod,
    /// Time between two looks at a directory that is polled.
    pub poll_interval: Duration,
    /// How long a file has to stay as it is to be complete, where its close cannot be seen.
    pub stable_after: Duration,
    /// Time between two looks at everything where events are had.
    pub rescan_interval: Duration,
}

/// How new files are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WatchMethod {
    /// As the file system allows.
    Auto,
    /// By the kernel's events.
    Inotify,
    /// By looking again and again.
    Poll,
}

pub(super) fn read(reader: &mut LayeredConfig<'_>) -> DirmonitorSection {
    DirmonitorSection {
        backend: reader.get(&keys::DIRMONITOR_BACKEND),
        watch_by: reader.get(&keys::DIRMONITOR_WATCH),
        poll_interval: reader.get(&keys::DIRMONITOR_POLL_INTERVAL),
        stable_after: reader.get(&keys::DIRMONITOR_STABLE_AFTER),
        rescan_interval: reader.get(&keys::DIRMONITOR_RESCAN_INTERVAL),
    }
}
