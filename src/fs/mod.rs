//! Files: atomic writes, locks, directories without links to the outside, reads of regular files only, attributes and writers of
//! open files, private temporary directories.

pub mod atomic;
pub mod lock;
pub mod mount_points;
pub mod no_follow;
pub mod open_file;
pub mod regular;
pub mod temp_dir;

/// The failed action, the path, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);
