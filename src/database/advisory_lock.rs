//! Advisory locks on a database that die with their holder: one initialiser at a time, one engine, one job queue.
//!
//! On a server it is a lock of the session, beside SQLite a lock on a file. A wait for one may be given up at any time.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use sha2::{Digest, Sha256};
use tokio::time::sleep;
use tracing::info;

use super::connect::{ConnectMode, connect};
use super::query::Connection;
use super::{DatabaseConfig, Error, errors};
use crate::fs::lock;

/// Time between two attempts to lock a file: flock(2) has no timeout.
const FILE_RETRY: Duration = Duration::from_millis(10);

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
}

/// A connection, and a lock that it has or wants. Dropped, it has the lock no more.
#[derive(Debug)]
#[must_use]
pub struct LockSession {
    /// For what is done under the lock.
    pub connection: Connection,
    lock: LockBackend,
    settings: DatabaseConfig,
}

#[derive(Debug)]
enum LockBackend {
    /// A file beside a SQLite database.
    File(File),
    Sql(LockSql),
}

/// The statements for one kind of server. The last row of `acquire` and of `wait` is 1 when the session has the lock.
#[derive(Debug)]
struct LockSql {
    acquire: String,
    /// For a second at most: a server notices late that a client is gone which it lets wait.
    wait: String,
    release: String,
    /// The session that has the lock.
    holder: String,
    /// The same, for a log line.
    holder_text: String,
    session_id: &'static str,
    terminate: fn(&str) -> String,
}

impl LockSession {
    /// Connects. The lock is not acquired yet.
    ///
    /// # Errors
    /// When the database cannot be opened, or there is no way to lock it.
    pub async fn open(settings: &DatabaseConfig, name: LockName) -> Result<Self, Error> {
        Self::new(connect(settings, ConnectMode::ReadWrite).await?, settings, name)
    }

    /// The same over a connection that is open.
    ///
    /// # Errors
    /// When there is no way to lock the database.
    pub fn new(connection: Connection, settings: &DatabaseConfig, name: LockName) -> Result<Self, Error> {
        let lock = match settings {
            DatabaseConfig::Sqlite(database) => LockBackend::File(open_beside(database, name)?),
            DatabaseConfig::Mysql(server) => {
                LockBackend::Sql(on_mysql(&connection.quote_literal(&mysql_name(&server.name, name))))
            }
            DatabaseConfig::Postgres(_) => LockBackend::Sql(on_postgres(postgres_key(name))),
        };
        Ok(Self { connection, lock, settings: settings.clone() })
    }

    /// Acquires the lock if it is free; whether it was.
    ///
    /// # Errors
    /// What the database says.
    pub async fn try_acquire(&mut self) -> Result<bool, Error> {
        match &self.lock {
            LockBackend::File(file) => try_lock(file).await.map_err(|error| {
                Error::Failed(format!("cannot lock beside the {}: {error}", self.settings.describe()))
            }),
            LockBackend::Sql(sql) => {
                let acquire = sql.acquire.clone();
                self.is_granted(acquire).await
            }
        }
    }

    /// Acquires the lock, however long that takes. `activity` is what its holder does with the database, for the log.
    ///
    /// # Errors
    /// What the database says.
    pub async fn acquire(&mut self, activity: &str) -> Result<(), Error> {
        if self.try_acquire().await? {
            return Ok(());
        }
        let holder = self.ask(|sql| &sql.holder_text).await?.unwrap_or_default();
        info!("another bots-ctl{holder} {activity} the {}: waiting for it", self.settings.describe());
        loop {
            let is_acquired = match &self.lock {
                LockBackend::File(_) => {
                    sleep(FILE_RETRY).await;
                    self.try_acquire().await?
                }
                LockBackend::Sql(sql) => {
                    let wait = sql.wait.clone();
                    self.is_granted(wait).await?
                }
            };
            if is_acquired {
                return Ok(());
            }
        }
    }

    async fn is_granted(&mut self, statement: String) -> Result<bool, Error> {
        match self.connection.fetch_text(statement).await {
            Ok(rows) => Ok(rows.last().and_then(|row| row.first()?.as_deref()) == Some("1")),
            Err(error) if errors::is_lock_timeout(&error) => Ok(false),
            Err(error) => Err(Error::failed("lock", &self.settings, &error)),
        }
    }

    /// Whether the session still has the lock: a connection that was cut has lost it without a word.
    ///
    /// # Errors
    /// When it has not.
    pub async fn check(&mut self) -> Result<(), Error> {
        if self.holder().await? == self.id().await? {
            return Ok(());
        }
        Err(Error::Failed(format!("the lock on the {} was lost meanwhile", self.settings.describe())))
    }

    /// Releases the lock.
    ///
    /// # Errors
    /// What the database says.
    pub async fn release(&mut self) -> Result<(), Error> {
        match &self.lock {
            LockBackend::File(file) => file.unlock().map_err(|error| Error::Failed(format!("cannot unlock: {error}"))),
            LockBackend::Sql(sql) => {
                let released = self.connection.fetch_value(sql.release.clone()).await;
                released.map(|_| ()).map_err(|error| Error::failed("unlock", &self.settings, &error))
            }
        }
    }

