//! A reload is on trial until its services are ready. If they do not become ready, the previous files are restored, and no
//! other replica applies the same mounted files.

use std::fs::{self, File};
use std::future::pending;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::bots;
use crate::bots::Installation;
use crate::bots::config_source::{ConfigFiles, Digest};
use crate::bots::environment::Environment;
use crate::config::Config;
use crate::fs::{atomic, regular};
use crate::health::rules::DATABASE;
use crate::health::state::{CheckResult, HealthState, Phase};

use super::reload_state::ReloadState;
use super::service_start::RuntimeContext;

/// The prefix of the directory with the previous files, in an environment. The digest of the mounted files follows.
const KEPT: &str = ".bots-ctl-before-reload-";

/// The file in an environment with the digest of mounted files with which the services failed, and the reason.
const REFUSED: &str = ".bots-ctl-refused-reload";

/// Maximum time for services to become ready, for which other web UIs wait.
pub(super) const MAX_TRIAL: Duration = Duration::from_secs(120);

fn kept(root: &Path, digest: Digest) -> PathBuf {
    root.join(format!("{KEPT}{}", &hex::encode(digest)[..16]))
}

/// Keeps the files that a reload is about to replace, unless another replica has kept or replaced them.
///
/// # Errors
/// If there is no space, for example.
pub(crate) fn keep(config: &Config, bots: &Installation, source: &ConfigFiles) -> Result<(), bots::Error> {
    let root = config.environment_root();
    let _lock = atomic::lock(&root.join(".bots-ctl.lock"))?;
    let kept = kept(root, source.digest());
    if kept.exists() || Environment::plan(config, bots, source)?.1.is_empty() {
        return Ok(());
    }
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(KEPT.as_bytes()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let new = atomic::temporary_name(&kept);
    atomic::make_dir(&new)?;
    ConfigFiles::read(&config.environment.config_dir)?.write_to(&new)?;
    Ok(fs::rename(&new, &kept).map_err(|error| atomic::describe_io_error("make", &kept, &error))?)
}

/// Restores the previous files, and records the digest of the mounted files with the reason.
pub(crate) fn roll_back(config: &Config, digest: Digest, reason: &str) -> Result<(), bots::Error> {
    let (root, directory) = (config.environment_root(), &config.environment.config_dir);
    let note = format!("{}\n{reason}\n", hex::encode(digest));
    atomic::write_atomically(&root.join(REFUSED), note.as_bytes(), 0o644)?;
    let kept = kept(root, digest);
    if !kept.is_dir() {
        // Another replica came up with these files.
        return Ok(());
    }
    let _lock = atomic::lock(&root.join(".bots-ctl.lock"))?;
    let before = ConfigFiles::read(&kept)?;
    for (name, file) in ConfigFiles::read(directory)?.files_except(&[]) {
        if before.files_except(&[]).all(|(known, _)| known != name) {
            fs::remove_file(&file.path).map_err(|error| atomic::describe_io_error("remove", &file.path, &error))?;
        }
    }
    before.write_to(directory)?;
    let _ = fs::remove_dir_all(kept);
    Ok(())
}

/// The reason for rejecting these mounted files, if services have failed with them before.
pub(crate) fn refusal(root: &Path, source: &ConfigFiles) -> Option<String> {
    let path = root.join(REFUSED);
    let note = regular::read_to_string(&path).ok()?;
    let (digest, reason) = note.split_once('\n')?;
    (digest == hex::encode(source.digest())).then(|| {
        let reason = reason.trim();
        format!("the services failed to start with it: {reason}; correct it, or delete {} to retry it", path.display())
    })
}

/// A reload whose services are being started.
pub(crate) struct ReloadTrial {
    /// Whether the previous files are restored if the services fail.
    pub restores: bool,
    /// Its services are up.
    pub passed: CancellationToken,
    /// They were not in time.
    pub failed: CancellationToken,
}

impl ReloadTrial {
    /// Watches the services. `turn` blocks other web UIs until load balancers have detected that this one is ready.
    pub fn watch(state: &mut ReloadState, runtime: &RuntimeContext<'_>) -> Self {
        let (restores, turn) = (state.is_trial, state.turn().map(File::from));
        let trial = Self { restores, passed: CancellationToken::new(), failed: CancellationToken::new() };
        let (passed, failed) = (trial.passed.clone(), trial.failed.clone());
        let (mut health, drain) = (runtime.health.subscribe(), runtime.config.reload.drain);
        let kept = kept(runtime.config.environment_root(), state.applied);
        tokio::spawn(async move {
            while timeout(MAX_TRIAL, health.wait_for(are_up)).await.is_err() {
                // Without a database, the services cannot become ready.
                if restores && *health.borrow().checks.get(DATABASE) == CheckResult::Ok {
                    failed.cancel();
                    // Other replicas wait until the files are back.
                    pending::<()>().await;
                }
            }
            passed.cancel();
            info!("the services are ready with the current configuration");
            let _ = fs::remove_dir_all(kept);
            sleep(drain).await;
            drop(turn);
        });
        trial
    }

    /// The reason for the rollback if the services were not ready in time.
    pub fn late() -> String {
        format!("the services were not ready within {} s", MAX_TRIAL.as_secs())
    }
}

pub(super) fn are_up(health: &HealthState) -> bool {
    let mut services = health.services.iter().filter(|service| service.counts_for_ready);
    services.all(|service| service.phase == Phase::Standby || (service.phase == Phase::Running && service.alive))
}
