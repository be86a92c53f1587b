//! The configuration: final, typed values, each checked before anything is bound, opened or started.
//!
//! Three shapes of input stay apart: what was typed (`cli`), what was configured (the layers of [`layers`])
//! and what is true ([`Config`]). Only the last leaves this module. Nothing here reads the process's own
//! environment or arguments: both are handed in, so that tests need neither.

mod choices;
pub mod database;
mod database_url;
pub mod keys;
pub mod layers;
pub mod parse;
pub mod setting;
pub mod toml_file;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::{RestartRules, ServiceName};
pub use choices::{ChildOutput, LogFormat, LogLevel, ServiceBackend, WatchMethod};
pub use database_url::DatabaseUrl;
pub use keys::{
    BotsConfig, DatabaseSection, DirmonitorSection, DjangoConfig, EngineConfig, EnvironmentConfig, HealthConfig,
    JobQueueConfig, LogConfig, MailConfig, MetricsConfig, ReloadConfig, StopConfig, SuperuserConfig, UpConfig,
    WatchdogConfig, WebserverConfig,
};
use layers::LayeredConfig;
pub use layers::{Diagnostic, EffectiveSetting, FlagOverride, Origin};

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
    /// The web UI.
    pub webserver: WebserverConfig,
    /// The stop sequence.
    pub stop: StopConfig,
    /// When services are started again.
    pub restart: RestartRules,
    /// The effect of a change of the mounted configuration.
    pub reload: ReloadConfig,
    /// When a service counts as unresponsive, and what follows.
    pub watchdog: WatchdogConfig,
    /// The services under `up`.
    pub up: UpConfig,
    /// How engines are run.
    pub engine: EngineConfig,
    /// The job queue.
    pub jobqueue: JobQueueConfig,
    /// The directory monitor.
    pub dirmonitor: DirmonitorSection,
    /// The health listener.
    pub health: HealthConfig,
    /// Metrics.
    pub metrics: MetricsConfig,
    /// Logs.
    pub log: LogConfig,
    /// Database settings for the `settings.py` that bots-ctl makes.
    pub database: DatabaseSection,
    /// Django settings for the `settings.py` that bots-ctl makes.
    pub django: DjangoConfig,
    /// The mail server for the `settings.py` that bots-ctl makes.
    pub mail: MailConfig,
    /// The web user of a first run.
    pub superuser: SuperuserConfig,
    /// Every setting with its value and origin, for `config show`.
    pub effective_settings: Vec<EffectiveSetting>,
}

/// The times of one service's stop.
#[derive(Debug, Clone, Copy)]
pub struct StopTimeouts {
    /// Time between "not ready" and the stop signal.
    pub drain: Duration,
    /// Time between the stop signal and SIGKILL.
    pub timeout: Duration,
}

impl Config {
    /// Reads all layers; what is wrong is left at its default and reported, so that a check can go on.
    pub fn read(
        environment: &BTreeMap<String, String>,
        overrides: &[FlagOverride],
        file: Option<&Path>,
        home: &Path,
    ) -> (Self, Vec<Diagnostic>) {
        let file = file_path(environment, file, home);
        let mut layers = LayeredConfig::new(environment, overrides, file.clone(), home);
        // In this order: the default of a setting may be the value of one before it.
        let mut config = Self {
            home: home.to_path_buf(),
            file,
            environment: EnvironmentConfig::read(&mut layers),
            bots: BotsConfig::read(&mut layers),
            webserver: WebserverConfig::read(&mut layers),
            stop: StopConfig::read(&mut layers),
            restart: RestartRules::read(&mut layers),
            reload: ReloadConfig::read(&mut layers),
            watchdog: WatchdogConfig::read(&mut layers),
            up: UpConfig::read(&mut layers),
            engine: EngineConfig::read(&mut layers),
            jobqueue: JobQueueConfig::read(&mut layers),
            dirmonitor: DirmonitorSection::read(&mut layers),
            health: HealthConfig::read(&mut layers),
            metrics: MetricsConfig::read(&mut layers),
            log: LogConfig::read(&mut layers),
            database: DatabaseSection::read(&mut layers),
            django: DjangoConfig::read(&mut layers),
            mail: MailConfig::read(&mut layers),
            superuser: SuperuserConfig::read(&mut layers),
            effective_settings: Vec::new(),
        };
        config.check_config_dir(&mut layers);
        config.environment.unify_paths();
        config.database.apply_url(&mut layers);
        if let Some(url) = &mut config.jobqueue.url {
            url.token.clone_from(&config.jobqueue.token);
        }
        let (effective, faults) = layers.finish();
        config.effective_settings = effective;
        (config, faults)
    }

