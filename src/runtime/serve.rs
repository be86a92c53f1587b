//! The common part of `webserver`, `jobqueue`, `dirmonitor` and `up`: prepare, start, watch, stop, and report the end.

use std::convert::Infallible;
use std::fs::File;
use std::future::pending;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::admin::server;
use crate::admin::server::AdminPages;
use crate::bots::Installation;
use crate::bots::context::BotsContext;
use crate::config::Config;
use crate::exit::{Error, Exit, Kind, Outcome};
use crate::health::rules::CONFIG;
use crate::health::state::{CheckResult, HealthState, Phase, ServiceHealth};
use crate::metrics::Exporter;
use crate::model::ServiceName;
use crate::process::reaper::Reaper;
use crate::process::signals::Signals;
use crate::process::terminate::terminate_all;
use crate::supervisor::group::{self, Shutdown};
use crate::supervisor::state::Termination;
use crate::supervisor::task::ServiceResult;
use crate::telemetry::counters::{Counters, Event};

use super::bots_environment::{blocking, commit, committed_own_file, service_variables};
use super::channel_check;
use super::config_reload::{ConfigReloader, PendingReload};
use super::prepare::{Prepared, prepare_services};
use super::relay;
use super::reload_state::ReloadState;
use super::reload_trial::{self, ReloadTrial};
use super::service_spec::{ServePlan, ServiceSpec};
use super::service_start::{self, RuntimeContext};
use super::session::{App, run_until_shutdown};
use super::web_instances::WebInstance;

/// Runs services from the preparations to the end, or until bots-ctl starts again with another configuration.
pub(crate) async fn serve(mut session: App, plan: ServePlan) -> Result<Outcome, Error> {
    let started = Instant::now();
    let mut reloaded = session.reloaded.take();
    let root = session.config.environment_root().to_path_buf();
    let has_web = plan.expected(&session.config).contains(&ServiceName::Webserver);
    let mut web = has_web.then(|| WebInstance::take(&root)).transpose()?.flatten();
    let (health, listener) = start_health(&session, &plan.expected(&session.config), reloaded.as_mut()).await?;
    let critical = TaskTracker::new();
    let App { config, reaper, signals, lines, counters, .. } = &mut session;
    let preparing =
        prepare_services(config, reaper, &plan, reloaded.as_ref().map(|state| state.applied), &critical, &health);
    let Ok(prepared) = run_until_shutdown(signals, &critical, preparing).await else {
        // Python may still work on a request.
        terminate_all(reaper, signals, &[], config.stop.timeout).await;
        info!("stopped before anything was started");
        return Ok(Outcome::Success);
    };
    let (prepared, specs) = prepared?;
    health.send_modify(|state| {
        state.checks.set(CONFIG, CheckResult::Ok);
        state.services = specs.iter().map(ServiceSpec::health).collect();
    });
    if specs.iter().any(|spec| spec.name == ServiceName::Webserver) {
        web = web.map_or_else(|| WebInstance::take(&root), |web| Ok(Some(web)))?;
        web.iter_mut().for_each(|web| web.announce(&root));
    }
    let stop_time = stop_time(config, &specs);
    check_grace_period(config, stop_time);
    let restart_unresponsive = config.watchdog.restart.unwrap_or(plan.restarts_unresponsive());
    let runtime = RuntimeContext { config, reaper, lines, counters, health: &health, started, restart_unresponsive };
    let trial = reloaded.filter(|state| state.is_trial);
    let trial = trial.map(|mut state| ReloadTrial::watch(state.applied, state.turn().map(File::from), &runtime));
    let names: Vec<&'static str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let around = (&plan, &prepared, web.as_ref(), trial.as_ref());
    let (ends, stop_begin, mut restart) = run(signals, &runtime, around, specs).await;
    if trial.is_some_and(|trial| !trial.passed.is_cancelled()) && restart.is_none() {
        restart = ends.iter().find_map(|(index, end)| failure(names[*index], end)).map(Restart::RollBack);
    }
    if let Some(restart) = restart {
        let (state, turn) = put_in_place(restart, config, reaper, &prepared, counters).await?;
        // The log is flushed first.
        drop(session);
        return Err(state.reexec(listener, turn));
    }
    // A process that has left the groups of the services, such as a daemon, is below us all the same.
    let rest = (stop_begin + stop_time).saturating_duration_since(Instant::now());
    terminate_all(reaper, signals, &[], rest.min(config.stop.timeout)).await;
    outcome(&names, ends)
}

