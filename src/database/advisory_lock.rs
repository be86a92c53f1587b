//! Advisory locks on a database: one init-db at a time, one engine, one job queue. A lock ends with its holder.
//!
//! On a server it is a session lock, with SQLite a lock on a file next to the database. Waiting for one is cancel safe.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use sha2::{Digest, Sha256};
use tokio::time::sleep;
use tracing::info;

use super::connect::{ConnectMode, connect};
use super::query::{Connection, text};
use super::retry::{connect_with_retry, with_timeout};
use super::{DatabaseConfig, Error, errors};
use crate::fs::lock;

/// Time between two attempts to lock a file: flock(2) has no timeout.
const FILE_RETRY: Duration = Duration::from_millis(10);

/// The longest name of a lock that MySQL accepts.
const MAX_NAME: usize = 64;

/// A lock, named after its exclusive holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockName {
    /// init-db.
    InitDb,
    /// The bots-ctl that runs the engine.
    Engine,
    /// The active job queue.
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
}

/// A connection, with a lock that it holds or can acquire. Dropping it releases the lock.
#[derive(Debug)]
#[must_use]
pub struct LockSession {
    /// For queries under the lock.
    pub connection: Connection,
    lock: LockBackend,
}

#[derive(Debug)]
enum LockBackend {
    /// A file next to a SQLite database.
    File(File),
    Sql(LockSql),
}

/// The statements for one kind of server. The last row of `acquire` and of `wait` is 1 when the session holds the lock.
#[derive(Debug)]
struct LockSql {
    acquire: String,
    /// Waits at most one second: a server notices late that a waiting client has disconnected.
    wait: String,
    release: String,
    /// The session that holds the lock.
    holder: String,
    /// The same, for a log line.
    holder_text: String,
    session_id: &'static str,
    /// The function that terminates the session with the following number.
    terminate: &'static str,
}

impl LockSession {
    /// Connects, without acquiring the lock.
    ///
    /// # Errors
    /// If the database or the lock file cannot be opened.
    pub async fn open(settings: &DatabaseConfig, name: LockName) -> Result<Self, Error> {
        Self::new(connect(settings, ConnectMode::ReadWrite).await?, name)
    }

    /// The same on an open connection.
    ///
    /// # Errors
    /// If the lock file cannot be opened.
    pub fn new(connection: Connection, name: LockName) -> Result<Self, Error> {
        let lock = match &connection.settings {
            DatabaseConfig::Sqlite(database) => LockBackend::File(open_beside(database, name)?),
            DatabaseConfig::Mysql(server) => {
                LockBackend::Sql(on_mysql(&connection.quote_literal(&mysql_name(&server.name, name))))
            }
            DatabaseConfig::Postgres(_) => LockBackend::Sql(on_postgres(postgres_key(name))),
        };
        Ok(Self { connection, lock })
    }

