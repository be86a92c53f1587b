//! Locks on a database that die with their holder: one initialiser at a time, and whatever else there must be one of.
//!
//! On a server it is a lock of the session, beside SQLite a lock on a file. A wait for one may be given up at any time.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use sha2::{Digest, Sha256};
use tracing::info;

use super::query::Connection;
use super::{DatabaseConfig, Error, errors};
use crate::fs::lock;

/// How often to look whether a file's lock has become free. Locking itself has no way to be given up again.
const RETRY: Duration = Duration::from_millis(10);

/// The longest name of a lock that MySQL takes.
const MAX_NAME: usize = 64;

/// What there may be one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockName {
    /// The initialiser.
    InitDb,
    /// The bots-ctl whose engine runs.
    Engine,
    /// The job queue that runs the jobs.
    JobQueue,
}

impl LockName {
    fn text(self) -> &'static str {
        match self {
            Self::InitDb => "init",
            Self::Engine => "engine",
            Self::JobQueue => "queue",
        }
    }

    fn activity(self) -> &'static str {
        match self {
            Self::InitDb => "initialises",
            Self::Engine => "runs the engine on",
            Self::JobQueue => "runs the jobs of",
        }
    }
}

/// Held until it is dropped, its connection is cut, or its process dies.
#[derive(Debug)]
#[must_use]
pub struct LockGuard {
    /// The session that has the lock; for what is done under it.
    pub connection: Connection,
    held_query: Option<String>,
    _file: Option<File>,
}

/// Waits for a lock; `connection` becomes the session that has it.
///
/// # Errors
/// When there is no way to lock this database.
pub async fn acquire(settings: &DatabaseConfig, name: LockName, connection: Connection) -> Result<LockGuard, Error> {
    match settings {
        DatabaseConfig::Sqlite(path) => {
            let file = lock_file(settings, path, name).await?;
            Ok(LockGuard { connection, held_query: None, _file: Some(file) })
        }
        DatabaseConfig::Mysql(server) => {
            let lock = connection.quote_literal(&mysql_name(&server.name, name));
            let question = format!("SELECT IS_USED_LOCK({lock}) = CONNECTION_ID()");
            let connection = on_mysql(settings, name, connection, &lock).await?;
            Ok(LockGuard { connection, held_query: Some(question), _file: None })
        }
        DatabaseConfig::Postgres(_) => {
            let (high, low) = postgres_key(name);
            let question = format!(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted \
                 AND classid = {high} AND objid = {low}"
            );
            let connection = on_postgres(settings, name, connection, (high, low)).await?;
            Ok(LockGuard { connection, held_query: Some(question), _file: None })
        }
    }
}

impl LockGuard {
    /// Whether the session still has it: a connection that was cut has lost it without a word.
    ///
    /// # Errors
    /// When it has not.
    pub async fn check(&mut self, settings: &DatabaseConfig) -> Result<(), Error> {
        let Some(question) = &self.held_query else { return Ok(()) };
        let value = self.connection.fetch_value(question.clone()).await;
        match value.map_err(|error| Error::failed("keep a lock on", settings, &error))?.as_deref() {
            Some("1") => Ok(()),
            _ => Err(Error::Failed(format!("the lock on the {} was lost meanwhile", settings.describe()))),
        }
    }
}

/// Opens the file that is locked for a SQLite database, not through a link, which could lead to any file.
///
/// # Errors
/// When it cannot be made, or is a link.
pub fn open_beside(database: &Path, name: LockName) -> Result<File, Error> {
    let path = lock_file_path(database, name);
    let mut options = OpenOptions::new();
    let opened = options.create(true).truncate(false).write(true).custom_flags(libc::O_NOFOLLOW).open(&path);
    opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => Error::Failed(format!("cannot lock {}: it is a link; remove it", path.display())),
        _ => Error::Failed(format!("cannot lock {}: {error}", path.display())),
    })
}

