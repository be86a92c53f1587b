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
use crate::health::state::{CheckResult, HealthState, Phase, ServiceHealth};
use crate::process::blocking;

use super::reload_state::ReloadState;
use super::service_start::RuntimeContext;

/// The prefix of the directory with the previous files, in an environment. The digest of the mounted files follows.
const KEPT: &str = ".bots-ctl-before-reload-";

/// The file in an environment with the digest of mounted files with which the services failed, and the reason.
const REFUSED: &str = ".bots-ctl-refused-reload";

/// The configuration file of bots-ctl, if it is mounted as well.
const OWN_FILE: &str = "bots-ctl.toml";

/// Maximum time for services to become ready, for which other web UIs wait.
pub(super) const MAX_TRIAL: Duration = Duration::from_secs(120);

/// The directory with the files that these mounted files have replaced.
pub(super) fn kept(root: &Path, digest: Digest) -> PathBuf {
    root.join(format!("{KEPT}{}", &hex::encode(digest)[..16]))
}

/// Keeps the files that a reload is about to replace, unless another replica has replaced them. What an earlier reload has kept
/// may be older than those in use.
///
/// # Errors
/// If there is no space, for example.
pub(crate) fn keep(config: &Config, bots: &Installation, source: &ConfigFiles) -> Result<(), bots::Error> {
    let root = config.environment_root();
    let _lock = atomic::lock(&root.join(".bots-ctl.lock"))?;
    let kept = kept(root, source.digest());
    if Environment::plan(config, bots, source)?.1.is_empty() {
        return Ok(());
    }
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        // Also those under a temporary name, of a process that died.
        if entry.file_name().to_string_lossy().contains(KEPT) {
            remove_kept(&entry.path());
        }
    }
    let new = atomic::temporary_name(&kept);
    atomic::make_dir(&new)?;
    ConfigFiles::read(&config.environment.config_dir)?.write_to(&new)?;
    Ok(fs::rename(&new, &kept).map_err(|error| atomic::describe_io_error("make", &kept, &error))?)
}

/// Records the digest of the mounted files with the reason, and restores the previous files.
pub(crate) fn roll_back(config: &Config, digest: Digest, reason: &str) -> Result<(), bots::Error> {
    let root = config.environment_root();
    let note = format!("{}\n{reason}\n", hex::encode(digest));
    atomic::write_atomically(&root.join(REFUSED), note.as_bytes(), 0o644)?;
    restore(root, &config.environment.config_dir, digest)
}

/// Restores the previous files if a rollback was interrupted before it did.
pub(crate) fn finish_roll_back(root: &Path, config_dir: &Path) -> Result<(), bots::Error> {
    let refused = refused(root).and_then(|(digest, _)| <Digest>::try_from(hex::decode(digest).ok()?).ok());
    match refused {
        Some(digest) if kept(root, digest).is_dir() => restore(root, config_dir, digest),
        _ => Ok(()),
    }
}

/// Restores the files that were kept, unless another replica has restored them or came up with the new ones.
fn restore(root: &Path, config_dir: &Path, digest: Digest) -> Result<(), bots::Error> {
    let _lock = atomic::lock(&root.join(".bots-ctl.lock"))?;
    let kept = kept(root, digest);
    if !kept.is_dir() {
        return Ok(());
    }
    let before = ConfigFiles::read(&kept)?;
    for (name, file) in ConfigFiles::read(config_dir)?.files_except(&[]) {
        if before.files_except(&[]).any(|(known, _)| known == name) {
            continue;
        }
        if *name == *OWN_FILE {
            // Without one, the next execution would read the mounted file.
            atomic::write_atomically(&file.path, b"", 0o644)?;
        } else {
            fs::remove_file(&file.path).map_err(|error| atomic::describe_io_error("remove", &file.path, &error))?;
        }
    }
    before.write_to(config_dir)?;
    remove_kept(&kept);
    Ok(())
}

