//! The same question to the same database again and again, for the health checks.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::connect::{ConnectMode, connect};
use super::lease::LeaseHolder;
use super::query::Connection;
use super::{DatabaseConfig, Error, errors, lease};
use crate::model::FileId;

/// How long an answer may take. A connection that is late is given up: on a server that hangs, or behind a network
/// that drops packets, it would never come back.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// How a database answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// At once.
    Ok,
    /// Another connection has it locked: it is reachable, and others wait for it.
    Locked,
}

/// Keeps its connection between questions: each costs a server a process or a thread.
pub struct DatabasePing {
    settings: DatabaseConfig,
    cached: Option<(FileId, Connection)>,
}

impl DatabasePing {
    /// Connects at the first question.
    #[must_use]
    pub fn new(settings: DatabaseConfig) -> Self {
        Self { settings, cached: None }
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&mut self) -> Result<Availability, Error> {
        // Taken for the time of the question: if it is not answered, the connection is dropped.
        let cached = self.cached.take();
        match timeout(PING_TIMEOUT, self.query(cached)).await {
            Ok(value) => value,
            Err(_) => {
                let (database, limit) = (self.settings.describe(), PING_TIMEOUT.as_secs());
                Err(Error::Unavailable(format!("the {database} did not answer within {limit} s")))
            }
        }
    }

    /// Who runs an engine, as far as the database knows. Asked after [`Self::ping`], on the same connection.
    pub async fn engine(&mut self) -> Option<LeaseHolder> {
        let (file, mut connection) = self.cached.take()?;
        let holder = timeout(PING_TIMEOUT, lease::current_holder(&mut connection)).await.ok()?;
        self.cached = Some((file, connection));
        holder.ok().flatten()
    }

    async fn query(&mut self, cached: Option<(FileId, Connection)>) -> Result<Availability, Error> {
        // A SQLite file that was replaced is another database. It may be so before the answer is there: what is kept is of
        // the file that was looked at before the question.
        let file = self.file_id();
        if let Some((_, connection)) = cached.filter(|(kept, _)| Some(*kept) == file)
            && let Ok(value) = self.query_lock(file, connection).await
        {
            return value;
        }
        // The kept one may have been cut by a server that is well again.
        let connection = connect(&self.settings, ConnectMode::Probe).await?;
        let queried = self.query_lock(file, connection).await;
        queried.map_err(|error| Error::failed("ask", &self.settings, &error))?
    }

    /// The outer error is one of the connection, the inner one what the database itself tells.
    async fn query_lock(
        &mut self,
        file: Option<FileId>,
        mut connection: Connection,
    ) -> Result<Result<Availability, Error>, sqlx::Error> {
        let question = if self.settings.is_sqlite() { "SELECT count(*) FROM sqlite_master" } else { "SELECT 1" };
        let value = match connection.fetch_value(question).await {
            // Whoever opens a SQLite file that is gone makes an empty one in its place, Bots for one.
            Ok(count) if count.as_deref() == Some("0") => {
                let text = format!("the {} is empty: it was removed, or never made", self.settings.describe());
                return Ok(Err(Error::Unavailable(text)));
            }
            Ok(_) => Availability::Ok,
            Err(error) if errors::is_busy(&error) => Availability::Locked,
            Err(error) => return Err(error),
        };
        self.cached = file.map(|file| (file, connection));
        Ok(Ok(value))
    }

    /// The default for a server, which is no file.
    fn file_id(&self) -> Option<FileId> {
        match &self.settings {
            DatabaseConfig::Sqlite(path) => file_id(path),
            DatabaseConfig::Mysql(_) | DatabaseConfig::Postgres(_) => Some(FileId::default()),
        }
    }
}

fn file_id(path: &Path) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|meta| FileId::from(&meta))
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
