//! Opens connections, and explains connection errors.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::ConnectOptions;
use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::sqlite::SqliteConnectOptions;
use tokio::time::timeout;

use super::config::{DatabaseConfig, Server, ServerAddress};
use super::query::{Connection, Driver};
use super::tls::Mode;
use super::{Error, errors};
use crate::fs::atomic::{check_writable, describe_io_error};

/// Busy timeout during initialization: how long to wait for a lock of another statement.
const INIT_BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Busy timeout otherwise: the clients of bots-ctl give up after five seconds.
const WORK_BUSY_TIMEOUT: Duration = Duration::from_secs(4);

/// Time limit of a login. A host that drops packets would cost minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The use of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectMode {
    /// For initialization: creates a missing file, waits for locks.
    Create,
    /// For reading and writing rows: creates no file, and waits for a lock for less time than a client waits for
    /// bots-ctl.
    ReadWrite,
    /// For inspection: never creates a file, never waits.
    Probe,
}

/// Opens the database.
///
/// # Errors
/// [`Error::Rejected`] when a retry cannot help, [`Error::Unavailable`] when it might.
pub async fn connect(settings: &DatabaseConfig, mode: ConnectMode) -> Result<Connection, Error> {
    let opening = async {
        match settings {
            DatabaseConfig::Sqlite(path) => sqlite(path, mode).await,
            DatabaseConfig::Mysql(server) => mysql(server).await,
            DatabaseConfig::Postgres(server) => postgres(server).await,
        }
    };
    match timeout(CONNECT_TIMEOUT, opening).await {
        Ok(Ok(driver)) => Ok(Connection { settings: settings.clone(), driver }),
        Ok(Err(error)) => Err(explain(settings, mode, &error)),
        Err(_) => Err(Error::Unavailable(format!(
            "cannot open the {}: no response within {} s",
            settings.describe(),
            CONNECT_TIMEOUT.as_secs()
        ))),
    }
}

async fn sqlite(path: &Path, mode: ConnectMode) -> Result<Driver, sqlx::Error> {
    // Even a probe opens the file for writing: after a crash SQLite must roll back before it can read.
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(mode == ConnectMode::Create)
        .busy_timeout(match mode {
            ConnectMode::Create => INIT_BUSY_TIMEOUT,
            ConnectMode::ReadWrite => WORK_BUSY_TIMEOUT,
            ConnectMode::Probe => Duration::ZERO,
        })
        .disable_statement_logging();
    options.connect().await.map(Driver::Sqlite)
}

async fn mysql(server: &Server) -> Result<Driver, sqlx::Error> {
    // The driver's session settings are not needed, and each costs a round trip.
    let mut options = MySqlConnectOptions::new()
        .database(&server.name)
        .timezone(None)
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .disable_statement_logging();
    if !server.user.is_empty() {
        options = options.username(&server.user);
    }
    if !server.password.expose_secret().is_empty() {
        options = options.password(server.password.expose_secret());
    }
    options = match &server.address {
        ServerAddress::Default => options,
        ServerAddress::Tcp { host, port } => options.host(host).port(*port),
        ServerAddress::Socket { path, .. } => options.socket(path),
    };
    if let Some(ca) = &server.tls.ca {
        options = options.ssl_ca(ca);
    }
    if let Some((certificate, key)) = server.tls.certificate.as_ref().zip(server.tls.key.as_ref()) {
        options = options.ssl_client_cert(certificate).ssl_client_key(key);
    }
    let mode = match server.tls.mode {
        // Django's client does not encrypt by default either.
        None if is_local(&server.address) => MySqlSslMode::Disabled,
        Some(Mode::Disabled) => MySqlSslMode::Disabled,
        None | Some(Mode::Preferred) => MySqlSslMode::Preferred,
        Some(Mode::Required) => MySqlSslMode::Required,
        Some(Mode::VerifyAuthority) => MySqlSslMode::VerifyCa,
        Some(Mode::VerifyHost) => MySqlSslMode::VerifyIdentity,
    };
    let is_optional = matches!(mode, MySqlSslMode::Preferred);
    let opened = match options.clone().ssl_mode(mode).connect().await {
        Err(sqlx::Error::Tls(_)) if is_optional => options.ssl_mode(MySqlSslMode::Disabled).connect().await,
        opened => opened,
    };
    opened.map(Driver::Mysql)
}