async fn lock_file(settings: &DatabaseConfig, database: &Path, name: LockName) -> Result<File, Error> {
    let path = lock_file_path(database, name);
    let failed = |error: std::io::Error| Error::Failed(format!("cannot lock {}: {error}", path.display()));
    let file = open_beside(database, name)?;
    let mut logged = false;
    loop {
        if lock::try_lock(&file).map_err(failed)? {
            return Ok(file);
        }
        if !std::mem::replace(&mut logged, true) {
            log_waiting(settings, name, "");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Not the database itself: SQLite has locks of its own on that.
pub(super) fn lock_file_path(database: &Path, name: LockName) -> PathBuf {
    let mut file = database.as_os_str().to_owned();
    file.push(format!(".{}-lock", name.text()));
    PathBuf::from(file)
}

fn log_waiting(settings: &DatabaseConfig, name: LockName, who: &str) {
    info!("another bots-ctl{who} {} the {}: waiting for it", name.activity(), settings.describe());
}

async fn on_mysql(
    settings: &DatabaseConfig,
    name: LockName,
    mut on: Connection,
    lock: &str,
) -> Result<Connection, Error> {
    let failed = |error: sqlx::Error| Error::failed("lock", settings, &error);
    // A session that idles while Django works must not be ended for it.
    let ask = |seconds: u8| format!("SET SESSION wait_timeout = 28800; SELECT GET_LOCK({lock}, {seconds})");
    if is_granted(&on.fetch_text(ask(0)).await.map_err(failed)?) {
        return Ok(on);
    }
    let holder = on.fetch_value(format!("SELECT IS_USED_LOCK({lock})")).await.map_err(failed)?;
    log_waiting(settings, name, &holder.map(|id| format!(" (connection {id})")).unwrap_or_default());
    // A short wait, over and over: the server notices late that a client has gone that it makes wait.
    while !is_granted(&on.fetch_text(ask(1)).await.map_err(failed)?) {}
    Ok(on)
}

fn is_granted(rows: &[Vec<Option<String>>]) -> bool {
    rows.last().and_then(|row| row.first()?.as_deref()) == Some("1")
}

async fn on_postgres(
    settings: &DatabaseConfig,
    name: LockName,
    mut on: Connection,
    (high, low): (u32, u32),
) -> Result<Connection, Error> {
    let failed = |error: sqlx::Error| Error::failed("lock", settings, &error);
    // The two halves of the one key that pg_locks shows in two columns.
    let key = (i64::from(high) << 32) | i64::from(low);
    let tried = on.fetch_value(format!("SELECT pg_try_advisory_lock({key})::int")).await.map_err(failed)?;
    if tried.as_deref() == Some("1") {
        return Ok(on);
    }
    let holder = on
        .fetch_value(format!(
            "SELECT concat(' (process ', l.pid, coalesce(' from ' || host(a.client_addr), ''), ')') FROM pg_locks l \
             LEFT JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted AND l.classid = {high} \
             AND l.objid = {low} AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ))
        .await
        .map_err(failed)?;
    log_waiting(settings, name, &holder.unwrap_or_default());
    // A short wait, over and over: the server notices late that a client has gone that it makes wait.
    loop {
        match on
            .execute_batch(format!("SET lock_timeout = '1s'; SELECT pg_advisory_lock({key}); RESET lock_timeout"))
            .await
        {
            Ok(()) => return Ok(on),
            Err(error) if errors::is_lock_timeout(&error) => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// MySQL's names are those of the whole server.
pub(super) fn mysql_name(database: &str, name: LockName) -> String {
    let readable = format!("bots-ctl.{}.{database}", name.text());
    if readable.len() <= MAX_NAME && readable.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)) {
        return readable;
    }
    let hash =
        Sha256::digest(database.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("bots-ctl.{}.{hash}", name.text())
}

/// Advisory locks belong to one database. The key is 63 bits, so that it is no negative number.
pub(super) fn postgres_key(name: LockName) -> (u32, u32) {
    let hash = Sha256::digest(format!("bots-ctl.{}", name.text()).as_bytes());
    let half = |at: usize| u32::from_be_bytes([hash[at], hash[at + 1], hash[at + 2], hash[at + 3]]);
    (half(0) & 0x7fff_ffff, half(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_locks_fit_and_differ_by_database() {
        assert_eq!(mysql_name("bots", LockName::InitDb), "bots-ctl.init.bots");
        let (long, other) = ("x".repeat(64), "y".repeat(64));
        let name = |database: &str| mysql_name(database, LockName::InitDb);
        assert!(name(&long).len() <= MAX_NAME);
        assert_ne!(name(&long), name(&other));
        assert_ne!(name("a'b"), name("a\"b"));
    }

    #[test]
    fn a_lock_is_not_taken_through_a_link() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (database, target) = (dir.path().join("db"), dir.path().join("elsewhere"));
        std::os::unix::fs::symlink(&target, lock_file_path(&database, LockName::JobQueue)).expect("linked");
        let refused = open_beside(&database, LockName::JobQueue).expect_err("it is a link").to_string();
        assert!(refused.ends_with("it is a link; remove it") && !target.exists(), "{refused}");
        open_beside(&database, LockName::Engine).expect("opened");
    }
}
