//! A temporary directory that only this user can read, and that is deleted when dropped.
//!
//! Its owner holds a lock in it, which the kernel releases when the process ends. So the next process can detect and
//! delete the directory of a killed one, which contains copies of configuration.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Error, atomic};
use crate::random;

const PREFIX: &str = "bots-ctl-check-";

/// The file that is locked.
const HELD: &str = ".bots-ctl-held";

/// Such a directory, removed when it is dropped.
pub(crate) struct PrivateTempDir {
    path: PathBuf,
    /// Released after the directory is deleted.
    _held: File,
}

impl PrivateTempDir {
    /// Creates one in a directory for temporary files, after deleting leftover ones.
    pub fn new(parent: &Path) -> Result<Self, Error> {
        remove_stale(parent);
        loop {
            let path = parent.join(format!("{PREFIX}{}", random::alphanumeric(12)));
            make_private(&path)?;
            match atomic::try_lock(&path.join(HELD)) {
                Ok(Some(lock)) if path.join(HELD).exists() => return Ok(Self { path, _held: lock }),
                Err(error) if path.exists() => return Err(error),
                // Another process has removed it between the two steps.
                _ => {}
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PrivateTempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Creates a directory that no other user can read: the configuration may contain passwords.
pub(crate) fn make_private(dir: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().mode(0o700).create(dir);
    made.map_err(|error| atomic::describe_io_error("create the directory", dir, &error))
}

/// Removes leftover directories of this user that no process has locked.
fn remove_stale(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_scratch = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        let is_own = || {
            let meta = fs::symlink_metadata(entry.path());
            meta.is_ok_and(|meta| meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw())
        };
        if is_scratch
            && is_own()
            && let Ok(Some(_held)) = atomic::try_lock(&entry.path().join(HELD))
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn new_temp_dir_removes_only_abandoned_ones() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let lock = PrivateTempDir::new(parent.path()).expect("made");
        let [left, begun, others] =
            ["bots-ctl-check-left", "bots-ctl-check-begun", "others"].map(|n| parent.path().join(n));
        for dir in [&left, &begun, &others] {
            fs::create_dir(dir).expect("made");
        }
        for file in [left.join(HELD), left.join("settings.py"), others.join("file")] {
            fs::write(file, "content").expect("written");
        }
        symlink(&others, parent.path().join("bots-ctl-check-link")).expect("linked");
        let new = PrivateTempDir::new(parent.path()).expect("made");
        assert!(lock.path().exists() && new.path().exists() && others.join("file").exists());
        assert!(!left.exists() && !begun.exists());
        let path = new.path().to_owned();
        drop(new);
        assert!(!path.exists());
    }
}
