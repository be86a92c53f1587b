//! The kernel's table of mounts. There is no event when a volume is mounted below a watched directory, or is back.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const TABLE: &str = "/proc/self/mountinfo";

/// The table as it was read last.
#[derive(Debug, Default)]
pub struct MountTable {
    /// Kept open: the kernel tells each open file of a change. The numbers of mounts are used again, so that a volume that was
    /// unmounted and mounted again leaves the table as it was.
    file: Option<File>,
    points: Vec<PathBuf>,
}

impl MountTable {
    /// Where volumes are or were mounted, if that has changed since the last time; nothing the first time.
    pub fn read_changes(&mut self) -> Vec<PathBuf> {
        let is_first = self.file.is_none();
        let Some(file) = self.file.take().or_else(|| File::open(TABLE).ok()) else { return Vec::new() };
        let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        let has_changed = poll(&mut polled, PollTimeout::ZERO).is_ok()
            && polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLPRI));
        self.file = Some(file);
        if !is_first && !has_changed {
            return Vec::new();
        }
        let table = fs::read(TABLE).unwrap_or_default();
        let now: Vec<PathBuf> = table.split(|byte| *byte == b'\n').filter_map(parse).collect();
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

/// The mount point of a line: the fifth word.
fn parse(line: &[u8]) -> Option<PathBuf> {
    let point = line.split(|byte| *byte == b' ').nth(4)?;
    Some(PathBuf::from(OsString::from_vec(unescape(point))))
}

/// Blanks and backslashes of a name are three octal digits after a backslash.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = code.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        text.push(byte.unwrap_or(*first));
        rest = &after[byte.map_or(0, |_| 3)..];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_may_have_blanks() {
        let line = br"36 35 98:0 /mnt1 /in/a\040b\134c rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(parse(line), Some(PathBuf::from(r"/in/a b\c")));
        assert_eq!(parse(b""), None);
    }
}
