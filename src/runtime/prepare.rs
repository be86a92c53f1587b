//! Everything between a configuration and the services that run with it: Bots, its environment, its database, Django's answers.

use std::fs::File;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::bots::Installation;
use crate::bots::child_env::ChildEnv;
use crate::bots::config_source::{ConfigFiles, Digest};
use crate::bots::context::BotsContext;
use crate::bots::django_settings::DjangoSettings;
use crate::bots::environment::Environment;
use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::config::Config;
use crate::exit::Error;
use crate::fs::atomic;
use crate::health::checks::CheckTargets;
use crate::health::state::HealthState;
use crate::process::reaper::Reaper;

use super::bots_environment::{blocking, commit, find_bots, health_targets, mounted_files, service_variables};
use super::dry_run::dry_run;
use super::init_db;
use super::service_spec::{LaunchContext, ServePlan, ServiceSpec};

/// How often to look whether another start in this environment has read the settings.
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

/// Prepares the services of a plan. `committed` are the mounted files where bots-ctl has started again with them.
pub(crate) async fn prepare_services(
    config: &Config,
    reaper: &Reaper,
    plan: &ServePlan,
    committed: Option<Digest>,
    critical: &TaskTracker,
    health: &watch::Sender<HealthState>,
) -> Result<(Prepared, Vec<ServiceSpec>), Error> {
    let bots = find_bots(config, reaper).await?;
    let variables = service_variables(config, &bots);
    let source = match committed {
        // The mounted files may have changed since then, and would not have been checked.
        Some(_) => ConfigFiles::default(),
        None => mounted_files(config).await?,
    };
    let applied = committed.unwrap_or_else(|| source.digest());
    let (environment, mut django) = prepare_environment(config, reaper, &bots, &variables, source).await?;
    let context = BotsContext { reaper, bots: &bots, environment: &environment, variables: &variables };
    if plan.initialises_database() && !config.database.init_skip {
        let begin = Instant::now();
        let result = init_db::ensure_database(config, &context, django, critical).await;
        let is_success = result.is_ok();
        health.send_modify(|state| state.initialised = Some((begin.elapsed(), is_success)));
        django = result?;
    }
    django.log_warnings();
    health.send_modify(|state| state.bots_version = Some(django.bots_version.clone()));
    let queue = BotsJobQueueIni::read(config, &environment)?;
    let services =
        plan.services(&LaunchContext { config, bots: context, django: &django, queue: &queue, own_ports: &[] })?;
    let targets = health_targets(config, &django)?;
    Ok((Prepared { bots, django, queue, applied, targets }, services))
}

/// The environment and the settings of Django, for a start. Where anything has changed since the last one, it is validated in a copy
/// first: `source`, the mounted files, are put in their places only then.
///
/// # Errors
/// Everything that is wrong with the configuration, of which nothing has been written.
pub(crate) async fn prepare_environment(
    config: &Config,
    reaper: &Reaper,
    bots: &Installation,
    variables: &ChildEnv,
    source: ConfigFiles,
) -> Result<(Environment, DjangoSettings), Error> {
    let environment = Environment::paths(config);
    let context = BotsContext { reaper, bots, environment: &environment, variables };
    let mut turn = None;
    // Of several that start at once the others find what the first has learnt.
    for _ in 0..2 {
        if let Some(django) = known_settings(config, &context, &source).await? {
            return Ok((commit(config, bots, &source).await?, django));
        }
        if turn.is_none() {
            turn = lock_settings_cache(&environment).await?;
        }
    }
    let checked = dry_run(config, reaper, bots, Ok(source.clone()), |_, _| Ok(())).await?;
    let django = checked.settings()?.clone();
    let committed = commit(config, bots, &source).await?;
    django.write_cache(&context);
    Ok((committed, django))
}

/// The settings as an earlier start has kept them, where this one would leave the configuration directory as it is. The volume
/// may hang, so this is no work for the thread that receives signals.
async fn known_settings(
    config: &Config,
    context: &BotsContext<'_>,
    source: &ConfigFiles,
) -> Result<Option<DjangoSettings>, Error> {
    let (config, source, reaper) = (config.clone(), source.clone(), context.reaper.clone());
    let (bots, environment, variables) = (context.bots.clone(), context.environment.clone(), context.variables.clone());
    let known = move || {
        let is_current = Environment::plan(&config, &bots, &source).is_ok_and(|(_, update)| update.is_empty());
        let context = BotsContext { reaper: &reaper, bots: &bots, environment: &environment, variables: &variables };
        is_current.then(|| DjangoSettings::load_cached(&context)).flatten()
    };
    blocking(known).await
}

/// Of several that start at once in one environment only the first asks Python. In a new one there is nothing to lock yet.
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
