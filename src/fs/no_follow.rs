//! Creates files below a configured directory without following links: another writer of the volume could have planted
//! one that points outside.
//!
//! The directory itself may be reached by links, as is common for volumes and on laptops. Each directory below it is
//! opened by name relative to its parent, so a link cannot replace it between check and use.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::Error;
use super::atomic::{describe_io_error, make_dir};

/// A configured directory, and the last used directory at or below it.
#[derive(Debug)]
pub struct NoFollowDir {
    root: PathBuf,
    open_dir: (PathBuf, OwnedFd),
}

impl NoFollowDir {
    /// The directory, which is created if it is missing.
    ///
    /// # Errors
    /// When it cannot be made or used.
    pub fn new(root: &Path) -> Result<Self, Error> {
        make_dir(root)?;
        Ok(Self { root: root.to_owned(), open_dir: (PathBuf::new(), open(root, Path::new(""))?) })
    }

    /// Makes a directory and those between.
    ///
    /// # Errors
    /// When one cannot be made, or is a link.
    pub fn make_dir(&mut self, path: &Path) -> Result<(), Error> {
        self.directory(path).map(|_| ())
    }

    /// Writes a file, and creates its directory. An existing entry of this name, such as a link, is deleted first
    /// instead of written to.
    ///
    /// # Errors
    /// If it cannot be written, or a directory on the path is a link.
    pub fn write(&mut self, path: &Path, content: &mut impl io::Read) -> Result<(), Error> {
        let whole = self.root.join(path);
        let directory = self.directory(path.parent().unwrap_or(Path::new("")))?;
        let name = path.file_name().unwrap_or_default();
        let made = create(directory, name).and_then(|mut file| io::copy(content, &mut file));
        made.map(|_| ()).map_err(|error| describe_io_error("write", &whole, &error))
    }

    fn directory(&mut self, path: &Path) -> Result<&OwnedFd, Error> {
        if self.open_dir.0 != path {
            self.open_dir = (path.to_owned(), open(&self.root, path)?);
        }
        Ok(&self.open_dir.1)
    }
}

fn open(root: &Path, path: &Path) -> Result<OwnedFd, Error> {
    let mut whole = root.to_owned();
    let failed = |error: Errno, whole: &Path| describe_io_error("use the directory", whole, &error.into());
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut directory = openat(AT_FDCWD, root, flags, Mode::empty()).map_err(|error| failed(error, root))?;
    for part in path.components() {
        whole.push(part);
        let Component::Normal(name) = part else { return Err(failed(Errno::EINVAL, &whole)) };
        directory = open_subdir(&directory, name).map_err(|error| failed(error, &whole))?;
    }
    Ok(directory)
}

/// A directory in another one, created if it is missing.
fn open_subdir(directory: &OwnedFd, name: &OsStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let open = || openat(directory, name, flags, Mode::empty());
    match open() {
        Err(Errno::ENOENT) => match mkdirat(directory, name, Mode::from_bits_truncate(0o777)) {
            Ok(()) | Err(Errno::EEXIST) => open(),
            Err(error) => Err(error),
        },
        // The kernel reports "not a directory" for a link, which would mislead a user following it.
        Err(Errno::ENOTDIR) if is_link(directory, name) => Err(Errno::ELOOP),
        opened => opened,
    }
}

fn is_link(directory: &OwnedFd, name: &OsStr) -> bool {
    let kind = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).map(|stat| stat.st_mode & SFlag::S_IFMT.bits());
    kind == Ok(SFlag::S_IFLNK.bits())
}

/// A file that was not there before.
fn create(directory: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let new = || openat(directory, name, flags, Mode::from_bits_truncate(0o666));
    let file = match new() {
        Err(Errno::EEXIST) => unlinkat(directory, name, UnlinkatFlags::NoRemoveDir).and_then(|()| new()),
        made => made,
    };
    Ok(File::from(file?))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_root_directory_may_be_a_symlink() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [real, elsewhere] = ["real", "elsewhere"].map(|name| dir.path().join(name));
        fs::create_dir(&real).expect("made");
        fs::create_dir(&elsewhere).expect("made");
        symlink(&real, dir.path().join("configured")).expect("linked");
        let mut below = NoFollowDir::new(&dir.path().join("configured")).expect("a link is fine here");
        below.write(Path::new("deep/down/file"), &mut &b"content"[..]).expect("written");
        assert_eq!(fs::read(real.join("deep/down/file")).expect("there"), b"content");

        symlink(&elsewhere, real.join("planted")).expect("linked");
        let refused =
            below.write(Path::new("planted/file"), &mut &b"content"[..]).expect_err("it is a link").to_string();
        assert!(
            refused.contains("configured/planted: symbolic links are not followed") && refused.contains("remove"),
            "{refused}"
        );
        assert!(below.make_dir(Path::new("planted/below")).is_err() && below.make_dir(Path::new("../x")).is_err());
        assert_eq!(fs::read_dir(&elsewhere).expect("there").count(), 0);
    }

    #[test]
    fn write_replaces_symlinks_and_hard_links() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [target, root] = ["target", "root"].map(|name| dir.path().join(name));
        fs::write(&target, "somebody else's").expect("written");
        let mut below = NoFollowDir::new(&root).expect("made");
        symlink(&target, root.join("soft")).expect("linked");
        fs::hard_link(&target, root.join("hard")).expect("linked");
        for name in ["soft", "hard"] {
            below.write(Path::new(name), &mut &b"ours"[..]).expect("written");
            assert_eq!(fs::read_to_string(root.join(name)).expect("there"), "ours");
        }
        assert_eq!(fs::read_to_string(&target).expect("there"), "somebody else's");
    }
}
