//! Keeps files of the user that mounted ones replace, in the same directory.
//!
//! A file is the user's unless it is exactly as bots-ctl has written it. Digests in the environment record what
//! bots-ctl wrote.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tracing::info;

use super::Error;
use crate::config::{Config, EnvironmentConfig};
use crate::fs::atomic::{create_if_absent, describe_io_error, file_mode, write_atomically};

/// The digests, by names of files.
const WRITTEN: &str = ".bots-ctl-written.json";

/// A file that is about to be replaced.
pub struct Replacement<'a> {
    /// Its path.
    pub path: &'a Path,
    /// The new content.
    pub content: &'a [u8],
    /// The source of the content.
    pub origin: &'a Path,
}

/// Keeps the user's files that are about to be replaced, and records the digests of the new ones.
///
/// # Errors
/// If a file cannot be read or kept: then no file may be replaced.
pub fn keep<'a>(config: &Config, files: impl Iterator<Item = Replacement<'a>>) -> Result<(), Error> {
    let record = config.environment_root().join(WRITTEN);
    let EnvironmentConfig { config_source, config_dir, .. } = &config.environment;
    let known = fs::read(&record).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let mut written: BTreeMap<String, String> = known.unwrap_or_default();
    for Replacement { path, content, origin } in files {
        let is_mounted = config_source != config_dir && origin.starts_with(config_source);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let current = match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            read => Some(read.map_err(|error| describe_io_error("read", path, &error))?),
        };
        let users = current.filter(|current| written.get(&name) != Some(&digest(current)));
        if let Some(users) = users.as_ref().filter(|users| is_mounted && *users != content) {
            let kept = keep_beside(path, users)?;
            info!("kept {} as {}: {} replaces it", path.display(), kept.display(), origin.display());
        }
        // A file of the user in which bots-ctl only edits a line stays the user's.
        if users.is_none() || is_mounted {
            written.insert(name, digest(content));
        }
    }
    write_atomically(&record, serde_json::json!(written).to_string().as_bytes(), 0o600)?;
    Ok(())
}

/// Keeps a content under the first free name; existing copies are not duplicated.
fn keep_beside(path: &Path, content: &[u8]) -> Result<PathBuf, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut kept = path.with_file_name(format!("{name}.replaced"));
    let mut number = 1;
    while !create_if_absent(&kept, content, file_mode(path).unwrap_or(0o600))?
        && fs::read(&kept).map_or(true, |other| other != content)
    {
        number += 1;
        kept = path.with_file_name(format!("{name}.replaced-{number}"));
    }
    Ok(kept)
}

fn digest(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}
