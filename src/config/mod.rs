//! The configuration: final, typed values, each checked before anything is bound, opened or started.
//!
//! Three shapes of input stay apart: what was typed (`cli`), what was configured (the layers of [`layers`])
//! and what is true ([`Config`]). Only the last leaves this module. Nothing here reads the process's own
//! environment or arguments: both are handed in, so that tests need neither.

pub mod database;
pub mod database_url;
pub mod dirmonitor;
pub mod jobqueue;
pub mod keys;
pub mod layers;
pub mod parse;
pub mod reload;
pub mod supervision;
pub mod toml_file;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use crate::model::RestartRules;
pub use database::DatabaseSection;
pub use database_url::DatabaseUrl;
pub use dirmonitor::{DirmonitorSection, WatchMethod};
pub use jobqueue::{JobQueueConfig, ServiceBackend};
use layers::LayeredConfig;
pub use layers::{Diagnostic, EffectiveSetting, FlagOverride, Origin};
pub use reload::ReloadConfig;
pub use supervision::{EngineConfig, StopConfig, StopTimeouts, UpConfig, WatchdogConfig};

/// The effective configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Home directory of the user.
    pub home: PathBuf,
    /// The `bots-ctl.toml` that was read.
    pub file: Option<PathBuf>,
    /// Directories.
    pub environment: EnvironmentConfig,
    /// Where Bots is.
    pub bots: BotsConfig,
    /// Port of the web UI, when it is to differ from bots.ini's.
    pub web_port: Option<u16>,
    /// The stop sequence.
    pub stop: StopConfig,
    /// When services are started again.
    pub restart: RestartRules,
    /// What a change of the mounted configuration does.
    pub reload: ReloadConfig,
    /// When a service counts as hung, and what then.
    pub watchdog: WatchdogConfig,
    /// What `up` runs.
    pub up: UpConfig,
    /// How engines are run.
    pub engine: EngineConfig,
    /// The job queue.
    pub jobqueue: JobQueueConfig,
    /// The directory monitor.
    pub dirmonitor: DirmonitorSection,
    /// The health listener.
    pub health: HealthConfig,
    /// What metrics tell.
    pub metrics: MetricsConfig,
    /// Logs.
    pub log: LogConfig,
    /// Database settings for the `settings.py` that bots-ctl makes.
    pub database: DatabaseSection,
    /// Django settings for the `settings.py` that bots-ctl makes.
    pub django: DjangoConfig,
    /// The web user of a first run.
    pub superuser: SuperuserConfig,
    /// Every setting with its value and origin, for `config show`.
    pub effective_settings: Vec<EffectiveSetting>,
}

/// Directories of the Bots environment.
#[derive(Debug, Clone)]
pub struct EnvironmentConfig {
    /// `BOTSENV`.
    pub name: String,
    /// Bots's configuration directory; absolute, without trailing slash.
    pub config_dir: PathBuf,
    /// Copied over `config_dir` at every start, when it exists.
    pub config_source: PathBuf,
    /// What an empty usersys is filled from.
    pub seed_usersys: PathBuf,
    /// Grammars for a new usersys.
    pub seed_grammars: PathBuf,
}

/// Where Bots is, or is to be installed.
#[derive(Debug, Clone)]
pub struct BotsConfig {
    /// Directory of Bots's programs, when configured.
    pub bin_dir: Option<PathBuf>,
    /// The private environment of `install`.
    pub install_dir: PathBuf,
    /// Python for `install`.
    pub python: PathBuf,
}

/// The health listener and its checks.
#[derive(Debug, Clone, Copy)]
pub struct HealthConfig {
    /// Address to listen on.
    pub addr: SocketAddr,
    /// Time between two rounds of checks.
    pub interval: Duration,
    /// Time between two readings of what came of the EDI files.
    pub results_interval: Duration,
    /// Whether the listener has a status page.
    pub status_page: bool,
    /// `ready` looks at the database alone.
    pub database_only: bool,
}

/// What metrics tell.
#[derive(Debug, Clone, Copy)]
pub struct MetricsConfig {
    /// How many routes, and how many directories, go by their own names.
    pub max_label_values: u32,
}

/// Logs.
#[derive(Debug, Clone, Copy)]
pub struct LogConfig {
    /// Least severe level that is written.
    pub level: LogLevel,
    /// Shape of lines.
    pub format: LogFormat,
    /// Shape of the lines of services, when it is not to follow `format`.
    pub child_output: Option<ChildOutput>,
}

/// Severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What the output of services becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildOutput {
    /// Passed on as it is, each stream to ours.
    Raw,
    /// Lines with the service's name before them.
    Text,
    /// One JSON object a record.
    Json,
}

/// Django settings that a generated `settings.py` reads.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct DjangoConfig {
    pub secret_key: Option<SecretString>,
    pub allowed_hosts: Option<String>,
    pub csrf_trusted_origins: Option<String>,
    pub debug: Option<bool>,
    pub time_zone: Option<String>,
}

/// The web user that `init-db` makes when there is no superuser.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct SuperuserConfig {
    pub username: String,
    pub email: Option<String>,
    pub password: Option<SecretString>,
}

