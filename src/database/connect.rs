//! From settings to a connection, and what keeps one from being made.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::ConnectOptions;
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlSslMode};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::sqlite::SqliteConnectOptions;
use tokio::time::timeout;

use super::config::{DatabaseConfig, Server, ServerAddress};
use super::query::Connection;
use super::tls::Mode;
use super::{Error, errors};

/// How long to wait for a lock that a statement of Bots holds, while initialising.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// The same while working: who waits for us gives up after five seconds.
const WORK_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a server may take to let us in. A host that drops packets would cost minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How a connection is going to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectMode {
    /// To initialise: makes the file when it is missing, waits for locks.
    Create,
    /// To work with rows: makes no file, and waits for a lock, though not as long as a client of ours waits for us.
    ReadWrite,
    /// To look: never makes a file, never waits.
    Probe,
}

/// Opens the database.
///
/// # Errors
/// [`Error::Rejected`] when it would be no use to try again, [`Error::Unavailable`] when it might.
pub async fn connect(settings: &DatabaseConfig, purpose: ConnectMode) -> Result<Connection, Error> {
    let opening = async {
        match settings {
            DatabaseConfig::Sqlite(path) => sqlite(path, purpose).await,
            DatabaseConfig::Mysql(server) => mysql(server).await,
            DatabaseConfig::Postgres(server) => postgres(server).await,
        }
    };
    match timeout(CONNECT_TIMEOUT, opening).await {
        Ok(opened) => opened.map_err(|error| explain(settings, &error)),
        Err(_) => Err(Error::Unavailable(format!(
            "cannot open the {}: it did not answer within {} s",
            settings.describe(),
            CONNECT_TIMEOUT.as_secs()
        ))),
    }
}

async fn sqlite(path: &Path, purpose: ConnectMode) -> Result<Connection, sqlx::Error> {
    let initialise = purpose == ConnectMode::Create;
    // A probe opens for writing as well: after a crash SQLite must roll back before anything can be read.
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(initialise)
        .busy_timeout(match purpose {
            ConnectMode::Create => BUSY_TIMEOUT,
            ConnectMode::ReadWrite => WORK_TIMEOUT,
            ConnectMode::Probe => Duration::ZERO,
        })
        .disable_statement_logging();
    options.connect().await.map(Connection::Sqlite)
}

async fn mysql(server: &Server) -> Result<Connection, sqlx::Error> {
    // Nothing of what the driver sets by itself is needed here, and each costs an exchange with the server.
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
        // The client that Django uses does not encrypt either unless it is told to.
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
    opened.map(Connection::Mysql)
}

async fn postgres(server: &Server) -> Result<Connection, sqlx::Error> {
    // What the variables that begin with PG say holds here as it does for Django's client.
    let mut options = PgConnectOptions::new().application_name("bots-ctl").disable_statement_logging();
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
        // Even when there is none, a pooler refuses whom it finds with this parameter.
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
    // On one machine there is nobody to hide from, and a handshake costs more than all the rest.
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
    opened.map(Connection::Postgres)
}

fn is_local(address: &ServerAddress) -> bool {
    match address {
        ServerAddress::Default | ServerAddress::Socket { .. } => true,
        ServerAddress::Tcp { host, .. } => ["localhost", "127.0.0.1", "::1"].contains(&host.as_str()),
    }
}

fn explain(settings: &DatabaseConfig, error: &sqlx::Error) -> Error {
    let reason = match (settings, errors::message(error)) {
        (DatabaseConfig::Sqlite(path), _) if path.parent().is_some_and(|dir| !dir.is_dir()) => {
            let dir = path.parent().unwrap_or(path).display();
            format!("the directory {dir} does not exist; make it, or change NAME in settings.py (DB_NAME)")
        }
        (DatabaseConfig::Sqlite(path), _) if !path.exists() => "the file does not exist".to_owned(),
        (_, text) => text,
    };
    let text = format!("cannot open the {}: {reason}", settings.describe());
    if is_permanent(settings, error) {
        Error::Rejected(format!("{text}{}", hint(error)))
    } else {
        Error::Unavailable(text)
    }
}

/// Whether trying again is no use: credentials, a name or a protocol does not become right by waiting.
fn is_permanent(settings: &DatabaseConfig, error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => match settings {
            DatabaseConfig::Sqlite(_) => false,
            DatabaseConfig::Mysql(_) => {
                let number = database.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number);
                // Access denied (in four forms), unknown database, plugin not supported.
                number.is_some_and(|number| [1044, 1045, 1049, 1251, 1698, 1130, 3118].contains(&number))
            }
            // Of class 28 (authorisation) and 3D (no such database), and a client that is not welcome at all.
            DatabaseConfig::Postgres(_) => {
                database.code().is_some_and(|code| code.starts_with("28") || code.starts_with("3D") || code == "42501")
            }
        },
        error if errors::is_tls(error) => true,
        sqlx::Error::Io(error) => error.kind() == ErrorKind::PermissionDenied,
        sqlx::Error::Configuration(_) => true,
        _ => false,
    }
}

fn hint(error: &sqlx::Error) -> &'static str {
    let number = error.as_database_error().and_then(|error| error.try_downcast_ref::<MySqlDatabaseError>());
    let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default();
    match (number.map(MySqlDatabaseError::number), code.as_ref()) {
        (Some(1049), _) | (_, "3D000") => "; make it, or change its name (DB_NAME)",
        (Some(_), _) | (_, "28P01" | "28000") => "; check the account (DB_USER) and its password (DB_PASSWORD)",
        _ if errors::is_tls(error) => "; check the TLS options (DB_OPTIONS) and the certificates",
        _ => "",
    }
}
