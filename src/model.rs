//! Plain data for all layers: it depends on no other module of this crate.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

/// A service of Bots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceName {
    Webserver,
    Jobqueue,
    Dirmonitor,
    Engine,
}

impl ServiceName {
    /// All services, in the order of their start.
    pub const ALL: [Self; 4] = [Self::Jobqueue, Self::Webserver, Self::Dirmonitor, Self::Engine];

    /// The name in commands, logs and health answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webserver => "webserver",
            Self::Jobqueue => "jobqueue",
            Self::Dirmonitor => "dirmonitor",
            Self::Engine => "engine",
        }
    }
}

impl FromStr for ServiceName {
    type Err = UnknownService;

    fn from_str(name: &str) -> Result<Self, UnknownService> {
        Self::ALL.into_iter().find(|service| service.as_str() == name).ok_or(UnknownService)
    }
}

/// There is no service of this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownService;

/// A number with its noun: `1 file`, `2 files`.
pub fn counted<N: PartialEq + From<u8> + fmt::Display>(count: N, noun: &str) -> String {
    let plural = if count == N::from(1) { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Pauses between retries: each is twice as long as the one before, up to a limit.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    pub initial: Duration,
    pub max: Duration,
}

impl Backoff {
    /// The backoff after this number of consecutive failures.
    pub fn pause(self, failures: u32) -> Duration {
        self.initial.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(self.max)
    }
}

/// When a service that has exited is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartRules {
    /// After which ends.
    pub policy: RestartPolicy,
    /// Maximum number of consecutive restarts, after which the next exit is final.
    pub limit: u32,
    /// The backoff before the first restart; doubled with each further restart.
    pub initial_delay: Duration,
    /// The longest pause.
    pub max_delay: Duration,
    /// Uptime after which the restart count is reset.
    pub reset_after: Duration,
}

/// The exits after which a service is restarted; `OnFailure` means all but exit code 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RestartPolicy {
    Never,
    OnFailure,
    Always,
}

/// The two families of Bots, which differ in their tables and modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BotsVersion {
    /// Up to 3.3.1.
    V3,
    /// 4.0 and later.
    V4,
}

/// A page that a web UI must serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// A host name that the web UI accepts.
    pub host: String,
    /// Its path.
    pub path: String,
}

/// The liveness probe of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LivenessProbe {
    /// The server responds to a HEAD of this path on loopback, which needs no database. Any status line counts: it
    /// shows that a worker has accepted the request. The service is ready if `page` returns no 5xx status.
    Http {
        port: u16,
        path: String,
        page: Page,
        /// With TLS the probe completes a handshake; otherwise the service logs an error for each probe.
        tls: bool,
    },
    /// It answers XML-RPC on this port of loopback, and has a child process while jobs wait.
    JobQueue { port: u16 },
    /// Its process has a descriptor for events of the file system.
    Inotify,
}

/// Django's `DATABASES['default']`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DjangoDatabase {
    pub engine: String,
    pub name: String,
    pub user: String,
    pub host: String,
    pub port: String,
    pub options: serde_json::Map<String, serde_json::Value>,
    /// Never written to a file.
    #[serde(skip_serializing, default)]
    pub password: SecretString,
}

impl DjangoDatabase {
    /// Whether this is SQLite.
    pub fn is_sqlite(&self) -> bool {
        self.engine.ends_with("sqlite3")
    }

    /// Whether both are the same database, with the same connection parameters.
    pub fn is_same(&self, other: &Self) -> bool {
        let passwords = [self, other].map(|database| database.password.expose_secret());
        passwords[0] == passwords[1] && serde_json::json!(self) == serde_json::json!(other)
    }
}

/// A table that Django makes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ManagedTable {
    pub columns: Vec<ManagedColumn>,
    /// Indexes, without the primary key.
    #[serde(rename = "keys")]
    pub indexes: Vec<IndexDef>,
}

/// A column of such a table. In JSON it is an array of its fields.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "(String, Option<u32>, bool)", into = "(String, Option<u32>, bool)")]
pub struct ManagedColumn {
    pub name: String,
    /// Maximum length, in characters.
    pub max_length: Option<u32>,
    pub is_nullable: bool,
}

impl From<(String, Option<u32>, bool)> for ManagedColumn {
    fn from((name, max_length, is_nullable): (String, Option<u32>, bool)) -> Self {
        Self { name, max_length, is_nullable }
    }
}

impl From<ManagedColumn> for (String, Option<u32>, bool) {
    fn from(column: ManagedColumn) -> Self {
        (column.name, column.max_length, column.is_nullable)
    }
}

/// An index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexDef {
    /// Empty if any name is accepted.
    pub name: String,
    /// Column names, in index order.
    pub columns: Vec<String>,
    /// Whether the index is unique.
    pub unique: bool,
    /// PostgreSQL's operator class, if not the default.
    pub operators: Option<String>,
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Host and port.
    pub authority: String,
    /// Path.
    pub path: String,
    /// The token sent as `Authorization: Bearer`.
    pub token: Option<SecretString>,
}

/// The jobs of a job queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QueueCounts {
    /// How many wait.
    pub waiting: u64,
    /// How many run.
    pub running: u64,
    /// Submission time of the oldest waiting job.
    #[serde(skip)]
    pub oldest: Option<SystemTime>,
    /// The number of jobs that succeeded since the start of the queue.
    #[serde(skip)]
    pub done: u64,
    /// How many have failed.
    #[serde(skip)]
    pub failed: u64,
    /// The number of times that a job was requeued.
    #[serde(skip)]
    pub requeued: u64,
}

/// Stands for the newest job instead of a job number.
pub const LATEST_JOB: i32 = 0;

/// A check that the health listener answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Check {
    /// The processes work
    Live,
    /// The services accept work
    Ready,
    /// The start is complete
    Startup,
}

/// A database driver that is installed on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Driver {
    /// MySQL and MariaDB (compiled: needs gcc, pkg-config and libmariadb-dev)
    Mysql,
    /// PostgreSQL
    Postgresql,
}

/// Device and inode of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl From<&Metadata> for FileId {
    fn from(meta: &Metadata) -> Self {
        Self { device: meta.dev(), inode: meta.ino() }
    }
}
