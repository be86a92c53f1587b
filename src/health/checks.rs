//! The background checks of database, tables and directories, on which the services depend.
//!
//! Each check has a timeout. A check that has not returned by then continues and counts as failed until it returns, so
//! that checks do not pile up on a hung server or volume, and never block the thread that serves requests.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

use super::rules::{BOTSSYS, CHECKS, DATABASE, SPACE, TABLES, USERSYS};
use super::state::{CheckResult, EngineActivity, HealthState};
use crate::database::lease::LeaseHolder;
use crate::database::ping::{Availability, DatabasePing};
use crate::database::{self, DatabaseConfig};
use crate::model::Check;
use crate::process::periodic;
use crate::telemetry::counters::{CheckTimer, Counters};

/// How long one check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The targets of the checks.
#[derive(Debug, Clone)]
pub struct CheckTargets {
    /// The database.
    pub database: DatabaseConfig,
    /// Bots's storage.
    pub botssys: PathBuf,
    /// The user's scripts.
    pub usersys: PathBuf,
    /// Minimum of free bytes on the volume: a run on a full volume fails halfway.
    pub min_free: u64,
    /// Django's time zone, in which Bots writes times if the database has none.
    pub time_zone: Option<String>,
    /// Time between two rounds.
    pub interval: Duration,
}

/// Checks until the task is dropped, and records how long that takes.
pub async fn run(targets: CheckTargets, counters: Arc<Counters>, health: watch::Sender<HealthState>) {
    let mut checks = Checks::new(&targets, counters);
    loop {
        let results = checks.run_round(&targets).await;
        publish(&health, results);
        periodic::due(targets.interval).await;
    }
}

/// One round of the checks that a probe needs, without the services and without log lines.
pub async fn run_once(targets: &CheckTargets, probe: Check, health: &watch::Sender<HealthState>) {
    if CHECKS.iter().any(|check| check.is_part_of(probe) && check.timer.is_some()) {
        health.send_modify(Checks::new(targets, Arc::default()).run_round(targets).await);
    }
}

/// The checks, some of which may still be running from an earlier round.
struct Checks {
    /// Shared with the pending query, of which there is at most one.
    pinger: Arc<Mutex<DatabasePing>>,
    database: SingleFlight<DatabaseReading>,
    tables: SingleFlight<Result<Availability, database::Error>>,
    directories: SingleFlight<io::Result<[CheckResult; 3]>>,
    counters: Arc<Counters>,
    /// Tables are checked only until they have been found: they do not disappear.
    has_tables: bool,
}

/// The result of a query of the database.
struct DatabaseReading {
    availability: Result<Availability, database::Error>,
    /// What the engine lease shows; `None` if it could not be read.
    engine: Option<EngineActivity>,
}

impl Checks {
    fn new(targets: &CheckTargets, counters: Arc<Counters>) -> Self {
        let pinger = Arc::new(Mutex::new(DatabasePing::new(targets.database.clone())));
        let (database, tables, directories) = (SingleFlight(None), SingleFlight(None), SingleFlight(None));
        Self { pinger, database, tables, directories, counters, has_tables: false }
    }

