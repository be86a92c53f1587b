//! The kernel's table of mounts. There is no event when a volume is mounted below a watched directory, or is back.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The table as it was read last.
#[derive(Debug, Default)]
pub struct MountTable(Option<BTreeSet<(Vec<u8>, PathBuf)>>);

impl MountTable {
    /// Reads the table again. Returns where something was mounted or unmounted since; nothing the first time.
    pub fn read_changes(&mut self) -> Vec<PathBuf> {
        let Ok(text) = fs::read("/proc/self/mountinfo") else { return Vec::new() };
        let now: BTreeSet<_> = text.split(|byte| *byte == b'\n').filter_map(parse).collect();
        match self.0.replace(now.clone()) {
            Some(before) => before.symmetric_difference(&now).map(|(_, point)| point.clone()).collect(),
            None => Vec::new(),
        }
    }
}

/// Whether one of these mount points is below a directory.
#[must_use]
pub fn is_above(directory: &Path, points: &[PathBuf]) -> bool {
    let real = || fs::canonicalize(directory).is_ok_and(|real| points.iter().any(|point| point.starts_with(&real)));
    !points.is_empty() && real()
}

/// Number and mount point of a line: the first and the fifth word.
fn parse(line: &[u8]) -> Option<(Vec<u8>, PathBuf)> {
    let mut words = line.split(|byte| *byte == b' ');
    let number = words.next()?.to_owned();
    Some((number, PathBuf::from(OsString::from_vec(unescape(words.nth(3)?)))))
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
        assert_eq!(parse(line), Some((b"36".to_vec(), PathBuf::from(r"/in/a b\c"))));
        assert_eq!(parse(b""), None);
    }
}
