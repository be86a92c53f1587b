//! Locks on files, by flock(2): they die with their holder.

use std::fs::{File, TryLockError};
use std::io;

use nix::libc;

/// Locks a file unless another process has a lock on it; whether it is locked now.
pub fn try_lock(file: &File) -> io::Result<bool> {
    is_locked(file.try_lock())
}

/// The same with a shared lock.
pub fn try_lock_shared(file: &File) -> io::Result<bool> {
    is_locked(file.try_lock_shared())
}

/// The CIFS client returns EACCES for a file that another process has locked. flock(2) has no other reason for it.
fn is_locked(answer: Result<(), TryLockError>) -> io::Result<bool> {
    match answer {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) if error.raw_os_error() == Some(libc::EACCES) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The number of processes and threads that wait for a lock on a file.
#[cfg(test)]
pub fn waiting(path: &std::path::Path) -> usize {
    use std::os::unix::fs::MetadataExt;
    let inode = std::fs::metadata(path).expect("it exists").ino();
    let locks = std::fs::read_to_string("/proc/locks").expect("readable");
    locks.lines().filter(|line| line.contains("->") && line.contains(&format!(":{inode} "))).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_locked_distinguishes_contention_from_errors() {
        let failed = |number| Err(TryLockError::Error(io::Error::from_raw_os_error(number)));
        assert!(is_locked(Ok(())).expect("no fault"));
        assert!(!is_locked(Err(TryLockError::WouldBlock)).expect("no fault"));
        assert!(!is_locked(failed(libc::EACCES)).expect("no fault"));
        assert_eq!(is_locked(failed(libc::ENOLCK)).expect_err("a fault").raw_os_error(), Some(libc::ENOLCK));
    }
}
