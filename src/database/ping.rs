//! Queries the same database again and again, for the health checks.

use std::time::Duration;

use tokio::time::timeout;

use super::connect::{ConnectMode, connect};
use super::lease::{self, LeaseHolder};
use super::query::Connection;
use super::{DatabaseConfig, Error, errors, schema};
use crate::model::FileId;

/// Limit of an answer. A connection that is late is given up: from a server that hangs, or a network that drops packets, its
/// answer would never come.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// The state of a database that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    Ok,
    /// Another connection has it locked.
    Locked,
}

/// Keeps its connection between queries: each costs a server a process or a thread.
pub struct DatabasePing {
    settings: DatabaseConfig,
    cached: Option<(FileId, Connection)>,
}

impl DatabasePing {
    /// Connects at the first query.
    #[must_use]
    pub fn new(settings: DatabaseConfig) -> Self {
        Self { settings, cached: None }
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&mut self) -> Result<Availability, Error> {
        // A connection that does not answer in time is dropped.
        let cached = self.cached.take();
        let answered = timeout(PING_TIMEOUT, self.query(cached)).await;
        answered.unwrap_or_else(|_| Err(self.late()))
    }

    /// The process that runs an engine, if the database knows one. Over the connection of [`Self::ping`].
    pub async fn engine(&mut self) -> Option<LeaseHolder> {
        let (file, mut connection) = self.cached.take()?;
        let holder = timeout(PING_TIMEOUT, lease::current_holder(&mut connection)).await.ok()?;
        self.cached = Some((file, connection));
        holder.ok().flatten()
    }

    /// Whether the tables are there without which no service works. Over the connection of [`Self::ping`].
    ///
    /// # Errors
    /// When one is missing, or the database does not answer.
    pub async fn check_tables(&mut self) -> Result<(), Error> {
        let database = self.settings.describe();
        let Some((file, mut connection)) = self.cached.take() else {
            return Err(Error::Unavailable(format!("the {database} does not answer")));
        };
        let missing =
            timeout(PING_TIMEOUT, schema::missing_required(&mut connection)).await.map_err(|_| self.late())?;
        let missing = missing.map_err(|error| self.settings.failed("read", &error))?;
        self.cached = Some((file, connection));
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::Failed(format!("the {database} lacks {}: run init-db", missing.join(", "))))
    }

    fn late(&self) -> Error {
        let (database, limit) = (self.settings.describe(), PING_TIMEOUT.as_secs());
        Error::Unavailable(format!("the {database} did not answer within {limit} s"))
    }

    async fn query(&mut self, cached: Option<(FileId, Connection)>) -> Result<Availability, Error> {
        // A SQLite file that was replaced is another database. It may be replaced before the answer comes: the connection is
        // kept with the identity that the file had before the query.
        let file = self.file_id();
        if let Some((_, connection)) = cached.filter(|(of, _)| Some(*of) == file)
            && let Ok(result) = self.query_lock(file, connection).await
        {
            return result;
        }
        // A server that has restarted cut the kept connection.
        let connection = connect(&self.settings, ConnectMode::Probe).await?;
        let queried = self.query_lock(file, connection).await;
        queried.map_err(|error| self.settings.failed("query", &error))?
    }

    /// The outer error is one of the connection, the inner one the state of the database.
    async fn query_lock(
        &mut self,
        file: Option<FileId>,
        mut connection: Connection,
    ) -> Result<Result<Availability, Error>, sqlx::Error> {
        let query = if self.settings.is_sqlite() { "SELECT count(*) FROM sqlite_master" } else { "SELECT 1" };
        let available = match connection.fetch_value(query).await {
            // A program that opens a missing SQLite file creates an empty one, Bots for example.
            Ok(count) if count.as_deref() == Some("0") => {
                let text = format!("the {} is empty: it was removed, or never made", self.settings.describe());
                return Ok(Err(Error::Unavailable(text)));
            }
            Ok(_) => Availability::Ok,
            Err(error) if errors::is_busy(&error) => Availability::Locked,
            Err(error) => return Err(error),
        };
        self.cached = file.map(|file| (file, connection));
        Ok(Ok(available))
    }

    /// A constant for a server.
    fn file_id(&self) -> Option<FileId> {
        match &self.settings {
            DatabaseConfig::Sqlite(path) => std::fs::metadata(path).ok().map(|metadata| FileId::from(&metadata)),
            DatabaseConfig::Mysql(_) | DatabaseConfig::Postgres(_) => Some(FileId::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_file_that_goes_away_before_the_answer_is_missed_by_the_next_question() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [here, away] = ["botsdb", "away"].map(|name| dir.path().join(name));
        let mut pinger = DatabasePing::new(DatabaseConfig::Sqlite(here.clone()));
        let mut made = connect(&pinger.settings, ConnectMode::Create).await.expect("opened");
        made.execute_batch("CREATE TABLE ta (idta INTEGER)").await.expect("made");
        let file = pinger.file_id();
        let connection = connect(&pinger.settings, ConnectMode::Probe).await.expect("it is there");
        fs::rename(&here, &away).expect("renamed");
        let value = pinger.query_lock(file, connection).await.expect("the connection is to the old file");
        assert_eq!(value.expect("it answers"), Availability::Ok);
        pinger.ping().await.expect_err("it is gone");
        fs::rename(&away, &here).expect("renamed");
        assert_eq!(pinger.ping().await.expect("it is back"), Availability::Ok);
    }
}
