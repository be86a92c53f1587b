//! The directories on which volumes are mounted.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// The mount table of this process.
pub const MOUNT_TABLE: &str = "/proc/self/mountinfo";

/// The mount points in a mount table: the fifth word of each line.
pub fn mount_points(table: &[u8]) -> Vec<PathBuf> {
    let words = table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    words.map(|word| PathBuf::from(OsString::from_vec(unescape(word)))).collect()
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
        let table = br"36 35 98:0 /mnt1 /in/a\040b\134c rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mount_points(table), [PathBuf::from(r"/in/a b\c")]);
        assert!(mount_points(b"").is_empty());
    }
}
