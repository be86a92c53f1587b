//! Every setting in one table, by sections of the configuration: its type, its key in `bots-ctl.toml`, its environment variable,
//! the type of its TOML value, its parser, its default and meaning. The field of [`super::Config`] and the code that reads it are made from
//! the line.
//!
//! A default in brackets is for documentation alone: the setting may be unset. Variables without the `BOTS_CTL_` prefix are
//! those that the shell entrypoint and its manifests already used.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Map, Value};

use super::choices::{ChildOutput, LogFormat, LogLevel, ServiceBackend, WatchMethod};
use super::database_url::DatabaseUrl;
use super::layers::LayeredConfig;
use super::parse;
use super::setting::{Setting, ValueType};
use crate::model::{Endpoint, RestartPolicy, RestartRules, ServiceName};

/// The variable that names the mounted configuration, which is where `bots-ctl.toml` is looked for first.
pub const CONFIG_SOURCE_ENV: &str = "BOTS_CTL_CONFIG_SOURCE";

/// The variable that names the job queue of another container.
pub const JOBQUEUE_URL_ENV: &str = "BOTS_CTL_JOBQUEUE_URL";

/// The directory of the mounted configuration, unless its variable names another one.
pub const CONFIG_SOURCE: &str = "/config";

/// One field of a section, by the form of its default.
macro_rules! read {
    ($layers:ident, secret, $parse:expr, $path:literal, $env:expr, $shape:ident, $help:literal) => {
        $layers.optional(&setting!($path, $env, $shape, "", true, $help), $parse)
    };
    ($layers:ident, [$default:literal], $parse:expr, $path:literal, $env:expr, $shape:ident, $help:literal) => {
        $layers.optional(&setting!($path, $env, $shape, $default, false, $help), $parse)
    };
    ($layers:ident, $default:expr, $parse:expr, $path:literal, $env:expr, $shape:ident, $help:literal) => {
        $layers.get(&setting!($path, $env, $shape, $default, false, $help), $parse)
    };
}

macro_rules! setting {
    ($path:literal, $env:expr, $shape:ident, $default:expr, $secret:literal, $help:literal) => {
        Setting { path: $path, env: $env, shape: ValueType::$shape, default: $default, secret: $secret, help: $help }
    };
}

/// Reads each field of a struct from its setting.
macro_rules! readers {
    ($section:ident { $($field:ident: $type:ty = $path:literal, $env:expr, $shape:ident, $parse:expr, $default:tt, $help:literal;)* }) => {
        impl $section {
            /// Reads the section.
            pub(super) fn read(layers: &mut LayeredConfig<'_>) -> Self {
                $(let $field: $type = read!(layers, $default, $parse, $path, $env, $shape, $help);)*
                Self { $($field,)* }
            }
        }
    };
}

