//! The database of Django's settings, as parameters of each kind of server.

use std::path::PathBuf;

use secrecy::SecretString;
use serde_json::Value;

use super::errors::{self, Error};
use super::tls::{self, Tls};
use crate::config::DatabaseUrl;
use crate::config::database::normalise_engine;
use crate::model::DjangoDatabase;

/// A database. The password is never printed.
#[derive(Debug, Clone)]
pub enum DatabaseConfig {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A database on a MySQL or MariaDB server.
    Mysql(Server),
    /// A database on a PostgreSQL server.
    Postgres(Server),
}

/// A database on a server, with its address. Empty values mean the client's defaults.
#[derive(Debug, Clone)]
pub struct Server {
    /// Where the server listens.
    pub address: ServerAddress,
    /// The account.
    pub user: String,
    /// Its password; empty for none.
    pub password: SecretString,
    /// The database.
    pub name: String,
    /// The encryption of the connection.
    pub tls: Tls,
    /// PostgreSQL session settings, such as `search_path`.
    pub session: Vec<(String, String)>,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// As the client library decides.
    Default,
    Tcp {
        host: String,
        port: u16,
    },
    /// For MySQL the path of the socket, for PostgreSQL its directory.
    Socket {
        path: PathBuf,
        port: u16,
    },
}

/// The default sockets of a client, in the packages of Debian, MariaDB and MySQL.
const MYSQL_SOCKETS: [&str; 4] =
    ["/run/mysqld/mysqld.sock", "/var/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock"];

/// Options that refer to settings which bots-ctl does not read.
const HIDDEN: [&str; 5] = ["read_default_file", "read_default_group", "service", "passfile", "hostaddr"];

impl DatabaseConfig {
    /// The error of a statement on this database: `cannot {action} the ...`.
    pub(crate) fn failed(&self, action: &str, error: &sqlx::Error) -> Error {
        let (reason, remedy) = (errors::message(error), errors::remedy(error));
        let text = format!("cannot {action} the {}: {reason}{remedy}", self.describe());
        if errors::is_connection_lost(error) { Error::Unavailable(text) } else { Error::Failed(text) }
    }

    /// The database in Django's settings. `url` must name the same database; it may add the password and TLS options.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if bots-ctl has no driver for the engine or does not support an option;
    /// [`Error::Conflict`] if the URL names another database.
    pub fn from_django(django: &DjangoDatabase, url: Option<&DatabaseUrl>) -> Result<Self, Error> {
        if let Some(url) = url {
            check_agreement(django, url)?;
        }
        let family = normalise_engine(&django.engine);
        match family {
            "sqlite" => Ok(Self::Sqlite(PathBuf::from(&django.name))),
            "mysql" if django.host.starts_with('/') => Err(Error::Unsupported(format!(
                "settings.py: DATABASES has HOST {:?}: Django uses it as a socket, Bots's engine \
                 as a host name; write \"OPTIONS\": {{\"unix_socket\": {:?}}} and \"HOST\": \"localhost\" instead",
                django.host, django.host
            ))),
            "mysql" => Ok(Self::Mysql(server(django, url, mysql_address)?)),
            "postgresql" => Ok(Self::Postgres(nameable(server(django, url, postgres_address)?)?)),
            _ => Err(Error::Unsupported(format!(
                "settings.py: DATABASES has ENGINE {}, which bots-ctl does not support: use \
                 django.db.backends.sqlite3, mysql or postgresql",
                django.engine
            ))),
        }
    }

    /// Whether it is a file instead of a server.
    #[must_use]
    pub fn is_sqlite(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }

    /// A description of the database, without the password.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("SQLite database {}", path.display()),
            Self::Mysql(server) => format!("MySQL database {}", server.describe(3306)),
            Self::Postgres(server) => format!("PostgreSQL database {}", server.describe(5432)),
        }
    }
}

impl Server {
    fn describe(&self, default_port: u16) -> String {
        let user = if self.user.is_empty() { "the default user" } else { &self.user };
        let address = match &self.address {
            ServerAddress::Default => "the default server".to_owned(),
            ServerAddress::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            ServerAddress::Tcp { host, port } => format!("{host}:{port}"),
            ServerAddress::Socket { path, port } if *port == default_port => path.display().to_string(),
            ServerAddress::Socket { path, port } => format!("{} (port {port})", path.display()),
        };
        format!("{} at {address} as {user}", self.name)
    }
}

fn server(
    django: &DjangoDatabase,
    url: Option<&DatabaseUrl>,
    address: fn(&DjangoDatabase) -> Result<ServerAddress, Error>,
) -> Result<Server, Error> {
    if let Some(hidden) = HIDDEN.iter().find(|name| django.options.contains_key(**name)).filter(|_| url.is_none()) {
        return Err(Error::Unsupported(format!(
            "settings.py: DATABASES has OPTIONS {hidden}, which bots-ctl does not support: set \
             HOST, PORT, USER and PASSWORD in DATABASES, or set BOTS_CTL_DATABASE_URL as well"
        )));
    }
    let complete = url.map_or_else(|| django.clone(), |url| completed(django, url));
    check_host(&complete.host)?;
    if complete.name.is_empty() {
        let text = "settings.py: DATABASES has no NAME: set it there, or set DB_NAME";
        return Err(Error::Unsupported(text.to_owned()));
    }
    let session = complete.options.get("options").and_then(Value::as_str).unwrap_or_default();
    Ok(Server {
        address: address(&complete)?,
        tls: tls::from_options(&complete.options)?,
        session: session_settings(session),
        user: complete.user,
        password: complete.password,
        name: complete.name,
    })
}

