//! Attributes of an open file that are not from a cache, and whether a process has it open for writing. The standard library
//! offers neither, and the calls have no safe interface.

use std::fs::{File, Metadata};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::libc;

/// The command that sets the signal for a broken lease; the `libc` crate lacks it.
const F_SETSIG: libc::c_int = 10;

/// Attributes that show that a file has changed. Times are nanoseconds since 1970, by the clock of its file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    /// Bytes.
    pub size: u64,
    /// When its content changed last.
    pub modified: i64,
    /// The time of the last change of its attributes, which includes a rename.
    pub changed: i64,
    /// Its number on its file system.
    pub inode: u64,
}

impl From<&Metadata> for FileStamp {
    fn from(meta: &Metadata) -> Self {
        Self {
            size: meta.size(),
            modified: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            changed: nanoseconds(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
        }
    }
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

/// The attributes as the file system has them now. `fstat(2)` answers from the cache of FUSE and SMB, also for a file that was
/// opened a moment ago.
pub fn attributes(file: &File) -> io::Result<FileStamp> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_FORCE_SYNC;
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty string that is static, and statx writes one structure, which lives on this stack; all
    // zeroes are valid for it.
    let found = unsafe {
        if libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, libc::STATX_BASIC_STATS, found.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        found.assume_init()
    };
    let time = |time: libc::statx_timestamp| nanoseconds(time.tv_sec, i64::from(time.tv_nsec));
    Ok(FileStamp {
        size: found.stx_size,
        modified: time(found.stx_mtime),
        changed: time(found.stx_ctime),
        inode: found.stx_ino,
    })
}

/// Whether a process of this machine, in any container, has the file open or mapped for writing; `None` if the kernel
/// cannot determine it. The kernel refuses a read lease, see `fcntl(2)`, on a file that is open for writing; it grants
/// one only to the owner of the file and to processes with `CAP_LEASE`. `file` is open for reading.
#[must_use]
pub fn has_writer(file: &File) -> Option<bool> {
    // SAFETY: fcntl with these commands takes integers alone, and acts on a descriptor that is open.
    let set = |command, value: i32| unsafe { libc::fcntl(file.as_raw_fd(), command, value) };
    // A process that opens the file for writing before the lease is released waits for that, and the kernel sends us a signal:
    // one without an effect, instead of SIGIO.
    if set(F_SETSIG, libc::SIGCHLD) != 0 {
        return None;
    }
    if set(libc::F_SETLEASE, libc::F_RDLCK) == 0 {
        set(libc::F_SETLEASE, libc::F_UNLCK);
        return Some(false);
    }
    (Errno::last() == Errno::EAGAIN).then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_writer_detects_open_writer() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        std::fs::write(&path, "content").expect("written");
        let reader = File::open(&path).expect("readable");
        assert_eq!(has_writer(&reader), Some(false), "a lease needs a local file system");
        let writer = std::fs::OpenOptions::new().append(true).open(&path).expect("writable");
        assert_eq!(has_writer(&reader), Some(true));
        drop(writer);
        assert_eq!(has_writer(&reader), Some(false));
        let found = attributes(&reader).expect("it is there");
        assert_eq!((found.size, found.modified <= found.changed), (7, true));
    }
}
