//! Every setting in one table, by sections of the configuration: its type, its key in `bots-ctl.toml`, its environment
//! variable, the type of its TOML value, its parser, its default and its help. Macros generate the field of
//! [`super::Config`] and its reader from each line.
//!
//! A default in brackets is only for documentation: the setting may be unset. Variables without the `BOTS_CTL_` prefix
//! are those of the shell entrypoint and its manifests.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Map, Value};

use super::choices::{ChildOutput, LogFormat, LogLevel, ServiceBackend, WarmStart, WatchMethod};
use super::database_url::DatabaseUrl;
use super::layers::LayeredConfig;
use super::parse;
use super::setting::{Setting, ValueType};
use crate::model::{Endpoint, RestartPolicy, RestartRules, ServiceName};

/// The variable with the directory of the mounted configuration, in which `bots-ctl.toml` is searched first.
pub const CONFIG_SOURCE_ENV: &str = "BOTS_CTL_CONFIG_SOURCE";

/// The variable with the URL of the job queue in another container.
pub const JOBQUEUE_URL_ENV: &str = "BOTS_CTL_JOBQUEUE_URL";

/// The directory of the mounted configuration, unless its variable names another one.
pub const CONFIG_SOURCE: &str = "/config";

/// One field of a section, by the form of its default.
macro_rules! read {
    ($layers:ident, secret, $parse:expr, $path:literal, $env:expr, $value_type:ident, $help:literal) => {
        $layers.optional(&setting!($path, $env, $value_type, "", true, $help), $parse)
    };
    ($layers:ident, [$default:literal], $parse:expr, $path:literal, $env:expr, $value_type:ident, $help:literal) => {
        $layers.optional(&setting!($path, $env, $value_type, $default, false, $help), $parse)
    };
    ($layers:ident, $default:expr, $parse:expr, $path:literal, $env:expr, $value_type:ident, $help:literal) => {
        $layers.get(&setting!($path, $env, $value_type, $default, false, $help), $parse)
    };
}

macro_rules! setting {
    ($path:literal, $env:expr, $value_type:ident, $default:expr, $secret:literal, $help:literal) => {
        Setting {
            path: $path,
            env: $env,
            value_type: ValueType::$value_type,
            default: $default,
            secret: $secret,
            help: $help,
        }
    };
}

/// Reads each field of a struct from its setting.
macro_rules! readers {
    ($section:ident { $($field:ident: $type:ty = $path:literal, $env:expr, $value_type:ident, $parse:expr, $default:tt, $help:literal;)* }) => {
        impl $section {
            /// Reads the section.
            pub(super) fn read(layers: &mut LayeredConfig<'_>) -> Self {
                $(let $field: $type = read!(layers, $default, $parse, $path, $env, $value_type, $help);)*
                Self { $($field,)* }
            }
        }
    };
}