/// Declares a struct for each section, and reads it.
macro_rules! sections {
    ($($(#[$attribute:meta])* $section:ident { $($field:ident: $type:ty = $path:literal, $env:expr, $shape:ident, $parse:expr, $default:tt, $help:literal;)* })*) => {$(
        $(#[$attribute])*
        #[derive(Debug, Clone)]
        pub struct $section { $(#[doc = $help] pub $field: $type,)* }
        readers! { $section { $($field: $type = $path, $env, $shape, $parse, $default, $help;)* } }
    )*};
}

sections! {
    /// Directories of the Bots environment.
    EnvironmentConfig {
        name: String = "environment.name", "BOTSENV", Text, parse::directory_name, "default",
            "name of the Bots environment: the directory below ~/.bots/env";
        config_dir: PathBuf = "environment.config_dir", "BOTS_CONFIG_DIR", Text, parse::resolved_path, "~/.bots/env/$BOTSENV/config",
            "Bots's configuration directory; botssys and usersys are its siblings";
        config_source: PathBuf = "environment.config_source", CONFIG_SOURCE_ENV, Text, parse::absolute_path, CONFIG_SOURCE,
            "directory whose files are copied over the configuration directory at every start";
        seed_usersys: PathBuf = "environment.seed_usersys", "BOTS_CTL_SEED_USERSYS", Text, parse::absolute_path,
            "/usr/local/bots/plugins/usersys", "directory from which an empty usersys is filled, beside Bots's own files";
        seed_grammars: PathBuf = "environment.seed_grammars", "BOTS_CTL_SEED_GRAMMARS", Text, parse::absolute_path,
            "/usr/local/bots/grammars", "grammars that a new usersys gets below usersys/grammars";
    }

    /// Where Bots is, or is to be installed.
    BotsConfig {
        bin_dir: Option<PathBuf> = "bots.bin_dir", "BOTS_BIN_DIR", Text, parse::absolute_path, [""],
            "directory of bots-webserver and the other programs of Bots; else PATH, else what install made";
        install_dir: PathBuf = "bots.install_dir", "BOTS_CTL_INSTALL_DIR", Text, parse::absolute_path, "~/.bots/venv",
            "directory of the private environment that install makes";
        python: PathBuf = "bots.python", "BOTS_CTL_PYTHON", Text, parse::program, "python3",
            "Python that install makes the private environment with";
    }

    /// The web UI.
    WebserverConfig {
        port: Option<u16> = "webserver.port", "PORT", Integer, parse::port, [""],
            "port of the web UI; when it is not set, the port of section webserver in bots.ini";
    }

    /// How services are stopped.
    #[derive(Copy)]
    StopConfig {
        drain: Duration = "stop.drain", "BOTS_CTL_DRAIN", Duration, parse::duration, "5s in Kubernetes, else 0s",
            "how long to stay up, no longer ready, before the stop signal";
        timeout: Duration = "stop.timeout", "BOTS_CTL_STOP_TIMEOUT", Duration, parse::duration, "20s",
            "how long a service may take to stop before it is killed";
        grace_period: Option<Duration> = "stop.grace_period", "BOTS_CTL_GRACE_PERIOD", Duration, parse::interval, [""],
            "how long the pod may take to stop (terminationGracePeriodSeconds); a start says so when the rest does not fit";
        webserver_drain: Duration = "webserver.drain", "BOTS_CTL_WEBSERVER_DRAIN", Duration, parse::duration, "as BOTS_CTL_DRAIN",
            "the web UI's own drain";
        webserver_timeout: Duration = "webserver.stop_timeout", "BOTS_CTL_WEBSERVER_STOP_TIMEOUT", Duration, parse::duration,
            "as BOTS_CTL_STOP_TIMEOUT", "the web UI's own stop timeout";
        jobqueue_drain: Duration = "jobqueue.drain", "BOTS_CTL_JOBQUEUE_DRAIN", Duration, parse::duration, "0s",
            "the job queue's own drain";
        jobqueue_timeout: Duration = "jobqueue.stop_timeout", "BOTS_CTL_JOBQUEUE_STOP_TIMEOUT", Duration, parse::duration,
            "as BOTS_CTL_STOP_TIMEOUT", "the job queue's own stop timeout, in which a running job may finish";
        dirmonitor_timeout: Duration = "dirmonitor.stop_timeout", "BOTS_CTL_DIRMONITOR_STOP_TIMEOUT", Duration, parse::duration,
            "as BOTS_CTL_STOP_TIMEOUT", "the directory monitor's own stop timeout";
        engine_timeout: Duration = "engine.stop_timeout", "BOTS_CTL_ENGINE_STOP_TIMEOUT", Duration, parse::duration,
            "as BOTS_CTL_STOP_TIMEOUT", "the engine's own stop timeout, in which a run may finish";
    }

    /// The effect of a change of the mounted configuration.
    #[derive(Copy)]
    ReloadConfig {
        enabled: bool = "reload.enabled", "BOTS_CTL_RELOAD_ENABLED", Boolean, parse::boolean, "true",
            "services are restarted with a mounted configuration that changes; else it waits for the next start";
        interval: Duration = "reload.interval", "BOTS_CTL_RELOAD_INTERVAL", Duration, parse::interval, "2s",
            "time between two polls of the mounted configuration; a change has to be seen twice";
        jitter: Duration = "reload.jitter", "BOTS_CTL_RELOAD_JITTER", Duration, parse::duration, "10s in Kubernetes, else 0s",
            "longest pause before a change is taken over; its length is random, so that replicas do not do it together";
        drain: Duration = "reload.drain", "BOTS_CTL_RELOAD_DRAIN", Duration, parse::duration,
            "15s in Kubernetes, else as BOTS_CTL_WEBSERVER_DRAIN",
            "how long the web UI stays up, no longer ready, before it is restarted with a change";
    }

    /// When a service counts as unresponsive, and what follows.
    #[derive(Copy)]
    WatchdogConfig {
        failure_threshold: u32 = "watchdog.failure_threshold", "BOTS_CTL_WATCHDOG_FAILURE_THRESHOLD", Integer, parse::positive, "3",
            "signs of life that a service may miss in a row before it counts as hung";
        restart: Option<bool> = "watchdog.restart", "BOTS_CTL_WATCHDOG_RESTART", Boolean, parse::boolean, ["true under up, else false"],
            "a service that counts as hung is restarted by bots-ctl; else it is reported as not live";
    }

    /// The services under `up`.
    UpConfig {
        services: Option<Vec<ServiceName>> = "up.services", "BOTS_CTL_UP_SERVICES", List, parse::services, [""],
            "services that up runs: webserver, jobqueue, dirmonitor, engine; else those that bots.ini has in use";
        engine_interval: Duration = "up.engine_interval", "BOTS_CTL_ENGINE_INTERVAL", Duration, parse::interval, "5m",
            "time between the starts of two engine runs under up";
    }

    /// How engines are run.
    EngineConfig {
        success_exit_codes: Vec<u8> = "engine.success_exit_codes", "BOTS_CTL_SUCCESS_EXIT_CODES", List, parse::exit_codes, "",
            "exit codes of the engine that become 0, such as 2: it ran, and some files had errors";
        lease_wait: Duration = "engine.lease_wait", "BOTS_CTL_LEASE_WAIT", Duration, parse::duration, "60s",
            "how long an engine waits for another one to end, in any pod; then its exit code is 3";
        progress_timeout: Duration = "engine.progress_timeout", "BOTS_CTL_ENGINE_PROGRESS_TIMEOUT", Duration, parse::duration,
            "15m", "time without a new row after which the run of an engine that bots-ctl did not start is recovered";
        file_wait: Duration = "engine.file_wait", "BOTS_CTL_FILE_WAIT", Duration, parse::duration, "5m",
            "how long a run, and a route of the directory monitor, waits for a file that is being written";
        allow_unknown_routes: bool = "engine.allow_unknown_routes", "BOTS_CTL_ALLOW_UNKNOWN_ROUTES", Boolean, parse::boolean, "false",
            "routes that are not in the database, or not active, are passed over as Bots does, instead of being an error";
    }

    /// The job queue.
    JobQueueConfig {
        backend: ServiceBackend = "jobqueue.backend", "BOTS_CTL_JOBQUEUE_BACKEND", Text, parse::choice, "native",
            "implementation of the job queue: native (bots-ctl itself) or python (Bots's own server)";
        addr: Option<SocketAddr> = "jobqueue.addr", "BOTS_CTL_JOBQUEUE_ADDR", Text, parse::address, [""],
            "address on which the job queue serves other containers, such as 0.0.0.0:28083; needs the token";
        token: Option<SecretString> = "jobqueue.token", "BOTS_CTL_JOBQUEUE_TOKEN", Text, parse::secret, secret,
            "secret that clients of the job queue in other containers have to send";
        url: Option<Endpoint> = "jobqueue.url", JOBQUEUE_URL_ENV, Text, parse::queue_url, [""],
            "job queue of another container, such as `http://bots-jobqueue:28083`; jobs of this container are passed on to it";
    }

    /// The directory monitor, where bots.ini says nothing of a directory.
    #[derive(Copy, PartialEq, Eq)]
    DirmonitorSection {
        backend: ServiceBackend = "dirmonitor.backend", "BOTS_CTL_DIRMONITOR_BACKEND", Text, parse::choice, "native",
            "implementation of the directory monitor: native (bots-ctl itself) or python (Bots's own monitor)";
        watch_by: WatchMethod = "dirmonitor.watch", "BOTS_CTL_DIRMONITOR_WATCH", Text, parse::choice, "auto",
            "how new files are found: inotify, poll, or auto: as the file system allows; also watch in bots.ini";
        poll_interval: Duration = "dirmonitor.poll_interval", "BOTS_CTL_DIRMONITOR_POLL_INTERVAL", Duration, parse::interval,
            "1s", "time between two scans of a polled directory; also poll_interval in bots.ini";
        stable_after: Duration = "dirmonitor.stable_after", "BOTS_CTL_DIRMONITOR_STABLE_AFTER", Duration, parse::duration, "5s",
            "how long a file has to stay as it is to be complete, where its close cannot be seen; also stable_after in bots.ini";
        rescan_interval: Duration = "dirmonitor.rescan_interval", "BOTS_CTL_DIRMONITOR_RESCAN_INTERVAL", Duration, parse::interval,
            "1m", "time between two full scans where the kernel sends events, in case one was missed";
    }

    /// The health listener and its checks.
    #[derive(Copy)]
    HealthConfig {
        addr: SocketAddr = "health.addr", "BOTS_CTL_HEALTH_ADDR", Text, parse::address, "0.0.0.0:9180",
            "address of the health listener";
        interval: Duration = "health.interval", "BOTS_CTL_HEALTH_INTERVAL", Duration, parse::interval, "2s",
            "how often the checks behind the health endpoints run";
        results_interval: Duration = "health.results_interval", "BOTS_CTL_RESULTS_INTERVAL", Duration, parse::interval, "30s",
            "how often the results of engine runs and routes are read from the database";
        min_free: u64 = "health.min_free", "BOTS_CTL_MIN_FREE", Integer, parse::size, "16Mi",
            "room that botssys needs on its volume for ready, such as 512Mi; 0 asks for none";
        status_page: bool = "health.status_page", "BOTS_CTL_STATUS_PAGE", Boolean, parse::boolean, "true",
            "the health listener has a status page, on /";
        database_only: bool = "health.database_only", "HEALTH_CHECK_DB_ONLY", Boolean, parse::boolean, "false",
            "ready leaves out the checks botssys and usersys, and nothing else";
    }

    /// Metrics.
    #[derive(Copy)]
    MetricsConfig {
        max_label_values: u32 = "metrics.max_label_values", "BOTS_CTL_METRICS_MAX_LABEL_VALUES", Integer, parse::positive, "100",
            "maximum number of routes, and of directories, with their own labels; all others are other";
    }

    /// Logs.
    #[derive(Copy)]
    LogConfig {
        level: LogLevel = "log.level", "LOG_LEVEL", Text, parse::choice, "info",
            "error, warn, info, debug or trace";
        format: LogFormat = "log.format", "LOG_FORMAT", Text, parse::choice, "auto",
            "text, json, or auto: text on a terminal and json elsewhere";
        child_output: Option<ChildOutput> = "log.child_output", "BOTS_CTL_CHILD_OUTPUT", Text, parse::choice, ["as LOG_FORMAT"],
            "form of the output of services: raw (unchanged), text or json";
    }

    /// The database for a generated `settings.py`, and how it is initialised.
    DatabaseSection {
        init_skip: bool = "database.init_skip", "DB_INIT_SKIP", Boolean, parse::boolean, "false",
            "webserver does not run init-db first";
        engine: Option<String> = "database.engine", "DB_ENGINE", Text, parse::text, ["sqlite"],
            "sqlite, mysql, postgresql or one of Django's engine names (used by the settings.py that bots-ctl makes)";
        name: Option<String> = "database.name", "DB_NAME", Text, parse::text, [""],
            "database name; for SQLite a file, by default botssys/sqlitedb/botsdb";
        user: Option<String> = "database.user", "DB_USER", Text, parse::text, [""], "database user";
        password: Option<SecretString> = "database.password", "DB_PASSWORD", Text, parse::secret, secret, "database password";
        host: Option<String> = "database.host", "DB_HOST", Text, parse::text, [""], "database host, or the directory of its socket";
        port: Option<u16> = "database.port", "DB_PORT", Integer, parse::port, [""], "database port";
        options: Option<Map<String, Value>> = "database.options", "DB_OPTIONS", Text, parse::json_object, [""],
            "Django's OPTIONS of the database as a JSON object, for TLS or a socket";
        url: Option<DatabaseUrl> = "database.url", "BOTS_CTL_DATABASE_URL", Text, DatabaseUrl::parse, secret,
            "the database in one URL, such as `postgresql://USER:PASSWORD@HOST:5432/NAME`, instead of DB_ENGINE to DB_PORT";
        connect_timeout: Option<Duration> = "database.connect_timeout", "BOTS_CTL_DB_CONNECT_TIMEOUT", Duration, parse::duration,
            ["0s on a terminal, else 60s"], "how long to try again while the database server cannot be reached or is still starting";
        allow_default_password: bool = "database.allow_default_password", "BOTS_CTL_ALLOW_DEFAULT_PASSWORD", Boolean, parse::boolean,
            "false", "tolerates the account bots with its well-known password, which Bots's bundled database has";
    }

    /// Django settings for a generated `settings.py`.
    DjangoConfig {
        secret_key: Option<SecretString> = "django.secret_key", "DJANGO_SECRET_KEY", Text, parse::secret, secret,
            "Django's SECRET_KEY; else a random one is made and kept beside the configuration directory";
        allowed_hosts: Option<String> = "django.allowed_hosts", "ALLOWED_HOSTS", List, parse::text, [""],
            "host names the web UI answers to, separated by commas; else as Bots's template says (all)";
        csrf_trusted_origins: Option<String> = "django.csrf_trusted_origins", "CSRF_TRUSTED_ORIGINS", List, parse::origins, [""],
            "origins that may post forms, such as `https://edi.example.com`, separated by commas";
        debug: Option<bool> = "django.debug", "DEBUG", Boolean, parse::boolean, ["false"], "Django's debug pages";
        time_zone: Option<String> = "django.time_zone", "TZ", Text, parse::time_zone, [""],
            "time zone such as Europe/Berlin; else as Bots's template says";
        use_tz: Option<bool> = "django.use_tz", "USE_TZ", Boolean, parse::boolean, ["as Bots's template says"],
            "the web UI takes the times of reports for UTC, as under the old image; else for local time, which they are";
    }

    /// The mail server that Bots sends error reports through, for a generated `settings.py`.
    MailConfig {
        host: Option<String> = "mail.host", "EMAIL_HOST", Text, parse::text, [""],
            "mail server for the error reports of Bots; else as Bots's template says (localhost)";
        port: Option<u16> = "mail.port", "EMAIL_PORT", Integer, parse::port, ["25"], "port of the mail server";
        use_tls: Option<bool> = "mail.use_tls", "EMAIL_USE_TLS", Boolean, parse::boolean, ["false"], "STARTTLS to the mail server";
        use_ssl: Option<bool> = "mail.use_ssl", "EMAIL_USE_SSL", Boolean, parse::boolean, ["false"],
            "TLS to the mail server from the first byte, as on port 465";
        user: Option<String> = "mail.user", "EMAIL_HOST_USER", Text, parse::text, [""], "user at the mail server";
        password: Option<SecretString> = "mail.password", "EMAIL_HOST_PASSWORD", Text, parse::secret, secret,
            "password at the mail server";
        sender: Option<String> = "mail.sender", "SERVER_EMAIL", Text, parse::text, ["as ADMIN_EMAIL"], "sender of error reports";
        managers: Option<String> = "mail.managers", "ADMIN_EMAIL", List, parse::text, [""],
            "addresses that get error reports, separated by commas, where sendreportiferror in bots.ini is True";
    }

    /// The web user that `init-db` makes when there is no superuser.
    SuperuserConfig {
        username: String = "superuser.username", "SUPERUSER_USERNAME", Text, parse::text, "admin",
            "web user that init-db makes when there is no superuser yet";
        email: Option<String> = "superuser.email", "SUPERUSER_EMAIL", Text, parse::text, [""], "the web user's mail address";
        password: Option<SecretString> = "superuser.password", "SUPERUSER_PASSWORD", Text, parse::secret, secret,
            "the web user's password; else a random one is made, shown once and kept in admin-password";
    }
}

readers! {
    RestartRules {
        policy: RestartPolicy = "restart.policy", "BOTS_CTL_RESTART", Text, parse::choice, "on-failure",
            "when a service that ended by itself is started again: never, on-failure or always";
        limit: u32 = "restart.limit", "BOTS_CTL_RESTART_LIMIT", Integer, parse::count, "5",
            "restarts in a row, after which bots-ctl ends with the service's exit code";
        initial_delay: Duration = "restart.initial_delay", "BOTS_CTL_RESTART_INITIAL_DELAY", Duration, parse::interval, "1s",
            "pause before the first restart; each further one takes twice as long";
        max_delay: Duration = "restart.max_delay", "BOTS_CTL_RESTART_MAX_DELAY", Duration, parse::interval, "30s",
            "longest pause before a restart";
        reset_after: Duration = "restart.reset_after", "BOTS_CTL_RESTART_RESET_AFTER", Duration, parse::interval, "1m",
            "how long a service has to answer until its restarts are counted from zero";
    }
}
