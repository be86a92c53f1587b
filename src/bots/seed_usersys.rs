//! Fills an empty directory of a volume from the image, completely or again at the next start.
//!
//! A marker is written before the first file and deleted after the last one is on disk. A start that finds the marker
//! copies everything again, so a partial copy is never used. The caller holds the lock of the environment.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use walkdir::WalkDir;

use super::Error;
use crate::fs::atomic::{describe_io_error, fsync_dir, write_atomically};
use crate::fs::no_follow::NoFollowDir;

/// Present while a directory is being filled.
pub const MARKER: &str = ".bots-ctl-seeding";

/// Entries that do not count as content: those of file systems and file browsers.
const NOT_CONTENT: [&str; 5] = [".filebrowser", "fb", "lost+found", "__init__.py", "__pycache__"];

/// A directory to copy.
#[derive(Debug, Clone, Copy)]
pub struct SeedSource<'a> {
    pub from: &'a Path,
    /// Where its content goes, below the directory that is filled.
    pub below: &'a Path,
}

/// Whether a directory is missing, has no content of the user, or was being filled by a process that died.
///
/// # Errors
/// If it cannot be read: the files of the image must not replace those of the user.
pub fn needs_seeding(dir: &Path) -> Result<bool, Error> {
    let read = || -> io::Result<bool> {
        if !dir.try_exists()? || dir.join(MARKER).try_exists()? {
            return Ok(true);
        }
        let is_content = |name: &str| !NOT_CONTENT.contains(&name) && !name.starts_with('.');
        for entry in fs::read_dir(dir)? {
            if is_content(&entry?.file_name().to_string_lossy()) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    read().map_err(|error| describe_io_error("read the directory", dir, &error).into())
}

/// Copies the sources to `path` below the configured directory `root`; later ones override earlier ones. Links are
/// followed in the sources, and never below `root`. Returns the number of files.
///
/// # Errors
/// If a file cannot be read or written; the marker then stays.
pub fn seed(root: &Path, path: &Path, sources: &[SeedSource<'_>]) -> Result<usize, Error> {
    let mut below = NoFollowDir::new(root)?;
    below.make_dir(path)?;
    let target = root.join(path);
    let marker = target.join(MARKER);
    write_atomically(&marker, b"bots-ctl is filling this directory; the next start resumes\n", 0o644)?;
    let mut files = 0;
    for source in sources {
        files += copy_tree(source.from, &mut below, &path.join(source.below))?;
    }
    sync(&target)?;
    fs::remove_file(&marker).map_err(|error| describe_io_error("remove", &marker, &error))?;
    // If the marker reappeared after a power failure, the next start would overwrite all later changes.
    fsync_dir(&target)?;
    Ok(files)
}

/// Copies only content: modes in an image layer are meaningless on a volume, and may make files unwritable.
fn copy_tree(source: &Path, below: &mut NoFollowDir, path: &Path) -> Result<usize, Error> {
    let mut files = 0;
    for entry in WalkDir::new(source).follow_links(true) {
        let entry = entry.map_err(|error| Error::fault(format!("cannot read {}: {error}", source.display())))?;
        let destination = path.join(entry.path().strip_prefix(source).unwrap_or(Path::new("")));
        if entry.file_type().is_dir() {
            below.make_dir(&destination)?;
        } else if entry.file_type().is_file() && entry.path().extension().is_none_or(|e| e != "pyc") {
            let mut content =
                File::open(entry.path()).map_err(|error| describe_io_error("read", entry.path(), &error))?;
            below.write(&destination, &mut content)?;
            files += 1;
        }
    }
    Ok(files)
}

/// One sync of the file system instead of one per file.
fn sync(dir: &Path) -> Result<(), Error> {
    let flush = File::open(dir).and_then(|dir| Ok(nix::unistd::syncfs(&dir)?));
    flush.map_err(|error| describe_io_error("flush", dir, &error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupted_seeding_is_repeated() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        fs::create_dir_all(source.join("deep")).expect("made");
        fs::write(source.join("deep/file.py"), "whole").expect("written");
        std::os::unix::fs::symlink("deep", source.join("link")).expect("linked");
        assert!(needs_seeding(&target).expect("readable"));
        assert_eq!(
            seed(&target, Path::new(""), &[SeedSource { from: &source, below: Path::new("") }]).expect("seeded"),
            2
        );
        assert_eq!(fs::read_to_string(target.join("link/file.py")).expect("copied"), "whole");
        assert!(!needs_seeding(&target).expect("readable"));

        fs::write(target.join("deep/file.py"), "who").expect("written");
        fs::write(target.join(MARKER), "").expect("written");
        assert!(needs_seeding(&target).expect("readable"));
        seed(&target, Path::new(""), &[SeedSource { from: &source, below: Path::new("") }]).expect("seeded");
        assert_eq!(fs::read_to_string(target.join("deep/file.py")).expect("copied"), "whole");
    }

    #[test]
    fn unreadable_directory_does_not_count_as_missing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // A link to itself fails with ELOOP also for root, as a share that has gone does with other errors.
        let [usersys, marked] = ["usersys", "marked"].map(|name| dir.path().join(name));
        std::os::unix::fs::symlink("usersys", &usersys).expect("linked");
        fs::create_dir(&marked).expect("made");
        std::os::unix::fs::symlink(MARKER, marked.join(MARKER)).expect("linked");
        for path in [usersys, marked] {
            let failed = needs_seeding(&path).expect_err("it cannot be read").to_string();
            assert!(failed.contains(&format!("cannot read the directory {}", path.display())), "{failed}");
        }
    }

    #[test]
    fn seeding_does_not_follow_planted_links() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [source, target, database] = ["source", "target", "botsdb"].map(|name| dir.path().join(name));
        for path in ["grammars/x12", "mappings"] {
            fs::create_dir_all(source.join(path)).expect("made");
        }
        fs::write(source.join("grammars/__init__.py"), "").expect("written");
        fs::create_dir_all(target.join("grammars")).expect("made");
        fs::write(target.join(MARKER), "").expect("written");
        fs::write(&database, "orders").expect("written");
        let link = target.join("grammars/__init__.py");
        std::os::unix::fs::symlink("../../botsdb", &link).expect("linked");
        seed(&target, Path::new(""), &[SeedSource { from: &source, below: Path::new("") }]).expect("seeded");
        assert_eq!(fs::read_to_string(&database).expect("there"), "orders");
        assert!(fs::symlink_metadata(&link).expect("there").is_file());

        let elsewhere = dir.path().join("elsewhere");
        fs::create_dir(&elsewhere).expect("made");
        fs::remove_dir_all(target.join("mappings")).expect("removed");
        std::os::unix::fs::symlink(&elsewhere, target.join("mappings")).expect("linked");
        let inside = [SeedSource { from: &source, below: Path::new("") }];
        for place in ["", "mappings"] {
            let refused = seed(&target, Path::new(place), &inside).expect_err("it leads out").to_string();
            assert!(refused.contains("target/mappings: symbolic links are not followed"), "{refused}");
        }
        assert_eq!(fs::read_dir(&elsewhere).expect("there").count(), 0);
    }

    #[test]
    fn lost_and_found_and_browser_files_are_not_content() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("lost+found")).expect("made");
        fs::write(dir.path().join(".filebrowser"), "").expect("written");
        assert!(needs_seeding(dir.path()).expect("readable"));
        fs::write(dir.path().join("mine.py"), "").expect("written");
        assert!(!needs_seeding(dir.path()).expect("readable"));
    }
}
