//! A directory for one rehearsal: nobody else can look into it, and it is gone afterwards.
//!
//! Whoever works in one holds a lock in it, which dies with its holder. So the next rehearsal can tell what was left by one that
//! was killed, and removes that: there are copies of configuration in it.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Error, atomic};
use crate::random;

const PREFIX: &str = "bots-ctl-check-";

/// The file that is locked.
const HELD: &str = ".bots-ctl-held";

/// Such a directory, removed when it is dropped.
pub(crate) struct Scratch {
    path: PathBuf,
    /// Let go when everything is gone.
    _held: File,
}

impl Scratch {
    /// Makes one in a place for temporary files, where what was left is removed first.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(place: &Path) -> Result<Self, Error> {
        sweep(place);
        loop {
            let path = place.join(format!("{PREFIX}{}", random::alphanumeric(12)));
            make_private(&path)?;
            match atomic::try_lock(&path.join(HELD)) {
                Ok(Some(held)) if path.join(HELD).exists() => return Ok(Self { path, _held: held }),
                Err(error) if path.exists() => return Err(error),
                // Somebody has swept between the two steps.
                _ => {}
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Makes a directory that nobody else can look into: configuration may hold passwords.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn make_private(dir: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().mode(0o700).create(dir);
    made.map_err(|error| atomic::explain("create the directory", dir, &error))
}

/// Removes what this user has left here and no process holds.
fn sweep(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
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
    fn what_was_left_is_removed_and_what_is_held_stays() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let held = Scratch::new(place.path()).expect("made");
        let [left, begun, others] =
            ["bots-ctl-check-left", "bots-ctl-check-begun", "others"].map(|n| place.path().join(n));
        for dir in [&left, &begun, &others] {
            fs::create_dir(dir).expect("made");
        }
        for file in [left.join(HELD), left.join("settings.py"), others.join("file")] {
            fs::write(file, "content").expect("written");
        }
        symlink(&others, place.path().join("bots-ctl-check-link")).expect("linked");
        let new = Scratch::new(place.path()).expect("made");
        assert!(held.path().exists() && new.path().exists() && others.join("file").exists());
        assert!(!left.exists() && !begun.exists());
        let path = new.path().to_owned();
        drop(new);
        assert!(!path.exists());
    }
}
