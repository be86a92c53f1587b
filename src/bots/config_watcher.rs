//! Polls the mounted configuration for complete changes, to content other than the applied one.
//!
//! A poll costs a few system calls; files are read only after two polls have found the same change. So no file is read
//! while it is being written, and files of two versions are never mixed.

use std::path::PathBuf;

use super::Error;
use super::config_source::{ConfigFiles, Digest, DirSnapshot, snapshot};

/// A directory whose files are mounted.
#[derive(Debug, Clone)]
pub struct ConfigWatcher {
    directory: PathBuf,
    /// The digest of the files in use.
    applied: Digest,
    snapshot: Option<DirSnapshot>,
    /// The snapshot was reported.
    is_judged: bool,
}

/// The result of a poll.
#[derive(Debug)]
pub enum Change {
    /// No change.
    None,
    /// A change has begun; the next poll reports the result.
    InProgress,
    /// No file is mounted any more.
    Removed,
    /// The mounted files equal those in use again.
    Reverted,
    /// Other files are mounted.
    New(ConfigFiles),
}

impl ConfigWatcher {
    /// Watches a directory; the files in use have the digest `applied`.
    pub fn new(directory: PathBuf, applied: Digest) -> Self {
        Self { directory, applied, snapshot: None, is_judged: false }
    }

    /// Polls the directory. May wait for a volume.
    ///
    /// # Errors
    /// When a file cannot be read; then the next poll tries again.
    pub fn change(&mut self) -> Result<Change, Error> {
        let now = snapshot(&self.directory)?;
        if self.snapshot.as_ref() != Some(&now) {
            self.snapshot = Some(now);
            self.is_judged = false;
            return Ok(Change::InProgress);
        }
        if self.is_judged {
            return Ok(Change::None);
        }
        let source = ConfigFiles::read(&self.directory)?;
        if snapshot(&self.directory)? != now {
            self.snapshot = None;
            return Ok(Change::InProgress);
        }
        self.is_judged = true;
        Ok(if source.digest() == self.applied {
            Change::Reverted
        } else if source.is_empty() {
            Change::Removed
        } else {
            Change::New(source)
        })
    }

    /// The next poll reports its result again.
    pub fn invalidate(&mut self) {
        self.is_judged = false;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn mounted(content: &str) -> (tempfile::TempDir, ConfigWatcher) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("bots.ini"), content).expect("written");
        let applied = ConfigFiles::read(dir.path()).expect("readable").digest();
        let mount = ConfigWatcher::new(dir.path().to_owned(), applied);
        (dir, mount)
    }

    fn change(mount: &mut ConfigWatcher) -> Change {
        mount.change().expect("readable")
    }

    #[test]
    fn applied_content_is_reported_once_as_reverted() {
        let (_dir, mut mount) = mounted("one");
        assert!(matches!(change(&mut mount), Change::InProgress));
        assert!(matches!(change(&mut mount), Change::Reverted));
        assert!(matches!(change(&mut mount), Change::None));
    }

    #[test]
    fn change_is_reported_after_two_equal_polls_or_invalidation() {
        let (dir, mut mount) = mounted("one");
        while !matches!(change(&mut mount), Change::None) {}
        fs::write(dir.path().join("bots.ini"), "two").expect("written");
        assert!(matches!(change(&mut mount), Change::InProgress));
        fs::write(dir.path().join("bots.ini"), "three").expect("written");
        assert!(matches!(change(&mut mount), Change::InProgress));
        let Change::New(source) = change(&mut mount) else { panic!("it has changed") };
        assert_eq!(source.file("bots.ini").expect("there").content, b"three");
        assert!(matches!(change(&mut mount), Change::None));
        mount.invalidate();
        assert!(matches!(change(&mut mount), Change::New(_)));
    }

    #[test]
    fn restored_files_are_reported_as_reverted() {
        let (dir, mut mount) = mounted("one");
        while !matches!(change(&mut mount), Change::None) {}
        fs::remove_file(dir.path().join("bots.ini")).expect("there");
        assert!(matches!(change(&mut mount), Change::InProgress));
        assert!(matches!(change(&mut mount), Change::Removed));
        fs::write(dir.path().join("bots.ini"), "one").expect("written");
        assert!(matches!(change(&mut mount), Change::InProgress));
        assert!(matches!(change(&mut mount), Change::Reverted));
    }

    #[test]
    fn missing_mount_reports_no_new_configuration() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut mount = ConfigWatcher::new(dir.path().join("missing"), ConfigFiles::default().digest());
        assert!(matches!(change(&mut mount), Change::InProgress));
        assert!(matches!(change(&mut mount), Change::Reverted));
        assert!(matches!(change(&mut mount), Change::None));
    }
}
