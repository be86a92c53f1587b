//! Notices that what is mounted has changed: whole, and into something else than what is in use.
//!
//! Looking costs a few system calls; files are read when they look otherwise than before, twice in a row. So a file that is
//! being written is not read in the middle, and neither are files of two versions.

use std::path::PathBuf;

use super::Error;
use super::config_source::{Contents, Source, State, state};

/// A directory whose files are mounted.
#[derive(Debug, Clone)]
pub struct Mount {
    directory: PathBuf,
    /// What is in use.
    taken: Contents,
    seen: Option<State>,
    /// What was seen has been judged.
    is_judged: bool,
}

/// What a look has shown.
#[derive(Debug)]
pub enum Look {
    /// Nothing that was not known.
    Same,
    /// Something changes; the next look tells more.
    Unsettled,
    /// All files are gone.
    Gone,
    /// What is mounted is what is in use, after it was something else or was mounted anew.
    AsInUse,
    /// Something else is mounted.
    Changed(Source),
}

impl Mount {
    /// A directory of whose files these are in use.
    #[must_use]
    pub fn new(directory: PathBuf, taken: Contents) -> Self {
        Self { directory, taken, seen: None, is_judged: false }
    }

    /// Looks. May wait for a volume.
    ///
    /// # Errors
    /// When something cannot be read; then the next look tries again.
    pub fn look(&mut self) -> Result<Look, Error> {
        let now = state(&self.directory)?;
        if self.seen.as_ref() != Some(&now) {
            self.seen = Some(now);
            self.is_judged = false;
            return Ok(Look::Unsettled);
        }
        if self.is_judged {
            return Ok(Look::Same);
        }
        let source = Source::read(&self.directory)?;
        if state(&self.directory)? != now {
            self.seen = None;
            return Ok(Look::Unsettled);
        }
        self.is_judged = true;
        Ok(match source.contents() {
            contents if contents == self.taken => Look::AsInUse,
            contents if contents.is_empty() => Look::Gone,
            _ => Look::Changed(source),
        })
    }

    /// The next look tells again what it shows.
    pub fn judge_again(&mut self) {
        self.is_judged = false;
    }

    /// What is in use from now on.
    pub fn take(&mut self, contents: Contents) {
        self.taken = contents;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn mounted(content: &str) -> (tempfile::TempDir, Mount) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("bots.ini"), content).expect("written");
        let taken = Source::read(dir.path()).expect("readable").contents();
        let mount = Mount::new(dir.path().to_owned(), taken);
        (dir, mount)
    }

    fn look(mount: &mut Mount) -> Look {
        mount.look().expect("readable")
    }

    #[test]
    fn what_is_in_use_is_told_once_and_then_nothing() {
        let (_dir, mut mount) = mounted("one");
        assert!(matches!(look(&mut mount), Look::Unsettled));
        assert!(matches!(look(&mut mount), Look::AsInUse));
        assert!(matches!(look(&mut mount), Look::Same));
    }

    #[test]
    fn a_change_is_told_when_it_was_seen_twice_and_again_on_demand() {
        let (dir, mut mount) = mounted("one");
        while !matches!(look(&mut mount), Look::Same) {}
        fs::write(dir.path().join("bots.ini"), "two").expect("written");
        assert!(matches!(look(&mut mount), Look::Unsettled));
        fs::write(dir.path().join("bots.ini"), "three").expect("written");
        assert!(matches!(look(&mut mount), Look::Unsettled));
        let Look::Changed(source) = look(&mut mount) else { panic!("it has changed") };
        assert_eq!(source.file("bots.ini").expect("there").content, b"three");
        assert!(matches!(look(&mut mount), Look::Same));
        mount.judge_again();
        assert!(matches!(look(&mut mount), Look::Changed(_)));
        mount.take(source.contents());
        mount.judge_again();
        assert!(matches!(look(&mut mount), Look::AsInUse));
    }

    #[test]
    fn files_that_are_gone_and_come_back_are_no_change() {
        let (dir, mut mount) = mounted("one");
        while !matches!(look(&mut mount), Look::Same) {}
        fs::remove_file(dir.path().join("bots.ini")).expect("there");
        assert!(matches!(look(&mut mount), Look::Unsettled));
        assert!(matches!(look(&mut mount), Look::Gone));
        fs::write(dir.path().join("bots.ini"), "one").expect("written");
        assert!(matches!(look(&mut mount), Look::Unsettled));
        assert!(matches!(look(&mut mount), Look::AsInUse));
    }

    #[test]
    fn where_nothing_was_ever_mounted_there_is_nothing_to_tell() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut mount = Mount::new(dir.path().join("missing"), Contents::new());
        assert!(matches!(look(&mut mount), Look::Unsettled));
        assert!(matches!(look(&mut mount), Look::AsInUse));
        assert!(matches!(look(&mut mount), Look::Same));
    }
}