impl Config {
    /// Reads all layers; what is wrong is left at its default and reported, so that a check can go on.
    #[must_use]
    pub fn read(
        environment: &BTreeMap<String, String>,
        overrides: &[FlagOverride],
        file: Option<&Path>,
        home: &Path,
    ) -> (Self, Vec<Diagnostic>) {
        let file = layers::file_path(environment, file, home);
        let mut reader = LayeredConfig::new(environment, overrides, file.clone());
        let in_kubernetes = environment.contains_key("KUBERNETES_SERVICE_HOST");
        let environment = read_environment(&mut reader, home);
        let bots = read_bots(&mut reader, home);
        let web_port = reader.optional(&keys::WEB_PORT);
        let stop = supervision::read_stop(&mut reader, in_kubernetes);
        let mut config = Self {
            home: home.to_path_buf(),
            file,
            environment,
            bots,
            web_port,
            stop,
            restart: supervision::read_restart(&mut reader),
            reload: reload::read(&mut reader, in_kubernetes, stop.webserver.drain),
            watchdog: supervision::read_watchdog(&mut reader),
            up: supervision::read_up(&mut reader),
            engine: supervision::read_engine(&mut reader),
            jobqueue: jobqueue::read(&mut reader),
            dirmonitor: dirmonitor::read(&mut reader),
            health: read_health(&mut reader),
            metrics: MetricsConfig { max_label_values: reader.get(&keys::METRICS_MAX_LABEL_VALUES) },
            log: read_log(&mut reader),
            database: database::read(&mut reader),
            django: read_django(&mut reader),
            superuser: read_superuser(&mut reader),
            effective_settings: Vec::new(),
        };
        let (effective, faults) = reader.finish();
        config.effective_settings = effective;
        (config, faults)
    }

    /// The Bots environment: the parent of the configuration directory.
    #[must_use]
    pub fn environment_root(&self) -> &Path {
        self.environment.config_dir.parent().unwrap_or(Path::new("/"))
    }
}

fn read_environment(reader: &mut LayeredConfig<'_>, home: &Path) -> EnvironmentConfig {
    let name = reader.get(&keys::ENVIRONMENT_NAME);
    let default_dir = home.join(".bots/env").join(&name).join("config");
    let effective = default_dir.display().to_string();
    let config_dir = reader.get_or(&keys::CONFIG_DIR, default_dir, &effective);
    check_config_dir(reader, &config_dir);
    EnvironmentConfig {
        name,
        config_dir,
        config_source: reader.get(&keys::CONFIG_SOURCE),
        seed_usersys: reader.get(&keys::SEED_USERSYS),
        seed_grammars: reader.get(&keys::SEED_GRAMMARS),
    }
}

/// Bots imports the configuration directory as a Python package, which not every name allows.
fn check_config_dir(reader: &mut LayeredConfig<'_>, config_dir: &Path) {
    let name = config_dir.file_name().unwrap_or_default().to_string_lossy();
    if name.is_empty() || name.contains('.') {
        reader.report(format!(
            "{}: Bots imports this directory as a Python package, so its last name must not be empty or hold a dot; \
             set BOTS_CONFIG_DIR to a directory such as /srv/bots/config",
            config_dir.display()
        ));
    }
}

fn read_bots(reader: &mut LayeredConfig<'_>, home: &Path) -> BotsConfig {
    let install_dir = home.join(".bots/venv");
    let effective = install_dir.display().to_string();
    BotsConfig {
        bin_dir: reader.optional(&keys::BIN_DIR),
        install_dir: reader.get_or(&keys::INSTALL_DIR, install_dir, &effective),
        python: reader.get(&keys::PYTHON),
    }
}

fn read_health(reader: &mut LayeredConfig<'_>) -> HealthConfig {
    HealthConfig {
        addr: reader.get(&keys::HEALTH_ADDR),
        interval: reader.get(&keys::HEALTH_INTERVAL),
        results_interval: reader.get(&keys::RESULTS_INTERVAL),
        status_page: reader.get(&keys::STATUS_PAGE),
        database_only: reader.get(&keys::HEALTH_DB_ONLY),
    }
}

fn read_log(reader: &mut LayeredConfig<'_>) -> LogConfig {
    LogConfig {
        level: reader.get(&keys::LOG_LEVEL),
        format: reader.get(&keys::LOG_FORMAT),
        child_output: reader.optional(&keys::CHILD_OUTPUT),
    }
}

fn read_django(reader: &mut LayeredConfig<'_>) -> DjangoConfig {
    DjangoConfig {
        secret_key: reader.secret(&keys::SECRET_KEY),
        allowed_hosts: reader.optional(&keys::ALLOWED_HOSTS),
        csrf_trusted_origins: reader.optional(&keys::CSRF_TRUSTED_ORIGINS),
        debug: reader.optional(&keys::DEBUG),
        time_zone: reader.optional(&keys::TIME_ZONE),
    }
}

fn read_superuser(reader: &mut LayeredConfig<'_>) -> SuperuserConfig {
    SuperuserConfig {
        username: reader.get(&keys::SUPERUSER_NAME),
        email: reader.optional(&keys::SUPERUSER_EMAIL),
        password: reader.secret(&keys::SUPERUSER_PASSWORD),
    }
}

#[cfg(test)]
mod tests;
