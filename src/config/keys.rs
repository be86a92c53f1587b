//! Every setting in one table: its place in `bots-ctl.toml`, its environment variable, its default and meaning.
//!
//! Names without the `BOTS_CTL_` prefix are those that the shell entrypoint and its manifests already used.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::database_url::DatabaseUrl;
use super::parse::{self, ParseResult};
use super::{ChildOutput, LogFormat, LogLevel, ServiceBackend, WatchMethod};
use crate::model::{Endpoint, RestartPolicy, ServiceName};

/// What a TOML value of this setting must be; environment variables and flags are always text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// A string.
    Text,
    /// An integer, or a string that holds one.
    Integer,
    /// A boolean, or a string that says one.
    Boolean,
    /// A string such as `30s`, or a number of seconds.
    Duration,
    /// An array of strings, or one string with commas.
    List,
    /// What no setting can be: a date, an array of anything but strings.
    Other,
}

/// One setting of type `T`.
#[derive(Debug)]
pub struct Setting<T> {
    /// Dotted place in the TOML file.
    pub path: &'static str,
    /// Environment variable.
    pub env: &'static str,
    /// What the TOML value must be.
    pub shape: ValueType,
    /// The default as text, or in words where it depends on the machine.
    pub default: &'static str,
    /// Never shown; may also be given as `NAME_FILE` / `key_file`.
    pub secret: bool,
    /// One line for documentation and `config show`.
    pub help: &'static str,
    /// Text to value.
    pub parse: fn(&str) -> ParseResult<T>,
}

macro_rules! keys {
    ($($name:ident: $type:ty = $path:literal, $env:literal, $shape:ident, $parse:ident, $default:literal, $help:literal;)*) => {
        $(#[doc = $help] pub const $name: Setting<$type> = Setting {
            path: $path, env: $env, shape: ValueType::$shape, default: $default, secret: false, help: $help, parse: parse::$parse,
        };)*
    };
}

macro_rules! secrets {
    ($($name:ident = $path:literal, $env:literal, $help:literal;)*) => {
        $(#[doc = $help] pub const $name: Setting<String> = Setting {
            path: $path, env: $env, shape: ValueType::Text, default: "", secret: true, help: $help, parse: parse::text,
        };)*
    };
}

