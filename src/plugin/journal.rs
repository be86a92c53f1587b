//! The old and new content of a change, on disk before the change is made. So an interrupted change can be completed or
//! reverted later, and a completed one can be undone.
//!
//! `pending` is a change in progress. A row of the database shows whether its rows are committed; its files are
//! replaced only afterwards. Then it becomes a numbered backup.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use super::diff::{FileChange, Plan, RowChange};
use super::directory::{remove, remove_compiled};
use crate::fs::{atomic, regular, temp_dir};
use crate::random;

/// The directory below botssys.
const DIRECTORY: &str = "plugin-changes";
const PENDING: &str = "pending";
const DESCRIPTION: &str = "change.json";

/// The beginning of a change that is being written down.
const UNFINISHED: &str = "new-";

/// How many changes can be undone.
const MAX_BACKUPS: usize = 20;

/// Mode of files that are made.
const FILE_MODE: u32 = 0o644;

/// The changes of an environment.
#[derive(Debug, Clone)]
pub struct Journal {
    directory: PathBuf,
    usersys: PathBuf,
}

/// A change.
#[derive(Debug, Serialize, Deserialize)]
pub struct RecordedChange {
    /// Its name in the database.
    pub id: String,
    /// The backup that it undoes.
    undoes: Option<String>,
    pub rows: Vec<RowChange>,
    files: Vec<RecordedFile>,
}

/// A file of a change: the names of its contents in the same directory.
#[derive(Debug, Serialize, Deserialize)]
struct RecordedFile {
    path: String,
    before: Option<String>,
    after: Option<String>,
}

impl Journal {
    /// The journal of an environment.
    #[must_use]
    pub fn new(botssys: &Path, usersys: &Path) -> Self {
        Self { directory: botssys.join(DIRECTORY), usersys: usersys.to_path_buf() }
    }

    /// The change that was cut off, if there is one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn pending(&self) -> Result<Option<RecordedChange>, Error> {
        let path = self.directory.join(PENDING);
        if exists(&path)? { load(&path).map(Some) } else { Ok(None) }
    }

    /// The last change that can be undone, with its number.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn last_backup(&self) -> Result<Option<(String, RecordedChange)>, Error> {
        let Some(name) = self.backups()?.pop() else { return Ok(None) };
        load(&self.directory.join(&name)).map(|change| Some((name, change)))
    }

    /// The files of a backup, as they would be undone.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn reverted_files(&self, name: &str, change: &RecordedChange) -> Result<Vec<FileChange>, Error> {
        let directory = self.directory.join(name);
        let mut files = Vec::new();
        for file in &change.files {
            let current = self.usersys.join(&file.path);
            let before = if exists(&current)? { Some(read(&current)?) } else { None };
            let after = file.before.as_ref().map(|name| read(&directory.join(name))).transpose()?;
            files.push(FileChange { path: file.path.clone(), before, after });
        }
        files.retain(|file| file.before != file.after);
        Ok(files)
    }

    fn backups(&self) -> Result<Vec<String>, Error> {
        if !exists(&self.directory)? {
            return Ok(Vec::new());
        }
        let failed = |error| atomic::describe_io_error("read", &self.directory, &error);
        let entries: Vec<_> = fs::read_dir(&self.directory).and_then(Iterator::collect).map_err(failed)?;
        let names = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).collect();
        names.sort();
        Ok(names)
    }

    /// Writes a change atomically.
    ///
    /// # Errors
    /// If there is no space, or the directory cannot be used.
    pub fn begin(&self, id: &str, plan: &Plan, undoes: Option<String>) -> Result<(), Error> {
        atomic::make_dir(&self.directory)?;
        self.remove_unfinished();
        let place = self.directory.join(format!("{UNFINISHED}{}", random::alphanumeric(12)));
        temp_dir::make_private(&place)?;
        let mut files = Vec::new();
        for (number, change) in plan.files.iter().enumerate() {
            let store = |content: &Option<Vec<u8>>, word: &str| -> Result<Option<String>, Error> {
                let Some(content) = content else { return Ok(None) };
                let name = format!("{number}-{word}");
                atomic::write_atomically(&place.join(&name), content, 0o600)?;
                Ok(Some(name))
            };
            let (before, after) = (store(&change.before, "before")?, store(&change.after, "after")?);
            files.push(RecordedFile { path: change.path.clone(), before, after });
        }
        let change = RecordedChange { id: id.to_owned(), undoes, rows: plan.rows.clone(), files };
        let text = serde_json::to_vec(&change).unwrap_or_default();
        atomic::write_atomically(&place.join(DESCRIPTION), &text, 0o600)?;
        self.rename(&place, PENDING)
    }

    /// Whether every file of a change can be written, before anything is.
    ///
    /// # Errors
    /// For the first that cannot.
    pub fn check_writable(&self, plan: &Plan) -> Result<(), Error> {
        for change in &plan.files {
            let path = self.usersys.join(&change.path);
            atomic::check_creatable(path.parent().unwrap_or(&self.usersys))?;
            if change.after.is_some() && path.is_dir() {
                return Err(Error::fault(format!("cannot write {}: it is a directory", path.display())));
            }
        }
        Ok(())
    }

    /// Puts the files of the pending change in their places, and makes a backup of it. Can be repeated.
    ///
    /// # Errors
    /// When a file cannot be written; the change stays pending.
    pub fn complete(&self, change: &RecordedChange) -> Result<(), Error> {
        let pending = self.directory.join(PENDING);
        let mut batch = atomic::AtomicBatch::default();
        for file in &change.files {
            let path = self.usersys.join(&file.path);
            self.remove_leftovers(&path);
            let Some(name) = &file.after else { continue };
            atomic::make_dir(path.parent().unwrap_or(&self.usersys))?;
            batch.add(&path, &read(&pending.join(name))?, atomic::file_mode(&path).unwrap_or(FILE_MODE))?;
        }
        batch.commit()?;
        for file in &change.files {
            match file.after {
                Some(_) => remove_compiled(&self.usersys.join(&file.path)),
                None => remove(&self.usersys, &file.path)?,
            }
        }
        self.finish(change)
    }

    fn finish(&self, change: &RecordedChange) -> Result<(), Error> {
        if let Some(undone) = &change.undoes {
            self.discard(undone)?;
            return self.discard(PENDING);
        }
        let mut backups = self.backups()?;
        let number = backups.last().and_then(|last| last.parse::<u64>().ok()).unwrap_or(0) + 1;
        self.rename(&self.directory.join(PENDING), &format!("{number:06}"))?;
        let surplus = (backups.len() + 1).saturating_sub(MAX_BACKUPS);
        backups.drain(..surplus).try_for_each(|name| self.discard(&name))
    }

    /// Takes the pending change back: its rows are not in the database, and none of its files is in its place.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn take_back(&self) -> Result<(), Error> {
        self.discard(PENDING)
    }

    /// Removes a change. It gets another name first: half of one would be read as whole.
    fn discard(&self, name: &str) -> Result<(), Error> {
        let path = self.directory.join(name);
        if !exists(&path)? {
            return Ok(());
        }
        self.rename(&path, &format!("{UNFINISHED}{}", random::alphanumeric(12)))?;
        self.remove_unfinished();
        Ok(())
    }

    fn rename(&self, from: &Path, name: &str) -> Result<(), Error> {
        atomic::fsync_dir(from)?;
        fs::rename(from, self.directory.join(name))
            .map_err(|error| atomic::describe_io_error("rename", from, &error))?;
        atomic::fsync_dir(&self.directory)?;
        Ok(())
    }

    fn remove_unfinished(&self) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Deletes temporary files of a killed process.
    fn remove_leftovers(&self, path: &Path) {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return };
        let start = format!(".{}.", name.to_string_lossy());
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let found = entry.file_name().to_string_lossy().into_owned();
            if found.starts_with(&start) && found.ends_with(".tmp") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Whether there is something at a path. Only its absence means that there is not.
