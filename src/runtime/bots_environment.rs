//! Bots on this machine, its environment, and the variables that lead its programs there.

use std::path::{Path, PathBuf};

use tracing::warn;

use crate::bots::child_env::ChildEnv;
use crate::bots::config_source::ConfigFiles;
use crate::bots::context::BotsContext;
use crate::bots::django_settings::DjangoSettings;
use crate::bots::environment::Environment;
use crate::bots::python_session::PythonSession;
use crate::bots::{self, Installation};
use crate::config::Config;
use crate::config::keys::CONFIG_SOURCE_ENV;
use crate::config::setting::CONFIG_FILE_ENV;
use crate::exit::{Error, Kind};
use crate::fs::atomic;
use crate::health::checks::CheckTargets;
use crate::model::BotsVersion;
use crate::process::blocking;
use crate::process::reaper::Reaper;

use super::init_db;
use super::reload_trial;

/// Finds Bots on this machine, for an environment that its programs can use.
pub(crate) async fn find_bots(config: &Config, reaper: &Reaper) -> Result<Installation, bots::Error> {
    let path = std::env::var_os("PATH");
    let bots = Installation::find(&config.bots, path.as_deref(), reaper).await?;
    ChildEnv::check_paths(config, &bots.bin_dir)?;
    Ok(bots)
}

/// Bots on this machine, and what each of its processes needs.
#[derive(Clone)]
pub(crate) struct FoundBots {
    pub installation: Installation,
    pub variables: ChildEnv,
    pub reaper: Reaper,
}

impl FoundBots {
    /// Finds Bots for a command.
    pub async fn find(config: &Config, reaper: &Reaper) -> Result<Self, bots::Error> {
        let installation = find_bots(config, reaper).await?;
        let variables = child_variables(config, Some(&installation.bin_dir));
        Ok(Self { installation, variables, reaper: reaper.clone() })
    }

    /// Finds Bots for services.
    pub async fn find_for_services(config: &Config, reaper: &Reaper) -> Result<Self, bots::Error> {
        let installation = find_bots(config, reaper).await?;
        let variables = service_variables(config, &installation);
        Ok(Self { installation, variables, reaper: reaper.clone() })
    }

    /// The inputs of its processes in an environment.
    pub fn context<'a>(&'a self, environment: &'a Environment) -> BotsContext<'a> {
        BotsContext { reaper: &self.reaper, bots: &self.installation, environment, variables: &self.variables }
    }
}

/// The environment, which a start has created before.
pub(crate) fn existing_environment(config: &Config) -> Result<Environment, Error> {
    let environment = Environment::paths(config);
    if environment.config.join("settings.py").is_file() {
        return Ok(environment);
    }
    let text = format!("there is no settings.py in {}: bots-ctl init-db creates it", environment.config.display());
    Err(Error::new(Kind::Configuration, text))
}

/// The variables for children, in addition to those of bots-ctl.
pub(crate) fn child_variables(config: &Config, bin_dir: Option<&Path>) -> ChildEnv {
    ChildEnv::new(config, bin_dir, temporary_directory(config))
}

/// The variables of services. An engine that they start is bots-ctl again, and must not apply the mounted files: bots-ctl
/// applies those itself, after their validation.
pub(crate) fn service_variables(config: &Config, bots: &Installation) -> ChildEnv {
    let mut variables = child_variables(config, Some(&bots.bin_dir));
    variables.set(CONFIG_SOURCE_ENV, &config.environment.config_dir);
    if let Some(file) = committed_own_file(config) {
        variables.set(CONFIG_FILE_ENV, file);
    }
    variables
}

/// The copy of the configuration file that is, or was, mounted.
pub(crate) fn committed_own_file(config: &Config) -> Option<PathBuf> {
    let paths = &config.environment;
    let below = |dir| config.file.as_ref()?.strip_prefix(dir).ok();
    let name = below(&paths.config_source).or_else(|| below(&paths.config_dir))?;
    Some(paths.config_dir.join(name))
}

/// The copy of the mounted bots-ctl.toml that the last start or reload has applied, if there is one.
pub(crate) fn applied_own_file(config: &Config) -> Option<PathBuf> {
    committed_own_file(config).filter(|copy| config.file.as_ref() != Some(copy) && copy.is_file())
}

