//! The entries of a directory, and errors in words.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub(super) fn list(directory: &Path, mut each: impl FnMut(&fs::DirEntry)) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        each(&entry?);
    }
    Ok(())
}

/// The real path of a directory, or of one behind a link.
pub(super) fn real_directory(entry: &fs::DirEntry) -> io::Result<Option<PathBuf>> {
    let kind = entry.file_type()?;
    if kind.is_symlink() {
        let real = fs::canonicalize(entry.path())?;
        return Ok(fs::metadata(&real)?.is_dir().then_some(real));
    }
    Ok(kind.is_dir().then(|| entry.path()))
}

pub(super) fn describe_missing(root: &Path, error: &io::Error) -> String {
    let path = root.display();
    match error.kind() {
        io::ErrorKind::NotADirectory => {
            format!("{path} is not a directory; path must be a directory, and filemask matches the files in it")
        }
        io::ErrorKind::NotFound => format!("{path} does not exist"),
        _ => format!("cannot access {path}: {}", describe_io_error(error)),
    }
}

/// Without the number that the standard library appends.
pub(super) fn describe_io_error(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
