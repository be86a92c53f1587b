//! Files and directories of the environment: written atomically, with errors that name the remedy.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::Error;
use super::{lock, regular};

/// Creates a directory and its parents, and syncs them to disk.
pub fn make_dir(path: &Path) -> Result<(), Error> {
    let missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
    fs::create_dir_all(path).map_err(|error| describe_io_error("create the directory", path, &error))?;
    missing.into_iter().filter_map(Path::parent).try_for_each(fsync_dir)
}

/// Replaces a file in one step: readers see the old content or the new, even after a crash. The file is synced to disk. It
/// stays unchanged if it already has that content and mode.
///
/// Returns whether anything was written.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<bool, Error> {
    let mut batch = AtomicBatch::default();
    let differs = batch.add(path, content, mode)?;
    batch.commit()?;
    Ok(differs)
}

/// Files that are replaced together. All are written under temporary names first: if one does not fit, none is
/// replaced.
#[derive(Debug, Default)]
pub struct AtomicBatch {
    /// The temporary and the final path of each.
    written: Vec<(PathBuf, PathBuf)>,
}

impl AtomicBatch {
    /// Writes a file that [`AtomicBatch::commit`] moves into place, unless the file already has that content and mode.
    ///
    /// Returns whether it differs.
    pub fn add(&mut self, path: &Path, content: &[u8], mode: u32) -> Result<bool, Error> {
        if is_up_to_date(path, content, mode) {
            return Ok(false);
        }
        let temporary = temporary_name(path);
        let written = write_and_sync(&temporary, content, mode);
        self.written.push((temporary, path.to_owned()));
        written.map_err(|error| describe_io_error("write", path, &error))?;
        Ok(true)
    }

    /// Puts all files in their places.
    pub fn commit(mut self) -> Result<(), Error> {
        for (temporary, path) in &self.written {
            fs::rename(temporary, path).map_err(|error| describe_io_error("write", path, &error))?;
        }
        let directories: BTreeSet<&Path> = self.written.iter().filter_map(|(_, path)| path.parent()).collect();
        directories.into_iter().try_for_each(fsync_dir)?;
        self.written.clear();
        Ok(())
    }
}