    /// Acquires the lock if it is free; returns whether it succeeded.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn try_acquire(&mut self) -> Result<bool, Error> {
        match &self.lock {
            LockBackend::File(file) => try_lock(file).await.map_err(|error| {
                Error::Failed(format!(
                    "cannot acquire the lock file next to the {}: {error}",
                    self.connection.settings.describe()
                ))
            }),
            LockBackend::Sql(sql) => is_granted(&mut self.connection, &sql.acquire).await,
        }
    }

    /// Acquires the lock, without a time limit. `activity` describes the holder's work in the log.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn acquire(&mut self, activity: &str) -> Result<(), Error> {
        if self.try_acquire().await? {
            return Ok(());
        }
        let holder = self.query(|sql| &sql.holder_text).await?.unwrap_or_default();
        info!(
            "another bots-ctl{holder} {activity} the {}: waiting until it has finished",
            self.connection.settings.describe()
        );
        while !self.wait().await? {}
        Ok(())
    }

    /// Waits for the lock for a short time; returns whether it was granted.
    async fn wait(&mut self) -> Result<bool, Error> {
        match &self.lock {
            LockBackend::File(_) => {
                sleep(FILE_RETRY).await;
                self.try_acquire().await
            }
            LockBackend::Sql(sql) => is_granted(&mut self.connection, &sql.wait).await,
        }
    }

    /// Checks that the session still holds the lock: after a lost connection it would not, without an error.
    ///
    /// # Errors
    /// If it does not.
    pub async fn check(&mut self) -> Result<(), Error> {
        if self.holder().await? == self.id().await? {
            return Ok(());
        }
        Err(Error::Failed(format!("the lock on the {} was lost", self.connection.settings.describe())))
    }

    /// Releases the lock.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn release(&mut self) -> Result<(), Error> {
        match &self.lock {
            LockBackend::File(file) => {
                file.unlock().map_err(|error| Error::Failed(format!("cannot release the lock file: {error}")))
            }
            LockBackend::Sql(sql) => self.connection.select("unlock", sql.release.as_str(), &[]).await.map(|_| ()),
        }
    }

    /// The server's ID of this session; `None` for a file lock.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn id(&mut self) -> Result<Option<String>, Error> {
        self.query(|sql| sql.session_id).await
    }

    /// The session that holds the lock; `None` for a file lock.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn holder(&mut self) -> Result<Option<String>, Error> {
        self.query(|sql| &sql.holder).await
    }

    async fn query(&mut self, query: fn(&LockSql) -> &str) -> Result<Option<String>, Error> {
        let LockBackend::Sql(sql) = &self.lock else { return Ok(None) };
        let rows = self.connection.select("query", query(sql), &[]).await?;
        Ok(rows.first().and_then(|row| text(row, 0)))
    }

    /// Terminates another session, which releases its locks. One that has ended meanwhile is no error.
    ///
    /// # Errors
    /// If the query fails: an account can terminate only its own sessions.
    pub async fn terminate(&mut self, id: &str) -> Result<(), Error> {
        let LockBackend::Sql(sql) = &self.lock else { return Ok(()) };
        let statement = format!("{}({id})", sql.terminate);
        match self.connection.execute_batch(statement).await {
            Err(error) if errors::is_unknown_session(&error) => Ok(()),
            ended => ended.map_err(|error| self.connection.settings.failed("end a session of", &error)),
        }
    }

    /// Rejects a proxy that assigns each transaction or statement to any free session: another client would hold the
    /// lock. The check needs a second connection, as an engine run does, and waits for it up to `retry_window`.
    ///
    /// # Errors
    /// If there is such a proxy, or the database does not respond.
    pub async fn reject_transaction_pooler(&mut self, retry_window: Duration) -> Result<(), Error> {
        let settings = self.connection.settings.clone();
        if settings.is_sqlite() {
            return Ok(());
        }
        let other =
            connect_with_retry(&settings, ConnectMode::ReadWrite, retry_window).await.map_err(|error| match error {
                // The retries are exhausted.
                Error::Unavailable(text) => Error::Rejected(text),
                error => error,
            })?;
        if with_timeout(&settings, self.is_pinned_beside(Self::new(other, LockName::Engine)?)).await? {
            return Ok(());
        }
        Err(Error::Unsupported(format!(
            "the {} is behind a proxy that pools transactions or statements, where session locks \
             do not work and two engines or init-db could run at the same time: connect to the \
             server directly, or set the proxy to session pooling (pool_mode = session)",
            settings.describe()
        )))
    }
}

impl LockSession {
    /// Whether the session stays the same while another one is in a transaction. A pooler reserves a session for that
    /// transaction, possibly this one if it may be reassigned.
    async fn is_pinned_beside(&mut self, mut other: Self) -> Result<bool, Error> {
        let before = self.id().await?;
        let is_pinned = match other.connection.change("query", "BEGIN", &[]).await {
            Ok(_) => other.id().await? != before && self.id().await? == before,
            // A proxy that pools statements rejects transactions.
            Err(Error::Failed(_)) => false,
            Err(error) => return Err(error),
        };
        other.connection.close().await;
        Ok(is_pinned)
    }
}

async fn is_granted(connection: &mut Connection, statement: &str) -> Result<bool, Error> {
    match connection.fetch_text(statement).await {
        Ok(rows) => Ok(rows.last().and_then(|row| row.first()?.as_deref()) == Some("1")),
        Err(error) if errors::is_lock_timeout(&error) => Ok(false),
        Err(error) => Err(connection.settings.failed("lock", &error)),
    }
}

/// Whether a process holds the lock file of a SQLite database.
pub(super) fn is_file_locked(database: &Path, name: LockName) -> bool {
    let file = File::open(lock_file_path(database, name));
    file.is_ok_and(|file| lock::try_lock_shared(&file).is_ok_and(|is_free| !is_free))
}

/// Retries twice, since [`is_file_locked`] holds the lock for a moment.
async fn try_lock(file: &File) -> std::io::Result<bool> {
    const LOCK_RETRY: Duration = Duration::from_millis(5);
    for _ in 0..2 {
        if lock::try_lock(file)? {
            return Ok(true);
        }
        sleep(LOCK_RETRY).await;
    }
    lock::try_lock(file)
}

