//! The contents of the files from which settings were loaded: only with the same contents may the settings be cached.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use super::config_source::Digest;
use super::environment::Environment;
use crate::fs::open_file::FileStamp;
use crate::fs::regular;

/// The contents from which settings were loaded, the same for an environment and its copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedFiles {
    /// Of the configuration directory.
    directory: Digest,
    /// Of the files elsewhere.
    sources: Digest,
}

/// The begin of a load.
pub struct LoadBegin {
    time: SystemTime,
    directory: Digest,
}

impl LoadBegin {
    /// Reads the files before Python does.
    pub fn now(environment: &Environment) -> Self {
        Self { time: SystemTime::now(), directory: directory_digest(&environment.config) }
    }

    /// The contents, after Python has named the files. `None` if they may have changed since.
    pub fn loaded(&self, environment: &Environment, sources: &[PathBuf]) -> Option<LoadedFiles> {
        let begin = self.time.duration_since(UNIX_EPOCH).ok().and_then(|time| i64::try_from(time.as_nanos()).ok())?;
        let is_newer = |path: &PathBuf| fs::metadata(path).is_ok_and(|meta| FileStamp::from(&meta).changed >= begin);
        let loaded = LoadedFiles::read(environment, sources);
        (self.directory == loaded.directory && !sources.iter().any(is_newer)).then_some(loaded)
    }
}

impl LoadedFiles {
    /// Reads the contents that the files have now.
    pub fn read(environment: &Environment, sources: &[PathBuf]) -> Self {
        let is_in_directory = |path: &Path| path.parent() == Some(&environment.config);
        let mut digest = Sha256::new();
        for path in sources.iter().filter(|path| !is_in_directory(path)) {
            // The reported settings do not depend on this key, which bots-ctl creates in each copy.
            if *path != environment.secret_key_file() {
                add(&mut digest, &regular::read(path).unwrap_or_default());
            }
        }
        Self { directory: directory_digest(&environment.config), sources: digest.finalize().into() }
    }

    /// The same with another configuration directory, of which this one was a copy.
    pub fn with_directory(&self, directory: Digest) -> Self {
        Self { directory, ..self.clone() }
    }
}

/// Names and contents in a configuration directory. A file that cannot be read counts by its name.
pub fn directory_digest(directory: &Path) -> Digest {
    let mut digest = Sha256::new();
    for path in config_files(directory) {
        add(&mut digest, path.file_name().unwrap_or_default().as_bytes());
        add(&mut digest, &regular::read(&path).unwrap_or_default());
    }
    digest.finalize().into()
}

/// Adds bytes, length first, so that adjacent values cannot be confused.
pub fn add(hash: &mut Sha256, bytes: &[u8]) {
    hash.update(bytes.len().to_le_bytes());
    hash.update(bytes);
}

/// The files of a configuration directory.
pub fn config_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_of_an_environment_has_the_same_contents() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [one, copy] = ["one", "copy"].map(|name| {
            let root = dir.path().join(name);
            let [config, botssys, usersys] = ["config", "botssys", "usersys"].map(|name| root.join(name));
            fs::create_dir_all(&config).expect("made");
            fs::write(config.join("settings.py"), "A = 1").expect("written");
            fs::write(root.join("secret-key"), name).expect("written");
            fs::write(root.join("zone"), "UTC").expect("written");
            Environment { root, config, botssys, usersys }
        });
        let sources =
            |of: &Environment| [of.config.join("settings.py"), of.secret_key_file(), of.root.join("zone")].to_vec();
        let read = |of: &Environment| LoadedFiles::read(of, &sources(of));
        assert_eq!(read(&one), read(&copy));
        for name in ["zone", "config/settings.py"] {
            let before = read(&one);
            fs::write(one.root.join(name), "A = 2").expect("written");
            assert_ne!(read(&one), before, "{name}");
        }
        let begin = LoadBegin::now(&copy);
        assert_eq!(begin.loaded(&copy, &[]), Some(LoadedFiles::read(&copy, &[])));
        fs::write(copy.config.join("settings.py"), "A = 3").expect("written");
        assert_eq!(begin.loaded(&copy, &[]), None);
    }
}