impl Drop for AtomicBatch {
    fn drop(&mut self) {
        for (temporary, _) in &self.written {
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Syncs the names in a directory to disk. Otherwise a created, renamed or deleted entry may revert after a power
/// failure.
pub fn fsync_dir(dir: &Path) -> Result<(), Error> {
    use ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    // The parent of a relative name.
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    match File::open(dir).and_then(|dir| dir.sync_all()) {
        // Not every file system supports it, and a directory without read permission cannot be opened for it.
        Err(error) if matches!(error.kind(), InvalidInput | Unsupported | PermissionDenied) => Ok(()),
        synced => synced.map_err(|error| describe_io_error("flush", dir, &error)),
    }
}

/// Whether a file has this content and these permission bits.
pub fn is_up_to_date(path: &Path, content: &[u8], mode: u32) -> bool {
    regular::read(path).is_ok_and(|current| current == content) && file_mode(path) == Some(mode)
}

/// A file's permission bits.
pub fn file_mode(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|meta| meta.permissions().mode() & 0o777)
}

/// Creates a file with this content unless the name exists, even as a dangling link: of several concurrent callers, one
/// wins and all read its content.
///
/// Returns whether this call created it.
pub fn create_if_absent(path: &Path, content: &[u8], mode: u32) -> Result<bool, Error> {
    if fs::symlink_metadata(path).is_ok() {
        return Ok(false);
    }
    let temporary = temporary_name(path);
    let made = write_and_sync(&temporary, content, mode).and_then(|()| fs::hard_link(&temporary, path));
    let linked = made.or_else(|error| match error.kind() {
        // A file system without hard links. The caller holds the environment's lock, so no other process comes in between.
        ErrorKind::Unsupported | ErrorKind::PermissionDenied if temporary.exists() => fs::rename(&temporary, path),
        _ => Err(error),
    });
    let _ = fs::remove_file(&temporary);
    match linked {
        Ok(()) => path.parent().map_or(Ok(()), fsync_dir).map(|()| true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(describe_io_error("write", path, &error)),
    }
}

/// A secret that is kept in a file, which is created with this content if it is missing.
///
/// # Errors
/// See [`read_secret`].
pub fn load_or_create_secret(path: &Path, content: &str, what: &str) -> Result<String, Error> {
    create_if_absent(path, content.as_bytes(), 0o600)?;
    read_secret(path, what)
}

/// A secret that is kept in a file. Links are rejected: another process created the target, and may know the secret.
///
/// # Errors
/// When it cannot be read, is empty, or is behind a link.
pub fn read_secret(path: &Path, what: &str) -> Result<String, Error> {
    let link = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
    let file = if link { Err(Errno::ELOOP.into()) } else { regular::open_with(path, nix::libc::O_NOFOLLOW) };
    let read = file.and_then(regular::read_opened).map_err(|error| describe_io_error("read", path, &error))?;
    let kept = String::from_utf8_lossy(&read);
    match kept.trim_end() {
        "" => Err(Error(format!("{} is empty: remove it; bots-ctl then generates a new {what}", path.display()))),
        secret => Ok(secret.to_owned()),
    }
}

/// The path may be on a volume that others write to, where a link could point anywhere.
fn nofollow(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags(nix::libc::O_NOFOLLOW)
}

/// A temporary name in the same directory. The PID distinguishes processes of one machine, random bits those of several
/// machines that share a volume.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let random = getrandom::u32().unwrap_or_default();
    path.with_file_name(format!(".{name}.{}-{random:08x}.tmp", std::process::id()))
}

fn write_and_sync(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // Explicitly: the umask must not decide whether another pod can read it.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

/// Whether this process may create files in a directory, according to the kernel.
pub fn check_writable(path: &Path) -> Result<(), Error> {
    use nix::unistd::{AccessFlags, access};
    let allowed = access(path, AccessFlags::W_OK | AccessFlags::X_OK).map_err(io::Error::from);
    allowed.map_err(|error| describe_io_error("write to", path, &error))
}

/// Whether a directory exists and is writable, or can be created.
pub fn check_creatable(path: &Path) -> Result<(), Error> {
    use nix::unistd::{AccessFlags, access};
    if path.exists() {
        return check_writable(path);
    }
    let Some(parent) = path.ancestors().find(|path| path.exists()) else { return Ok(()) };
    let allowed = match parent.is_dir() {
        true => access(parent, AccessFlags::W_OK | AccessFlags::X_OK).map_err(io::Error::from),
        false => Err(io::Error::from(ErrorKind::NotADirectory)),
    };
    allowed.map_err(|error| describe_io_error("create the directory", path, &error))
}

/// The error of an action on a path: with owner and mode of the nearest existing directory, the uid of this process, and the
/// usual remedy.
pub fn describe_io_error(action: &str, path: &Path, error: &io::Error) -> Error {
    let reason = match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => describe_permissions(path, error),
        _ if error.raw_os_error() == Some(nix::libc::ELOOP) => {
            return Error(format!(
                "cannot {action} {}: symbolic links are not followed here: remove it, or replace it with the file it points to",
                path.display()
            ));
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => format!("{error}; free space on that volume"),
        _ => error.to_string(),
    };
    Error(format!("cannot {action} {}: {reason}", path.display()))
}

fn describe_permissions(path: &Path, error: &io::Error) -> String {
    let Some((existing, meta)) = path.ancestors().find_map(|p| fs::symlink_metadata(p).ok().map(|m| (p, m))) else {
        return error.to_string();
    };
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let hint = match error.kind() {
        ErrorKind::ReadOnlyFilesystem => "mount a writable volume there, or set HOME to one",
        _ => {
            "in Kubernetes set securityContext.fsGroup to that gid; elsewhere chown the directory, or set HOME to another one"
        }
    };
    format!(
        "{error}; {} is owned by {}:{} with mode {:04o}, and this process runs as {uid}:{gid}; {hint}",
        existing.display(),
        meta.uid(),
        meta.gid(),
        meta.permissions().mode() & 0o7777,
    )
}

/// A lock that dies with its holder. Waits for another holder.
pub fn lock(path: &Path) -> Result<File, Error> {
    open_lock(path).and_then(|file| file.lock().map(|()| file)).map_err(|error| describe_io_error("lock", path, &error))
}

/// As [`lock()`], without waiting: `None` when another process has it.
pub fn try_lock(path: &Path) -> Result<Option<File>, Error> {
    let try_lock = |file: File| lock::try_lock(&file).map(|is_ours| is_ours.then_some(file));
    open_lock(path).and_then(try_lock).map_err(|error| describe_io_error("lock", path, &error))
}

/// Opens the file of a lock.
pub fn open_lock(path: &Path) -> io::Result<File> {
    nofollow(OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600)).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_replaces_whole_file_without_leftovers() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        assert!(write_atomically(&path, b"one", 0o644).expect("written"));
        assert!(!write_atomically(&path, b"one", 0o644).expect("unchanged"));
        assert!(write_atomically(&path, b"two", 0o600).expect("written"));
        assert_eq!(fs::read(&path).expect("readable"), b"two");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1);
    }

