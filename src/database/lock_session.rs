//! A session that may hold a lock: taken without waiting, given back, and ended from outside where its owner is gone.

use std::fs::File;
use std::time::Duration;

use tokio::time::sleep;

use super::advisory_lock::{LockName, mysql_name, open_beside, postgres_key};
use super::connect::{ConnectMode, connect};
use super::query::Connection;
use super::{DatabaseConfig, Error};
use crate::fs::lock;

/// A connection, and a lock that it has or wants. Dropped, it has it no more.
#[derive(Debug)]
pub struct LockSession {
    /// For what is done under the lock.
    pub connection: Connection,
    lock: LockBackend,
    settings: DatabaseConfig,
}

/// How the lock is dealt with.
#[derive(Debug)]
enum LockBackend {
    /// A file beside a SQLite database.
    File(File),
    /// What to say to a server.
    Sql(LockSql),
}

/// The statements of one kind of server.
#[derive(Debug)]
struct LockSql {
    acquire: String,
    release: String,
    holder: String,
    session_id: &'static str,
    terminate: fn(&str) -> String,
}

impl LockSession {
    /// Connects; the lock is not taken yet.
    ///
    /// # Errors
    /// When the database cannot be opened, or there is no way to lock it.
    pub async fn open(settings: &DatabaseConfig, name: LockName) -> Result<Self, Error> {
        let connection = connect(settings, ConnectMode::ReadWrite).await?;
        let literal = |name: &str| connection.quote_literal(name);
        let lock = match settings {
            DatabaseConfig::Sqlite(database) => LockBackend::File(open_beside(database, name)?),
            DatabaseConfig::Mysql(server) => LockBackend::Sql(on_mysql(&literal(&mysql_name(&server.name, name)))),
            DatabaseConfig::Postgres(_) => LockBackend::Sql(on_postgres(postgres_key(name))),
        };
        Ok(Self { connection, lock, settings: settings.clone() })
    }

    /// Takes the lock if nobody has it.
    ///
    /// # Errors
    /// What the database says.
    pub async fn try_acquire(&mut self) -> Result<bool, Error> {
        match &self.lock {
            LockBackend::File(file) => try_lock(file).await.map_err(|error| {
                Error::Failed(format!("cannot lock beside the {}: {error}", self.settings.describe()))
            }),
            LockBackend::Sql(words) => {
                let value = self.connection.fetch_value(words.acquire.clone()).await;
                Ok(value.map_err(|error| Error::failed("lock", &self.settings, &error))?.as_deref() == Some("1"))
            }
        }
    }

    /// Lets others have the lock.
    ///
    /// # Errors
    /// What the database says.
    pub async fn release(&mut self) -> Result<(), Error> {
        match &self.lock {
            LockBackend::File(file) => {
                file.unlock().map_err(|error| Error::Failed(format!("cannot unlock: {error}")))?;
            }
            LockBackend::Sql(words) => {
                let value = self.connection.fetch_value(words.release.clone()).await;
                value.map_err(|error| Error::failed("unlock", &self.settings, &error))?;
            }
        }
        Ok(())
    }

    /// The server's number for this session; none beside a file.
    ///
    /// # Errors
    /// What the database says.
    pub async fn id(&mut self) -> Result<Option<String>, Error> {
        let LockBackend::Sql(words) = &self.lock else { return Ok(None) };
        let value = self.connection.fetch_value(words.session_id).await;
        value.map_err(|error| Error::failed("ask", &self.settings, &error))
    }

    /// The session that has the lock, where the server tells.
    ///
    /// # Errors
    /// What the database says.
    pub async fn holder(&mut self) -> Result<Option<String>, Error> {
        let LockBackend::Sql(words) = &self.lock else { return Ok(None) };
        let value = self.connection.fetch_value(words.holder.clone()).await;
        value.map_err(|error| Error::failed("ask", &self.settings, &error))
    }

    /// Ends another session, and so what it holds.
    ///
    /// # Errors
    /// What the database says: it lets us end sessions of our own account.
    pub async fn terminate(&mut self, id: &str) -> Result<(), Error> {
        let LockBackend::Sql(words) = &self.lock else { return Ok(()) };
        let value = self.connection.execute_batch((words.terminate)(id)).await;
        value.map_err(|error| Error::failed("end a session of", &self.settings, &error))
    }

    /// Refuses a proxy that gives each transaction to whatever session is free: a lock would be somebody else's.
    ///
    /// # Errors
    /// When it is one, or the database does not answer.
    pub async fn reject_transaction_pooler(&mut self) -> Result<(), Error> {
        let Some(before) = self.id().await? else { return Ok(()) };
        let LockBackend::Sql(words) = &self.lock else { return Ok(()) };
        let failed = |error| Error::failed("ask", &self.settings, &error);
        // In a transaction it keeps its session to itself, and gets ours if ours is free to be given away.
        let mut other = connect(&self.settings, ConnectMode::ReadWrite).await?;
        other.execute_batch("BEGIN").await.map_err(failed)?;
        let beside = other.fetch_value(words.session_id).await.map_err(failed)?;
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

/// Who only wants to know whether a lock is free has it for a moment.
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

fn on_mysql(name: &str) -> LockSql {
    LockSql {
        acquire: format!("SET SESSION wait_timeout = 28800; SELECT GET_LOCK({name}, 0)"),
        release: format!("SELECT RELEASE_LOCK({name})"),
        holder: format!("SELECT IS_USED_LOCK({name})"),
        session_id: "SELECT CONNECTION_ID()",
        terminate: |id| format!("KILL {id}"),
    }
}

fn on_postgres((high, low): (u32, u32)) -> LockSql {
    let key = (i64::from(high) << 32) | i64::from(low);
    LockSql {
        acquire: format!("SELECT pg_try_advisory_lock({key})::int"),
        release: format!("SELECT pg_advisory_unlock({key})::int"),
        holder: format!(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = {high} AND objid = {low} \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ),
        session_id: "SELECT pg_backend_pid()",
        terminate: |id| format!("SELECT pg_terminate_backend({id})"),
    }
}