keys! {
    ENVIRONMENT_NAME: String = "environment.name", "BOTSENV", Text, directory_name, "default",
        "name of the Bots environment: the directory below ~/.bots/env";
    CONFIG_DIR: PathBuf = "environment.config_dir", "BOTS_CONFIG_DIR", Text, absolute_path, "~/.bots/env/$BOTSENV/config",
        "Bots's configuration directory; botssys and usersys are its siblings";
    CONFIG_SOURCE: PathBuf = "environment.config_source", "BOTS_CTL_CONFIG_SOURCE", Text, absolute_path, "/config",
        "directory whose files are copied over the configuration directory at every start";
    SEED_USERSYS: PathBuf = "environment.seed_usersys", "BOTS_CTL_SEED_USERSYS", Text, absolute_path,
        "/usr/local/bots/plugins/usersys", "what an empty usersys is filled from, beside what Bots itself ships";
    SEED_GRAMMARS: PathBuf = "environment.seed_grammars", "BOTS_CTL_SEED_GRAMMARS", Text, absolute_path,
        "/usr/local/bots/grammars", "grammars that a new usersys gets below usersys/grammars";
    BIN_DIR: PathBuf = "bots.bin_dir", "BOTS_BIN_DIR", Text, absolute_path, "",
        "directory of bots-webserver and the other programs of Bots; else PATH, else what install made";
    INSTALL_DIR: PathBuf = "bots.install_dir", "BOTS_CTL_INSTALL_DIR", Text, absolute_path, "~/.bots/venv",
        "where install makes its private environment";
    PYTHON: PathBuf = "bots.python", "BOTS_CTL_PYTHON", Text, program, "python3",
        "Python that install makes the private environment with";
    WEB_PORT: u16 = "webserver.port", "PORT", Integer, port, "",
        "port of the web UI; written to the port of section webserver in bots.ini, which decides when this is not set";
    DRAIN: Duration = "stop.drain", "BOTS_CTL_DRAIN", Duration, duration, "5s in Kubernetes, else 0s",
        "how long to stay up, no longer ready, before the stop signal";
    STOP_TIMEOUT: Duration = "stop.timeout", "BOTS_CTL_STOP_TIMEOUT", Duration, duration, "20s",
        "how long a service may take to stop before it is killed";
    GRACE_PERIOD: Duration = "stop.grace_period", "BOTS_CTL_GRACE_PERIOD", Duration, interval, "",
        "how long the pod may take to stop (terminationGracePeriodSeconds); a start says so when the rest does not fit";
    WEBSERVER_DRAIN: Duration = "webserver.drain", "BOTS_CTL_WEBSERVER_DRAIN", Duration, duration, "as BOTS_CTL_DRAIN",
        "the web UI's own drain";
    WEBSERVER_STOP_TIMEOUT: Duration = "webserver.stop_timeout", "BOTS_CTL_WEBSERVER_STOP_TIMEOUT", Duration, duration,
        "as BOTS_CTL_STOP_TIMEOUT", "the web UI's own stop timeout";
    JOBQUEUE_DRAIN: Duration = "jobqueue.drain", "BOTS_CTL_JOBQUEUE_DRAIN", Duration, duration, "0s",
        "the job queue's own drain";
    JOBQUEUE_STOP_TIMEOUT: Duration = "jobqueue.stop_timeout", "BOTS_CTL_JOBQUEUE_STOP_TIMEOUT", Duration, duration,
        "as BOTS_CTL_STOP_TIMEOUT", "the job queue's own stop timeout, in which a running job may finish";
    JOBQUEUE_BACKEND: ServiceBackend = "jobqueue.backend", "BOTS_CTL_JOBQUEUE_BACKEND", Text, backend, "native",
        "who does the work of the job queue: native (bots-ctl itself) or python (Bots's own server)";
    JOBQUEUE_ADDR: SocketAddr = "jobqueue.addr", "BOTS_CTL_JOBQUEUE_ADDR", Text, address, "",
        "address on which the job queue serves other containers, such as 0.0.0.0:28083; needs the token";
    JOBQUEUE_URL: Endpoint = "jobqueue.url", "BOTS_CTL_JOBQUEUE_URL", Text, queue_url, "",
        "job queue of another container, such as `http://bots-jobqueue:28083`; jobs of this container are passed on to it";
    DIRMONITOR_BACKEND: ServiceBackend = "dirmonitor.backend", "BOTS_CTL_DIRMONITOR_BACKEND", Text, backend, "native",
        "who watches directories: native (bots-ctl itself) or python (Bots's own monitor)";
    DIRMONITOR_WATCH: WatchMethod = "dirmonitor.watch", "BOTS_CTL_DIRMONITOR_WATCH", Text, watch_by, "auto",
        "how new files are found: inotify, poll, or auto: as the file system allows; also watch in bots.ini";
    DIRMONITOR_POLL_INTERVAL: Duration = "dirmonitor.poll_interval", "BOTS_CTL_DIRMONITOR_POLL_INTERVAL", Duration, interval,
        "1s", "time between two looks at a directory that is polled; also poll_interval in bots.ini";
    DIRMONITOR_STABLE_AFTER: Duration = "dirmonitor.stable_after", "BOTS_CTL_DIRMONITOR_STABLE_AFTER", Duration, duration, "5s",
        "how long a file has to stay as it is to be complete, where its close cannot be seen; also stable_after in bots.ini";
    DIRMONITOR_RESCAN_INTERVAL: Duration = "dirmonitor.rescan_interval", "BOTS_CTL_DIRMONITOR_RESCAN_INTERVAL", Duration, interval, "1m",
        "time between two looks at everything where events are had, in case one was missed";
    DIRMONITOR_STOP_TIMEOUT: Duration = "dirmonitor.stop_timeout", "BOTS_CTL_DIRMONITOR_STOP_TIMEOUT", Duration, duration,
        "as BOTS_CTL_STOP_TIMEOUT", "the directory monitor's own stop timeout";
    ENGINE_STOP_TIMEOUT: Duration = "engine.stop_timeout", "BOTS_CTL_ENGINE_STOP_TIMEOUT", Duration, duration,
        "as BOTS_CTL_STOP_TIMEOUT", "the engine's own stop timeout, in which a run may finish";
    ENGINE_SUCCESS_EXIT_CODES: Vec<u8> = "engine.success_exit_codes", "BOTS_CTL_SUCCESS_EXIT_CODES", List, exit_codes, "",
        "exit codes of the engine that become 0, such as 2: it ran, and some files had errors";
    ENGINE_LEASE_WAIT: Duration = "engine.lease_wait", "BOTS_CTL_LEASE_WAIT", Duration, duration, "60s",
        "how long an engine waits for another one to end, in any pod; then its exit code is 3";
    ENGINE_PROGRESS_TIMEOUT: Duration = "engine.progress_timeout", "BOTS_CTL_ENGINE_PROGRESS_TIMEOUT", Duration, duration,
        "15m", "time without a new row after which the run of an engine that bots-ctl did not start is recovered";
    ENGINE_FILE_WAIT: Duration = "engine.file_wait", "BOTS_CTL_FILE_WAIT", Duration, duration, "5m",
        "how long a run, and a route of the directory monitor, waits for a file that is being written";
    ENGINE_ALLOW_UNKNOWN_ROUTES: bool = "engine.allow_unknown_routes", "BOTS_CTL_ALLOW_UNKNOWN_ROUTES", Boolean, boolean, "false",
        "routes that are not in the database, or not active, are passed over as Bots does, instead of being an error";
    ENGINE_INTERVAL: Duration = "up.engine_interval", "BOTS_CTL_ENGINE_INTERVAL", Duration, interval, "5m",
        "time between the starts of two engine runs under up";
    UP_SERVICES: Vec<ServiceName> = "up.services", "BOTS_CTL_UP_SERVICES", List, services, "",
        "services that up runs: webserver, jobqueue, dirmonitor, engine; else those that bots.ini has in use";
    RESTART: RestartPolicy = "restart.policy", "BOTS_CTL_RESTART", Text, restart_policy, "on-failure",
        "when a service that ended by itself is started again: never, on-failure or always";
    RESTART_LIMIT: u32 = "restart.limit", "BOTS_CTL_RESTART_LIMIT", Integer, count, "5",
        "restarts in a row, after which bots-ctl ends with the service's exit code";
    RESTART_INITIAL_DELAY: Duration = "restart.initial_delay", "BOTS_CTL_RESTART_INITIAL_DELAY", Duration, interval, "1s",
        "pause before the first restart; each further one takes twice as long";
    RESTART_MAX_DELAY: Duration = "restart.max_delay", "BOTS_CTL_RESTART_MAX_DELAY", Duration, interval, "30s",
        "longest pause before a restart";
    RESTART_RESET_AFTER: Duration = "restart.reset_after", "BOTS_CTL_RESTART_RESET_AFTER", Duration, interval, "1m",
        "how long a service has to answer until its restarts are counted anew";
    RELOAD_ENABLED: bool = "reload.enabled", "BOTS_CTL_RELOAD_ENABLED", Boolean, boolean, "true",
        "services are restarted with a mounted configuration that changes; else it waits for the next start";
    RELOAD_INTERVAL: Duration = "reload.interval", "BOTS_CTL_RELOAD_INTERVAL", Duration, interval, "2s",
        "time between two looks at the mounted configuration; a change has to be seen twice";
    RELOAD_JITTER: Duration = "reload.jitter", "BOTS_CTL_RELOAD_JITTER", Duration, duration, "10s in Kubernetes, else 0s",
        "longest pause before a change is taken over; its length is random, so that replicas do not do it together";
    RELOAD_DRAIN: Duration = "reload.drain", "BOTS_CTL_RELOAD_DRAIN", Duration, duration,
        "15s in Kubernetes, else as BOTS_CTL_WEBSERVER_DRAIN",
        "how long the web UI stays up, no longer ready, before it is restarted with a change";
    WATCHDOG_FAILURE_THRESHOLD: u32 = "watchdog.failure_threshold", "BOTS_CTL_WATCHDOG_FAILURE_THRESHOLD", Integer, positive, "3",
        "signs of life that a service may miss in a row before it counts as hung";
    WATCHDOG_RESTART: bool = "watchdog.restart", "BOTS_CTL_WATCHDOG_RESTART", Boolean, boolean, "true under up, else false",
        "a hung service is restarted by bots-ctl itself; else it is not live, and whoever asks decides";
    HEALTH_ADDR: SocketAddr = "health.addr", "BOTS_CTL_HEALTH_ADDR", Text, address, "0.0.0.0:9180",
        "address of the health listener";
    HEALTH_INTERVAL: Duration = "health.interval", "BOTS_CTL_HEALTH_INTERVAL", Duration, interval, "2s",
        "how often the checks behind the health endpoints run";
    RESULTS_INTERVAL: Duration = "health.results_interval", "BOTS_CTL_RESULTS_INTERVAL", Duration, interval, "30s",
        "how often the results of engine runs and routes are read from the database";
    STATUS_PAGE: bool = "health.status_page", "BOTS_CTL_STATUS_PAGE", Boolean, boolean, "true",
        "the health listener has a status page, on /";
    METRICS_MAX_LABEL_VALUES: u32 = "metrics.max_label_values", "BOTS_CTL_METRICS_MAX_LABEL_VALUES", Integer, positive, "100",
        "maximum number of routes, and of directories, with their own labels; all others are other";
    HEALTH_DB_ONLY: bool = "health.database_only", "HEALTH_CHECK_DB_ONLY", Boolean, boolean, "false",
        "ready looks at the database alone";
    LOG_LEVEL: LogLevel = "log.level", "LOG_LEVEL", Text, log_level, "info",
        "error, warn, info, debug or trace";
    LOG_FORMAT: LogFormat = "log.format", "LOG_FORMAT", Text, log_format, "auto",
        "text, json, or auto: text on a terminal and json elsewhere";
    CHILD_OUTPUT: ChildOutput = "log.child_output", "BOTS_CTL_CHILD_OUTPUT", Text, child_output, "as LOG_FORMAT",
        "what the output of services becomes: raw (passed on as it is), text or json";
    INIT_SKIP: bool = "database.init_skip", "DB_INIT_SKIP", Boolean, boolean, "false",
        "webserver does not run init-db first";
    DB_ENGINE: String = "database.engine", "DB_ENGINE", Text, text, "sqlite",
        "sqlite, mysql, postgresql or one of Django's engine names (used by the settings.py that bots-ctl makes)";
    DB_NAME: String = "database.name", "DB_NAME", Text, text, "",
        "database name; for SQLite a file, by default botssys/sqlitedb/botsdb";
    DB_USER: String = "database.user", "DB_USER", Text, text, "", "database user";
    DB_HOST: String = "database.host", "DB_HOST", Text, text, "", "database host, or the directory of its socket";
    DB_PORT: u16 = "database.port", "DB_PORT", Integer, port, "", "database port";
    DB_OPTIONS: String = "database.options", "DB_OPTIONS", Text, json_object, "",
        "Django's OPTIONS of the database as a JSON object, for TLS or a socket";
    DB_CONNECT_TIMEOUT: Duration = "database.connect_timeout", "BOTS_CTL_DB_CONNECT_TIMEOUT", Duration, duration, "0s on a terminal, else 60s",
        "how long to try again while the database server cannot be reached or is still starting";
    ALLOW_DEFAULT_PASSWORD: bool = "database.allow_default_password", "BOTS_CTL_ALLOW_DEFAULT_PASSWORD", Boolean, boolean,
        "false", "tolerates the account bots with its well-known password, which Bots's bundled database has";
    ALLOWED_HOSTS: String = "django.allowed_hosts", "ALLOWED_HOSTS", List, text, "",
        "host names the web UI answers to, separated by commas; else as Bots's template says (all)";
    CSRF_TRUSTED_ORIGINS: String = "django.csrf_trusted_origins", "CSRF_TRUSTED_ORIGINS", List, text, "",
        "origins that may post forms, such as `https://edi.example.com`, separated by commas";
    DEBUG: bool = "django.debug", "DEBUG", Boolean, boolean, "false", "Django's debug pages";
    TIME_ZONE: String = "django.time_zone", "TZ", Text, text, "",
        "time zone such as Europe/Berlin; else as Bots's template says";
    SUPERUSER_NAME: String = "superuser.username", "SUPERUSER_USERNAME", Text, text, "admin",
        "web user that init-db makes when there is no superuser yet";
    SUPERUSER_EMAIL: String = "superuser.email", "SUPERUSER_EMAIL", Text, text, "", "the web user's mail address";
}

