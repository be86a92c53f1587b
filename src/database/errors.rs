//! What a database says of a failure, and what that means.

use std::io::ErrorKind;

use sqlx::mysql::MySqlDatabaseError;

/// Result code of SQLite for a database that another connection has locked.
const SQLITE_BUSY: i32 = 5;

/// The reason alone, without what the driver puts around it.
#[must_use]
pub fn message(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        error if is_tls(error) => format!("TLS: {}", tls_reason(&error.to_string())),
        sqlx::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// Whether the two sides cannot agree on how to protect the connection.
#[must_use]
pub fn is_tls(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        // A certificate that is refused in the middle of the handshake.
        sqlx::Error::Io(error) => error.kind() == ErrorKind::InvalidData,
        _ => false,
    }
}

/// Whether PostgreSQL lets nobody in whose connection is not protected, as far as it says.
#[must_use]
pub fn requires_tls(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "28000")
}

/// The library shows the insides of some of its errors.
fn tls_reason(text: &str) -> String {
    if text.contains("UnsupportedCertVersion") {
        return "a certificate is of version 1 of X.509, which is not supported: make it anew as version 3".to_owned();
    }
    if text.contains("UnknownIssuer") {
        return "the server's certificate is not signed by an authority that is trusted".to_owned();
    }
    text.replace("error occurred while attempting to establish a TLS connection: ", "")
}

/// Whether an error only says that another connection has a SQLite database locked.
#[must_use]
pub fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
    code.is_some_and(|code| code & 0xff == SQLITE_BUSY)
}

/// Whether the connection is gone, and another one may do better.
#[must_use]
pub fn is_connection_lost(error: &sqlx::Error) -> bool {
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

/// Whether a table is not there.
#[must_use]
pub fn is_missing_table(error: &sqlx::Error) -> bool {
    let Some(database) = error.as_database_error() else { return false };
    let number = database.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number);
    number == Some(1146)
        || database.code().is_some_and(|code| code == "42P01")
        || database.message().starts_with("no such table")
}

/// Whether PostgreSQL only says that a lock was not to be had in time.
#[must_use]
pub fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "55P03")
}
