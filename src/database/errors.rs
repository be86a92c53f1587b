//! The errors of all three databases, and what kind each is.

use std::io::ErrorKind;

use sqlx::mysql::MySqlDatabaseError;
use sqlx::postgres::PgDatabaseError;

/// Result code of SQLite for a database that another connection has locked.
const SQLITE_BUSY: i32 = 5;

/// An error of a database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// bots-ctl does not support such a database, or one of its options.
    #[error("{0}")]
    Unsupported(String),
    /// settings.py and the URL name different databases.
    #[error("{0}")]
    Conflict(String),
    /// It cannot be reached or does not answer; a retry may succeed.
    #[error("{0}")]
    Unavailable(String),
    /// It refuses the connection; a retry cannot succeed.
    #[error("{0}")]
    Rejected(String),
    /// It answers, but a statement failed.
    #[error("{0}")]
    Failed(String),
}

/// The reason alone, without the words that the driver puts around it.
#[must_use]
pub fn message(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        error if is_tls(error) => format!("TLS: {}", tls_reason(&error.to_string())),
        sqlx::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// The library shows the Debug form of some of its errors.
fn tls_reason(text: &str) -> String {
    if text.contains("UnsupportedCertVersion") {
        return "a certificate is of version 1 of X.509, which is not supported: issue it again as version 3"
            .to_owned();
    }
    if text.contains("UnknownIssuer") {
        return "the server's certificate is not signed by a trusted authority".to_owned();
    }
    text.replace("error occurred while attempting to establish a TLS connection: ", "")
}

fn mysql_number(error: &sqlx::Error) -> Option<u16> {
    Some(error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()?.number())
}

fn postgres_code(error: &sqlx::Error) -> Option<&str> {
    Some(error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?.code())
}

/// Whether client and server cannot agree on the encryption of the connection.
#[must_use]
pub fn is_tls(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        // A certificate that is refused in the middle of the handshake.
        sqlx::Error::Io(error) => error.kind() == ErrorKind::InvalidData,
        _ => false,
    }
}

/// Whether PostgreSQL may have refused the connection because it is not encrypted.
#[must_use]
pub fn requires_tls(error: &sqlx::Error) -> bool {
    postgres_code(error) == Some("28000")
}

/// Whether another connection has a SQLite database locked.
#[must_use]
pub fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
    code.is_some_and(|code| code & 0xff == SQLITE_BUSY)
}

/// Whether the connection is lost, and another one may succeed.
#[must_use]
pub fn is_connection_lost(error: &sqlx::Error) -> bool {
    // Shutdown in progress, connection killed; PostgreSQL's class 57P.
    matches!(error, sqlx::Error::Io(_) | sqlx::Error::Protocol(_))
        || matches!(mysql_number(error), Some(1053 | 1077 | 1927 | 2006 | 2013))
        || postgres_code(error).is_some_and(|code| code.starts_with("57P"))
}

/// Whether a table does not exist.
#[must_use]
pub fn is_missing_table(error: &sqlx::Error) -> bool {
    mysql_number(error) == Some(1146)
        || postgres_code(error) == Some("42P01")
        || error.as_database_error().is_some_and(|error| error.message().starts_with("no such table"))
}

/// Whether a lock of PostgreSQL was not granted in time.
#[must_use]
pub fn is_lock_timeout(error: &sqlx::Error) -> bool {
    postgres_code(error) == Some("55P03")
}

/// A hint, possibly empty, when a retry of the connection cannot help: credentials, a name or a protocol do not become right
/// by waiting.
#[must_use]
pub fn permanent(error: &sqlx::Error) -> Option<&'static str> {
    const ACCOUNT: &str = "; check the account (DB_USER) and its password (DB_PASSWORD)";
    const NAME: &str = "; make it, or change its name (DB_NAME)";
    match (mysql_number(error), postgres_code(error)) {
        (Some(1049), _) | (_, Some("3D000")) => Some(NAME),
        // Access denied (in four forms), plugin not supported.
        (Some(1044 | 1045 | 1130 | 1251 | 1698 | 3118), _) | (_, Some("28P01" | "28000")) => Some(ACCOUNT),
        // Other codes of the classes authorisation and database name, and insufficient privileges.
        (_, Some(code)) if code.starts_with("28") || code.starts_with("3D") || code == "42501" => Some(""),
        _ if is_tls(error) => Some("; check the TLS options (DB_OPTIONS) and the certificates"),
        _ => match error {
            sqlx::Error::Io(error) if error.kind() == ErrorKind::PermissionDenied => Some(""),
            sqlx::Error::Configuration(_) => Some(""),
            _ => None,
        },
    }
}