/// PgBouncer rejects clients that set extra_float_digits, as the driver does by default.
fn postgres_options(server: &Server) -> PgConnectOptions {
    // PG* variables apply, as for Django's client.
    let mut options =
        PgConnectOptions::new().application_name("bots-ctl").extra_float_digits(None::<i8>).disable_statement_logging();
    options = match &server.address {
        ServerAddress::Default => options,
        ServerAddress::Tcp { host, port } => options.host(host).port(*port),
        ServerAddress::Socket { path, port } => options.socket(path).port(*port),
    };
    if !server.user.is_empty() {
        options = options.username(&server.user);
    }
    if !server.name.is_empty() {
        options = options.database(&server.name);
    }
    if !server.password.expose_secret().is_empty() {
        options = options.password(server.password.expose_secret());
    }
    if let Some(ca) = &server.tls.ca {
        options = options.ssl_root_cert(ca);
    }
    if let Some((certificate, key)) = server.tls.certificate.as_ref().zip(server.tls.key.as_ref()) {
        options = options.ssl_client_cert(certificate).ssl_client_key(key);
    }
    if !server.session.is_empty() {
        // A pooler rejects clients with this parameter, even if it is empty.
        options = options.options(server.session.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    }
    if let Some(mode) = server.tls.mode {
        options = options.ssl_mode(match mode {
            Mode::Disabled => PgSslMode::Disable,
            Mode::Preferred => PgSslMode::Prefer,
            Mode::Required => PgSslMode::Require,
            Mode::VerifyAuthority => PgSslMode::VerifyCa,
            Mode::VerifyHost => PgSslMode::VerifyFull,
        });
    }
    options
}

async fn postgres(server: &Server) -> Result<Driver, sqlx::Error> {
    let options = postgres_options(server);
    // On one machine encryption has no benefit, and its handshake costs more than the rest of the login.
    let is_optional = matches!(options.get_ssl_mode(), PgSslMode::Prefer);
    let local = is_optional && server.tls.mode.is_none() && is_local(&server.address);
    let (first, second) =
        if local { (PgSslMode::Disable, PgSslMode::Prefer) } else { (options.get_ssl_mode(), PgSslMode::Disable) };
    let opened = match options.clone().ssl_mode(first).connect().await {
        Err(error) if is_optional && (errors::is_tls(&error) || local && errors::requires_tls(&error)) => {
            options.ssl_mode(second).connect().await
        }
        opened => opened,
    };
    opened.map(Driver::Postgres)
}

fn is_local(address: &ServerAddress) -> bool {
    match address {
        ServerAddress::Default | ServerAddress::Socket { .. } => true,
        ServerAddress::Tcp { host, .. } => ["localhost", "127.0.0.1", "::1"].contains(&host.as_str()),
    }
}

fn explain(settings: &DatabaseConfig, mode: ConnectMode, error: &sqlx::Error) -> Error {
    let reason = match settings {
        DatabaseConfig::Sqlite(path) => file_error(path, mode),
        DatabaseConfig::Mysql(_) | DatabaseConfig::Postgres(_) => None,
    };
    let reason = reason.unwrap_or_else(|| errors::message(error));
    let text = format!("cannot open the {}: {reason}", settings.describe());
    match errors::permanent(error) {
        Some(remedy) => Error::Rejected(format!("{text}{remedy}")),
        None => Error::Unavailable(format!("{text}{}{}", errors::remedy(error), address_remedy(settings, error))),
    }
}

/// Why the file of a SQLite database cannot be opened: SQLite itself has one message for all reasons.
fn file_error(path: &Path, mode: ConnectMode) -> Option<String> {
    let dir = path.parent().unwrap_or(path);
    match fs::metadata(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let dir = dir.display();
            return Some(format!(
                "the directory {dir} does not exist; create it, or change NAME in settings.py (DB_NAME)"
            ));
        }
        Err(error) => return Some(describe_io_error("open", dir, &error).to_string()),
        Ok(_) => {}
    }
    match File::open(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Some(describe_io_error("open", path, &error).to_string()),
        Err(_) if mode == ConnectMode::Create => check_writable(dir).err().map(|error| error.to_string()),
        Err(_) => Some(
            "the file does not exist; create it with bots-ctl init-db, or change NAME in settings.py (DB_NAME)"
                .to_owned(),
        ),
        Ok(_) => None,
    }
}

/// The remedy if no server listens at the address and the address may be wrong.
fn address_remedy(settings: &DatabaseConfig, error: &sqlx::Error) -> &'static str {
    let sqlx::Error::Io(error) = error else { return "" };
    if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
        return "";
    }
    match settings {
        DatabaseConfig::Mysql(Server { address: ServerAddress::Socket { .. }, .. }) => {
            "; the host localhost means this socket: to connect by TCP use 127.0.0.1 (DB_HOST)"
        }
        DatabaseConfig::Postgres(Server { address: ServerAddress::Default, .. }) => "; set its host (DB_HOST)",
        DatabaseConfig::Mysql(server) | DatabaseConfig::Postgres(server) if is_local(&server.address) => {
            "; this address is the local machine or container (DB_HOST)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn error_of_sqlite_file_names_its_cause() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("file"), "").expect("written");
        fs::create_dir(dir.path().join("dir")).expect("made");
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).expect("linked");
        for (name, cause) in [
            ("missing/db", "missing does not exist; create it"),
            ("file/db", "Not a directory"),
            ("loop/db", "loop: symbolic links"),
            ("dir/db", "the file does not exist; create it with bots-ctl init-db"),
        ] {
            let settings = DatabaseConfig::Sqlite(dir.path().join(name));
            let error = connect(&settings, ConnectMode::Probe).await.expect_err("it cannot be opened").to_string();
            assert!(error.contains(cause), "{error}");
        }
    }
}
