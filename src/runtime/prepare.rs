//! All preparations between reading the configuration and starting services: Bots, its environment, its database, Django's
//! settings.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::gethostname;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::bots::Installation;
use crate::bots::config_source::{ConfigFiles, Digest};
use crate::bots::django_settings::DjangoSettings;
use crate::bots::environment::Environment;
use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::config::Config;
use crate::exit::Error;
use crate::fs::atomic;
use crate::health::checks::CheckTargets;
use crate::health::state::{HealthState, InitRun, SystemInfo};
use crate::model::ServiceName;
use crate::process::reaper::Reaper;

use super::bots_environment::{FoundBots, blocking, commit, health_targets, mounted_files, open_web_ui_warning};
use super::dry_run::dry_run;
use super::init_db;
use super::reload_trial;
use super::service_spec::{LaunchContext, ServePlan, ServiceSpec};

/// Interval of checks whether another start in this environment has loaded the settings.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The result of the preparations.
pub(crate) struct Prepared {
    pub bots: Installation,
    pub django: DjangoSettings,
    pub queue: BotsJobQueueIni,
    /// The mounted files that were applied.
    pub applied: Digest,
    pub targets: CheckTargets,
}

/// Prepares the services of a plan. `committed` are the mounted files with which bots-ctl has executed itself in a reload.
pub(crate) async fn prepare_services(
    config: &Config,
    reaper: &Reaper,
    plan: &ServePlan,
    committed: Option<Digest>,
    critical: &TaskTracker,
    health: &watch::Sender<HealthState>,
) -> Result<(Prepared, Vec<ServiceSpec>), Error> {
    let bots = FoundBots::find_for_services(config, reaper).await?;
    let source = match committed {
        // The mounted files may have changed since then, and would not have been checked.
        Some(_) => ConfigFiles::default(),
        None => mounted_files(config).await?,
    };
    let applied = committed.unwrap_or_else(|| source.digest());
    let (environment, mut django) = prepare_environment(config, &bots, source).await?;
    let context = bots.context(&environment);
    if plan.initialises_database() && !config.database.init_skip {
        let begin = Instant::now();
        let result = init_db::ensure_database(config, &context, django, critical).await;
        let is_success = result.is_ok();
        let init_run = InitRun { took: begin.elapsed(), is_success };
        health.send_modify(|state| state.init_run = Some(init_run));
        django = result?;
    }
    django.log_warnings();
    health.send_modify(|state| state.bots_version = Some(django.bots_version.clone()));
    let queue = BotsJobQueueIni::read(config, &environment)?;
    let services =
        plan.services(&LaunchContext { config, bots: context, django: &django, queue: &queue, own_ports: None })?;
    let targets = health_targets(config, &django)?;
    let has_web = services.iter().any(|service| service.name == ServiceName::Webserver);
    if let Some(warning) = open_web_ui_warning(config, &bots.installation, django.web_port).filter(|_| has_web) {
        warn!("{warning}");
    }
    let system = system_info(config, &django, targets.database.describe(), has_web);
    health.send_modify(|state| state.system = Some(Arc::new(system)));
    Ok((Prepared { bots: bots.installation, django, queue, applied, targets }, services))
}

/// The environment, host and versions, for the status.
fn system_info(config: &Config, django: &DjangoSettings, database: String, has_web: bool) -> SystemInfo {
    let scheme = if django.web_https { "https" } else { "http" };
    // Behind an ingress it is known by another name.
    let origins = config.django.csrf_trusted_origins.as_deref().unwrap_or_default();
    let public = origins.split(',').map(str::trim).find(|origin| !origin.is_empty() && !origin.contains('*'));
    let web = public.map_or_else(|| format!("{scheme}://localhost:{}", django.web_port), str::to_owned);
    SystemInfo {
        environment: config.environment.name.clone(),
        host: gethostname().unwrap_or_default().to_string_lossy().into_owned(),
        bots: django.bots_version.clone(),
        python: django.python_version.clone(),
        django: django.django_version.clone(),
        database,
        web: has_web.then_some(web),
    }
}

/// The environment and Django's settings, for a start. After any change since the last start, they are validated in a
/// copy first: the mounted files `source` are only written afterwards.
///
/// # Errors
/// All errors of the configuration, of which no file has been written.
pub(crate) async fn prepare_environment(
    config: &Config,
    bots: &FoundBots,
    source: ConfigFiles,
) -> Result<(Environment, DjangoSettings), Error> {
    let (root, config_dir) = (config.environment_root().to_path_buf(), config.environment.config_dir.clone());
    blocking(move || reload_trial::finish_roll_back(&root, &config_dir)).await??;
    let environment = Environment::paths(config);
    let mut cache_lock = None;
    // Of several concurrent starts, the first one fills the cache for the others.
    for _ in 0..2 {
        if let Some(django) = known_settings(config, bots, &source).await? {
            return Ok((commit(config, &bots.installation, &source).await?, django));
        }
        if cache_lock.is_none() {
            cache_lock = lock_settings_cache(&environment).await?;
        }
    }
    let installation = &bots.installation;
    let checked = dry_run(config, &bots.reaper, installation, Ok(source.clone()), |_, _| Ok(())).await?;
    let django = checked.settings()?.clone();
    let committed = commit(config, installation, &source).await?;
    django.write_cache(&bots.context(&environment));
    Ok((committed, django))
}

/// The cached settings of an earlier start, if this one would leave the configuration directory unchanged. Not for the
/// thread that receives signals, since the volume may hang.
async fn known_settings(
    config: &Config,
    bots: &FoundBots,
    source: &ConfigFiles,
) -> Result<Option<DjangoSettings>, Error> {
    let (config, bots, source) = (config.clone(), bots.clone(), source.clone());
    let known = move || {
        let is_current =
            Environment::plan(&config, &bots.installation, &source).is_ok_and(|(_, update)| update.is_empty());
        is_current.then(|| DjangoSettings::load_cached(&bots.context(&Environment::paths(&config)))).flatten()
    };
    blocking(known).await
}

/// If several processes start in one environment at once, only the first one runs Python. In a new environment there is nothing
/// to lock yet.
async fn lock_settings_cache(environment: &Environment) -> Result<Option<File>, Error> {
    let path = environment.settings_cache_lock();
    while path.exists() {
        match atomic::try_lock(&path)? {
            Some(file) => return Ok(Some(file)),
            None => sleep(LOCK_POLL_INTERVAL).await,
        }
    }
    Ok(None)
}
