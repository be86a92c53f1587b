//! What `webserver`, `jobqueue`, `dirmonitor` and `up` have in common: prepare, start, watch, stop, and say how it went.

use std::convert::Infallible;
use std::future::pending;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::admin::server;
use crate::admin::server::AdminPages;
use crate::bots::config_source::{ConfigFiles, Digest};
use crate::bots::django_settings::DjangoSettings;
use crate::bots::environment::Environment;
use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::bots::services::BotsContext;
use crate::bots::{self, Installation};
use crate::config::{Config, Diagnostic};
use crate::exit::{Error, Exit, Kind, Outcome};
use crate::health::checks::CheckTargets;
use crate::health::rules::CONFIG;
use crate::health::state::{CheckResult, HealthState, ServiceHealth as ServiceFacts};
use crate::metrics::Exporter;
use crate::model::ServiceName;
use crate::process::reaper::Reaper;
use crate::process::signals::Signals;
use crate::process::terminate::terminate_all;
use crate::supervisor::group::{self, Shutdown};
use crate::supervisor::state::Termination;
use crate::supervisor::task::ServiceResult;
use crate::telemetry::counters::{Counters, Event};

use super::bots_environment::{
    blocking, committed_own_file, find_bots, health_targets, load_django_settings, service_variables,
};
use super::config_reload::{ConfigReloader, PendingReload, hold_turn_until_ready};
use super::init_db;
use super::relay::RelayListeners;
use super::reload_state::ReloadState;
use super::service_spec::{LaunchContext, ServiceSpec};
use super::service_start::{self, RuntimeContext};
use super::session::{App, run_until_shutdown};

/// What a command asks for before it knows what is configured.
pub(crate) struct ServePlan<'a> {
    /// The services that probes are told of until the real ones are known.
    pub expected: Vec<ServiceName>,
    /// Whether the database is completed first.
    pub initialise: bool,
    /// Whether a hung service is replaced, unless the configuration says otherwise.
    pub restart_hung: bool,
    /// Reads the configuration of bots-ctl again.
    pub read: &'a dyn Fn() -> Result<(Config, Vec<Diagnostic>), Error>,
    /// Says which services run, once it is known what Bots is configured with.
    pub choose: &'a dyn Fn(&LaunchContext<'_>) -> Result<Vec<ServiceSpec>, Error>,
}

