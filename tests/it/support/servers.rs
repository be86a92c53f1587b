//! Databases for tests: SQLite files, and MariaDB and PostgreSQL servers in temporary directories.
//!
//! One server of each kind is started at its first use, and ends with the test process: a watcher stops it when a pipe
//! from here is closed, for any reason. Names and passwords contain characters that need quoting.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use nix::unistd::Uid;
use tempfile::TempDir;

use crate::support::needs::{Need, needs};
use crate::support::sandbox::{Sandbox, free_port, python, wait_until};

/// Servers refuse to run as root; this user is on every system.
const NOBODY: u32 = 65534;

/// The user that databases belong to, and its password: everything a shell, a URL or SQL could trip over.
pub const USER: &str = r#"o'Bots "user" é%"#;
pub const PASSWORD: &str = r#" p@ss:w/o?r#d%20&"quoted"'single'\back$HOME`=+;é€ "#;

/// Starts a server; stops it on the word `keep` or at the end of its input, and deletes its directory unless it was
/// told to keep it.
const WATCHER: &str = r#"
signal=$1; dir=$2; shift 2
"$@" >>"$dir/log" 2>&1 &
read -r word
kill -"$signal" $!
wait $!
[ "$word" = keep ] || rm -rf "$dir"
"#;

/// One test per database and function.
macro_rules! on_each_database {
    ($($test:ident),* $(,)?) => {
        crate::support::servers::on_databases!(sqlite Sqlite: $($test),*);
        crate::support::servers::on_each_server!($($test),*);
    };
}

/// One test per server and function.
macro_rules! on_each_server {
    ($($test:ident),* $(,)?) => {
        crate::support::servers::on_databases!(mariadb Mariadb: $($test),*);
        crate::support::servers::on_databases!(postgresql Postgresql: $($test),*);
    };
}

macro_rules! on_databases {
    ($module:ident $engine:ident: $($test:ident),*) => {
        mod $module {
            $(#[apply(test)] fn $test() { super::$test(crate::support::servers::Engine::$engine.needed()); })*
        }
    };
}

pub(crate) use {on_databases, on_each_database, on_each_server};

/// A kind of database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Mariadb,
    Postgresql,
}

/// A server with TLS on a loopback port and on a socket in its directory.
pub struct Server {
    pub engine: Engine,
    pub port: u16,
    addresses: String,
    /// Whether it loses nothing when it is killed; the others are fast instead.
    is_durable: bool,
    environment: Vec<(&'static str, PathBuf)>,
    dir: PathBuf,
    watcher: Mutex<Option<(Child, ChildStdin)>>,
}

/// A database and its account.
pub struct Database {
    pub engine: Engine,
    pub name: String,
    pub user: String,
    pub password: String,
    pub server: Option<Arc<Server>>,
    _dir: Option<TempDir>,
}

impl Engine {
    /// The same engine, where its server can be run; see [`needs`].
    pub fn needed(self) -> Self {
        match self {
            Self::Sqlite => {}
            Self::Mariadb => needs(Need::MariaDb),
            Self::Postgresql => needs(Need::PostgreSql),
        }
        self
    }

    /// The server that all tests share.
    pub fn server(self) -> Arc<Server> {
        static SHARED: [OnceLock<Arc<Server>>; 2] = [OnceLock::new(), OnceLock::new()];
        Arc::clone(SHARED[usize::from(self == Self::Postgresql)].get_or_init(|| Arc::new(Server::start(self))))
    }

    /// The word of `DB_ENGINE`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Mariadb => "mysql",
            Self::Postgresql => "postgresql",
        }
    }

    /// A name in this database's quotes.
    pub fn quoted(self, name: &str) -> String {
        match self {
            Self::Mariadb => format!("`{}`", name.replace('`', "``")),
            _ => format!("\"{}\"", name.replace('"', "\"\"")),
        }
    }

    /// A text in this database's quotes.
    pub fn text(self, text: &str) -> String {
        let text = if self == Self::Mariadb { text.replace('\\', "\\\\") } else { text.to_owned() };
        format!("'{}'", text.replace('\'', "''"))
    }
}

