//! The kernel's mount table. There is no inotify event when a volume is mounted or unmounted below a watched directory.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::fs::mount_points::{MOUNT_TABLE, mount_points};

/// The table as it was read last.
#[derive(Debug, Default)]
pub struct MountTable {
    /// Kept open: the kernel notifies each open file of changes. Mount IDs are reused, so remounting a volume may leave
    /// the table unchanged.
    file: Option<File>,
    points: Vec<PathBuf>,
}

impl MountTable {
    /// Where volumes are or were mounted, if that has changed since the last time; nothing the first time.
    pub fn read_changes(&mut self) -> Vec<PathBuf> {
        let is_first = self.file.is_none();
        let Some(file) = self.file.take().or_else(|| File::open(MOUNT_TABLE).ok()) else { return Vec::new() };
        let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        let has_changed = poll(&mut polled, PollTimeout::ZERO).is_ok()
            && polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLPRI));
        self.file = Some(file);
        if !is_first && !has_changed {
            return Vec::new();
        }
        let now = mount_points(&fs::read(MOUNT_TABLE).unwrap_or_default());
        let before = std::mem::replace(&mut self.points, now.clone());
        if is_first { Vec::new() } else { [before, now].concat() }
    }
}

/// Whether one of these mount points is below a directory.
#[must_use]
pub fn is_above(directory: &Path, points: &[PathBuf]) -> bool {
    let real = || {
        fs::canonicalize(directory)
            .is_ok_and(|real| points.iter().any(|point| point.starts_with(&real) && **point != *real))
    };
    !points.is_empty() && real()
}
