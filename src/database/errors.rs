//! The errors of all three databases, classified.

use std::io::ErrorKind;

use sqlx::error::DatabaseError;
use sqlx::mysql::MySqlDatabaseError;
use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::SqliteError;

/// Result code of SQLite for a database that another connection has locked.
const SQLITE_BUSY: i32 = 5;

/// Result code of SQLite for a volume without free space.
const SQLITE_FULL: i32 = 13;

/// An error of a database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// bots-ctl does not support such a database, or one of its options.
    #[error("{0}")]
    Unsupported(String),
    /// settings.py and the URL name different databases.
    #[error("{0}")]
    Conflict(String),
    /// The server is unreachable or does not respond; a retry may succeed.
    #[error("{0}")]
    Unavailable(String),
    /// The server rejects the connection; a retry cannot succeed.
    #[error("{0}")]
    Rejected(String),
    /// The server responds, but a statement failed.
    #[error("{0}")]
    Failed(String),
}

/// The reason, without the prefix of the driver.
#[must_use]
pub fn message(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        error if is_tls(error) => format!("TLS: {}", tls_reason(&error.to_string())),
        sqlx::Error::Io(error) if error.kind() == ErrorKind::UnexpectedEof => {
            "the server closed the connection".to_owned()
        }
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Protocol(text) => match login_method(text) {
            Some(method) => format!("the account logs in by {method}, which bots-ctl does not support"),
            None => format!("unexpected response, probably from another kind of server: {}", without_source_line(text)),
        },
        other => other.to_string(),
    }
}

/// The login method that the server requires and the driver does not support.
fn login_method(text: &str) -> Option<&str> {
    let (_, named) = match text.split_once("unknown authentication plugin: ") {
        None if text.starts_with("expected NUL in byte sequence") => return Some("mysql_old_password"),
        None if text.starts_with("mysql_cleartext_plugin disabled") => return Some("mysql_clear_password"),
        None => text.split_once("unknown authentication method: ")?,
        Some(found) => found,
    };
    // Codes of PostgreSQL's protocol.
    Some(match without_source_line(named) {
        "2" => "Kerberos",
        "7" => "GSSAPI",
        "9" => "SSPI",
        "client_ed25519" => "ed25519",
        "dialog" => "PAM",
        other => other,
    })
}

/// The driver appends the location in its source, once per layer.
fn without_source_line(text: &str) -> &str {
    text.split_once(" (sqlx_").map_or(text, |(text, _)| text)
}

/// rustls formats some errors with Debug; extract the cause.
fn tls_reason(text: &str) -> String {
    if text.contains("UnsupportedCertVersion") {
        return "X.509 v1 certificates are not supported: reissue the certificate as v3".to_owned();
    }
    if text.contains("UnknownIssuer") {
        return "the server certificate is not signed by a trusted CA".to_owned();
    }
    text.replace("error occurred while attempting to establish a TLS connection: ", "")
}

fn mysql_number(error: &sqlx::Error) -> Option<u16> {
    Some(error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()?.number())
}

fn postgres_code(error: &sqlx::Error) -> Option<&str> {
    Some(error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?.code())
}

/// SQLite's primary result code, without the detail in the higher bits.
fn sqlite_code(error: &sqlx::Error) -> Option<i32> {
    let error = error.as_database_error()?.try_downcast_ref::<SqliteError>()?;
    error.code()?.parse::<i32>().ok().map(|code| code & 0xff)
}

/// Whether client and server cannot agree on encryption.
#[must_use]
pub fn is_tls(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        // A certificate rejected during the handshake.
        sqlx::Error::Io(error) => error.kind() == ErrorKind::InvalidData,
        _ => false,
    }
}

/// Whether PostgreSQL may have rejected the connection because it is not encrypted.
#[must_use]
pub fn requires_tls(error: &sqlx::Error) -> bool {
    postgres_code(error) == Some("28000")
}

/// Whether another connection has a SQLite database locked.
#[must_use]
pub fn is_busy(error: &sqlx::Error) -> bool {
    sqlite_code(error) == Some(SQLITE_BUSY)
}

/// Whether the connection is lost, and a new one may succeed.
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

/// Whether MySQL has no session of this number. PostgreSQL reports that as a result.
#[must_use]
pub fn is_unknown_session(error: &sqlx::Error) -> bool {
    mysql_number(error) == Some(1094)
}

/// Whether a lock of PostgreSQL was not granted in time.
#[must_use]
pub fn is_lock_timeout(error: &sqlx::Error) -> bool {
    postgres_code(error) == Some("55P03")
}

/// A remedy, possibly empty, if a retry of the connection cannot succeed: credentials, names and protocols do not
/// change while waiting.
#[must_use]
pub fn permanent(error: &sqlx::Error) -> Option<&'static str> {
    match (mysql_number(error), postgres_code(error)) {
        (Some(number), _) => permanent_on_mysql(number, &message(error)),
        (_, Some(code)) => permanent_on_postgres(code, &message(error)),
        _ if is_tls(error) => Some("; check the TLS options (DB_OPTIONS) and the certificates"),
        _ => match error {
            sqlx::Error::Protocol(text) if login_method(text).is_some() => Some(
                "; switch the account to mysql_native_password or caching_sha2_password, on PostgreSQL to scram-sha-256",
            ),
            sqlx::Error::Io(error) if error.kind() == ErrorKind::PermissionDenied => Some(""),
            sqlx::Error::Configuration(_) => Some(""),
            _ => None,
        },
    }
}

