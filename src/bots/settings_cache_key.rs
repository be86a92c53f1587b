//! One value that changes with any input of Bots's settings.
//!
//! An outdated cache would lead bots-ctl to another database than Django's, so the digest covers more than necessary:
//! the whole environment, every file of the configuration directory, every file imported or opened while the settings
//! were loaded, and the files named by `*_FILE` variables. A needless change only costs one Python start.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::context::BotsContext;
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
        if VOLATILE.contains(&name.as_str()) {
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

/// Length first, so that adjacent values cannot be confused.
fn add(hash: &mut Sha256, bytes: &[u8]) {
    hash.update(bytes.len().to_le_bytes());
    hash.update(bytes);
}

fn add_state(hash: &mut Sha256, path: &Path) {
    add(hash, path.as_os_str().as_bytes());
    if let Ok(meta) = fs::metadata(path) {
        for number in [meta.ino(), meta.size(), meta.mtime().cast_unsigned(), meta.mtime_nsec().cast_unsigned()] {
            hash.update(number.to_le_bytes());
        }
    }
}

fn config_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
    files.sort();
    files
}