impl Server {
    /// A server of one's own, for tests that stop it. It ends when it is dropped.
    pub fn start(engine: Engine) -> Self {
        Self::start_for(engine, "127.0.0.1")
    }

    /// One that loses nothing when it is killed.
    pub fn start_durable(engine: Engine) -> Self {
        Self::start_with(engine, "127.0.0.1", true, Vec::new())
    }

    /// One that listens on this address, and on loopback as well.
    pub fn start_for(engine: Engine, address: &str) -> Self {
        Self::start_with(engine, address, false, Vec::new())
    }

    /// One that has these variables in its environment.
    pub fn start_in(engine: Engine, environment: Vec<(&'static str, PathBuf)>) -> Self {
        Self::start_with(engine, "127.0.0.1", false, environment)
    }

    fn start_with(engine: Engine, address: &str, is_durable: bool, environment: Vec<(&'static str, PathBuf)>) -> Self {
        engine.needed();
        let dir = tempfile::tempdir().expect("a temporary directory").keep();
        let local = "127.0.0.1,127.0.0.2";
        let addresses = if address == "127.0.0.1" { local.to_owned() } else { format!("{local},{address}") };
        let (port, watcher) = (free_port(), Mutex::default());
        let server = Self { engine, port, addresses, is_durable, environment, dir, watcher };
        make_certificate(&server.dir);
        hand_over(&server.dir);
        server.initialise();
        server.resume();
        let user = server.create_user(USER, PASSWORD);
        if engine == Engine::Postgresql {
            server.sql(None, &format!("CREATE ROLE needs_tls; ALTER ROLE {user} CREATEDB"));
        }
        server
    }

    fn initialise(&self) {
        let data = self.dir.join("data").display().to_string();
        let made = match self.engine {
            Engine::Mariadb => as_nobody("mariadb-install-db")
                .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
                .args(["--innodb-log-file-size=8M", "--innodb-flush-method=nosync", &format!("--datadir={data}")])
                .arg(format!("--tmpdir={}", self.dir.display()))
                .output(),
            _ => as_nobody(postgresql_bin().join("initdb"))
                .args(["--no-sync", "--no-locale", "--encoding=UTF8", "--auth=trust", "-U", "postgres", "-D", &data])
                .output(),
        };
        let made = made.expect("the server's packages are installed, see tests/run.sh");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        if self.engine == Engine::Postgresql {
            let rules = "local all postgres trust\nlocal all all scram-sha-256\nhost all by_gss all gss\n\
                         hostnossl all +needs_tls all reject\nhost all all samenet scram-sha-256\n";
            fs::write(Path::new(&data).join("pg_hba.conf"), rules).expect("written");
        }
    }

    fn command(&self) -> Command {
        let dir = self.dir.display();
        let mut command = match self.engine {
            Engine::Mariadb => as_nobody("/usr/sbin/mariadbd"),
            _ => as_nobody(postgresql_bin().join("postgres")),
        };
        match self.engine {
            Engine::Mariadb => command
                .args(["--no-defaults", "--skip-name-resolve", "--max-connections=300"])
                .arg(format!("--bind-address={}", self.addresses))
                .args(["--innodb-flush-method=nosync", "--skip-log-bin"])
                // With 2, committed data is in the system's cache, and survives the server.
                .arg(format!("--innodb-flush-log-at-trx-commit={}", if self.is_durable { 2 } else { 0 }))
                .args(["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M", &format!("--port={}", self.port)])
                .args([format!("--datadir={dir}/data"), format!("--socket={dir}/socket")])
                .args([format!("--pid-file={dir}/pid"), format!("--tmpdir={dir}"), format!("--ssl-ca={dir}/ca.pem")])
                .args([format!("--ssl-cert={dir}/server.pem"), format!("--ssl-key={dir}/key.pem")]),
            _ => command.args(["-D", &format!("{dir}/data"), "-p", &self.port.to_string()]).args(
                [
                    format!("listen_addresses={}", self.addresses),
                    format!("unix_socket_directories={dir}"),
                    format!("ssl_cert_file={dir}/server.pem"),
                    format!("ssl_key_file={dir}/key.pem"),
                    "ssl=on".to_owned(),
                    "fsync=off".to_owned(),
                    "max_connections=300".to_owned(),
                ]
                .map(|setting| format!("--{setting}")),
            ),
        };
        command
    }

    /// Starts it on its data, and waits until it answers.
    pub fn resume(&self) {
        let (server, signal) = (self.command(), if self.engine == Engine::Postgresql { "QUIT" } else { "KILL" });
        let mut watcher = Command::new("sh");
        watcher
            .args(["-c", WATCHER, "watcher", signal])
            .arg(&self.dir)
            .arg(server.get_program())
            .args(server.get_args())
            .envs(self.environment.iter().cloned());
        watcher.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut watcher = watcher.spawn().expect("sh starts");
        let input = watcher.stdin.take().expect("piped");
        *self.watcher.lock().expect("not poisoned") = Some((watcher, input));
        let log = || fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        wait_until("the server answers", || self.try_sql(None, "SELECT 1").ok(), log);
    }

    /// Ends it as a crash would; its data stays.
    pub fn stop(&self) {
        self.end("keep\n");
    }

    fn end(&self, word: &str) {
        let Some((mut watcher, mut input)) = self.watcher.lock().expect("not poisoned").take() else { return };
        let _ = input.write_all(word.as_bytes());
        drop(input);
        let _ = watcher.wait();
    }

    /// The authority of its certificate.
    pub fn authority(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The directory of its socket.
    pub fn dir_of_socket(&self) -> String {
        self.dir.display().to_string()
    }

    /// The socket as Django's `HOST` takes it.
    pub fn socket(&self) -> String {
        match self.engine {
            Engine::Mariadb => self.dir.join("socket").display().to_string(),
            _ => self.dir.display().to_string(),
        }
    }

    /// Makes a user without any right; gives its name in quotes.
    pub fn create_user(&self, name: &str, password: &str) -> String {
        let password = self.engine.text(password);
        let (user, sql) = match self.engine {
            Engine::Mariadb => {
                let user = format!("{}@'%'", self.engine.quoted(name));
                (user.clone(), format!("CREATE USER {user} IDENTIFIED BY {password}"))
            }
            _ => {
                let user = self.engine.quoted(name);
                (user.clone(), format!("CREATE ROLE {user} LOGIN PASSWORD {password}"))
            }
        };
        self.sql(None, &sql);
        user
    }

    /// Runs statements as the administrator; gives the rows as lines, columns separated by tabs.
    pub fn sql(&self, database: Option<&str>, statements: &str) -> Vec<String> {
        self.try_sql(database, statements).unwrap_or_else(|error| panic!("{error}\n{statements}"))
    }

    /// As [`Self::sql`], with the error.
    pub fn try_sql(&self, database: Option<&str>, statements: &str) -> Result<Vec<String>, String> {
        let mut client = match self.engine {
            Engine::Mariadb => Command::new("mariadb"),
            _ => Command::new("psql"),
        };
        match self.engine {
            Engine::Mariadb => client
                .args(["--no-defaults", "--batch", "--raw", "--skip-column-names", "--user=root"])
                .args([&format!("--socket={}", self.socket()), "--default-character-set=utf8mb4"])
                .args(database),
            _ => client
                .args(["-X", "-A", "-t", "-q", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-P", "null=NULL"])
                .args(["-h", &self.socket(), "-p", &self.port.to_string(), "-U", "postgres"])
                .args(["-d", database.unwrap_or("postgres")]),
        };
        lines(client, statements)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end("");
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Database {
    /// An empty one.
    pub fn fresh(engine: Engine) -> Self {
        match engine {
            Engine::Sqlite => {
                let dir = tempfile::tempdir().expect("a temporary directory");
                let name = dir.path().join("bots 'db' \"1\" ?#%20é.sqlite").display().to_string();
                Self { engine, name, user: String::new(), password: String::new(), server: None, _dir: Some(dir) }
            }
            _ => Self::on(&engine.server()),
        }
    }

    /// An empty one on this server.
    pub fn on(server: &Arc<Server>) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let (engine, number) = (server.engine, COUNT.fetch_add(1, Ordering::Relaxed));
        let name = format!("Bots-EDI \"{number}\" 'x' `y` %_é");
        let (user, password) = (USER.to_owned(), PASSWORD.to_owned());
        let database = Self { engine, name, user, password, server: Some(Arc::clone(server)), _dir: None };
        database.create("");
        if engine == Engine::Mariadb {
            database.grant("ALL", USER);
        }
        database
    }

    fn create(&self, template: &str) {
        let name = self.engine.quoted(&self.name);
        let more = match self.engine {
            Engine::Mariadb => "CHARACTER SET utf8mb4".to_owned(),
            _ => format!("OWNER {} {template}", self.engine.quoted(USER)),
        };
        self.server().sql(None, &format!("CREATE DATABASE {name} {more}"));
    }

    /// Gives a user rights to everything in this database.
    pub fn grant(&self, rights: &str, user: &str) {
        let server = self.server();
        if self.engine == Engine::Mariadb {
            // In a grant, a name is a pattern.
            let name = self.engine.quoted(&self.name.replace('%', "\\%").replace('_', "\\_"));
            server.sql(None, &format!("GRANT {rights} ON {name}.* TO {}@'%'", self.engine.quoted(user)));
        } else {
            let user = self.engine.quoted(user);
            server.sql(Some(&self.name), &format!("GRANT {rights} ON ALL TABLES IN SCHEMA public TO {user}"));
        }
    }

    pub fn server(&self) -> &Arc<Server> {
        self.server.as_ref().expect("SQLite has no server")
    }

    /// Runs statements as the owner; gives the rows as lines, columns separated by tabs.
    pub fn sql(&self, statements: &str) -> Vec<String> {
        match &self.server {
            Some(server) if self.engine == Engine::Postgresql => {
                let owner = self.engine.quoted(USER);
                server.sql(Some(&self.name), &format!("SET ROLE {owner};\n{statements}"))
            }
            Some(server) => server.sql(Some(&self.name), statements),
            None => sqlite(&self.name, statements),
        }
    }

    /// The one value of a question.
    pub fn value(&self, question: &str) -> String {
        self.sql(question).join("\n")
    }

    /// A place where Bots is configured for this database.
    pub fn sandbox(&self) -> Sandbox {
        let mut sandbox = Sandbox::new();
        self.configure(&mut sandbox);
        sandbox
    }

    /// Configures Bots for this database.
    pub fn configure(&self, sandbox: &mut Sandbox) {
        sandbox.set("DB_ENGINE", self.engine.word()).set("DB_NAME", &self.name);
        if let Some(server) = &self.server {
            sandbox.set("DB_HOST", "127.0.0.1").set("DB_PORT", server.port.to_string());
            sandbox.set("DB_USER", &self.user).set("DB_PASSWORD", &self.password);
        }
    }

    /// Replaces all its content by that of another one on the same server.
    pub fn become_copy_of(&self, other: &Self) {
        let name = self.engine.quoted(&self.name);
        match self.engine {
            Engine::Sqlite => {
                fs::copy(&other.name, &self.name).expect("copied");
            }
            Engine::Mariadb => {
                let server = other.server();
                let mut dump = Command::new("mariadb-dump");
                dump.args(["--no-defaults", "--user=root", "--single-transaction", "--default-character-set=utf8mb4"]);
                dump.arg(format!("--socket={}", server.socket())).arg(&other.name);
                let dump = lines(dump, "").expect("dumped").join("\n");
                server.sql(None, &format!("DROP DATABASE {name}"));
                self.create("");
                self.sql(&dump);
            }
            Engine::Postgresql => {
                self.server().sql(None, &format!("DROP DATABASE {name} WITH (FORCE)"));
                self.create(&format!("TEMPLATE {}", self.engine.quoted(&other.name)));
            }
        }
    }
}

/// Executes statements in a file of SQLite, and gives the rows.
pub fn sqlite(file: &str, statements: &str) -> Vec<String> {
    const SCRIPT: &str = "import sqlite3, sys\n\
         connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)\n\
         for statement in filter(str.strip, sys.stdin.read().split(';')):\n    \
             for row in connection.execute(statement):\n        \
                 print(*('NULL' if value is None else value for value in row), sep='\\t')\n";
    let mut client = Command::new(python());
    client.args(["-c", SCRIPT, file]).env("PYTHONIOENCODING", "utf-8");
    lines(client, statements).unwrap_or_else(|error| panic!("{error}\n{statements}"))
}

/// Locks a file of SQLite until it is dropped.
pub struct SqliteLock(Child);

impl SqliteLock {
    pub fn hold(file: &Path) -> Self {
        const SCRIPT: &str = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); \
                              c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); sys.stdin.read()";
        let mut holder = Command::new(python());
        holder.args(["-c", SCRIPT]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = holder.spawn().expect("Python starts");
        let stdout = holder.stdout.as_mut().expect("piped");
        stdout.read_exact(&mut [0; b"locked".len()]).expect("it has the lock");
        Self(holder)
    }
}

impl Drop for SqliteLock {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn lines(mut client: Command, input: &str) -> Result<Vec<String>, String> {
    client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = client.spawn().expect("the client is installed, see tests/run.sh");
    let mut to = child.stdin.take().expect("piped");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || to.write_all(input.as_bytes()));
    let finished = child.wait_with_output().expect("it ends");
    let _ = writer.join();
    match finished.status.success() {
        true => Ok(String::from_utf8_lossy(&finished.stdout).lines().map(str::to_owned).collect()),
        false => Err(String::from_utf8_lossy(&finished.stderr).into_owned()),
    }
}

fn postgresql_bin() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed, see tests/run.sh").flatten();
    versions.map(|entry| entry.path().join("bin")).max().expect("one version at least")
}

pub fn as_nobody(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if !Uid::effective().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    let nobody = NOBODY.to_string();
    command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--"]).arg(program);
    command
}

/// An authority, and a certificate of it for loopback.
fn make_certificate(dir: &Path) {
    const EC: [&str; 6] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-x509"];
    let openssl = |args: &[&str]| {
        let made = Command::new("openssl").current_dir(dir).arg("req").args(EC).args(args).output();
        let made = made.expect("openssl is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    openssl(&["-days", "2", "-subj", "/CN=Tests", "-keyout", "ca-key.pem", "-out", "ca.pem"]);
    let names = "subjectAltName=IP:127.0.0.1,DNS:localhost";
    openssl(
        &["-days", "2", "-subj", "/CN=localhost", "-addext", names, "-addext", "basicConstraints=CA:FALSE"]
            .into_iter()
            .chain(["-CA", "ca.pem", "-CAkey", "ca-key.pem", "-keyout", "key.pem", "-out", "server.pem"])
            .collect::<Vec<_>>(),
    );
    fs::set_permissions(dir.join("key.pem"), fs::Permissions::from_mode(0o600)).expect("changed");
}

fn hand_over(dir: &Path) {
    if Uid::effective().is_root() {
        for path in [dir.to_owned(), dir.join("key.pem"), dir.join("ca.pem"), dir.join("server.pem")] {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
        }
    }
}