/// Opens the lock file of a SQLite database. Links are not followed, since they could point to any file.
fn open_beside(database: &Path, name: LockName) -> Result<File, Error> {
    let path = lock_file_path(database, name);
    let mut options = OpenOptions::new();
    let opened = options.create(true).truncate(false).write(true).custom_flags(libc::O_NOFOLLOW).open(&path);
    opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => Error::Failed(format!("cannot lock {}: it is a symbolic link; remove it", path.display())),
        _ => Error::Failed(format!("cannot lock {}: {error}", path.display())),
    })
}

/// Not the database file, on which SQLite holds its own locks.
fn lock_file_path(database: &Path, name: LockName) -> PathBuf {
    let mut file = database.as_os_str().to_owned();
    file.push(format!(".{}-lock", name.text()));
    PathBuf::from(file)
}

fn on_mysql(name: &str) -> LockSql {
    // The session is idle while Django or an engine works, and must not time out. Single statements are transactions.
    let get_lock =
        |seconds: u8| format!("SET SESSION wait_timeout = 28800, autocommit = 1; SELECT GET_LOCK({name}, {seconds})");
    LockSql {
        acquire: get_lock(0),
        wait: get_lock(1),
        release: format!("SELECT RELEASE_LOCK({name})"),
        holder: format!("SELECT IS_USED_LOCK({name})"),
        holder_text: format!("SELECT CONCAT(' (connection ', IS_USED_LOCK({name}), ')')"),
        session_id: "SELECT CONNECTION_ID()",
        terminate: "KILL ",
    }
}

fn on_postgres((high, low): (u32, u32)) -> LockSql {
    // pg_locks shows the key as two columns.
    let key = (i64::from(high) << 32) | i64::from(low);
    let from_locks = format!(
        "FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted \
         AND l.classid = {high} AND l.objid = {low} \
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    );
    LockSql {
        acquire: format!("SELECT pg_try_advisory_lock({key})::int"),
        wait: format!("SET lock_timeout = '1s'; SELECT 1 FROM pg_advisory_lock({key}); RESET lock_timeout"),
        release: format!("SELECT pg_advisory_unlock({key})::int"),
        holder: format!("SELECT l.pid {from_locks}"),
        holder_text: format!(
            "SELECT concat(' (process ', l.pid, coalesce(' from ' || host(a.client_addr), ''), ')') {from_locks}"
        ),
        session_id: "SELECT pg_backend_pid()",
        terminate: "SELECT pg_terminate_backend",
    }
}

/// In MySQL, lock names are global to the server.
fn mysql_name(database: &str, name: LockName) -> String {
    let readable = format!("bots-ctl.{}.{database}", name.text());
    if readable.len() <= MAX_NAME && readable.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)) {
        return readable;
    }
    format!("bots-ctl.{}.{}", name.text(), hex::encode(&Sha256::digest(database.as_bytes())[..16]))
}

/// In PostgreSQL, lock keys are per database. The key has 63 bits, so that it is never negative.
fn postgres_key(name: LockName) -> (u32, u32) {
    let hash = Sha256::digest(format!("bots-ctl.{}", name.text()).as_bytes());
    let half = |at: usize| u32::from_be_bytes([hash[at], hash[at + 1], hash[at + 2], hash[at + 3]]);
    (half(0) & 0x7fff_ffff, half(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_names_fit_and_differ_by_database() {
        assert_eq!(mysql_name("bots", LockName::InitDb), "bots-ctl.init.bots");
        let (long, other) = ("x".repeat(64), "y".repeat(64));
        let name = |database: &str| mysql_name(database, LockName::InitDb);
        assert!(name(&long).len() <= MAX_NAME);
        assert_ne!(name(&long), name(&other));
        assert_ne!(name("a'b"), name("a\"b"));
    }

    #[test]
    fn lock_file_symlink_is_rejected() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (database, target) = (dir.path().join("db"), dir.path().join("elsewhere"));
        std::os::unix::fs::symlink(&target, lock_file_path(&database, LockName::JobQueue)).expect("linked");
        let refused = open_beside(&database, LockName::JobQueue).expect_err("it is a link").to_string();
        assert!(refused.ends_with("it is a symbolic link; remove it") && !target.exists(), "{refused}");
        open_beside(&database, LockName::Engine).expect("opened");
    }
}
