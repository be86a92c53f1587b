//! The same question to the same database again and again, for the health checks.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::connect::{Purpose, connect};
use super::connection::Connection;
use super::lease_row::Holder;
use super::{Error, Settings, errors, lease};

/// How long an answer may take. A connection that is late is given up: on a server that hangs, or behind a network
/// that drops packets, it would never come back.
const LIMIT: Duration = Duration::from_secs(3);

/// How a database answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// At once.
    Free,
    /// Another connection has it locked: it is reachable, and others wait for it.
    Busy,
}

/// Keeps its connection between questions: each costs a server a process or a thread.
pub struct Pinger {
    settings: Settings,
    kept: Option<(FileId, Connection)>,
}

/// Device and inode; zeros for a server, which is no file.
type FileId = (u64, u64);

impl Pinger {
    /// Connects at the first question.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, kept: None }
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&mut self) -> Result<Answer, Error> {
        // Taken for the time of the question: if it is not answered, the connection is dropped.
        let kept = self.kept.take();
        match timeout(LIMIT, self.ask(kept)).await {
            Ok(answer) => answer,
            Err(_) => {
                let (database, limit) = (self.settings.describe(), LIMIT.as_secs());
                Err(Error::Unavailable(format!("the {database} did not answer within {limit} s")))
            }
        }
    }

    /// Who runs an engine, as far as the database knows. Asked after [`Self::ping`], on the same connection.
    pub async fn engine(&mut self) -> Option<Holder> {
        let (file, mut connection) = self.kept.take()?;
        let holder = timeout(LIMIT, lease::current(&mut connection, &self.settings)).await.ok()?;
        self.kept = Some((file, connection));
        holder.ok().flatten()
    }

    async fn ask(&mut self, kept: Option<(FileId, Connection)>) -> Result<Answer, Error> {
        // A SQLite file that was replaced is another database. It may be so before the answer is there: what is kept is of
        // the file that was looked at before the question.
        let file = self.file_id();
        if let Some((_, connection)) = kept.filter(|(kept, _)| Some(*kept) == file)
            && let Ok(answer) = self.question(file, connection).await
        {
            return answer;
        }
        // The kept one may have been cut by a server that is well again.
        let connection = connect(&self.settings, Purpose::Probe).await?;
        let asked = self.question(file, connection).await;
        asked.map_err(|error| Error::failed("ask", &self.settings, &error))?
    }

    /// The outer error is one of the connection, the inner one what the database itself tells.
    async fn question(
        &mut self,
        file: Option<FileId>,
        mut connection: Connection,
    ) -> Result<Result<Answer, Error>, sqlx::Error> {
        let question = match connection {
            Connection::Sqlite(_) => "SELECT count(*) FROM sqlite_master",
            Connection::Mysql(_) | Connection::Postgres(_) => "SELECT 1",
        };
        let answer = match connection.value(question).await {
            // Whoever opens a SQLite file that is gone makes an empty one in its place, Bots for one.
            Ok(count) if count.as_deref() == Some("0") => {
                let text = format!("the {} is empty: it was removed, or never made", self.settings.describe());
                return Ok(Err(Error::Unavailable(text)));
            }
            Ok(_) => Answer::Free,
            Err(error) if errors::is_busy(&error) => Answer::Busy,
            Err(error) => return Err(error),
        };
        self.kept = file.map(|file| (file, connection));
        Ok(Ok(answer))
    }

    fn file_id(&self) -> Option<FileId> {
        match &self.settings {
            Settings::Sqlite(path) => file_id(path),
            Settings::Mysql(_) | Settings::Postgres(_) => Some((0, 0)),
        }
    }
}

fn file_id(path: &Path) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_file_that_goes_away_before_the_answer_is_missed_by_the_next_question() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [here, away] = ["botsdb", "away"].map(|name| dir.path().join(name));
        let mut pinger = Pinger::new(Settings::Sqlite(here.clone()));
        let mut made = connect(&pinger.settings, Purpose::Initialise).await.expect("opened");
        made.run("CREATE TABLE ta (idta INTEGER)").await.expect("made");
        let file = pinger.file_id();
        let connection = connect(&pinger.settings, Purpose::Probe).await.expect("it is there");
        fs::rename(&here, &away).expect("renamed");
        let answer = pinger.question(file, connection).await.expect("the connection is to the old file");
        assert_eq!(answer.expect("it answers"), Answer::Free);
        pinger.ping().await.expect_err("it is gone");
        fs::rename(&away, &here).expect("renamed");
        assert_eq!(pinger.ping().await.expect("it is back"), Answer::Free);
    }
}