secrets! {
    DB_PASSWORD = "database.password", "DB_PASSWORD", "database password";
    SECRET_KEY = "django.secret_key", "DJANGO_SECRET_KEY",
        "Django's SECRET_KEY; else a random one is made and kept beside the configuration directory";
    JOBQUEUE_TOKEN = "jobqueue.token", "BOTS_CTL_JOBQUEUE_TOKEN",
        "what the job queue and those who use it from other containers know, and nobody else does";
    SUPERUSER_PASSWORD = "superuser.password", "SUPERUSER_PASSWORD",
        "the web user's password; else a random one is made, shown once and kept in admin-password";
}

/// The database in one URL, instead of the variables that begin with DB_; secret, since there is a password in it.
pub const DATABASE_URL: Setting<DatabaseUrl> = Setting {
    path: "database.url",
    env: "BOTS_CTL_DATABASE_URL",
    shape: ValueType::Text,
    default: "",
    secret: true,
    help: "the database in one URL, such as `postgresql://USER:PASSWORD@HOST:5432/NAME`, instead of DB_ENGINE to DB_PORT",
    parse: DatabaseUrl::parse,
};

/// Variables that are read before any file is: they say where the files are.
pub const CONFIG_FILE_ENV: &str = "BOTS_CTL_CONFIG";
