//! Detects a change of the mounted configuration: a complete one, to other content than the applied one.
//!
//! A poll costs a few system calls; files are read when two polls in a row find the same change. So a file is not read while
//! it is written, and neither are files of two versions.

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
    /// Nothing new.
    None,
    /// A change has begun; the next poll says which.
    InProgress,
    /// All files are gone.
    Removed,
    /// The mounted files are those in use again.
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
    fn what_is_in_use_is_told_once_and_then_nothing() {
        let (_dir, mut mount) = mounted("one");
        assert!(matches!(change(&mut mount), Change::InProgress));
        assert!(matches!(change(&mut mount), Change::Reverted));
        assert!(matches!(change(&mut mount), Change::None));
    }

    #[test]
    fn a_change_is_told_when_it_was_seen_twice_and_again_on_demand() {
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
    fn files_that_are_gone_and_come_back_are_no_change() {
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
    fn where_nothing_was_ever_mounted_there_is_nothing_to_tell() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut mount = ConfigWatcher::new(dir.path().join("missing"), ConfigFiles::default().digest());
        assert!(matches!(change(&mut mount), Change::InProgress));
        assert!(matches!(change(&mut mount), Change::Reverted));
        assert!(matches!(change(&mut mount), Change::None));
    }
}