fn exists(path: &Path) -> Result<bool, Error> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(atomic::describe_io_error("read", path, &error).into()),
    }
}

fn load(directory: &Path) -> Result<RecordedChange, Error> {
    let path = directory.join(DESCRIPTION);
    // Of any size: it has every row of a large change.
    let text = fs::read(&path).map_err(|error| atomic::describe_io_error("read", &path, &error))?;
    serde_json::from_slice(&text).map_err(|error| Error::fault(format!("{}: {error}", path.display())))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    Ok(regular::read(path).map_err(|error| atomic::describe_io_error("read", path, &error))?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_journal_that_cannot_be_read_is_not_taken_for_an_empty_one() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let journal = Journal::new(place.path(), &place.path().join("usersys"));
        assert!(journal.pending().expect("there is none").is_none());
        assert!(journal.last_backup().expect("there is none").is_none());
        let directory = place.path().join(DIRECTORY);
        symlink(DIRECTORY, &directory).expect("linked to itself");
        let faults = [
            journal.pending().expect_err("it cannot be read").to_string(),
            journal.take_back().expect_err("it cannot be read").to_string(),
        ];
        assert!(faults.iter().all(|fault| fault.starts_with("cannot read ") && fault.contains(PENDING)), "{faults:?}");
        fs::remove_file(&directory).expect("removed");
        fs::write(&directory, "").expect("written");
        journal.last_backup().expect_err("it is no directory");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_taken_for_a_removed_one() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let journal = Journal::new(place.path(), &place.path().join("usersys"));
        fs::write(place.path().join("usersys"), "").expect("written");
        let file = RecordedFile { path: "mappings/x.py".to_owned(), before: None, after: None };
        let change = RecordedChange { id: String::new(), undoes: None, rows: Vec::new(), files: vec![file] };
        journal.reverted_files("000001", &change).expect_err("usersys is no directory");
    }
}
