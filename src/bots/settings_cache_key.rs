//! One value that changes with any input of Bots's settings.
//!
//! An outdated cache would lead bots-ctl to another database than Django's, so the digest covers more than necessary:
//! the whole environment, every file of the configuration directory, every file imported or opened while the settings
//! were loaded, and the files named by `*_FILE` variables. A needless change only costs one Python start.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::context::BotsContext;
use super::loaded_files::{add, config_files};
use crate::fs::open_file::FileStamp;
use crate::fs::regular;

/// Variables that differ between shells, pods or parent processes and do not affect settings.
const VOLATILE: [&str; 10] = [
    "_",
    "SHLVL",
    "PWD",
    "OLDPWD",
    "HOSTNAME",
    "COLUMNS",
    "LINES",
    "BOTS_CTL_HEALTH_ADDR",
    "BOTS_CTL_CONFIG_SOURCE",
    "BOTS_CTL_CONFIG",
];

/// Whether the fingerprint depends on a variable.
pub fn is_relevant(variable: &str) -> bool {
    !VOLATILE.contains(&variable)
}

/// The fingerprint of all inputs of the settings.
pub fn settings_cache_key(context: &BotsContext<'_>, sources: &[PathBuf]) -> String {
    let mut hash = Sha256::new();
    add(&mut hash, env!("CARGO_PKG_VERSION").as_bytes());
    add(&mut hash, super::python_session::SCRIPT.as_bytes());
    for path in [&context.bots.python, &context.bots.package] {
        add_state(&mut hash, path);
    }
    // As Python sees them: a bots-ctl that a service starts must compute the same.
    for (name, value) in context.variables.effective() {
        if !is_relevant(&name) {
            continue;
        }
        add(&mut hash, name.as_bytes());
        add(&mut hash, value.as_bytes());
        if name.ends_with("_FILE") {
            add_state(&mut hash, Path::new(&value));
        }
    }
    for path in config_files(&context.environment.config) {
        add(&mut hash, path.as_os_str().as_bytes());
        match regular::read(&path) {
            Ok(content) => add(&mut hash, &content),
            Err(_) => add_state(&mut hash, &path),
        }
    }
    for path in sources {
        add_state(&mut hash, path);
    }
    hex::encode(hash.finalize())
}

fn add_state(hash: &mut Sha256, path: &Path) {
    add(hash, path.as_os_str().as_bytes());
    if let Ok(meta) = fs::metadata(path) {
        let FileStamp { size, modified, changed, inode } = FileStamp::from(&meta);
        // Any writer can set the time of the last modification, and none that of the last change.
        for number in [inode, size, modified.cast_unsigned(), changed.cast_unsigned()] {
            hash.update(number.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn state(path: &Path) -> Vec<u8> {
        let mut hash = Sha256::new();
        add_state(&mut hash, path);
        hash.finalize().to_vec()
    }

    #[test]
    fn restored_modification_time_does_not_hide_a_change() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("secret");
        fs::write(&path, "old").expect("written");
        let (before, meta) = (state(&path), fs::metadata(&path).expect("there"));
        let change = |path: &Path| {
            fs::write(path, "new").expect("written");
            let file = File::options().write(true).open(path).expect("opened");
            file.set_modified(meta.modified().expect("known")).expect("set");
            FileStamp::from(&fs::metadata(path).expect("there")).changed
        };
        // The clock of the file system may stand still for some milliseconds.
        while change(&path) == FileStamp::from(&meta).changed {}
        assert_ne!(state(&path), before);
    }
}
