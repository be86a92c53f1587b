//! Who watches directories, and how, where bots.ini says nothing of a directory.

use std::time::Duration;

use super::Backend;
use super::keys;
use super::layers::Reader;

/// The directory monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dirmonitor {
    /// Who does the work.
    pub backend: Backend,
    /// How new files are found.
    pub watch_by: WatchBy,
    /// Time between two looks at a directory that is polled.
    pub poll_interval: Duration,
    /// How long a file has to stay as it is to be complete, where its close cannot be seen.
    pub settle: Duration,
    /// Time between two looks at everything where events are had.
    pub sweep: Duration,
}

/// How new files are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WatchBy {
    /// As the file system allows.
    Auto,
    /// By the kernel's events.
    Inotify,
    /// By looking again and again.
    Poll,
}

pub(super) fn read(reader: &mut Reader<'_>) -> Dirmonitor {
    Dirmonitor {
        backend: reader.get(&keys::DIRMONITOR_BACKEND),
        watch_by: reader.get(&keys::DIRMONITOR_WATCH),
        poll_interval: reader.get(&keys::DIRMONITOR_POLL_INTERVAL),
        settle: reader.get(&keys::DIRMONITOR_SETTLE),
        sweep: reader.get(&keys::DIRMONITOR_SWEEP),
    }
}
