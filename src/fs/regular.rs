//! Reads regular files with configuration and secrets. Special files are rejected without waiting: opening a FIFO may
//! block, and a device may never end.

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;
use nix::sys::stat::makedev;

/// No configuration is larger; a ConfigMap of Kubernetes has at most 1 MiB.
pub const MAX_FILE_SIZE: u64 = 16 * MIB;

const MIB: u64 = 1024 * 1024;

/// Opens a regular file. `/dev/null` counts as an empty file.
///
/// # Errors
/// If it cannot be opened, or is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    open_with(path, 0)
}

/// As [`open`], with further flags of `open(2)`.
pub(super) fn open_with(path: &Path, flags: i32) -> io::Result<File> {
    // Before the open, on which a device may act.
    check(&metadata(path)?)?;
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | flags).open(path)?;
    check(&file.metadata()?)?;
    Ok(file)
}

/// Reads a regular file of at most [`MAX_FILE_SIZE`].
///
/// # Errors
/// As [`open`], and when it is larger.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_opened(open(path)?)
}

/// As [`read`], for text.
///
/// # Errors
/// As [`read`], and when it is not UTF-8.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the file is not UTF-8 text"))
}

pub(super) fn read_opened(file: File) -> io::Result<Vec<u8>> {
    let size = file.metadata()?.len();
    let mut content = Vec::with_capacity(usize::try_from(size.min(MAX_FILE_SIZE)).unwrap_or_default() + 1);
    if size > MAX_FILE_SIZE || file.take(MAX_FILE_SIZE + 1).read_to_end(&mut content)? as u64 > MAX_FILE_SIZE {
        let size = size.max(content.len() as u64).div_ceil(MIB);
        return Err(io::Error::other(format!("the file has {size} MiB; the limit is {} MiB", MAX_FILE_SIZE / MIB)));
    }
    Ok(content)
}

fn metadata(path: &Path) -> io::Result<Metadata> {
    fs::metadata(path).map_err(|error| match fs::read_link(path) {
        Ok(target) if error.kind() == io::ErrorKind::NotFound => {
            io::Error::other(format!("it is a symbolic link to {}, which does not exist", target.display()))
        }
        _ => error,
    })
}

fn check(found: &Metadata) -> io::Result<()> {
    let kind = found.file_type();
    if kind.is_file() || kind.is_char_device() && found.rdev() == makedev(1, 3) {
        return Ok(());
    }
    Err(io::Error::other(format!("it is {}, not a regular file", name(kind))))
}

fn name(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// Whether there is a file, or an error that hides it, such as a directory without access: reading it reports the reason.
#[must_use]
pub fn may_exist(path: &Path) -> bool {
    let missing = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
    path.symlink_metadata().map_or_else(|error| !missing.contains(&error.kind()), |_| true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn read_rejects_special_files_without_waiting() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| dir.path().join(name);
        mkfifo(&path("fifo"), Mode::S_IRWXU).expect("made");
        let _socket = UnixListener::bind(path("socket")).expect("bound");
        symlink("/does/not/exist", path("dangling")).expect("linked");
        symlink("/dev/zero", path("endless")).expect("linked");
        File::create(path("large")).and_then(|file| file.set_len(300 * MIB)).expect("made");
        let table = [
            ("fifo", "a FIFO, not a regular file"),
            ("socket", "a socket, not a regular file"),
            ("dangling", "a symbolic link to /does/not/exist, which does not exist"),
            ("endless", "a device, not a regular file"),
            (".", "a directory, not a regular file"),
            ("large", "the file has 300 MiB; the limit is 16 MiB"),
        ];
        for (file, expected) in table {
            let refused = read(&path(file)).expect_err(file).to_string();
            assert!(refused.contains(expected), "{file}: {refused}");
        }
        assert_eq!(read(Path::new("/dev/null")).expect("empty"), b"");
        assert_eq!(read(&path("missing")).expect_err("missing").kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn read_returns_content_of_file_with_zero_size() {
        assert!(read(Path::new("/proc/self/status")).is_ok_and(|content| !content.is_empty()));
    }
}