/// Binds and serves the health listener. It comes first: from here on probes see how far the start has come. The descriptor in
/// the result is a second one of the listener, for the next start in this place.
async fn start_health(
    session: &App,
    expected: &[ServiceName],
    reloaded: Option<&mut ReloadState>,
) -> Result<(watch::Sender<HealthState>, Option<OwnedFd>), Error> {
    let App { config, counters, lines, .. } = session;
    let health = config.health;
    let state = HealthState {
        services: expected.iter().map(|name| ServiceHealth::new(name.as_str(), *name != ServiceName::Engine)).collect(),
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

/// The longest time from a request to stop to the end of every process: services are stopped one after the other.
fn stop_time(config: &Config, specs: &[ServiceSpec]) -> Duration {
    specs.iter().map(|spec| config.stop.of(spec.name)).map(|times| times.drain + times.timeout).sum()
}

/// The kubelet kills services that take longer than the grace period.
fn check_grace_period(config: &Config, needed: Duration) {
    if let Some(grace) = config.stop.grace_period.filter(|grace| *grace < needed) {
        let (needed, grace) = (needed.as_secs_f64(), grace.as_secs_f64());
        warn!(
            "stopping may take {needed} s (drain and stop timeout), but the grace period is {grace} s, after which \
             everything is killed: raise terminationGracePeriodSeconds and BOTS_CTL_GRACE_PERIOD, or lower \
             BOTS_CTL_DRAIN or BOTS_CTL_STOP_TIMEOUT"
        );
    }
}

/// Runs the services until all have ended. The result is the end of each, the begin of the stop, and the configuration to start
/// again with where they were stopped for that.
async fn run(
    signals: &mut Signals,
    runtime: &RuntimeContext<'_>,
    (plan, prepared, web, trial): (&ServePlan, &Prepared, Option<&WebInstance>, Option<&ReloadTrial>),
    specs: Vec<ServiceSpec>,
) -> (Vec<(usize, ServiceResult)>, Instant, Option<Restart>) {
    let RuntimeContext { config, counters, health, .. } = *runtime;
    if specs.iter().all(|spec| spec.name != ServiceName::Jobqueue) {
        relay::listen(config, prepared.queue.port, counters).await;
    }
    runtime.spawn_checks(&prepared.targets);
    if specs.iter().any(|spec| [ServiceName::Jobqueue, ServiceName::Engine].contains(&spec.name)) {
        let (bots, database) = (prepared.bots.clone(), prepared.targets.database.clone());
        tokio::spawn(channel_check::run(config.clone(), bots, database, health.clone()));
    }
    let members =
        specs.into_iter().enumerate().map(|(index, spec)| service_start::member(index, spec, runtime)).collect();
    let (shutdown, mut next, mut stop_begin) = (Shutdown::default(), None, None);
    let mut reloader = ConfigReloader::new(*runtime, plan, prepared);
    let reloading = async {
        next = shutdown.stop.run_until_cancelled(next_restart(&mut reloader, trial)).await;
        if let Some(Restart::RollBack(_)) = &next {
            shutdown.reload.cancel();
        } else if next.is_some() {
            info!("the mounted configuration has changed and is valid: stopping the services to start again with it");
            health.send_modify(|state| state.reloading = true);
            // Requests can only go to another web UI where there is one.
            if web.is_some_and(|web| !web.is_alone()) {
                shutdown.stop.run_until_cancelled(drain_web_ui(health, config.reload.drain)).await;
            }
            shutdown.reload.cancel();
        }
        shutdown.stop.cancelled().await;
        stop_begin = Some(Instant::now());
        health.send_modify(|state| (state.reloading, state.stopping) = (false, true));
        pending::<Infallible>().await
    };
    let ends = tokio::select! {
        ends = group::run(members, signals, &shutdown) => ends,
        never = reloading => match never {},
    };
    (ends, stop_begin.unwrap_or_else(Instant::now), next.filter(|_| !shutdown.stop.is_cancelled()))
}

/// Why bots-ctl starts again in its own place.
enum Restart {
    /// A changed configuration is valid.
    Reload(Box<PendingReload>),
    /// The services have not come up with the last one: the reason.
    RollBack(String),
}

async fn next_restart(reloader: &mut ConfigReloader<'_>, trial: Option<&ReloadTrial>) -> Restart {
    let failed = async {
        match trial {
            Some(trial) => trial.failed.cancelled().await,
            None => pending().await,
        }
    };
    tokio::select! {
        reload = reloader.next() => Restart::Reload(Box::new(reload)),
        () = failed => Restart::RollBack(ReloadTrial::late()),
    }
}

/// How a service has ended by itself.
fn failure(name: &str, end: &ServiceResult) -> Option<String> {
    match end {
        Ok(Termination::Exited(exit)) => Some(format!("{name} ended by itself with {exit}")),
        Err(error) => Some(error.to_string()),
        Ok(_) => None,
    }
}

/// Puts the files of before back, and returns the state for the next start with them.
async fn roll_back(
    config: &Config,
    prepared: &Prepared,
    counters: &Counters,
    reason: String,
) -> Result<ReloadState, Error> {
    error!("the changed configuration did not come up, and the one before is put back: {reason}");
    let (own, applied) = (config.clone(), prepared.applied);
    blocking(move || reload_trial::roll_back(&own, applied, &reason)).await??;
    let reloads = [Event::ReloadApplied, Event::ReloadRefused].map(|event| counters.of(event));
    // None of the mounted files is in use: the first look at them finds that they are refused.
    Ok(ReloadState { own_file: committed_own_file(config), reloads, ..ReloadState::default() })
}

/// Lets load balancers notice that the web UI is about to stop.
async fn drain_web_ui(health: &watch::Sender<HealthState>, drain: Duration) {
    info!("the web UI drains for {} s, since others share its volume", drain.as_secs_f64());
    health.send_modify(|state| {
        let name = ServiceName::Webserver.as_str();
        state.services.iter_mut().filter(|service| service.name == name).for_each(|web| web.phase = Phase::Draining);
    });
    sleep(drain).await;
}

/// Puts the files of the next start in their places, and returns its state, with the turn.
async fn put_in_place(
    restart: Restart,
    config: &Config,
    reaper: &Reaper,
    prepared: &Prepared,
    counters: &Counters,
) -> Result<(ReloadState, Option<OwnedFd>), Error> {
    match restart {
        Restart::Reload(reload) => commit_reload(reaper, &prepared.bots, *reload, counters).await,
        Restart::RollBack(reason) => Ok((roll_back(config, prepared, counters, reason).await?, None)),
    }
}

/// Commits a reload.
async fn commit_reload(
    reaper: &Reaper,
    bots: &Installation,
    reload: PendingReload,
    counters: &Counters,
) -> Result<(ReloadState, Option<OwnedFd>), Error> {
    let PendingReload { config, source, django, turn } = reload;
    let environment = commit(&config, bots, &source).await?;
    let variables = service_variables(&config, bots);
    django.write_cache(&BotsContext { reaper, bots, environment: &environment, variables: &variables });
    let reloads = [counters.of(Event::ReloadApplied) + 1, counters.of(Event::ReloadRefused)];
    let (own_file, applied) = (committed_own_file(&config), source.digest());
    let state = ReloadState { own_file, applied, reloads, is_trial: true, ..ReloadState::default() };
    Ok((state, turn.map(OwnedFd::from)))
}

/// How the command ends: as the first service did that was not stopped in order.
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

/// Logs the end of one service, and returns the outcome for the command.
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
            let limits = "the limit on processes (ulimit -u, pids.max), open files (ulimit -n) or memory is reached";
            Err(Error::new(Kind::Unavailable, format!("cannot start {name}: {limits}")))
        }
    }
}
