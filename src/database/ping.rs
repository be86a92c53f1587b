//! Queries the same database periodically, for the health checks.

use std::time::Duration;

use tokio::time::timeout;

use super::connect::{ConnectMode, connect};
use super::lease::{self, LeaseHolder};
use super::query::Connection;
use super::{DatabaseConfig, Error, errors, schema};
use crate::model::FileId;
use crate::process::periodic;

/// Time limit of a response. A late connection is abandoned: a hung server, or a network that drops packets, would
/// never respond.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// The state of a database that responds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    Ok,
    /// Another connection has it locked.
    Locked,
}

/// The answer to a query.
#[derive(Debug, PartialEq, Eq)]
enum Response {
    Database(Availability),
    /// There are no tables. A program that opens a missing SQLite file creates an empty one, Bots for example.
    Empty,
}

/// Keeps its connection between queries: each costs a server a process or a thread.
pub struct DatabasePing {
    settings: DatabaseConfig,
    cached: Option<(FileId, Connection)>,
    file: DatabaseFile,
}

/// The file of a SQLite database; constants for a server.
#[derive(Debug, Clone, Copy, Default)]
struct DatabaseFile {
    id: Option<FileId>,
    may_have_engine: bool,
}

impl DatabasePing {
    /// Connects at the first query.
    #[must_use]
    pub fn new(settings: DatabaseConfig) -> Self {
        Self { settings, cached: None, file: DatabaseFile::default() }
    }

    /// Whether the database responds.
    ///
    /// # Errors
    /// If it does not.
    pub async fn ping(&mut self) -> Result<Availability, Error> {
        // No timeout: on a hung volume this call blocks, and the caller starts no second one.
        self.file = DatabaseFile::read(&self.settings).await;
        // A connection that does not respond in time is dropped.
        let cached = self.cached.take();
        let answered = timeout(PING_TIMEOUT, self.query(cached)).await;
        answered.unwrap_or_else(|_| Err(self.late()))
    }

    /// The process that runs an engine, if any, read on the connection of [`Self::ping`].
    ///
    /// # Errors
    /// If it cannot be read, for example since the database is locked again.
    pub async fn engine(&mut self) -> Result<Option<LeaseHolder>, Error> {
        if !self.file.may_have_engine {
            return Ok(None);
        }
        let Some((file, mut connection)) = self.cached.take() else { return Err(self.late()) };
        let holder = timeout(PING_TIMEOUT, lease::current_holder(&mut connection)).await.map_err(|_| self.late())?;
        self.cached = Some((file, connection));
        holder
    }

    /// Whether the tables that every service needs exist, queried on the connection of [`Self::ping`]. While another connection
    /// has the database locked, that is unknown.
    ///
    /// # Errors
    /// If one is missing, or the database does not respond.
    pub async fn check_tables(&mut self) -> Result<Availability, Error> {
        let database = self.settings.describe();
        let Some((file, mut connection)) = self.cached.take() else {
            return Err(Error::Unavailable(format!("the {database} does not respond")));
        };
        let missing =
            timeout(PING_TIMEOUT, schema::missing_required(&mut connection)).await.map_err(|_| self.late())?;
        let missing = match missing {
            Err(error) if errors::is_busy(&error) => None,
            missing => Some(missing.map_err(|error| self.settings.failed("read", &error))?),
        };
        self.cached = Some((file, connection));
        let Some(missing) = missing else { return Ok(Availability::Locked) };
        if missing.is_empty() {
            return Ok(Availability::Ok);
        }
        Err(Error::Failed(format!("the {database} lacks {}: run init-db", missing.join(", "))))
    }

    fn late(&self) -> Error {
        let (database, limit) = (self.settings.describe(), PING_TIMEOUT.as_secs());
        Error::Unavailable(format!("the {database} did not respond within {limit} s"))
    }

    async fn query(&mut self, cached: Option<(FileId, Connection)>) -> Result<Availability, Error> {
        // A SQLite file that was replaced is another database. It may be replaced before the answer comes: the connection is
        // kept with the identity that the file had before the query.
        let file = self.file.id;
        if let Some((_, connection)) = cached.filter(|(of, _)| Some(*of) == file)
            && let Ok(response) = self.query_on(file, connection).await
        {
            return self.to_availability(response);
        }
        // A server that has restarted cut the kept connection.
        let connection = connect(&self.settings, ConnectMode::Probe).await?;
        let queried = self.query_on(file, connection).await;
        let response = queried.map_err(|error| self.settings.failed("query", &error))?;
        self.to_availability(response)
    }

    fn to_availability(&self, response: Response) -> Result<Availability, Error> {
        match response {
            Response::Database(availability) => Ok(availability),
            Response::Empty => {
                let text = format!("the {} is empty: it was removed or never initialized", self.settings.describe());
                Err(Error::Unavailable(text))
            }
        }
    }

    /// Keeps the connection if it answers.
    async fn query_on(&mut self, file: Option<FileId>, mut connection: Connection) -> Result<Response, sqlx::Error> {
        // A row of SQLite would wake this process once more: only an empty database returns one.
        let query = if self.settings.is_sqlite() {
            "SELECT 'empty' WHERE NOT EXISTS (SELECT 1 FROM sqlite_master)"
        } else {
            "SELECT 1"
        };
        let available = match connection.fetch_value(query).await {
            Ok(value) if value.as_deref() == Some("empty") => return Ok(Response::Empty),
            Ok(_) => Availability::Ok,
            Err(error) if errors::is_busy(&error) => Availability::Locked,
            Err(error) => return Err(error),
        };
        self.cached = file.map(|file| (file, connection));
        Ok(Response::Database(available))
    }
}

impl DatabaseFile {
    async fn read(settings: &DatabaseConfig) -> Self {
        let DatabaseConfig::Sqlite(path) = settings else {
            return Self { id: Some(FileId::default()), may_have_engine: true };
        };
        let path = path.clone();
        let read = move || {
            let metadata = std::fs::metadata(&path).ok();
            Self { id: metadata.as_ref().map(FileId::from), may_have_engine: lease::may_be_held(&path) }
        };
        periodic::run_blocking(read).await.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn next_ping_fails_after_database_file_is_moved() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [here, away] = ["botsdb", "away"].map(|name| dir.path().join(name));
        let mut pinger = DatabasePing::new(DatabaseConfig::Sqlite(here.clone()));
        let mut made = connect(&pinger.settings, ConnectMode::Create).await.expect("opened");
        made.execute_batch("CREATE TABLE ta (idta INTEGER)").await.expect("made");
        let file = DatabaseFile::read(&pinger.settings).await.id;
        let connection = connect(&pinger.settings, ConnectMode::Probe).await.expect("it is there");
        fs::rename(&here, &away).expect("renamed");
        let response = pinger.query_on(file, connection).await.expect("the connection is to the old file");
        assert_eq!(response, Response::Database(Availability::Ok));
        pinger.ping().await.expect_err("it is gone");
        fs::rename(&away, &here).expect("renamed");
        assert_eq!(pinger.ping().await.expect("it is back"), Availability::Ok);
    }
}
