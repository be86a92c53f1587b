//! From settings to a connection.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

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

/// Whether the database answers. Locked means that it does.
///
/// # Errors
/// When it does not.
pub async fn ping(settings: &Settings) -> Result<(), Error> {
    let Settings::Sqlite(path) = settings;
    let mut connection = match connect(settings, Purpose::Probe).await {
        Ok(connection) => connection,
        Err(error) => return Err(error),
    };
    let answer = sqlx::query("SELECT count(*) FROM sqlite_master").fetch_one(&mut connection).await;
    let _ = connection.close().await;
    match answer {
        Ok(_) => Ok(()),
        Err(error) if is_busy(&error) => Ok(()),
        Err(error) => Err(unavailable(path, &error)),
    }
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
