//! What a database says of a failure, and what that means.

use sqlx::mysql::MySqlDatabaseError;

/// Result code of SQLite for a database that another connection has locked.
const SQLITE_BUSY: i32 = 5;

/// The reason alone, without what the driver puts around it.
#[must_use]
pub fn text(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Tls(error) => format!("TLS: {error}"),
        other => other.to_string(),
    }
}

/// Whether an error only says that another connection has a SQLite database locked.
#[must_use]
pub fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
    code.is_some_and(|code| code & 0xff == SQLITE_BUSY)
}

/// Whether the connection is gone, and another one may do better.
#[must_use]
pub fn is_cut(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => {
            // Shutdown in progress, connection killed; PostgreSQL's class 57P.
            let number = error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number);
            number.is_some_and(|number| [1053, 1077, 1927, 2006, 2013].contains(&number))
                || error.code().is_some_and(|code| code.starts_with("57P"))
        }
        _ => false,
    }
}

/// Whether PostgreSQL only says that a lock was not to be had in time.
#[must_use]
pub fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "55P03")
}
