//! Detects a change of the mounted configuration: a complete one, to other content than the applied one.
//!
//! Looking costs a few system calls; files are read when they look otherwise than before, twice in a row. So a file that is
//! being written is not read in the middle, and neither are files of two versions.

use std::path::PathBuf;

use super::Error;
use super::config_source::{ConfigFiles, Digest, DirSnapshot, snapshot};

/// A directory whose files are mounted.
#[derive(Debug, Clone)]
pub struct ConfigWatcher {
    directory: PathBuf,
    /// What is in use.
    applied: Digest,
    snapshot: Option<DirSnapshot>,
    /// What was seen has been judged.
    is_judged: bool,
}

/// What a look has shown.
#[derive(Debug)]
pub enum Change {
    /// Nothing that was not known.
    None,
    /// Something changes; the next look tells more.
    InProgress,
    /// All files are gone.
    Removed,
    /// What is mounted is what is in use, after it was something else or was mounted anew.
    Reverted,
    /// Something else is mounted.
    New(ConfigFiles),
}

impl ConfigWatcher {
    /// A directory of whose files these are in use.
    #[must_use]
    pub fn new(directory: PathBuf, applied: Digest) -> Self {
        Self { directory, applied, snapshot: None, is_judged: false }
    }

    /// Looks. May wait for a volume.
    ///
    /// # Errors
    /// When something cannot be read; then the next look tries again.
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

    /// The next look tells again what it shows.
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
