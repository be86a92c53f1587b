//! A mounted plugin: applied when the web UI has started, and again when it has changed.
//!
//! The engine lease keeps replicas apart; the second one has nothing to do.

use std::convert::Infallible;
use std::fs;
use std::future::pending;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};
use walkdir::WalkDir;

use crate::config::Config;
use crate::exit::{Error, Kind};
use crate::health::state::HealthState;
use crate::plugin::diff::DiffOptions;
use crate::plugin::show;
use crate::plugin::values::Values;
use crate::process::periodic;
use crate::process::reaper::Reaper;
use crate::runtime::bots_environment::blocking;

use super::apply::{ApplyRequest, apply};
use super::change::Change;

/// Time between two looks at the source.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// Applies the configured plugin until the future is dropped.
pub(crate) async fn run(config: &Config, reaper: &Reaper, health: &watch::Sender<HealthState>) -> Infallible {
    let Some(source) = config.plugin.source.clone() else { return pending().await };
    let (mut settled, mut last_seen) = (None, None);
    loop {
        let (path, values) = (source.clone(), config.plugin.values.clone());
        let seen = blocking(move || fingerprint(&path, values.as_deref())).await.ok();
        // A source that is being written is left until it is the same twice.
        let is_stable = last_seen.is_none() || seen == last_seen;
        if is_stable && seen != settled {
            match apply_source(config, reaper, &source).await {
                Ok(change) => {
                    settled.clone_from(&seen);
                    if change.is_applied {
                        info!("applied the plugin {}: {}", source.display(), show::summary(&change.plan));
                    }
                    set_fault(health, Ok(()));
                }
                // Another try may succeed.
                Err(error) if error.kind() == Kind::Unavailable => {
                    warn!("cannot apply the plugin {} yet: {}", source.display(), error.faults().join("; "));
                }
                Err(error) => {
                    settled.clone_from(&seen);
                    let fault = error.faults().join("; ");
                    error!("rejected the plugin {}: {fault}", source.display());
                    set_fault(health, Err(fault));
                }
            }
        }
        last_seen = seen;
        periodic::due(POLL_INTERVAL).await;
    }
}

fn set_fault(health: &watch::Sender<HealthState>, result: Result<(), String>) {
    health.send_modify(|state| state.plugin = Some(result));
}

async fn apply_source(config: &Config, reaper: &Reaper, source: &Path) -> Result<Change, Error> {
    let mut values = Values::default();
    if let Some(file) = &config.plugin.values {
        values.add_file(file)?;
    }
    // The link of git-sync and of a ConfigMap may be replaced at any time: all files are those of one state.
    let source = source.canonicalize().unwrap_or_else(|_| PathBuf::from(source));
    let request = ApplyRequest {
        source,
        values,
        options: DiffOptions::default(),
        check: false,
        needs_test: false,
        is_prepared: true,
    };
    apply(config, reaper, request, &TaskTracker::new(), |_, _| {}).await
}

/// Names, sizes and times of everything in the source, by the paths to which its links lead, and the values.
fn fingerprint(source: &Path, values: Option<&Path>) -> Vec<u8> {
    let mut digest = Sha256::new();
    let root = source.canonicalize().unwrap_or_else(|_| source.to_path_buf());
    digest.update(root.as_os_str().as_encoded_bytes());
    let entries = WalkDir::new(&root).sort_by_file_name().follow_links(true).into_iter();
    for entry in entries.filter_entry(|entry| entry.file_name() != ".git").flatten() {
        digest.update(entry.path().as_os_str().as_encoded_bytes());
        if let Ok(meta) =
            fs::metadata(entry.path()).map(|meta| (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
        {
            digest.update(format!("{meta:?}"));
        }
    }
    let mut text = Vec::new();
    let file = values.and_then(|values| fs::File::open(values).ok());
    // No larger one is read as values.
    let _ = file.map(|file| file.take(crate::fs::regular::MAX_FILE_SIZE).read_to_end(&mut text));
    digest.update(&text);
    digest.finalize().to_vec()
}
