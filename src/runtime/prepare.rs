//! Everything between a configuration and the services that run with it: Bots, its environment, its database, Django's answers.

use std::time::Instant;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::bots::config_source::{ConfigFiles, Digest};
use crate::bots::context::BotsContext;
use crate::bots::django_settings::DjangoSettings;
use crate::bots::environment::Environment;
use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::bots::{self, Installation};
use crate::config::Config;
use crate::exit::Error;
use crate::health::checks::CheckTargets;
use crate::health::state::HealthState;
use crate::process::reaper::Reaper;

use super::bots_environment::{blocking, find_bots, health_targets, load_django_settings, service_variables};
use super::init_db;
use super::service_spec::{LaunchContext, ServePlan, ServiceSpec};

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
    let (own, installed) = (config.clone(), bots.clone());
    let prepare = move || {
        let source = match committed {
            // The mounted files may have changed since then, and would not have been checked.
            Some(_) => ConfigFiles::default(),
            None => ConfigFiles::mounted(&own.environment.config_source, &own.environment.config_dir)?,
        };
        let environment = Environment::prepare(&own, &installed, &source)?;
        Ok::<_, bots::Error>((environment, committed.unwrap_or_else(|| source.digest())))
    };
    let (environment, applied) = blocking(prepare).await??;
    let context = BotsContext { reaper, bots: &bots, environment: &environment, variables: &variables };
    let django = if plan.initialises_database() && !config.database.init_skip {
        let begin = Instant::now();
        let result = init_db::ensure_database(config, &context, critical).await;
        let is_success = result.is_ok();
        health.send_modify(|state| state.initialised = Some((begin.elapsed(), is_success)));
        result?
    } else {
        load_django_settings(&context).await?
    };
    health.send_modify(|state| state.bots_version = Some(django.bots_version.clone()));
    let queue = BotsJobQueueIni::read(&environment)?;
    let services =
        plan.services(&LaunchContext { config, bots: context, django: &django, queue: &queue, own_ports: &[] })?;
    let targets = health_targets(config, &django)?;
    Ok((Prepared { bots, django, queue, applied, targets }, services))
}
