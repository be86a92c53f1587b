//! Opens connections, and explains why one cannot be opened.

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

/// Limit of the wait for a lock that a statement of Bots holds, while initialising.
const INIT_BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// The same while working: the clients of bots-ctl give up after five seconds.
const WORK_BUSY_TIMEOUT: Duration = Duration::from_secs(4);

/// Limit of a login. A host that drops packets would cost minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The use of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectMode {
    /// For initialising: creates a missing file, waits for locks.
    Create,
    /// For work with rows: creates no file, and waits for a lock less long than a client waits for bots-ctl.
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
        Ok(Err(error)) => Err(explain(settings, &error)),
        Err(_) => Err(Error::Unavailable(format!(
            "cannot open the {}: it did not answer within {} s",
            settings.describe(),
            CONNECT_TIMEOUT.as_secs()
        ))),
    }
}

async fn sqlite(path: &Path, mode: ConnectMode) -> Result<Driver, sqlx::Error> {
    // A probe opens for writing as well: after a crash SQLite must roll back before anything can be read.
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
    // None of the driver's own session settings is needed here, and each costs an exchange with the server.
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
        // Django's client does not encrypt either by default.
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

/// PgBouncer refuses clients that set extra_float_digits, as the driver does by default.
fn postgres_options(server: &Server) -> PgConnectOptions {
    // The variables that begin with PG count here as they do for Django's client.
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
        // A pooler refuses clients with this parameter, even when it is empty.
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
    // On one machine encryption protects nothing, and its handshake costs more than the rest of a login.
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
    match errors::permanent(error) {
        Some(remedy) => Error::Rejected(format!("{text}{remedy}")),
        None => Error::Unavailable(format!("{text}{}{}", errors::remedy(error), address_remedy(settings, error))),
    }
}

/// The remedy for an address at which no server listens, where the reason may be the address.
fn address_remedy(settings: &DatabaseConfig, error: &sqlx::Error) -> &'static str {
    let sqlx::Error::Io(error) = error else { return "" };
    if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
        return "";
    }
    match settings {
        DatabaseConfig::Mysql(Server { address: ServerAddress::Socket { .. }, .. }) => {
            "; that is the socket for the host localhost: for a server with a port write 127.0.0.1 (DB_HOST)"
        }
        DatabaseConfig::Postgres(Server { address: ServerAddress::Default, .. }) => "; name its host (DB_HOST)",
        DatabaseConfig::Mysql(server) | DatabaseConfig::Postgres(server) if is_local(&server.address) => {
            "; that address is this machine, or this container, itself (DB_HOST)"
        }
        _ => "",
    }
}