/// The bots-ctl.toml that was mounted before, if services failed with the mounted files in a reload.
pub(crate) fn restored_own_file(config: &Config) -> Option<PathBuf> {
    let (paths, root) = (&config.environment, config.environment_root());
    let copy = committed_own_file(config).filter(|copy| config.file.as_ref() != Some(copy))?;
    let source = ConfigFiles::mounted(&paths.config_source, &paths.config_dir).ok()?;
    reload_trial::refusal(root, &source)?;
    // The restoration may have been interrupted.
    let kept = reload_trial::kept(root, source.digest()).join(copy.strip_prefix(&paths.config_dir).ok()?);
    [kept, copy].into_iter().find(|file| file.is_file())
}

/// The directory for temporary files if the default one is not writable, as on a read-only root file system.
pub(crate) fn temporary_directory(config: &Config) -> Option<PathBuf> {
    if atomic::check_writable(&std::env::temp_dir()).is_ok() {
        return None;
    }
    let own = config.home.join(".bots/tmp");
    atomic::make_dir(&own).is_ok().then_some(own)
}

/// The mounted files; none of them if services failed to start with them in a reload.
pub(crate) async fn mounted_files(config: &Config) -> Result<ConfigFiles, Error> {
    let (paths, root) = (config.environment.clone(), config.environment_root().to_path_buf());
    let read = move || {
        let source = ConfigFiles::mounted(&paths.config_source, &paths.config_dir)?;
        Ok(match reload_trial::refusal(&root, &source) {
            None => source,
            Some(reason) => {
                warn!("ignoring the mounted configuration: {reason}");
                ConfigFiles::default()
            }
        })
    };
    blocking(read).await?
}

/// Commits validated files on a blocking thread: filling a volume may take a while, and probes must be answered.
pub(crate) async fn commit(config: &Config, bots: &Installation, source: &ConfigFiles) -> Result<Environment, Error> {
    let (config, bots, source) = (config.clone(), bots.clone(), source.clone());
    Ok(blocking(move || Environment::commit(&config, &bots, &source)).await??)
}

/// Runs work that may wait for a volume on a blocking thread.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    blocking::run(work).await.map_err(|error| Error::new(Kind::Unavailable, error.to_string()))
}

/// Django's settings for a command that starts no service.
pub(crate) async fn django_settings(config: &Config, reaper: &Reaper) -> Result<DjangoSettings, Error> {
    let bots = FoundBots::find(config, reaper).await?;
    load_django_settings(&bots.context(&existing_environment(config)?)).await
}

/// Django's settings, from an earlier start if nothing has changed since.
pub(crate) async fn load_django_settings(context: &BotsContext<'_>) -> Result<DjangoSettings, Error> {
    match DjangoSettings::load_cached(context) {
        Some(cached) => Ok(cached),
        None => Ok(PythonSession::start(context).await?.1),
    }
}

/// The targets of the health checks, at the paths reported by Bots.
pub(crate) fn health_targets(config: &Config, django: &DjangoSettings) -> Result<CheckTargets, Error> {
    Ok(CheckTargets {
        database: init_db::database_config(config, django)?,
        botssys: django.directories.botssys.clone(),
        usersys: django.directories.usersys.clone(),
        min_free: config.health.min_free,
        time_zone: django.time_zone.clone(),
        interval: config.health.interval,
    })
}

/// A warning for the web UI of Bots 3.3.1 without a known ingress in front: it listens on all addresses.
pub(crate) fn open_web_ui_warning(config: &Config, bots: &Installation, port: u16) -> Option<String> {
    let has_ingress = config.django.csrf_trusted_origins.is_some();
    (bots.bots_version() == BotsVersion::V3 && !has_ingress).then(|| {
        format!(
            "the web UI of Bots 3.3.1 listens on all addresses of this machine, on Django 2.2, which has had no security fixes \
             since April 2022: let a firewall keep port {port} to this machine, put an ingress in front and name it in \
             CSRF_TRUSTED_ORIGINS, or install Bots 4.x"
        )
    })
}