const CHECK_ACCOUNT: &str = "; check the account (DB_USER) and its password (DB_PASSWORD)";
const CHECK_NAME: &str = "; create it, or change its name (DB_NAME)";

fn permanent_on_mysql(number: u16, message: &str) -> Option<&'static str> {
    match number {
        1049 => Some(CHECK_NAME),
        // Access denied (in four forms), plugin not loaded or not supported, password in an old format.
        1044 | 1045 | 1130 | 1251 | 1275 | 1524 | 1698 => Some(CHECK_ACCOUNT),
        // MySQL and MariaDB.
        3118 | 4151 => Some("; unlock the account with ALTER USER ... ACCOUNT UNLOCK, or use another one (DB_USER)"),
        1820 | 1862 => Some("; give the account a new password with ALTER USER ... IDENTIFIED BY, and set DB_PASSWORD"),
        // Host is blocked, character set not known.
        1129 | 1115 => Some(""),
        1226 if message.contains("_per_hour") => {
            Some("; raise or remove the limit of the account with ALTER USER ... WITH")
        }
        _ => None,
    }
}

fn permanent_on_postgres(code: &str, message: &str) -> Option<&'static str> {
    match code {
        "3D000" => Some(CHECK_NAME),
        "28P01" | "28000" => Some(CHECK_ACCOUNT),
        "55000" => Some("; permit connections with ALTER DATABASE ... ALLOW_CONNECTIONS true"),
        // Unknown setting of the session, or a wrong value of one.
        "42704" | "22023" => Some("; correct \"options\" in DB_OPTIONS, or PGOPTIONS"),
        "08P01" if message.contains("startup parameter") => {
            Some("; add it to ignore_startup_parameters of PgBouncer, or remove it from DB_OPTIONS")
        }
        // Other codes of the classes authorization and database name, and insufficient privileges.
        _ if code.starts_with("28") || code.starts_with("3D") || code == "42501" => Some(""),
        _ => None,
    }
}

/// A remedy, possibly empty, for an error that may disappear without action, or that occurs in a statement.
#[must_use]
pub fn remedy(error: &sqlx::Error) -> &'static str {
    const FREE_SPACE: &str = "; free space on the volume of the database";
    if sqlite_code(error) == Some(SQLITE_FULL) {
        return FREE_SPACE;
    }
    match (mysql_number(error), postgres_code(error)) {
        (Some(1040 | 1203 | 1226), _) | (_, Some("53300")) => {
            "; each service of Bots needs several: raise the limit, or close other connections"
        }
        // Disk full, table full.
        (Some(1021 | 1114), _) | (_, Some("53100")) => FREE_SPACE,
        (_, Some("42501")) if message(error).ends_with("for schema public") => {
            "; make the account the owner of the database with ALTER DATABASE ... OWNER TO, or grant it CREATE ON SCHEMA \
             public"
        }
        _ if matches!(error, sqlx::Error::Protocol(_)) => {
            "; check the engine and address (DB_ENGINE, DB_HOST, DB_PORT)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::DatabaseConfig;
    use crate::database::connect::{ConnectMode, connect};

    #[test]
    fn unsupported_login_method_is_permanent_and_named() {
        for (text, method) in [
            ("unknown authentication plugin: client_ed25519 (sqlx_mysql::protocol::auth:40)", "ed25519"),
            ("unknown authentication plugin: parsec (sqlx_mysql::protocol::auth:40)", "parsec"),
            ("expected NUL in byte sequence (sqlx_core::io::buf:25)", "mysql_old_password"),
            ("x (reading y): unknown authentication method: 7 (sqlx_postgres::a:84) (sqlx_postgres::b:139)", "GSSAPI"),
        ] {
            let error = sqlx::Error::Protocol(text.to_owned());
            let expected = format!("the account logs in by {method}, which bots-ctl does not support");
            assert_eq!(message(&error), expected);
            assert!(permanent(&error).is_some_and(|remedy| remedy.contains("scram-sha-256")));
        }
        let other = sqlx::Error::Protocol("expected 0xfe (AUTH_SWITCH) but found 0x4 (sqlx_mysql::x:3)".to_owned());
        assert!(message(&other).ends_with("(AUTH_SWITCH) but found 0x4") && permanent(&other).is_none());
        assert!(remedy(&other).contains("DB_ENGINE"));
    }

    #[tokio::test]
    async fn full_disk_has_a_remedy() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let settings = DatabaseConfig::Sqlite(dir.path().join("db"));
        let mut on = connect(&settings, ConnectMode::Create).await.expect("opened");
        on.execute_batch("PRAGMA max_page_count = 2; CREATE TABLE t (content BLOB)").await.expect("made");
        let full = on.execute_batch("INSERT INTO t VALUES (zeroblob(100000))").await.expect_err("it is full");
        let text = settings.failed("write to", &full).to_string();
        assert!(text.ends_with("; free space on the volume of the database"), "{text}");
    }
}