    /// All checks, run concurrently; returns the resulting change of the state.
    async fn run_round(&mut self, targets: &CheckTargets) -> impl FnOnce(&mut HealthState) + use<> {
        let deadline = Instant::now() + CHECK_TIMEOUT;
        let pinger = Arc::clone(&self.pinger);
        let ping = self.database.run(deadline, || {
            tokio::spawn(async move {
                let mut pinger = pinger.lock().await;
                let availability = pinger.ping().await;
                let engine = match availability {
                    Ok(Availability::Ok) => pinger.engine().await.ok().map(to_activity),
                    _ => None,
                };
                DatabaseReading { availability, engine }
            })
        });
        let (botssys, usersys, min_free) = (targets.botssys.clone(), targets.usersys.clone(), targets.min_free);
        let counters = Arc::clone(&self.counters);
        let look = move || [directory(&botssys), directory(&usersys), space(&botssys, min_free, &counters)];
        let directories = self.directories.run(deadline, || tokio::spawn(periodic::run_blocking(look)));
        // The directories first: they are then read before the file of the database, and one wake-up returns both.
        let (directories, ping) = tokio::join!(
            measure(&self.counters, CheckTimer::Directories, directories),
            measure(&self.counters, CheckTimer::Database, ping)
        );
        let availability = ping.as_ref().and_then(|ping| ping.availability.as_ref().ok().copied());
        let (ping, engine) = ping.map(|ping| (ping.availability, ping.engine)).unzip();
        let database = to_check_result("the database", ping);
        let tables = match &database {
            _ if self.has_tables => CheckResult::Ok,
            CheckResult::Ok => self.check_tables(deadline).await,
            CheckResult::Pending | CheckResult::Failed(_) => CheckResult::Pending,
        };
        move |state| {
            // A probe failure of a service counts only while the database is available.
            if availability != Some(Availability::Ok) {
                state.services.iter_mut().for_each(|service| service.countable_failures = 0);
            }
            state.database_busy = availability == Some(Availability::Locked);
            state.checks.set(DATABASE, database);
            state.checks.set(TABLES, tables);
            update_engine(&mut state.engine, availability, engine.flatten());
            let late =
                || CheckResult::Failed(format!("the volume did not respond within {} s", CHECK_TIMEOUT.as_secs()));
            let directories = directories.and_then(Result::ok).unwrap_or_else(|| [late(), late(), late()]);
            for (name, result) in [BOTSSYS, USERSYS, SPACE].into_iter().zip(directories) {
                state.checks.set(name, result);
            }
        }
    }

    async fn check_tables(&mut self, deadline: Instant) -> CheckResult {
        let pinger = Arc::clone(&self.pinger);
        let looking =
            self.tables.run(deadline, || tokio::spawn(async move { pinger.lock().await.check_tables().await }));
        let found = measure(&self.counters, CheckTimer::Tables, looking).await;
        // While the database is locked, the check passes as that of the database does, and is repeated.
        self.has_tables = matches!(found, Some(Ok(Availability::Ok)));
        to_check_result("the database", found)
    }
}

/// Records the duration of a check, or of the wait for it.
async fn measure<T>(counters: &Counters, timer: CheckTimer, query: impl Future<Output = T>) -> T {
    let begin = Instant::now();
    let result = query.await;
    counters.record_check(timer, begin.elapsed());
    result
}

/// An engine locks SQLite for some time in each run, so a locked database leaves its last activity as it is.
fn update_engine(engine: &mut EngineActivity, availability: Option<Availability>, read: Option<EngineActivity>) {
    match (availability, read) {
        (None, _) => *engine = EngineActivity::Unknown,
        (Some(_), Some(read)) => *engine = read,
        (Some(_), None) => {}
    }
}

fn to_activity(holder: Option<LeaseHolder>) -> EngineActivity {
    let now = Instant::now();
    holder.map_or(EngineActivity::Idle, |LeaseHolder { name, since, .. }| EngineActivity::Running {
        holder: name,
        since: now.checked_sub(since).unwrap_or(now),
    })
}

/// A query that starts again only when the last one has returned.
struct SingleFlight<T>(Option<JoinHandle<T>>);

impl<T> SingleFlight<T> {
    /// The result, or `None` after the timeout.
    async fn run(&mut self, deadline: Instant, start: impl FnOnce() -> JoinHandle<T>) -> Option<T> {
        let handle = self.0.get_or_insert_with(start);
        let result = timeout_at(deadline.into(), handle).await.ok()?;
        self.0 = None;
        result.ok()
    }
}

fn to_check_result<T>(what: &str, result: Option<Result<T, database::Error>>) -> CheckResult {
    match result {
        Some(Ok(_)) => CheckResult::Ok,
        Some(Err(error)) => CheckResult::Failed(error.to_string()),
        None => CheckResult::Failed(format!("{what} did not respond within {} s", CHECK_TIMEOUT.as_secs())),
    }
}

