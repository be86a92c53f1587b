//! The state from which health responses are derived. Pure.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::model::QueueCounts;

/// The last result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CheckResult {
    /// Not checked yet.
    #[default]
    Pending,
    /// As it should be.
    Ok,
    /// Not as it should be, and why.
    Failed(String),
}

/// The last result of each check, by the name that `rules::CHECKS` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckResults(Vec<(&'static str, CheckResult)>);

impl CheckResults {
    /// The result of a check.
    #[must_use]
    pub fn get(&self, name: &str) -> &CheckResult {
        self.0.iter().find(|(known, _)| *known == name).map_or(&CheckResult::Pending, |(_, result)| result)
    }

    /// Replaces the result of a check.
    pub fn set(&mut self, name: &'static str, result: CheckResult) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = result,
            None => self.0.push((name, result)),
        }
    }

    /// Of checks that have all succeeded.
    #[must_use]
    pub fn all_ok(names: impl IntoIterator<Item = &'static str>) -> Self {
        Self(names.into_iter().map(|name| (name, CheckResult::Ok)).collect())
    }
}

/// Where a service is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Preparations, or the start of the service.
    #[default]
    Starting,
    /// The process is alive.
    Running,
    /// A stop was requested, or is about to be.
    Draining,
    /// The process has exited and will be restarted, or is being restarted.
    Restarting,
    /// No process runs until the next scheduled time.
    Waiting,
    /// Another instance is active, and this one becomes active when that one ends.
    Standby,
    /// It is gone.
    Ended,
}

/// The health of one service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceHealth {
    /// Its name, as in `webserver`.
    pub name: &'static str,
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether it accepts work, so that `ready` depends on it; false for a service that runs on a schedule.
    pub counts_for_ready: bool,
    /// Its process, while there is one.
    pub pid: Option<i32>,
    /// When that was started.
    pub started: Option<Instant>,
    /// When a process of it was last started.
    pub last_start: Option<Instant>,
    /// The interval between starts, for a service that runs on a schedule.
    pub every: Option<Duration>,
    /// Whether that process has answered a liveness probe.
    pub alive: bool,
    /// The error of its pages, if it responds without serving them.
    pub page_error: Option<String>,
    /// Failed liveness probes in a row.
    pub failures: u32,
    /// Consecutive failures while the database was available.
    pub countable_failures: u32,
    /// How often it was started again.
    pub restarts: u32,
    /// How its last process ended.
    pub last_exit: Option<Exit>,
    /// The jobs, if the service is bots-ctl's job queue.
    pub jobs: Option<QueueCounts>,
}

/// The state of the directory monitor after its last scans.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MonitorStatus {
    /// Its entries.
    pub directories: Arc<[WatchStatus]>,
    /// Routes with new files that are not yet in the job queue.
    pub pending_routes: usize,
}

/// An entry of the directory monitor: files that start a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchStatus {
    /// Directory and mask.
    pub files: String,
    /// The route.
    pub route: String,
    /// `inotify`, `poll`, `both` or `none`.
    #[serde(skip)]
    pub backend: &'static str,
    /// How files are found, with the reason.
    #[serde(rename = "by", default, skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// Why no files are found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Arrival time of the oldest waiting file.
    #[serde(skip)]
    pub oldest: Option<SystemTime>,
    /// Files that are not complete, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<IncompleteFiles>,
}

/// A channel whose directory is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelFault {
    pub channel: String,
    pub route: String,
    /// Directory and mask.
    pub files: String,
    /// The reason why the directory of an active route cannot be read.
    pub error: Option<String>,
    /// The number of files that wait for an inactive route.
    pub waiting: usize,
}

/// Files of a watched directory that are not complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncompleteFiles {
    /// How many.
    pub count: usize,
    /// The file that was seen first.
    pub example: String,
    /// Why that file is not complete.
    #[serde(rename = "why")]
    pub reason: String,
    /// When it was first seen.
    #[serde(rename = "seconds", with = "elapsed")]
    pub since: Instant,
    /// Complete files that wait for them.
    pub held: usize,
    /// The number of files whose wait has ended without success.
    pub given_up: usize,
}

/// A time as the number of seconds since then.
mod elapsed {
    use std::time::{Duration, Instant};

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(since: &Instant, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(since.elapsed().as_secs())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Instant, D::Error> {
        let (now, elapsed) = (Instant::now(), Duration::from_secs(u64::deserialize(deserializer)?));
        Ok(now.checked_sub(elapsed).unwrap_or(now))
    }
}

impl ServiceHealth {
    /// A service that is about to be started.
    #[must_use]
    pub fn new(name: &'static str, takes_work: bool) -> Self {
        Self { name, counts_for_ready: takes_work, ..Self::default() }
    }
}

/// Statistics of the EDI files, as they were read from the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedEdiStats {
    /// The statistics.
    pub stats: crate::edi::stats::model::EdiStats,
    /// When they were read.
    pub read: Instant,
    /// How long the reading took.
    pub took: Duration,
    /// The error of the last attempt; `None` if it succeeded.
    pub error: Option<String>,
}

/// Host, environment, versions and addresses, for the header of the status page.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SystemInfo {
    /// The name of the Bots environment.
    pub environment: String,
    pub host: String,
    pub bots: String,
    /// Empty in settings cached by an older bots-ctl.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub python: String,
    pub django: String,
    /// In words, without a password.
    pub database: String,
    /// The address of the web UI, if it runs here; `localhost` means this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub web: Option<String>,
}

/// Whether an engine runs, according to its lease in the database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum EngineActivity {
    /// The database has not responded.
    #[default]
    Unknown,
    Idle,
    Running {
        /// Pod and process of its bots-ctl.
        holder: String,
        since: Instant,
    },
}

/// A run of init-db.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitRun {
    pub took: Duration,
    pub is_success: bool,
}

/// The result of applying the mounted plugin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum MountedPlugin {
    /// There is no plugin, or it was not tried yet.
    #[default]
    NotTried,
    Applied,
    /// And why.
    Rejected(String),
}

/// The whole state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HealthState {
    /// The services in the order of their start; empty if no service is checked.
    pub services: Vec<ServiceHealth>,
    /// The number of failed liveness probes in a row at which a service counts as unresponsive.
    pub misses_allowed: u32,
    /// All services are being stopped.
    pub stopping: bool,
    /// All services are stopped in order, to be started again with another configuration.
    pub reloading: bool,
    /// The results of the checks.
    pub checks: CheckResults,
    /// The database responds that another connection has locked it.
    pub database_busy: bool,
    /// The engine run of this database, here or in another pod.
    pub engine: EngineActivity,
    /// The directory monitor, if it is bots-ctl's.
    pub monitor: Option<MonitorStatus>,
    /// Statistics of the EDI files, after the first reading.
    pub results: Option<Arc<CachedEdiStats>>,
    /// The error of the first reading.
    pub results_error: Option<String>,
    /// Channels whose directories cannot be read, if the engine runs in this container.
    pub channels: Arc<[ChannelFault]>,
    /// The version of Bots, once it is known.
    pub bots_version: Option<String>,
    /// The header of the status page, once it is known.
    pub system: Option<Arc<SystemInfo>>,
    /// The init-db of this start, if it had to run.
    pub init_run: Option<InitRun>,
    /// The errors of a mounted configuration that was rejected.
    pub refused: Arc<[String]>,
    /// The mounted plugin.
    pub plugin: MountedPlugin,
    /// Whether `ready` depends on the database alone.
    pub database_only: bool,
}