/// Deletes the kept files. The directory is renamed first, so that no other process restores a part of them.
fn remove_kept(kept: &Path) {
    let old = atomic::temporary_name(kept);
    if fs::rename(kept, &old).is_ok() {
        let _ = fs::remove_dir_all(old);
    }
}

/// The digest in hexadecimal of the mounted files with which services have failed before, and the reason.
fn refused(root: &Path) -> Option<(String, String)> {
    let note = regular::read_to_string(&root.join(REFUSED)).ok()?;
    let (digest, reason) = note.split_once('\n')?;
    Some((digest.to_owned(), reason.trim().to_owned()))
}

/// The reason for rejecting these mounted files, if services have failed with them before.
pub(crate) fn refusal(root: &Path, source: &ConfigFiles) -> Option<String> {
    let (digest, reason) = refused(root)?;
    (digest == hex::encode(source.digest())).then(|| {
        let path = root.join(REFUSED);
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
            let _ = blocking::run(move || remove_kept(&kept)).await;
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
    health.services.iter().filter(|service| service.counts_for_ready).all(is_up)
}

pub(super) fn is_up(service: &ServiceHealth) -> bool {
    service.phase == Phase::Standby || (service.phase == Phase::Running && service.alive)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const DIGEST: Digest = [7; 32];

    /// An environment during a trial: its root, the configuration directory with new files, and the kept files.
    fn changed() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let root = tempfile::tempdir().expect("a temporary directory");
        let (config_dir, kept) = (root.path().join("config"), kept(root.path(), DIGEST));
        fs::create_dir(&config_dir).expect("made");
        fs::write(config_dir.join(OWN_FILE), "[log]\n").expect("written");
        for (directory, name, text) in
            [(&config_dir, "bots.ini", "new"), (&config_dir, "added", ""), (&kept, "bots.ini", "old")]
        {
            fs::create_dir_all(directory).expect("made");
            fs::write(directory.join(name), text).expect("written");
        }
        (root, config_dir, kept)
    }

    fn expect_restored(config_dir: &Path) {
        let files = ConfigFiles::read(config_dir).expect("readable");
        assert_eq!(files.files_except(&[]).map(|(name, _)| name).collect::<Vec<_>>(), [OWN_FILE, "bots.ini"]);
        assert_eq!(files.file(OWN_FILE).expect("there").content, b"");
        assert_eq!(files.file("bots.ini").expect("there").content, b"old");
    }

    #[test]
    fn interrupted_rollback_is_finished_once() {
        let (root, config_dir, kept) = changed();
        let note = |digest: Digest| format!("{}\nthe reason\n", hex::encode(digest));
        for digest in [[8; 32], DIGEST] {
            assert!(kept.is_dir());
            fs::write(root.path().join(REFUSED), note(digest)).expect("written");
            finish_roll_back(root.path(), &config_dir).expect("no fault");
        }
        expect_restored(&config_dir);
        assert!(!kept.exists());
        fs::write(config_dir.join("bots.ini"), "later").expect("written");
        finish_roll_back(root.path(), &config_dir).expect("no fault");
        assert_eq!(fs::read(config_dir.join("bots.ini")).expect("readable"), b"later");
    }

    /// Of replicas that roll back together, the later ones find nothing to restore from.
    #[test]
    fn concurrent_rollbacks_leave_the_restored_files() {
        let (root, config_dir, kept) = changed();
        let lock = atomic::lock(&root.path().join(".bots-ctl.lock")).expect("locked");
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let (root, config_dir) = (root.path().to_path_buf(), config_dir.clone());
                thread::spawn(move || restore(&root, &config_dir, DIGEST))
            })
            .collect();
        while crate::fs::lock::waiting(&root.path().join(".bots-ctl.lock")) < 2 {
            thread::yield_now();
        }
        assert!(kept.is_dir());
        drop(lock);
        waiting.into_iter().for_each(|thread| thread.join().expect("it ran").expect("no fault"));
        expect_restored(&config_dir);
    }
}
