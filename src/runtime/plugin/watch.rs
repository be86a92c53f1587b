//! A mounted plugin: applied when the web UI has started, and again when it has changed.
//!
//! Replicas plan at the same time and write one after the other, under the engine lease. A plan that another replica has
//! overtaken is refused, and made again.

use std::convert::Infallible;
use std::fs;
use std::future::pending;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};
use walkdir::WalkDir;

use crate::config::Config;
use crate::exit::{Error, Kind};
use crate::health::state::{HealthState, MountedPlugin};
use crate::plugin::diff::DiffOptions;
use crate::plugin::show;
use crate::plugin::values::Values;
use crate::process::periodic;
use crate::process::reaper::Reaper;
use crate::runtime::bots_environment::blocking;

use super::apply::{ApplyRequest, apply};
use super::change::Change;

/// Time between two scans of the source.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// Interval for retrying a rejected plugin: the cause may be outside of it.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// Applies the plugin of a configuration, if there is one, while other work runs. After that work a started change is
/// completed: one that is cut off would leave its lease to expire.
pub(crate) async fn run_beside<T>(
    config: Option<&Config>,
    reaper: &Reaper,
    health: &watch::Sender<HealthState>,
    work: impl Future<Output = T>,
) -> T {
    let critical = TaskTracker::new();
    let mut applying = pin!(async {
        match config {
            Some(config) => run(config, reaper, health, &critical).await,
            None => pending().await,
        }
    });
    let done = tokio::select! {
        done = work => done,
        never = &mut applying => match never {},
    };
    critical.close();
    tokio::select! {
        () = critical.wait() => done,
        never = applying => match never {},
    }
}

/// Applies the configured plugin until the future is dropped. A token of `critical` is held during each change.
async fn run(
    config: &Config,
    reaper: &Reaper,
    health: &watch::Sender<HealthState>,
    critical: &TaskTracker,
) -> Infallible {
    let Some(source) = config.plugin.source.clone() else { return pending().await };
    let (mut schedule, mut delay) = (ApplySchedule::default(), None);
    loop {
        let (path, values) = (source.clone(), config.plugin.values.clone());
        let seen = blocking(move || fingerprint(&path, values.as_deref())).await.ok();
        if schedule.is_due(seen, Instant::now()) {
            match apply_source(config, reaper, &source, critical).await {
                Ok(change) => {
                    schedule.settle(None);
                    delay = None;
                    if change.is_applied {
                        info!("applied the plugin {}: {}", source.display(), show::summary(&change.plan));
                    }
                    set_result(health, MountedPlugin::Applied);
                }
                // Another try may succeed.
                Err(error) if error.kind() == Kind::Unavailable => {
                    let reason = error.faults().join("; ");
                    if delay.as_ref() != Some(&reason) {
                        warn!("cannot apply the plugin {} yet: {reason}", source.display());
                    }
                    delay = Some(reason);
                }
                Err(error) => {
                    schedule.settle(Some(Instant::now() + RETRY_INTERVAL));
                    let fault = error.faults().join("; ");
                    let rejected = MountedPlugin::Rejected(fault.clone());
                    if health.borrow().plugin != rejected {
                        error!("rejected the plugin {}: {fault}", source.display());
                    }
                    set_result(health, rejected);
                }
            }
        }
        periodic::due(POLL_INTERVAL).await;
    }
}

/// When the source is applied.
#[derive(Default)]
struct ApplySchedule {
    last_seen: Option<Vec<u8>>,
    /// The source that was applied or rejected last.
    settled: Option<Vec<u8>>,
    /// When a rejected source is tried again.
    retry_at: Option<Instant>,
}

impl ApplySchedule {
    /// A source that is being written is not applied until two scans have found the same.
    fn is_due(&mut self, seen: Option<Vec<u8>>, now: Instant) -> bool {
        let is_stable = seen.is_some() && seen == self.last_seen;
        self.last_seen = seen;
        is_stable && (self.last_seen != self.settled || self.retry_at.is_some_and(|at| at <= now))
    }

    /// The source was applied, or rejected until `retry_at`.
    fn settle(&mut self, retry_at: Option<Instant>) {
        self.settled.clone_from(&self.last_seen);
        self.retry_at = retry_at;
    }
}

fn set_result(health: &watch::Sender<HealthState>, result: MountedPlugin) {
    health.send_modify(|state| state.plugin = result);
}

async fn apply_source(
    config: &Config,
    reaper: &Reaper,
    source: &Path,
    critical: &TaskTracker,
) -> Result<Change, Error> {
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
    apply(config, reaper, request, critical, |_, _| {}).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_is_applied_once_it_is_complete_and_again_when_it_was_rejected() {
        let (mut schedule, now) = (ApplySchedule::default(), Instant::now());
        let seen = |text: &str| Some(text.as_bytes().to_vec());
        assert!(!schedule.is_due(seen("half"), now), "it may be being copied");
        assert!(!schedule.is_due(seen("whole"), now));
        assert!(schedule.is_due(seen("whole"), now));
        assert!(schedule.is_due(seen("whole"), now), "a delayed one is tried again");
        schedule.settle(Some(now + RETRY_INTERVAL));
        assert!(!schedule.is_due(seen("whole"), now));
        assert!(!schedule.is_due(None, now + RETRY_INTERVAL), "it cannot be read");
        assert!(!schedule.is_due(seen("whole"), now + RETRY_INTERVAL));
        assert!(schedule.is_due(seen("whole"), now + RETRY_INTERVAL));
        schedule.settle(None);
        assert!(!schedule.is_due(seen("whole"), now + RETRY_INTERVAL * 2));
    }
}