    #[test]
    fn failed_batch_replaces_no_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (one, two) = (dir.path().join("one"), dir.path().join("missing/two"));
        fs::write(&one, b"old").expect("written");
        let mut batch = AtomicBatch::default();
        assert!(batch.add(&one, b"new", 0o600).expect("there is room"));
        assert!(batch.add(&two, b"new", 0o600).is_err());
        drop(batch);
        assert_eq!(fs::read(&one).expect("readable"), b"old");
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1);
    }

    #[test]
    fn write_replaces_symlink_without_following_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, b"somebody else's").expect("written");
        std::os::unix::fs::symlink(&target, &link).expect("linked");
        write_atomically(&link, b"ours", 0o600).expect("written");
        assert_eq!(fs::read(&target).expect("readable"), b"somebody else's");
        assert!(!fs::symlink_metadata(&link).expect("there").is_symlink());
    }

    #[test]
    fn locks_and_secrets_reject_symlinks() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [known, link, nowhere, missing] = ["known", "link", "nowhere", "missing"].map(|name| dir.path().join(name));
        fs::write(&known, "somebody else's").expect("written");
        std::os::unix::fs::symlink(&known, &link).expect("linked");
        std::os::unix::fs::symlink(&missing, &nowhere).expect("linked");
        for path in [&link, &nowhere] {
            let refused = [
                load_or_create_secret(path, "ours", "key").map(|_| ()).expect_err("it is a link"),
                lock(path).map(|_| ()).expect_err("it is a link"),
                try_lock(path).map(|_| ()).expect_err("it is a link"),
            ];
            for error in refused.map(|error| error.to_string()) {
                assert!(error.contains(&*path.to_string_lossy()) && error.contains("symbolic links"), "{error}");
            }
        }
        assert!(!missing.exists());
        assert_eq!(load_or_create_secret(&missing, "ours\n", "key").expect("made"), "ours");
        assert_eq!(load_or_create_secret(&missing, "another", "key").expect("there"), "ours");
    }

    #[test]
    fn concurrent_creation_succeeds_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("key");
        let made: usize = std::thread::scope(|scope| {
            let create = |n: u8| usize::from(create_if_absent(&path, &[n], 0o600).expect("created or seen"));
            let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || create(n))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(made, 1);
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1);
    }

    #[test]
    fn full_disk_and_missing_permission_have_separate_errors() {
        let full = describe_io_error("write", Path::new("/x"), &io::Error::from_raw_os_error(nix::libc::ENOSPC));
        assert!(full.to_string().contains("free space"), "{full}");
        let denied = describe_io_error("create", Path::new("/x/y"), &io::Error::from_raw_os_error(nix::libc::EACCES));
        assert!(denied.to_string().contains("fsGroup") && denied.to_string().contains("mode "), "{denied}");
    }
}