/// Declares a struct for each section, and reads it.
macro_rules! sections {
    ($($(#[$attribute:meta])* $section:ident { $($field:ident: $type:ty = $path:literal, $env:expr, $value_type:ident, $parse:expr, $default:tt, $help:literal;)* })*) => {$(
        $(#[$attribute])*
        #[derive(Debug, Clone)]
        pub struct $section { $(#[doc = $help] pub $field: $type,)* }
        readers! { $section { $($field: $type = $path, $env, $value_type, $parse, $default, $help;)* } }
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
            "/usr/local/bots/plugins/usersys", "directory whose files are added when an empty usersys is filled";
        seed_grammars: PathBuf = "environment.seed_grammars", "BOTS_CTL_SEED_GRAMMARS", Text, parse::absolute_path,
            "/usr/local/bots/grammars", "directory of grammars copied to usersys/grammars when an empty usersys is filled";
    }

    /// The installation of Bots.
    BotsConfig {
        bin_dir: Option<PathBuf> = "bots.bin_dir", "BOTS_BIN_DIR", Text, parse::absolute_path, [""],
            "directory with bots-webserver and the other programs of Bots; default: PATH, then what install created";
        install_dir: PathBuf = "bots.install_dir", "BOTS_CTL_INSTALL_DIR", Text, parse::absolute_path, "~/.bots/venv",
            "directory of the private environment that install creates";
        python: PathBuf = "bots.python", "BOTS_CTL_PYTHON", Text, parse::program, "python3",
            "Python for the private environment that install creates";
    }

    /// Routes and mappings as files.
    PluginConfig {
        source: Option<PathBuf> = "plugin.source", "BOTS_CTL_PLUGIN_SOURCE", Text, parse::absolute_path, [""],
            "plugin that the web UI applies at its start and when it changes: a directory";
        values: Option<PathBuf> = "plugin.values", "BOTS_CTL_PLUGIN_VALUES", Text, parse::absolute_path, [""],
            "file with the values of this environment for the plugin of plugin.source";
    }

    /// The web UI.
    WebserverConfig {
        port: Option<u16> = "webserver.port", "PORT", Integer, parse::port, [""],
            "port of the web UI; default: the port in bots.ini";
    }

    /// How services stop.
    #[derive(Copy)]
    StopConfig {
        drain: Duration = "stop.drain", "BOTS_CTL_DRAIN", Duration, parse::duration, "5s in Kubernetes, else 0s",
            "time between reporting not ready and the stop signal";
        timeout: Duration = "stop.timeout", "BOTS_CTL_STOP_TIMEOUT", Duration, parse::duration, "20s",
            "time a service has to exit before SIGKILL";
        grace_period: Option<Duration> = "stop.grace_period", "BOTS_CTL_GRACE_PERIOD", Duration, parse::interval, [""],
            "the pod's terminationGracePeriodSeconds; a warning is logged if drain and stop timeout exceed it";
        webserver_drain: Duration = "webserver.drain", "BOTS_CTL_WEBSERVER_DRAIN", Duration, parse::duration, "as BOTS_CTL_DRAIN",
            "drain of the web UI";
        webserver_timeout: Duration = "webserver.stop_timeout", "BOTS_CTL_WEBSERVER_STOP_TIMEOUT", Duration, parse::duration,
            "as BOTS_CTL_STOP_TIMEOUT", "stop timeout of the web UI";
        jobqueue_drain: Duration = "jobqueue.drain", "BOTS_CTL_JOBQUEUE_DRAIN", Duration, parse::duration, "0s",
            "drain of the job queue";
        jobqueue_timeout: Duration = "jobqueue.stop_timeout", "BOTS_CTL_JOBQUEUE_STOP_TIMEOUT", Duration, parse::duration,
            "as BOTS_CTL_STOP_TIMEOUT", "stop timeout of the job queue, during which a running job may finish";
        dirmonitor_timeout: Duration = "dirmonitor.stop_timeout", "BOTS_CTL_DIRMONITOR_STOP_TIMEOUT", Duration, parse::duration,
            "as BOTS_CTL_STOP_TIMEOUT", "stop timeout of the directory monitor";
        engine_timeout: Duration = "engine.stop_timeout", "BOTS_CTL_ENGINE_STOP_TIMEOUT", Duration, parse::duration,
            "as BOTS_CTL_STOP_TIMEOUT", "stop timeout of the engine, during which a run may finish";
    }

    /// Live reload.
    #[derive(Copy)]
    ReloadConfig {
        enabled: bool = "reload.enabled", "BOTS_CTL_RELOAD_ENABLED", Boolean, parse::boolean, "true",
            "apply changes of the mounted configuration at once instead of at the next start";
        interval: Duration = "reload.interval", "BOTS_CTL_RELOAD_INTERVAL", Duration, parse::interval, "2s",
            "polling interval for the mounted configuration; a change must be seen twice";
        jitter: Duration = "reload.jitter", "BOTS_CTL_RELOAD_JITTER", Duration, parse::duration, "10s in Kubernetes, else 0s",
            "maximum random delay before a change is applied, so that replicas restart at different times";
        drain: Duration = "reload.drain", "BOTS_CTL_RELOAD_DRAIN", Duration, parse::duration,
            "15s in Kubernetes, else as BOTS_CTL_WEBSERVER_DRAIN",
            "drain of the web UI before it restarts with a changed configuration";
    }

    /// When a service counts as unresponsive, and the consequence.
    #[derive(Copy)]
    WatchdogConfig {
        failure_threshold: u32 = "watchdog.failure_threshold", "BOTS_CTL_WATCHDOG_FAILURE_THRESHOLD", Integer, parse::positive, "3",
            "consecutive failed probes after which a service counts as unresponsive";
        restart: Option<bool> = "watchdog.restart", "BOTS_CTL_WATCHDOG_RESTART", Boolean, parse::boolean, ["true under up, else false"],
            "restart an unresponsive service instead of only reporting it as not live";
    }

    /// The services under `up`.
    UpConfig {
        services: Option<Vec<ServiceName>> = "up.services", "BOTS_CTL_UP_SERVICES", List, parse::services, [""],
            "services that up runs: webserver, jobqueue, dirmonitor, engine; default: as enabled in bots.ini";
        engine_interval: Duration = "up.engine_interval", "BOTS_CTL_ENGINE_INTERVAL", Duration, parse::interval, "5m",
            "interval between the starts of engine runs under up";
    }

    /// How engines run.
    EngineConfig {
        success_exit_codes: Vec<u8> = "engine.success_exit_codes", "BOTS_CTL_SUCCESS_EXIT_CODES", List, parse::exit_codes, "",
            "exit codes of the engine to report as 0, such as 2 (finished, with errors in files)";
        lease_wait: Duration = "engine.lease_wait", "BOTS_CTL_LEASE_WAIT", Duration, parse::duration, "60s",
            "time an engine waits for the engine lease before it exits with 3";
        progress_timeout: Duration = "engine.progress_timeout", "BOTS_CTL_ENGINE_PROGRESS_TIMEOUT", Duration, parse::duration,
            "15m", "time without a new row after which a run not started by bots-ctl is recovered";
        file_wait: Duration = "engine.file_wait", "BOTS_CTL_FILE_WAIT", Duration, parse::duration, "5m",
            "time an engine run, or the directory monitor, waits for a file that is being written";
        warm: WarmStart = "engine.warm", "BOTS_CTL_ENGINE_WARM", Text, parse::choice, "auto",
            "fork engines of the job queue from a Python process with their modules: auto, on or off";
        allow_unknown_routes: bool = "engine.allow_unknown_routes", "BOTS_CTL_ALLOW_UNKNOWN_ROUTES", Boolean, parse::boolean, "false",
            "ignore routes that do not exist or are not active, as Bots does, instead of failing";
    }

    /// The job queue.
    JobQueueConfig {
        backend: ServiceBackend = "jobqueue.backend", "BOTS_CTL_JOBQUEUE_BACKEND", Text, parse::choice, "native",
            "job queue implementation: native (bots-ctl) or python (Bots's own server)";
        addr: Option<SocketAddr> = "jobqueue.addr", "BOTS_CTL_JOBQUEUE_ADDR", Text, parse::address, [""],
            "address of the job queue for other containers, such as 0.0.0.0:28083; requires the token";
        token: Option<SecretString> = "jobqueue.token", "BOTS_CTL_JOBQUEUE_TOKEN", Text, parse::token, secret,
            "shared secret for job queue calls from other containers";
        url: Option<Endpoint> = "jobqueue.url", JOBQUEUE_URL_ENV, Text, parse::queue_url, [""],
            "job queue of another container, to which jobs are relayed, such as `http://bots-jobqueue:28083`";
    }

    /// The directory monitor: defaults for directories without settings in bots.ini.
    #[derive(Copy, PartialEq, Eq)]
    DirmonitorSection {
        backend: ServiceBackend = "dirmonitor.backend", "BOTS_CTL_DIRMONITOR_BACKEND", Text, parse::choice, "native",
            "directory monitor implementation: native (bots-ctl) or python (Bots's own monitor)";
        watch_by: WatchMethod = "dirmonitor.watch", "BOTS_CTL_DIRMONITOR_WATCH", Text, parse::choice, "auto",
            "how to detect new files: inotify, poll or auto (by file system); also watch in bots.ini";
        poll_interval: Duration = "dirmonitor.poll_interval", "BOTS_CTL_DIRMONITOR_POLL_INTERVAL", Duration, parse::interval,
            "1s", "polling interval of a directory; also poll_interval in bots.ini";
        stable_after: Duration = "dirmonitor.stable_after", "BOTS_CTL_DIRMONITOR_STABLE_AFTER", Duration, parse::duration, "5s",
            "time a file must be unchanged, if its close is not visible; also stable_after in bots.ini";
        rescan_interval: Duration = "dirmonitor.rescan_interval", "BOTS_CTL_DIRMONITOR_RESCAN_INTERVAL", Duration, parse::interval,
            "1m", "interval of full rescans in addition to inotify";
    }

    /// The health listener and its checks.
    #[derive(Copy)]
    HealthConfig {
        addr: SocketAddr = "health.addr", "BOTS_CTL_HEALTH_ADDR", Text, parse::address, "0.0.0.0:9180",
            "address of the health listener";
        interval: Duration = "health.interval", "BOTS_CTL_HEALTH_INTERVAL", Duration, parse::interval, "2s",
            "interval of the checks behind the health endpoints";
        results_interval: Duration = "health.results_interval", "BOTS_CTL_RESULTS_INTERVAL", Duration, parse::interval, "30s",
            "interval for reading the results of engine runs and routes from the database";
        min_free: u64 = "health.min_free", "BOTS_CTL_MIN_FREE", Integer, parse::size, "16Mi",
            "free space on the volume of botssys below which readiness fails, such as 512Mi; 0: no check";
        status_page: bool = "health.status_page", "BOTS_CTL_STATUS_PAGE", Boolean, parse::boolean, "true",
            "serve the status page on / of the health listener";
        database_only: bool = "health.database_only", "HEALTH_CHECK_DB_ONLY", Boolean, parse::boolean, "false",
            "skip the checks botssys and usersys in readiness";
    }

    /// Metrics.
    #[derive(Copy)]
    MetricsConfig {
        max_label_values: u32 = "metrics.max_label_values", "BOTS_CTL_METRICS_MAX_LABEL_VALUES", Integer, parse::positive, "100",
            "maximum number of label values for routes and for directories; the rest is counted as other";
    }

    /// The command line.
    #[derive(Copy)]
    CommandLineConfig {
        is_entrypoint: bool = "command_line.is_entrypoint", "BOTS_CTL_ENTRYPOINT", Boolean, parse::boolean, "false",
            "bots-ctl is the entrypoint of an image: run a first word that is not a command as a program, as after exec";
    }

    /// Logs.
    #[derive(Copy)]
    LogConfig {
        level: LogLevel = "log.level", "LOG_LEVEL", Text, parse::choice, "info",
            "error, warn, info, debug or trace";
        format: LogFormat = "log.format", "LOG_FORMAT", Text, parse::choice, "auto",
            "text, json, or auto (text on a terminal, else json)";
        child_output: Option<ChildOutput> = "log.child_output", "BOTS_CTL_CHILD_OUTPUT", Text, parse::choice, ["as LOG_FORMAT"],
            "format of the output of services: raw (unchanged), text or json";
    }

    /// The database for a generated `settings.py`, and how it is initialised.
    DatabaseSection {
        init_skip: bool = "database.init_skip", "DB_INIT_SKIP", Boolean, parse::boolean, "false",
            "do not run init-db at the start of webserver and up";
        engine: Option<String> = "database.engine", "DB_ENGINE", Text, parse::text, ["sqlite"],
            "sqlite, mysql, postgresql or a Django engine name (read by the settings.py of bots-ctl)";
        name: Option<String> = "database.name", "DB_NAME", Text, parse::text, [""],
            "database name; for SQLite a file, default botssys/sqlitedb/botsdb";
        user: Option<String> = "database.user", "DB_USER", Text, parse::text, [""], "database user";
        password: Option<SecretString> = "database.password", "DB_PASSWORD", Text, parse::secret, secret, "database password";
        host: Option<String> = "database.host", "DB_HOST", Text, parse::text, [""], "database host, or directory of its socket";
        port: Option<u16> = "database.port", "DB_PORT", Integer, parse::port, [""], "database port";
        options: Option<Map<String, Value>> = "database.options", "DB_OPTIONS", Text, parse::json_object, [""],
            "Django's OPTIONS for the database as a JSON object, for TLS or a socket";
        url: Option<DatabaseUrl> = "database.url", "BOTS_CTL_DATABASE_URL", Text, DatabaseUrl::parse, secret,
            "database URL, such as `postgresql://USER:PASSWORD@HOST:5432/NAME`, instead of DB_ENGINE to DB_PORT";
        connect_timeout: Option<Duration> = "database.connect_timeout", "BOTS_CTL_DB_CONNECT_TIMEOUT", Duration, parse::duration,
            ["0s on a terminal, else 60s"], "time to retry while the database server is unreachable or starting";
        allow_default_password: bool = "database.allow_default_password", "BOTS_CTL_ALLOW_DEFAULT_PASSWORD", Boolean, parse::boolean,
            "false", "permit the account bots with the well-known password of Bots's bundled database";
    }

    /// Django settings for a generated `settings.py`.
    DjangoConfig {
        secret_key: Option<SecretString> = "django.secret_key", "DJANGO_SECRET_KEY", Text, parse::secret, secret,
            "Django's SECRET_KEY; default: random, kept in secret-key next to the configuration directory";
        allowed_hosts: Option<String> = "django.allowed_hosts", "ALLOWED_HOSTS", List, parse::text, [""],
            "host names that the web UI accepts, comma-separated; default of Bots's template: all";
        csrf_trusted_origins: Option<String> = "django.csrf_trusted_origins", "CSRF_TRUSTED_ORIGINS", List, parse::origins, [""],
            "trusted origins of forms, such as `https://edi.example.com`, comma-separated";
        debug: Option<bool> = "django.debug", "DEBUG", Boolean, parse::boolean, ["false"], "show Django's debug pages";
        time_zone: Option<String> = "django.time_zone", "TZ", Text, parse::time_zone, [""],
            "time zone such as Europe/Berlin; default: that of Bots's template";
        use_tz: Option<bool> = "django.use_tz", "USE_TZ", Boolean, parse::boolean, ["as in Bots's template"],
            "interpret report times as UTC, as the shell entrypoint did, instead of local time";
    }

    /// The mail server that Bots sends error reports through, for a generated `settings.py`.
    MailConfig {
        host: Option<String> = "mail.host", "EMAIL_HOST", Text, parse::text, [""],
            "mail server for Bots's error reports; default of Bots's template: localhost";
        port: Option<u16> = "mail.port", "EMAIL_PORT", Integer, parse::port, ["25"], "port of the mail server";
        use_tls: Option<bool> = "mail.use_tls", "EMAIL_USE_TLS", Boolean, parse::boolean, ["false"], "use STARTTLS for the mail server";
        use_ssl: Option<bool> = "mail.use_ssl", "EMAIL_USE_SSL", Boolean, parse::boolean, ["false"],
            "use implicit TLS for the mail server, as on port 465";
        user: Option<String> = "mail.user", "EMAIL_HOST_USER", Text, parse::text, [""], "user name for the mail server";
        password: Option<SecretString> = "mail.password", "EMAIL_HOST_PASSWORD", Text, parse::secret, secret,
            "password for the mail server";
        sender: Option<String> = "mail.sender", "SERVER_EMAIL", Text, parse::text, ["as ADMIN_EMAIL"], "sender address of error reports";
        managers: Option<String> = "mail.managers", "ADMIN_EMAIL", List, parse::text, [""],
            "recipients of error reports, comma-separated, if sendreportiferror in bots.ini is True";
    }

    /// The web user that `init-db` creates if there is no superuser.
    SuperuserConfig {
        username: String = "superuser.username", "SUPERUSER_USERNAME", Text, parse::text, "admin",
            "web user that init-db creates if there is no superuser";
        email: Option<String> = "superuser.email", "SUPERUSER_EMAIL", Text, parse::text, [""], "mail address of the web user";
        password: Option<SecretString> = "superuser.password", "SUPERUSER_PASSWORD", Text, parse::secret, secret,
            "password of the web user; default: random, logged once and kept in admin-password";
    }
}

readers! {
    RestartRules {
        policy: RestartPolicy = "restart.policy", "BOTS_CTL_RESTART", Text, parse::choice, "on-failure",
            "when to restart a service that exited: never, on-failure or always";
        limit: u32 = "restart.limit", "BOTS_CTL_RESTART_LIMIT", Integer, parse::count, "5",
            "consecutive restarts after which bots-ctl exits with the service's exit code";
        initial_delay: Duration = "restart.initial_delay", "BOTS_CTL_RESTART_INITIAL_DELAY", Duration, parse::interval, "1s",
            "backoff before the first restart; doubled with each further restart";
        max_delay: Duration = "restart.max_delay", "BOTS_CTL_RESTART_MAX_DELAY", Duration, parse::interval, "30s",
            "maximum backoff before a restart";
        reset_after: Duration = "restart.reset_after", "BOTS_CTL_RESTART_RESET_AFTER", Duration, parse::interval, "1m",
            "uptime after which the restart count is reset";
    }
}