/// Runs one service that has a container of its own: when it is hung, the kubelet replaces that.
///
/// # Errors
/// As [`serve`].
pub(crate) async fn serve_one(
    session: App,
    service: ServiceName,
    read: &dyn Fn() -> Result<(Config, Vec<Diagnostic>), Error>,
    spec: &dyn Fn(&LaunchContext<'_>) -> Result<ServiceSpec, Error>,
) -> Result<Outcome, Error> {
    let plan = ServePlan {
        expected: vec![service],
        // The web UI brings its database along.
        initialise: service == ServiceName::Webserver,
        restart_hung: false,
        read,
        choose: &|context| Ok(vec![spec(context)?]),
    };
    serve(session, plan).await
}

/// What a configuration has led to.
pub(crate) struct Prepared {
    pub bots: Installation,
    pub django: DjangoSettings,
    pub queue: BotsJobQueueIni,
    /// What was mounted.
    pub applied: Digest,
    pub targets: CheckTargets,
}

/// Runs services from the preparations to the end, or until bots-ctl starts again with another configuration.
///
/// # Errors
/// Whatever keeps them from starting.
pub(crate) async fn serve(mut session: App, plan: ServePlan<'_>) -> Result<Outcome, Error> {
    let started = Instant::now();
    let mut reloaded = session.reloaded.take();
    let (health, listener) = start_health(&session, &plan.expected, reloaded.as_mut()).await?;
    let critical = TaskTracker::new();
    let App { config, reaper, signals, lines, counters, .. } = &mut session;
    let preparing = prepare_all(config, reaper, &plan, reloaded.as_ref(), &critical, &health);
    let Ok(prepared) = run_until_shutdown(signals, &critical, preparing).await else {
        // What was asked of Python no longer matters.
        terminate_all(reaper, signals, &[], config.stop.timeout).await;
        info!("stopped before anything was started");
        return Ok(Outcome::Success);
    };
    let (prepared, specs) = prepared?;
    health.send_modify(|state| {
        state.checks.set(CONFIG, CheckResult::Ok);
        state.services = specs.iter().map(ServiceSpec::health).collect();
    });
    check_grace_period(config, &specs);
    let restart_unresponsive = config.watchdog.restart.unwrap_or(plan.restart_hung);
    let runtime = RuntimeContext { config, reaper, lines, counters, health: &health, started, restart_unresponsive };
    if let Some(turn) = reloaded.and_then(|mut state| state.turn()) {
        hold_turn_until_ready(turn.into(), &runtime);
    }
    let names: Vec<&'static str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let (ends, reload) = run(signals, &runtime, &plan, &prepared, specs).await;
    if let Some(reload) = reload {
        let state = commit(&prepared.bots, &reload, counters).await?;
        // What was logged is written first.
        drop(session);
        let error = state.reexec(listener, reload.turn.map(OwnedFd::from));
        return Err(Error::new(Kind::Internal, format!("bots-ctl cannot start itself again: {error}")));
    }
    // What has left the groups of the services, a daemon for instance, is below us all the same.
    terminate_all(reaper, signals, &[], config.stop.timeout).await;
    outcome(&names, ends)
}

/// Binds and serves the health listener. It comes first: from here on probes see how far the start has come. The second
/// descriptor of the listener is for the next start in this place.
async fn start_health(
    session: &App,
    expected: &[ServiceName],
    reloaded: Option<&mut ReloadState>,
) -> Result<(watch::Sender<HealthState>, Option<OwnedFd>), Error> {
    let App { config, counters, lines, .. } = session;
    let health = config.health;
    let state = HealthState {
        services: expected.iter().map(|name| ServiceFacts::new(name.as_str(), *name != ServiceName::Engine)).collect(),
        misses_allowed: config.watchdog.failure_threshold,
        database_only: health.database_only,
        ..HealthState::default()
    };
    let inherited = reloaded.and_then(|state| {
        counters.add(Event::ReloadApplied, state.reloads[0]);
        counters.add(Event::ReloadRefused, state.reloads[1]);
        state.listener()
    });
    let sender = watch::Sender::new(state);
    let listener = server::bind(health.addr, inherited).await.map_err(|error| {
        let text = format!("cannot listen on {} for health probes: {error}", health.addr);
        Error::new(Kind::Unavailable, format!("{text}; set BOTS_CTL_HEALTH_ADDR to a free address"))
    })?;
    let descriptor = listener.as_fd().try_clone_to_owned().ok();
    let exporter =
        Arc::new(Exporter::new(Arc::clone(counters), lines.clone(), config.metrics.max_label_values as usize));
    let pages = AdminPages { metrics: exporter, has_status: health.status_page };
    tokio::spawn(server::serve(listener, sender.subscribe(), Arc::clone(counters), pages));
    Ok((sender, descriptor))
}

async fn prepare_all(
    config: &Config,
    reaper: &Reaper,
    plan: &ServePlan<'_>,
    reloaded: Option<&ReloadState>,
    critical: &TaskTracker,
    health: &watch::Sender<HealthState>,
) -> Result<(Prepared, Vec<ServiceSpec>), Error> {
    let bots = find_bots(config, reaper).await?;
    let variables = service_variables(config, &bots);
    let (own, installed) = (config.clone(), bots.clone());
    let committed = reloaded.map(|state| state.applied);
    let prepare = move || {
        let source = match committed {
            // What is mounted may be another one by now, which was not checked.
            Some(_) => ConfigFiles::default(),
            None => ConfigFiles::mounted(&own.environment.config_source, &own.environment.config_dir)?,
        };
        let environment = Environment::prepare(&own, &installed, &source)?;
        Ok::<_, bots::Error>((environment, committed.unwrap_or_else(|| source.digest())))
    };
    let (environment, applied) = blocking(prepare).await??;
    let context = BotsContext { reaper, bots: &bots, environment: &environment, variables: &variables };
    let django = if plan.initialise && !config.database.init_skip {
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
        (plan.choose)(&LaunchContext { config, bots: context, django: &django, queue: &queue, own_ports: &[] })?;
    let targets = health_targets(config, &django)?;
    Ok((Prepared { bots, django, queue, applied, targets }, services))
}

/// The kubelet kills what takes longer, however long it was told to wait here.
fn check_grace_period(config: &Config, specs: &[ServiceSpec]) {
    let needed: Duration =
        specs.iter().map(|spec| config.stop.of(spec.name)).map(|times| times.drain + times.timeout).sum();
    if let Some(grace) = config.stop.grace_period.filter(|grace| *grace < needed) {
        let (needed, grace) = (needed.as_secs_f64(), grace.as_secs_f64());
        warn!(
            "stopping may take {needed} s (drain and stop timeout), but the grace period is {grace} s, after which \
             everything is killed: raise terminationGracePeriodSeconds and BOTS_CTL_GRACE_PERIOD, or lower \
             BOTS_CTL_DRAIN or BOTS_CTL_STOP_TIMEOUT"
        );
    }
}

/// Runs the services until all have ended: how each did, and what to start again with, if that is why they were stopped.
async fn run(
    signals: &mut Signals,
    runtime: &RuntimeContext<'_>,
    plan: &ServePlan<'_>,
    prepared: &Prepared,
    specs: Vec<ServiceSpec>,
) -> (Vec<(usize, ServiceResult)>, Option<PendingReload>) {
    let RuntimeContext { config, counters, health, .. } = *runtime;
    let mut relays = RelayListeners::default();
    if specs.iter().all(|spec| spec.name != ServiceName::Jobqueue) {
        relays.listen(config, prepared.queue.port, counters).await;
    }
    runtime.spawn_checks(&prepared.targets);
    let members =
        specs.into_iter().enumerate().map(|(index, spec)| service_start::member(index, spec, runtime)).collect();
    let (shutdown, mut next) = (Shutdown::default(), None);
    let mut reloader = ConfigReloader::new(*runtime, plan, prepared);
    let reloading = async {
        next = shutdown.stop.run_until_cancelled(reloader.next()).await;
        if next.is_some() {
            info!("the mounted configuration has changed and is valid: stopping the services to start again with it");
            health.send_modify(|state| state.reloading = true);
            shutdown.reload.cancel();
        }
        shutdown.stop.cancelled().await;
        health.send_modify(|state| (state.reloading, state.stopping) = (false, true));
        pending::<Infallible>().await
    };
    let ends = tokio::select! {
        ends = group::run(members, signals, &shutdown) => ends,
        never = reloading => match never {},
    };
    (ends, next.filter(|_| !shutdown.stop.is_cancelled()))
}

/// Puts the files in their places, as a start does; what the next start in this place has to know.
async fn commit(bots: &Installation, reload: &PendingReload, counters: &Counters) -> Result<ReloadState, Error> {
    let (config, bots, source) = (reload.config.clone(), bots.clone(), reload.source.clone());
    blocking(move || Environment::prepare(&config, &bots, &source)).await??;
    let reloads = [counters.of(Event::ReloadApplied) + 1, counters.of(Event::ReloadRefused)];
    let (own_file, applied) = (committed_own_file(&reload.config), reload.source.digest());
    Ok(ReloadState { own_file, applied, reloads, ..ReloadState::default() })
}

/// How the command ends: as the first service did that did not stop as it was asked to.
fn outcome(names: &[&'static str], ends: Vec<(usize, ServiceResult)>) -> Result<Outcome, Error> {
    let mut outcome = Ok(Outcome::Success);
    for (place, end) in ends {
        let ended = to_outcome(names[place], end);
        if outcome == Ok(Outcome::Success) {
            outcome = ended;
        }
    }
    outcome
}

/// How one service's end is told, and passed on.
pub(crate) fn to_outcome(name: &str, end: ServiceResult) -> Result<Outcome, Error> {
    match end? {
        Termination::Stopped => {
            info!("{name} has stopped");
            Ok(Outcome::Success)
        }
        Termination::Killed => {
            warn!("{name} was killed");
            Ok(Outcome::Child(Exit::Signal(nix::libc::SIGKILL).code()))
        }
        Termination::Exited(exit) => {
            error!("{name} ended by itself with {exit}");
            Ok(Outcome::Child(exit.code()))
        }
        Termination::NotStarted => {
            let text =
                format!("cannot start {name}: the limit on processes (ulimit -u, pids.max) or memory is reached");
            Err(Error::new(Kind::Unavailable, text))
        }
    }
}