/// PostgreSQL's client tries several hosts in order, which bots-ctl does not.
fn check_host(host: &str) -> Result<(), Error> {
    let problem = if host.contains(',') {
        "bots-ctl connects to a single host: use a proxy, or a service that points to the primary server"
    } else if host.starts_with('[') {
        "write an IPv6 address without brackets"
    } else {
        return Ok(());
    };
    Err(Error::Unsupported(format!("settings.py: DATABASES has HOST {host:?} (DB_HOST): {problem}")))
}

/// The URL completes Django's settings; its password and options take precedence.
fn completed(django: &DjangoDatabase, url: &DatabaseUrl) -> DjangoDatabase {
    let own = |given: &str, of_url: &str| if given.is_empty() { of_url } else { given }.to_owned();
    let from_url = url.options.clone().into_iter().map(|(key, value)| (key, Value::String(value)));
    DjangoDatabase {
        engine: django.engine.clone(),
        name: own(&django.name, &url.name),
        user: own(&django.user, &url.user),
        host: own(&django.host, &url.host),
        port: own(&django.port, &url.port.map(|port| port.to_string()).unwrap_or_default()),
        options: django.options.clone().into_iter().chain(from_url).collect(),
        password: url.password.clone().unwrap_or_else(|| django.password.clone()),
    }
}

fn mysql_address(django: &DjangoDatabase) -> Result<ServerAddress, Error> {
    let port = port(&django.port, 3306)?;
    let option = |name| django.options.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(socket) = option("unix_socket") {
        return Ok(ServerAddress::Socket { path: socket.into(), port });
    }
    let host = if django.host.is_empty() { option("host").unwrap_or("localhost") } else { &django.host };
    if host.starts_with('/') {
        return Ok(ServerAddress::Socket { path: host.into(), port });
    }
    if host != "localhost" {
        return Ok(ServerAddress::Tcp { host: host.to_owned(), port });
    }
    // For the name `localhost` the client library uses its socket and ignores the port.
    let named = std::env::var_os("MYSQL_UNIX_PORT").filter(|path| !path.is_empty()).map(PathBuf::from);
    let usual = || MYSQL_SOCKETS.iter().map(PathBuf::from).find(|path| path.exists());
    let path = named.or_else(usual).unwrap_or_else(|| MYSQL_SOCKETS[0].into());
    Ok(ServerAddress::Socket { path, port: 3306 })
}

fn postgres_address(django: &DjangoDatabase) -> Result<ServerAddress, Error> {
    let port = port(&django.port, 5432)?;
    match django.host.as_str() {
        "" => Ok(ServerAddress::Default),
        host if host.starts_with('/') => Ok(ServerAddress::Socket { path: host.into(), port }),
        host => Ok(ServerAddress::Tcp { host: host.to_owned(), port }),
    }
}

/// The driver does not escape these two characters as the authentication protocol requires.
fn nameable(server: Server) -> Result<Server, Error> {
    if server.user.contains([',', '=']) {
        let text = format!(
            "cannot log in to PostgreSQL as {}: use an account name without commas and equals signs",
            server.user
        );
        return Err(Error::Unsupported(format!("{text} (USER in settings.py, DB_USER)")));
    }
    Ok(server)
}

fn port(text: &str, default: u16) -> Result<u16, Error> {
    match text.trim() {
        "" => Ok(default),
        text => text.parse().map_err(|_| {
            Error::Unsupported(format!("settings.py: DATABASES has PORT {text:?}, which is not a port number"))
        }),
    }
}