    /// Whether a setting has a value that is not the default.
    pub fn is_given(&self, path: &str) -> bool {
        self.effective_settings.iter().any(|known| known.setting.path == path && known.origin != Origin::Default)
    }

    /// The Bots environment: the parent of the configuration directory.
    pub fn environment_root(&self) -> &Path {
        self.environment.config_dir.parent().unwrap_or(Path::new("/"))
    }

    /// Bots imports the configuration directory as a Python package, which not every name allows.
    fn check_config_dir(&self, layers: &mut LayeredConfig<'_>) {
        let config_dir = &self.environment.config_dir;
        let name = config_dir.file_name().unwrap_or_default().to_string_lossy();
        if name.is_empty() || name.contains('.') {
            layers.report(format!(
                "{}: Bots imports this directory as a Python package, so its last name must not be empty or hold a \
                 dot; set BOTS_CONFIG_DIR to a directory such as /srv/bots/config",
                config_dir.display()
            ));
        }
    }
}

impl EnvironmentConfig {
    /// A source that is the configuration directory by another name must not be copied over itself.
    fn unify_paths(&mut self) {
        if parse::resolved_path(&self.config_source.to_string_lossy()).is_ok_and(|source| source == self.config_dir) {
            self.config_source.clone_from(&self.config_dir);
        }
    }
}

impl StopConfig {
    /// The times of one service.
    pub fn of(&self, service: ServiceName) -> StopTimeouts {
        let (drain, timeout) = match service {
            ServiceName::Webserver => (self.webserver_drain, self.webserver_timeout),
            ServiceName::Jobqueue => (self.jobqueue_drain, self.jobqueue_timeout),
            ServiceName::Dirmonitor => (Duration::ZERO, self.dirmonitor_timeout),
            ServiceName::Engine => (Duration::ZERO, self.engine_timeout),
        };
        StopTimeouts { drain, timeout }
    }
}

impl JobQueueConfig {
    /// Where the job queue listens beside loopback.
    ///
    /// # Errors
    /// For an address that any client could use. Only the queue itself checks this: a program that it has started may see
    /// the address and not the token.
    pub fn guarded_addr(&self) -> Result<Option<SocketAddr>, String> {
        match self.addr {
            Some(addr) if !addr.ip().is_loopback() && self.token.is_none() => Err(format!(
                "BOTS_CTL_JOBQUEUE_ADDR={addr}: whoever reaches this address could run jobs; set \
                 BOTS_CTL_JOBQUEUE_TOKEN or BOTS_CTL_JOBQUEUE_TOKEN_FILE, or choose an address of loopback"
            )),
            addr => Ok(addr),
        }
    }
}

/// The file to read: the one named, else the first that exists of the usual places.
fn file_path(environment: &BTreeMap<String, String>, flag: Option<&Path>, home: &Path) -> Option<PathBuf> {
    let set = |name| environment.get(name).filter(|value| !value.is_empty());
    let named = flag.map(Path::to_path_buf).or_else(|| set(setting::CONFIG_FILE_ENV).map(PathBuf::from));
    let source = Path::new(set(keys::CONFIG_SOURCE_ENV).map_or(keys::CONFIG_SOURCE, String::as_str));
    let usual = [source.join("bots-ctl.toml"), home.join(".bots/bots-ctl.toml")];
    named.or_else(|| usual.into_iter().find(|path| path.exists()))
}

#[cfg(test)]
mod tests;
