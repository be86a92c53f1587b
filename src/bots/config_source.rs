//! The mounted files to be copied to the configuration directory, read once, so that the validated content is the
//! copied content.
//!
//! Every regular file counts. Kubernetes mounts a ConfigMap as links through `..data`: links are followed, names that
//! begin with a dot are ignored.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::Error;
use crate::fs::atomic::{AtomicBatch, describe_io_error, file_mode};
use crate::fs::open_file::FileStamp;
use crate::fs::regular;

/// Names that are an error if they are directories.
const NEVER_DIRECTORIES: [&str; 2] = ["bots.ini", "settings.py"];

/// The files of a directory.
#[derive(Debug, Clone, Default)]
pub struct ConfigFiles {
    files: BTreeMap<OsString, File>,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// Its content.
    pub content: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

/// A digest of names and contents.
pub type Digest = [u8; 32];

/// The metadata of a directory's files, which shows that they may have changed.
pub type DirSnapshot = BTreeMap<OsString, Option<FileStamp>>;

impl ConfigFiles {
    /// Reads all files; none if the directory does not exist.
    pub fn read(directory: &Path) -> Result<Self, Error> {
        let mut files = BTreeMap::new();
        for name in names(directory)? {
            let path = directory.join(&name);
            // A container runtime creates a directory of this name if the file to be mounted is missing.
            if !path.is_dir() || NEVER_DIRECTORIES.iter().any(|needed| name == *needed) {
                let content = regular::read(&path).map_err(|error| describe_io_error("read", &path, &error))?;
                let mode = file_mode(&path).unwrap_or(0o600);
                files.insert(name, File { path, content, mode });
            }
        }
        Ok(Self { files })
    }

    /// The files of a configuration source; none if it is the configuration directory itself.
    pub fn mounted(source: &Path, config_dir: &Path) -> Result<Self, Error> {
        if source == config_dir { Ok(Self::default()) } else { Self::read(source) }
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// One file.
    pub fn file(&self, name: &str) -> Option<&File> {
        self.files.get(OsStr::new(name))
    }

    /// All files but these.
    pub fn files_except<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = (&'a OsString, &'a File)> {
        self.files.iter().filter(|(name, _)| !names.iter().any(|other| *name == other))
    }

    /// Of the names and contents.
    pub fn digest(&self) -> Digest {
        let mut all = Sha256::new();
        for (name, file) in &self.files {
            all.update(Sha256::digest(name.as_encoded_bytes()));
            all.update(Sha256::digest(&file.content));
        }
        all.finalize().into()
    }

    /// Writes the files into another directory.
    pub fn write_to(&self, directory: &Path) -> Result<(), Error> {
        let mut batch = AtomicBatch::default();
        for (name, file) in &self.files {
            batch.add(&directory.join(name), &file.content, file.mode)?;
        }
        Ok(batch.commit()?)
    }
}

/// The metadata of a directory's files; empty if the directory does not exist.
pub fn snapshot(directory: &Path) -> Result<DirSnapshot, Error> {
    let stamp = |name: &OsString| fs::metadata(directory.join(name)).ok().as_ref().map(FileStamp::from);
    Ok(names(directory)?.into_iter().map(|name| (name.clone(), stamp(&name))).collect())
}

fn names(directory: &Path) -> Result<Vec<OsString>, Error> {
    let unreadable = |error| describe_io_error("read the directory", directory, &error);
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound || error.kind() == ErrorKind::NotADirectory => {
            return Ok(Vec::new());
        }
        entries => entries.map_err(unreadable)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(unreadable)?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    #[test]
    fn a_mounted_config_map_is_read_through_its_links() {
        let dir = directory();
        fs::create_dir_all(dir.path().join("..2026_11_23")).expect("made");
        fs::write(dir.path().join("..2026_11_23/bots-ctl.toml"), "[log]\n").expect("written");
        symlink("..2026_11_23", dir.path().join("..data")).expect("linked");
        symlink("..data/bots-ctl.toml", dir.path().join("bots-ctl.toml")).expect("linked");
        let source = ConfigFiles::read(dir.path()).expect("readable");
        assert_eq!(source.files.keys().collect::<Vec<_>>(), ["bots-ctl.toml"]);
        let before = snapshot(dir.path()).expect("readable");

        // The same content in another version.
        fs::create_dir_all(dir.path().join("..2026_11_24")).expect("made");
        fs::write(dir.path().join("..2026_11_24/bots-ctl.toml"), "[log]\n").expect("written");
        symlink("..2026_11_24", dir.path().join("..data_tmp")).expect("linked");
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).expect("renamed");
        assert_ne!(snapshot(dir.path()).expect("readable"), before);
        assert_eq!(ConfigFiles::read(dir.path()).expect("readable").digest(), source.digest());
    }

    #[test]
    fn missing_source_has_no_files() {
        let missing = directory().path().join("missing");
        assert!(ConfigFiles::read(&missing).expect("no error").is_empty());
        assert_eq!(snapshot(&missing).expect("no error"), DirSnapshot::new());
    }
}
