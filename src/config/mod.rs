//! The configuration: final, typed values, each checked before a port is bound, a database opened or a process started.
//!
//! Three stages of input are separate: the command line (`cli`), the configured values (the layers of [`layers`]), and
//! the effective values ([`Config`]). Only the last one leaves this module. The module does not read the environment or
//! arguments of the process: both are parameters, so that tests can set them.

mod choices;
pub mod database;
mod database_url;
pub mod keys;
pub mod layers;
pub mod parse;
pub mod redact;
pub mod setting;
pub mod toml_file;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fs::regular;
use crate::model::{RestartRules, ServiceName};
pub use choices::{ChildOutput, LogFormat, LogLevel, ServiceBackend, WarmStart, WatchMethod};
pub use database_url::DatabaseUrl;
pub use keys::{
    BotsConfig, CommandLineConfig, DatabaseSection, DirmonitorSection, DjangoConfig, EngineConfig, EnvironmentConfig,
    HealthConfig, JobQueueConfig, LogConfig, MailConfig, MetricsConfig, PluginConfig, ReloadConfig, StopConfig,
    SuperuserConfig, UpConfig, WatchdogConfig, WebserverConfig,
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
    /// The installation of Bots.
    pub bots: BotsConfig,
    /// Routes and mappings as files.
    pub plugin: PluginConfig,
    /// The web UI.
    pub webserver: WebserverConfig,
    /// The stop sequence.
    pub stop: StopConfig,
    /// When services are restarted.
    pub restart: RestartRules,
    /// Live reload.
    pub reload: ReloadConfig,
    /// When a service counts as unresponsive, and the consequence.
    pub watchdog: WatchdogConfig,
    /// The services under `up`.
    pub up: UpConfig,
    /// How engines run.
    pub engine: EngineConfig,
    /// The job queue.
    pub jobqueue: JobQueueConfig,
    /// The directory monitor.
    pub dirmonitor: DirmonitorSection,
    /// The health listener.
    pub health: HealthConfig,
    /// Metrics.
    pub metrics: MetricsConfig,
    /// The command line.
    pub command_line: CommandLineConfig,
    /// Logs.
    pub log: LogConfig,
    /// Database settings for the generated `settings.py`.
    pub database: DatabaseSection,
    /// Django settings for the generated `settings.py`.
    pub django: DjangoConfig,
    /// The mail server for the generated `settings.py`.
    pub mail: MailConfig,
    /// The web user of a first run.
    pub superuser: SuperuserConfig,
    /// Whether all services are to run: a bots.ini that is created enables the job queue and the directory monitor.
    pub enables_queue: bool,
    /// Every setting with its value and origin, for `config show`.
    pub effective_settings: Vec<EffectiveSetting>,
}

/// The timeouts of a service's stop.
#[derive(Debug, Clone, Copy)]
pub struct StopTimeouts {
    /// Time between reporting not ready and the stop signal.
    pub drain: Duration,
    /// Time between the stop signal and SIGKILL.
    pub timeout: Duration,
}

impl Config {
    /// Reads all layers; invalid values are replaced by their default and reported, so that a check can continue.
    pub fn read(
        environment: &BTreeMap<String, String>,
        overrides: &[FlagOverride],
        file: Option<&Path>,
        home: &Path,
    ) -> (Self, Vec<Diagnostic>) {
        let file = file_path(environment, file, home);
        let mut layers = LayeredConfig::new(environment, overrides, file.clone(), home);
        // The order matters: a default may be the value of an earlier setting.
        let mut config = Self {
            home: home.to_path_buf(),
            file,
            environment: EnvironmentConfig::read(&mut layers),
            bots: BotsConfig::read(&mut layers),
            plugin: PluginConfig::read(&mut layers),
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
            command_line: CommandLineConfig::read(&mut layers),
            log: LogConfig::read(&mut layers),
            database: DatabaseSection::read(&mut layers),
            django: DjangoConfig::read(&mut layers),
            mail: MailConfig::read(&mut layers),
            superuser: SuperuserConfig::read(&mut layers),
            enables_queue: false,
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

    /// Whether a setting is set explicitly.
    pub fn is_given(&self, path: &str) -> bool {
        self.effective_settings.iter().any(|known| known.setting.path == path && known.origin != Origin::Default)
    }

    /// The Bots environment: the parent of the configuration directory.
    pub fn environment_root(&self) -> &Path {
        self.environment.config_dir.parent().unwrap_or(Path::new("/"))
    }

    /// Bots imports the configuration directory as a Python package, which restricts its name.
    fn check_config_dir(&self, layers: &mut LayeredConfig<'_>) {
        let config_dir = &self.environment.config_dir;
        let name = config_dir.file_name().unwrap_or_default().to_string_lossy();
        if name.is_empty() || name.contains('.') {
            layers.report(format!(
                "{}: Bots imports this directory as a Python package, so its name must not be \
                 empty or contain a dot; set BOTS_CONFIG_DIR to a directory such as \
                 /srv/bots/config",
                config_dir.display()
            ));
        }
    }
}

impl EnvironmentConfig {
    /// A source that is the configuration directory under another name must not be copied onto itself.
    fn unify_paths(&mut self) {
        if parse::resolved_path(&self.config_source.to_string_lossy()).is_ok_and(|source| source == self.config_dir) {
            self.config_source.clone_from(&self.config_dir);
        }
    }
}

impl StopConfig {
    /// The timeouts of one service.
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
    /// The additional listen address of the job queue.
    ///
    /// # Errors
    /// If the address is reachable by other machines and there is no token. Only the queue itself checks this: its
    /// child processes may see the address, but not the token.
    pub fn guarded_addr(&self) -> Result<Option<SocketAddr>, String> {
        match self.addr {
            Some(addr) if !addr.ip().is_loopback() && self.token.is_none() => Err(format!(
                "BOTS_CTL_JOBQUEUE_ADDR={addr}: any client that reaches this address could run \
                 jobs; set BOTS_CTL_JOBQUEUE_TOKEN or BOTS_CTL_JOBQUEUE_TOKEN_FILE, or use a \
                 loopback address"
            )),
            addr => Ok(addr),
        }
    }
}

/// The file to read: the given one, else the first existing default.
fn file_path(environment: &BTreeMap<String, String>, flag: Option<&Path>, home: &Path) -> Option<PathBuf> {
    let set = |name| environment.get(name).filter(|value| !value.is_empty());
    let named = flag.map(Path::to_path_buf).or_else(|| set(setting::CONFIG_FILE_ENV).map(PathBuf::from));
    let source = Path::new(set(keys::CONFIG_SOURCE_ENV).map_or(keys::CONFIG_SOURCE, String::as_str));
    let usual = [source.join("bots-ctl.toml"), home.join(".bots/bots-ctl.toml")];
    named.or_else(|| usual.into_iter().find(|path| regular::may_exist(path)))
}

#[cfg(test)]
mod tests;