    /// The server's number for this session; none beside a file.
    ///
    /// # Errors
    /// What the database says.
    pub async fn id(&mut self) -> Result<Option<String>, Error> {
        self.ask(|sql| sql.session_id).await
    }

    /// The session that has the lock; none beside a file.
    ///
    /// # Errors
    /// What the database says.
    pub async fn holder(&mut self) -> Result<Option<String>, Error> {
        self.ask(|sql| &sql.holder).await
    }

    async fn ask(&mut self, question: impl Fn(&LockSql) -> &str) -> Result<Option<String>, Error> {
        let LockBackend::Sql(sql) = &self.lock else { return Ok(None) };
        let value = self.connection.fetch_value(question(sql)).await;
        value.map_err(|error| Error::failed("ask", &self.settings, &error))
    }

    /// Ends another session, and so what it holds.
    ///
    /// # Errors
    /// What the database says: it lets us end sessions of our own account.
    pub async fn terminate(&mut self, id: &str) -> Result<(), Error> {
        let LockBackend::Sql(sql) = &self.lock else { return Ok(()) };
        let value = self.connection.execute_batch((sql.terminate)(id)).await;
        value.map_err(|error| Error::failed("end a session of", &self.settings, &error))
    }

    /// Refuses a proxy that gives each transaction to whatever session is free: another client would have the lock.
    ///
    /// # Errors
    /// When it is one, or the database does not answer.
    pub async fn reject_transaction_pooler(&mut self) -> Result<(), Error> {
        let Some(before) = self.id().await? else { return Ok(()) };
        let LockBackend::Sql(sql) = &self.lock else { return Ok(()) };
        let failed = |error| Error::failed("ask", &self.settings, &error);
        // In a transaction it keeps its session to itself, and gets ours if ours is free to be given away.
        let mut other = connect(&self.settings, ConnectMode::ReadWrite).await?;
        other.execute_batch("BEGIN").await.map_err(failed)?;
        let beside = other.fetch_value(sql.session_id).await.map_err(failed)?;
        let after = self.id().await?;
        other.close().await;
        if beside.as_ref() != Some(&before) && after.as_ref() == Some(&before) {
            return Ok(());
        }
        Err(Error::Unsupported(format!(
            "the {} is behind a proxy that pools transactions, so no lock holds there and two engines could run at \
             once: connect to the server itself, or let the proxy pool sessions (pool_mode = session)",
            self.settings.describe()
        )))
    }
}

/// Whether a process has the lock of a SQLite database.
pub(super) fn is_file_locked(database: &Path, name: LockName) -> bool {
    let file = File::open(lock_file_path(database, name));
    file.is_ok_and(|file| lock::try_lock_shared(&file).is_ok_and(|is_free| !is_free))
}

/// [`is_file_locked`] has the lock for a moment.
async fn try_lock(file: &File) -> std::io::Result<bool> {
    const LOCK_RETRY: Duration = Duration::from_millis(5);
    for _ in 0..3 {
        if lock::try_lock(file)? {
            return Ok(true);
        }
        sleep(LOCK_RETRY).await;
    }
    Ok(false)
}

/// Opens the file that is locked for a SQLite database, not through a link, which could lead to any file.
fn open_beside(database: &Path, name: LockName) -> Result<File, Error> {
    let path = lock_file_path(database, name);
    let mut options = OpenOptions::new();
    let opened = options.create(true).truncate(false).write(true).custom_flags(libc::O_NOFOLLOW).open(&path);
    opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => Error::Failed(format!("cannot lock {}: it is a link; remove it", path.display())),
        _ => Error::Failed(format!("cannot lock {}: {error}", path.display())),
    })
}

/// Not the database itself: SQLite has locks of its own on that.
fn lock_file_path(database: &Path, name: LockName) -> PathBuf {
    let mut file = database.as_os_str().to_owned();
    file.push(format!(".{}-lock", name.text()));
    PathBuf::from(file)
}

fn on_mysql(name: &str) -> LockSql {
    // A session that is idle while Django or an engine works must not be ended for it.
    let get_lock = |seconds: u8| format!("SET SESSION wait_timeout = 28800; SELECT GET_LOCK({name}, {seconds})");
    LockSql {
        acquire: get_lock(0),
        wait: get_lock(1),
        release: format!("SELECT RELEASE_LOCK({name})"),
        holder: format!("SELECT IS_USED_LOCK({name})"),
        holder_text: format!("SELECT CONCAT(' (connection ', IS_USED_LOCK({name}), ')')"),
        session_id: "SELECT CONNECTION_ID()",
        terminate: |id| format!("KILL {id}"),
    }
}

fn on_postgres((high, low): (u32, u32)) -> LockSql {
    // The two halves of the one key that pg_locks shows in two columns.
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
        terminate: |id| format!("SELECT pg_terminate_backend({id})"),
    }
}

/// MySQL's names are those of the whole server.
fn mysql_name(database: &str, name: LockName) -> String {
    let readable = format!("bots-ctl.{}.{database}", name.text());
    if readable.len() <= MAX_NAME && readable.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)) {
        return readable;
    }
    format!("bots-ctl.{}.{}", name.text(), hex::encode(&Sha256::digest(database.as_bytes())[..16]))
}

/// Advisory locks belong to one database. The key is 63 bits, so that it is no negative number.
fn postgres_key(name: LockName) -> (u32, u32) {
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
