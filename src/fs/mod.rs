//! Files: atomic writes, locks, directories that no symbolic link leads out of, regular files alone, private temporary directories.

pub mod atomic;
pub mod lock;
pub mod no_follow;
pub mod regular;
pub mod temp_dir;

/// What failed on which path, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);