/// Publishes the state when it has changed.
pub(super) fn publish(health: &watch::Sender<HealthState>, change: impl FnOnce(&mut HealthState)) {
    health.send_if_modified(|state| {
        let before = state.clone();
        change(state);
        log_changes(&before, state);
        *state != before
    });
}

/// Logs only changes: an outage of an hour is one line, and the recovery another one.
fn log_changes(before: &HealthState, after: &HealthState) {
    for check in CHECKS {
        let name = check.name;
        match (before.checks.get(name), after.checks.get(name)) {
            (CheckResult::Ok | CheckResult::Pending, CheckResult::Failed(reason)) => {
                tracing::error!(check = name, "{reason}")
            }
            (CheckResult::Failed(_), CheckResult::Ok) => tracing::info!(check = name, "{name} check passes again"),
            _ => {}
        }
    }
}

/// Whether a directory exists and is writable.
fn directory(path: &Path) -> CheckResult {
    use nix::unistd::{AccessFlags, access};
    if !path.is_dir() {
        return CheckResult::Failed(format!("{} is not a directory", path.display()));
    }
    match access(path, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => CheckResult::Ok,
        Err(error) => CheckResult::Failed(format!("cannot write to {}: {}", path.display(), error.desc())),
    }
}

/// Whether the volume of a directory has free space, and a free inode. Some file systems report neither.
fn space(path: &Path, min_free: u64, counters: &Counters) -> CheckResult {
    let Ok(volume) = statvfs(path) else { return CheckResult::Ok };
    let free = volume.blocks_available().saturating_mul(volume.fragment_size());
    if volume.blocks() > 0 {
        counters.record_free(free);
    }
    if volume.blocks() > 0 && free < min_free {
        let (free, wanted) = (free / 1024 / 1024, min_free / 1024 / 1024);
        let text = format!("{} has {free} MiB free on its volume, but needs {wanted} MiB: free space", path.display());
        return CheckResult::Failed(text);
    }
    if min_free > 0 && volume.files() > 0 && volume.files_available() == 0 {
        return CheckResult::Failed(format!("{} has no free inode on its volume: remove files", path.display()));
    }
    CheckResult::Ok
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_is_unknown_in_an_outage_and_unchanged_while_database_is_locked() {
        use Availability::{Locked, Ok};
        let mut engine = EngineActivity::Unknown;
        for (availability, read, expected) in [
            (Some(Locked), None, "unknown"),
            (Some(Ok), Some(to_activity(None)), "idle"),
            (Some(Locked), None, "idle"),
            (Some(Ok), Some(to_activity(Some(LeaseHolder::unknown()))), "running"),
            (Some(Locked), None, "running"),
            // Locked between the two queries.
            (Some(Ok), None, "running"),
            (None, None, "unknown"),
        ] {
            update_engine(&mut engine, availability, read);
            let found = match &engine {
                EngineActivity::Unknown => "unknown",
                EngineActivity::Idle => "idle",
                EngineActivity::Running { .. } => "running",
            };
            assert_eq!(found, expected, "{availability:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn hung_check_is_not_repeated_until_it_returns() {
        let asked = std::cell::Cell::new(0);
        let mut check = SingleFlight(None);
        let query = || {
            asked.set(asked.get() + 1);
            tokio::spawn(tokio::time::sleep(CHECK_TIMEOUT * 5 / 2))
        };
        let limit = || tokio::time::Instant::now().into_std() + CHECK_TIMEOUT;
        assert!(check.run(limit(), query).await.is_none());
        assert!(check.run(limit(), query).await.is_none());
        assert!(check.run(limit(), query).await.is_some());
        assert_eq!(asked.get(), 1);
        assert!(check.run(limit(), query).await.is_none());
        assert_eq!(asked.get(), 2);
    }
}
