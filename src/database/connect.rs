//! From settings to a connection.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use super::{Error, Settings};

/// How long to wait for a lock that a statement of Bots holds, while initialising.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Result code of SQLite for a database that another connection has locked.
const SQLITE_BUSY: i32 = 5;

/// How a connection is going to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To initialise: makes the file when it is missing, waits for locks.
    Initialise,
    /// To look: never makes a file, never waits.
    Probe,
}

/// Opens the database.
///
/// # Errors
/// When it cannot be opened.
pub async fn connect(settings: &Settings, purpose: Purpose) -> Result<SqliteConnection, Error> {
    let Settings::Sqlite(path) = settings;
    let initialise = purpose == Purpose::Initialise;
    // A probe opens for writing as well: after a crash SQLite must roll back before anything can be read.
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(initialise)
        .busy_timeout(if initialise { BUSY_TIMEOUT } else { Duration::ZERO })
        .disable_statement_logging();
    options.connect().await.map_err(|error| unavailable(path, &error))
}

/// How a database answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// At once.
    Free,
    /// Another connection has it locked: it is reachable, and others wait for it.
    Busy,
}

/// Asks the same database again and again. Its connection is kept, since each costs a thread and several wake-ups,
/// until the file behind it is another one.
pub struct Pinger {
    settings: Settings,
    kept: Option<(FileId, SqliteConnection)>,
}

/// Device and inode.
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
        let Settings::Sqlite(path) = &self.settings;
        let file = file_id(path);
        let mut connection = match self.kept.take() {
            Some((kept, connection)) if Some(kept) == file => connection,
            _ => connect(&self.settings, Purpose::Probe).await?,
        };
        let answer = match sqlx::query("SELECT count(*) FROM sqlite_master").fetch_one(&mut connection).await {
            Ok(_) => Answer::Free,
            Err(error) if is_busy(&error) => Answer::Busy,
            Err(error) => return Err(unavailable(path, &error)),
        };
        self.kept = file_id(path).map(|file| (file, connection));
        Ok(answer)
    }
}

fn file_id(path: &Path) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Whether an error only says that another connection has the database locked.
#[must_use]
pub fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
    code.is_some_and(|code| code & 0xff == SQLITE_BUSY)
}

fn unavailable(path: &Path, error: &sqlx::Error) -> Error {
    let reason = match error.as_database_error() {
        _ if !path.exists() => "the file does not exist".to_owned(),
        Some(error) => error.message().to_owned(),
        None => error.to_string(),
    };
    Error::Unavailable(format!("cannot open the SQLite database {}: {reason}", path.display()))
}