/// `-c name=value` and `--name=value`, as on PostgreSQL's command line.
fn session_settings(options: &str) -> Vec<(String, String)> {
    let words = options.split_whitespace().filter(|word| *word != "-c");
    let pairs = words.filter_map(|word| {
        let word = word.strip_prefix("--").or_else(|| word.strip_prefix("-c")).unwrap_or(word);
        word.split_once('=')
    });
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Empty values in Django's settings cannot conflict.
fn check_agreement(django: &DjangoDatabase, url: &DatabaseUrl) -> Result<(), Error> {
    let number = url.port.map(|port| port.to_string()).unwrap_or_default();
    let socket = django.options.get("unix_socket").and_then(Value::as_str).filter(|_| url.host.starts_with('/'));
    let local = |host: &str| if host == "127.0.0.1" { "localhost".to_owned() } else { host.to_owned() };
    let mut pairs = vec![
        ("ENGINE", normalise_engine(&django.engine).to_owned(), url.engine.to_owned()),
        ("NAME", django.name.clone(), url.name.clone()),
    ];
    if url.engine != "sqlite" {
        pairs.extend([
            ("HOST", local(socket.unwrap_or(&django.host)), local(&url.host)),
            ("PORT", django.port.clone(), number),
            ("USER", django.user.clone(), url.user.clone()),
        ]);
    }
    let differ = pairs.iter().filter(|(_, one, other)| !one.is_empty() && !other.is_empty() && one != other);
    let texts: Vec<String> =
        differ.map(|(name, one, other)| format!("{name} is {one:?} in settings.py and {other:?} in the URL")).collect();
    match texts.is_empty() {
        true => Ok(()),
        false => Err(Error::Conflict(format!(
            "BOTS_CTL_DATABASE_URL names a different database than settings.py: {}; make them agree, or remove one",
            texts.join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn django(engine: &str, name: &str, host: &str, port: &str, options: &str) -> DjangoDatabase {
        let options = serde_json::from_str(options).expect("an object");
        let [engine, name, host, port, user] = [engine, name, host, port, "u"].map(str::to_owned);
        DjangoDatabase { engine, name, user, host, port, options, password: SecretString::default() }
    }

    fn address(engine: &str, host: &str, port: &str, options: &str, url: Option<&str>) -> Result<ServerAddress, Error> {
        let url = url.map(|url| DatabaseUrl::parse(url).expect("valid"));
        match DatabaseConfig::from_django(&django(engine, "n", host, port, options), url.as_ref())? {
            DatabaseConfig::Mysql(server) | DatabaseConfig::Postgres(server) => Ok(server.address),
            DatabaseConfig::Sqlite(path) => Ok(ServerAddress::Socket { path, port: 0 }),
        }
    }

    #[test]
    fn every_supported_django_engine_is_accepted() {
        let tcp = |port| ServerAddress::Tcp { host: "db".into(), port };
        for engine in ["django.db.backends.postgresql", "django.db.backends.postgresql_psycopg2"] {
            assert_eq!(address(engine, "db", "", "{}", None).expect("known"), tcp(5432));
        }
        assert_eq!(address("django.db.backends.mysql", "db", "3307", "{}", None).expect("known"), tcp(3307));
        assert!(matches!(address("django.db.backends.oracle", "db", "", "{}", None), Err(Error::Unsupported(_))));
    }

    #[test]
    fn socket_paths_follow_rules_of_each_client() {
        let socket = |path: &str, port| ServerAddress::Socket { path: path.into(), port };
        let mysql = "django.db.backends.mysql";
        let options = r#"{"unix_socket": "/x/m.sock"}"#;
        assert_eq!(address(mysql, "db", "", options, None).expect("valid"), socket("/x/m.sock", 3306));
        let error = address(mysql, "/x/m.sock", "", "{}", None).expect_err("the engine cannot follow");
        assert!(error.to_string().contains(r#""unix_socket": "/x/m.sock""#), "{error}");
        let url = Some("mysql://u@%2Fx%2Fm.sock/n");
        assert_eq!(address(mysql, "localhost", "", options, url).expect("they agree"), socket("/x/m.sock", 3306));
        let postgres = "django.db.backends.postgresql";
        assert_eq!(address(postgres, "/x", "5433", "{}", None).expect("valid"), socket("/x", 5433));
        assert_eq!(address(postgres, "", "", "{}", None).expect("valid"), ServerAddress::Default);
    }

    #[test]
    fn conflicting_url_is_rejected_without_showing_password() {
        let postgres = "django.db.backends.postgresql";
        let same = Some("postgres://u:hush@db:5432/n?sslmode=require");
        assert!(address(postgres, "db", "5432", "{}", same).is_ok());
        for other in ["mysql://u:hush@db/n", "postgres://u:hush@db/m", "postgres://u:hush@other/n", "postgres://v@db/n"]
        {
            let error = address(postgres, "db", "5432", "{}", Some(other)).expect_err(other);
            assert!(matches!(&error, Error::Conflict(text) if !text.contains("hush")), "{error}");
        }
        assert!(address(postgres, "db", "", r#"{"service": "x"}"#, None).is_err());
        assert!(address(postgres, "db", "", r#"{"service": "x"}"#, same).is_ok());
    }

    #[test]
    fn server_without_database_name_is_rejected() {
        for engine in ["django.db.backends.mysql", "django.db.backends.postgresql"] {
            let django = django(engine, "", "db", "", "{}");
            assert!(matches!(DatabaseConfig::from_django(&django, None), Err(Error::Unsupported(_))));
        }
    }

    #[test]
    fn session_settings_accept_each_spelling() {
        let expected = vec![("search_path".to_owned(), "a,b".to_owned()), ("x.y".to_owned(), "1".to_owned())];
        assert_eq!(session_settings("-c search_path=a,b --x.y=1"), expected);
        assert_eq!(session_settings("-csearch_path=a,b -c x.y=1"), expected);
    }
}
