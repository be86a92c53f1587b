//! The common part of `webserver`, `jobqueue`, `dirmonitor` and `up`: prepare, start, watch, stop, and report the result.

use std::convert::Infallible;
use std::future::pending;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::unbounded_channel;
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
use crate::supervisor::group::{self, GroupMember, Shutdown};
use crate::supervisor::state::Termination;
use crate::supervisor::task::ServiceResult;
use crate::telemetry::counters::{Counters, Event};

use super::bots_environment::{blocking, commit, committed_own_file, service_variables};
use super::channel_check;
use super::config_reload::{ConfigReloader, PendingReload};
use super::control_requests::{RunningServices, report_reload, restart_timeout};
use super::control_socket::{self, Requester};
use super::plugin;
use super::prepare::{Prepared, prepare_services};
use super::relay;
use super::reload_state::{PassedDescriptors, ReloadState};
use super::reload_trial::{self, ReloadTrial};
use super::service_spec::{ServePlan, ServiceSpec};
use super::service_start::{self, RuntimeContext};
use super::session::{Session, run_until_shutdown};
use super::start_summary::{log_when_up, summary};
use super::web_instances::WebInstance;

/// Runs services from the preparations to the end, or until bots-ctl executes itself with another configuration.
pub(crate) async fn serve(mut session: Session, plan: ServePlan) -> Result<Outcome, Error> {
    let started = Instant::now();
    let mut reloaded = session.reloaded.take();
    let root = session.config.environment_root().to_path_buf();
    let has_web = plan.expected(&session.config).contains(&ServiceName::Webserver);
    let mut web = has_web.then(|| WebInstance::take(&root)).transpose()?.flatten();
    let (health, listener) = start_health(&session, &plan.expected(&session.config), reloaded.as_mut()).await?;
    let critical = TaskTracker::new();
    let Session { config, reaper, signals, lines, counters, .. } = &mut session;
    let preparing =
        prepare_services(config, reaper, &plan, reloaded.as_ref().map(|state| state.applied), &critical, &health);
    let Ok(prepared) = run_until_shutdown(signals, &critical, preparing).await else {
        // Python may still work on a request.
        terminate_all(reaper, signals, &[], config.stop.timeout).await;
        info!("stopped before any service was started");
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
    let trial = reloaded.filter(ReloadState::is_watched).map(|state| watch_reload(state, &runtime));
    let names: Vec<&'static str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    tokio::spawn(log_when_up(summary(config, &prepared.django, &names), health.subscribe()));
    let around = (&plan, &prepared, web.as_ref(), trial.as_ref());
    let (ends, stop_begin, mut restart) = run(signals, &runtime, around, specs).await;
    if trial.is_some_and(|trial| trial.restores && !trial.passed.is_cancelled()) && restart.is_none() {
        restart = ends.iter().find_map(|(index, end)| failure(names[*index], end)).map(Restart::RollBack);
    }
    if let Some(restart) = restart {
        let (state, passed) = put_in_place(restart, config, reaper, &prepared, counters).await?;
        // The log is flushed first.
        drop(session);
        return Err(state.reexec(PassedDescriptors { listener, ..passed }));
    }
    // A process that has left the groups of the services, such as a daemon, is still a descendant of bots-ctl.
    let rest = (stop_begin + stop_time).saturating_duration_since(Instant::now());
    terminate_all(reaper, signals, &[], rest.min(config.stop.timeout)).await;
    outcome(&names, ends)
}

/// Watches the services of a reload, and answers the client that waits for it.
fn watch_reload(mut state: ReloadState, runtime: &RuntimeContext<'_>) -> ReloadTrial {
    if let Some(requester) = state.requester().map(Requester::adopt) {
        tokio::spawn(report_reload(runtime.health.subscribe(), state.is_trial, requester));
    }
    ReloadTrial::watch(&mut state, runtime)
}

/// Binds and serves the health listener. It comes first, so that probes can observe the start. The descriptor in the result is
/// a duplicate of the listener's, for the next execution.
async fn start_health(
    session: &Session,
    expected: &[ServiceName],
    reloaded: Option<&mut ReloadState>,
) -> Result<(watch::Sender<HealthState>, Option<OwnedFd>), Error> {
    let Session { config, counters, lines, .. } = session;
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

/// The maximum time from a stop request to the end of all processes: services are stopped one after the other.
fn stop_time(config: &Config, specs: &[ServiceSpec]) -> Duration {
    specs.iter().map(|spec| config.stop.of(spec.name)).map(|times| times.drain + times.timeout).sum()
}

/// The kubelet kills services that take longer than the grace period.
fn check_grace_period(config: &Config, needed: Duration) {
    if let Some(grace) = config.stop.grace_period.filter(|grace| *grace < needed) {
        let (needed, grace) = (needed.as_secs_f64(), grace.as_secs_f64());
        warn!(
            "a stop may take {needed} s (drain and stop timeout), but the kubelet kills the \
             container after {grace} s: raise terminationGracePeriodSeconds and \
             BOTS_CTL_GRACE_PERIOD, or lower BOTS_CTL_DRAIN or BOTS_CTL_STOP_TIMEOUT"
        );
    }
}

/// Runs the services until all have ended. The result contains the end of each, the beginning of the stop, and the next
/// configuration, if they were stopped for a reload.
async fn run(
    signals: &mut Signals,
    runtime: &RuntimeContext<'_>,
    (plan, prepared, web, trial): (&ServePlan, &Prepared, Option<&WebInstance>, Option<&ReloadTrial>),
    specs: Vec<ServiceSpec>,
) -> (Vec<(usize, ServiceResult)>, Instant, Option<Restart>) {
    let RuntimeContext { config, reaper, counters, health, .. } = *runtime;
    if specs.iter().all(|spec| spec.name != ServiceName::Jobqueue) {
        relay::listen(config, prepared.queue.port, counters).await;
    }
    runtime.spawn_checks(&prepared.targets);
    if specs.iter().any(|spec| [ServiceName::Jobqueue, ServiceName::Engine].contains(&spec.name)) {
        let (bots, database) = (prepared.bots.clone(), prepared.targets.database.clone());
        tokio::spawn(channel_check::run(config.clone(), bots, database, health.clone()));
    }
    let has_web = specs.iter().any(|spec| spec.name == ServiceName::Webserver);
    let names = specs.iter().map(|spec| spec.name).collect();
    let members: Vec<GroupMember> =
        specs.into_iter().enumerate().map(|(index, spec)| service_start::member(index, spec, runtime)).collect();
    let (reloads, reload_requests) = unbounded_channel();
    let messages = members.iter().map(|member| member.messages.clone()).collect();
    let running = RunningServices { names, messages, health: health.clone(), restart_timeout: restart_timeout(config) };
    tokio::spawn(running.obey(control_socket::listen(config.health.addr.port()), reloads));
    let (shutdown, mut next, mut stop_begin) = (Shutdown::default(), None, None);
    let mut reloader = ConfigReloader::new(*runtime, plan, prepared, reload_requests);
    let reloading = async {
        next = shutdown.stop.run_until_cancelled(next_restart(&mut reloader, trial)).await;
        if let Some(Restart::RollBack(_)) = &next {
            shutdown.reload.cancel();
        } else if next.is_some() {
            info!("the configuration is valid; restarting the services");
            health.send_modify(|state| state.reloading = true);
            // Draining is only useful if another web UI can serve the requests.
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
        never = plugin::watch::run(config, reaper, health), if has_web => match never {},
    };
    (ends, stop_begin.unwrap_or_else(Instant::now), next.filter(|_| !shutdown.stop.is_cancelled()))
}

/// Why bots-ctl starts again in its own place.
enum Restart {
    /// A changed configuration is valid.
    Reload(Box<PendingReload>),
    /// The reason, if the services have failed with the last configuration.
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

/// The failure of a service that exited without a request.
fn failure(name: &str, end: &ServiceResult) -> Option<String> {
    match end {
        Ok(Termination::Exited(exit)) => Some(format!("{name} exited unexpectedly: {exit}")),
        Err(error) => Some(error.to_string()),
        Ok(_) => None,
    }
}

/// Restores the previous files, and returns the state for the next start with them.
async fn roll_back(
    config: &Config,
    prepared: &Prepared,
    counters: &Counters,
    reason: String,
) -> Result<ReloadState, Error> {
    error!("the services failed to start with the changed configuration; restoring the previous one: {reason}");
    let (own, applied) = (config.clone(), prepared.applied);
    blocking(move || reload_trial::roll_back(&own, applied, &reason)).await??;
    let reloads = [Event::ReloadApplied, Event::ReloadRefused].map(|event| counters.of(event));
    // None of the mounted files is in use: the first poll will reject them.
    Ok(ReloadState { own_file: committed_own_file(config), reloads, ..ReloadState::default() })
}

/// Gives load balancers time to detect that the web UI is about to stop.
async fn drain_web_ui(health: &watch::Sender<HealthState>, drain: Duration) {
    info!("draining the web UI for {} s, since other replicas share its volume", drain.as_secs_f64());
    health.send_modify(|state| {
        let name = ServiceName::Webserver.as_str();
        state.services.iter_mut().filter(|service| service.name == name).for_each(|web| web.phase = Phase::Draining);
    });
    sleep(drain).await;
}

/// Commits the files of the next start, and returns its state, with the turn.
async fn put_in_place(
    restart: Restart,
    config: &Config,
    reaper: &Reaper,
    prepared: &Prepared,
    counters: &Counters,
) -> Result<(ReloadState, PassedDescriptors), Error> {
    match restart {
        Restart::Reload(reload) => commit_reload(reaper, &prepared.bots, *reload, counters).await,
        Restart::RollBack(reason) => {
            Ok((roll_back(config, prepared, counters, reason).await?, PassedDescriptors::default()))
        }
    }
}

/// Commits a reload.
async fn commit_reload(
    reaper: &Reaper,
    bots: &Installation,
    reload: PendingReload,
    counters: &Counters,
) -> Result<(ReloadState, PassedDescriptors), Error> {
    let PendingReload { config, source, django, turn, is_trial, requester } = reload;
    let environment = commit(&config, bots, &source).await?;
    let variables = service_variables(&config, bots);
    django.write_cache(&BotsContext { reaper, bots, environment: &environment, variables: &variables });
    let reloads = [counters.of(Event::ReloadApplied) + 1, counters.of(Event::ReloadRefused)];
    let (own_file, applied) = (committed_own_file(&config), source.digest());
    let state = ReloadState { own_file, applied, reloads, is_trial, ..ReloadState::default() };
    let (turn, requester) = (turn.into_descriptor(), requester.map(Requester::into_descriptor));
    Ok((state, PassedDescriptors { listener: None, turn, requester }))
}

/// The outcome of the command: that of the first service that was not stopped in order.
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
            error!("{name} exited unexpectedly: {exit}");
            Ok(Outcome::Child(exit.code()))
        }
        Termination::NotStarted => {
            let limits = "the limit on processes (ulimit -u, pids.max), open files (ulimit -n) or memory is reached";
            Err(Error::new(Kind::Unavailable, format!("cannot start {name}: {limits}")))
        }
    }
}
