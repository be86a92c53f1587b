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
use crate::config::Config;
use crate::exit::{Error, Exit, Kind, Outcome};
use crate::health::rules::CONFIG;
use crate::health::state::{CheckResult, HealthState, Phase, ServiceHealth};
use crate::metrics::Exporter;
use crate::model::ServiceName;
use crate::process::signals::Signals;
use crate::process::terminate::terminate_all;
use crate::supervisor::group::{self, GroupMember, Shutdown};
use crate::supervisor::state::Termination;
use crate::supervisor::task::ServiceResult;
use crate::telemetry::counters::CountedEvent;

use super::bots_environment::blocking;
use super::channel_check;
use super::config_reload::ConfigReloader;
use super::control_requests::{RunningServices, report_reload, restart_timeout};
use super::control_socket::{self, Requester};
use super::plugin;
use super::prepare::{Prepared, prepare_services};
use super::relay;
use super::reload_state::{PassedDescriptors, ReloadState};
use super::reload_trial::ReloadTrial;
use super::restart::{Restart, abandon_reload, put_in_place};
use super::service_spec::{ServePlan, ServiceSpec};
use super::service_start::{self, RuntimeContext};
use super::session::{Session, run_until_shutdown};
use super::start_summary::{log_when_up, summary};
use super::web_instances::WebInstance;

/// Runs services from the preparations to the end, or until bots-ctl executes itself with another configuration.
pub(crate) async fn serve(mut session: Session, plan: ServePlan) -> Result<Outcome, Error> {
    let began = Instant::now();
    let mut reloaded = session.reloaded.take();
    let mut listener = None;
    match start(&mut session, &plan, reloaded.as_mut(), &mut listener).await {
        Ok(Some(start)) => run_to_end(session, &plan, start, reloaded, listener, began).await,
        Ok(None) => {
            info!("stopped before any service was started");
            Ok(Outcome::Success)
        }
        Err(error) => Err(abandon_reload(session, reloaded, listener, error).await),
    }
}

/// The result of a start.
struct Start {
    health: watch::Sender<HealthState>,
    web: Option<WebInstance>,
    prepared: Prepared,
    specs: Vec<ServiceSpec>,
}

/// Serves health probes, and prepares the services; `None` if a signal asks for a stop before they are. `listener` becomes a
/// duplicate of the health listener, for the next execution.
async fn start(
    session: &mut Session,
    plan: &ServePlan,
    reloaded: Option<&mut ReloadState>,
    listener: &mut Option<OwnedFd>,
) -> Result<Option<Start>, Error> {
    let root = session.config.environment_root().to_path_buf();
    let expected = plan.expected(&session.config);
    let has_web = expected.contains(&ServiceName::Webserver);
    let mut web = has_web.then(|| WebInstance::take(&root)).transpose()?.flatten();
    let committed = reloaded.as_ref().map(|state| state.applied);
    let health = start_health(session, &expected, reloaded, listener).await?;
    let critical = TaskTracker::new();
    let Session { config, reaper, signals, .. } = session;
    let preparing = prepare_services(config, reaper, plan, committed, &critical, &health);
    let Ok(prepared) = run_until_shutdown(signals, &critical, preparing).await else {
        // Python may still work on a request.
        terminate_all(reaper, signals, &[], config.stop.timeout).await;
        return Ok(None);
    };
    let (prepared, specs) = prepared?;
    health.send_modify(|state| {
        state.checks.set(CONFIG, CheckResult::Ok);
        state.services = specs.iter().map(ServiceSpec::health).collect();
    });
    if specs.iter().any(|spec| spec.name == ServiceName::Webserver) {
        web = web.map_or_else(|| WebInstance::take(&root), |web| Ok(Some(web)))?;
        let announce = move || {
            web.iter_mut().for_each(|web| web.announce(&root));
            web
        };
        web = blocking(announce).await?;
    }
    Ok(Some(Start { health, web, prepared, specs }))
}

/// Runs the prepared services.
async fn run_to_end(
    mut session: Session,
    plan: &ServePlan,
    Start { health, web, prepared, specs }: Start,
    reloaded: Option<ReloadState>,
    listener: Option<OwnedFd>,
    began: Instant,
) -> Result<Outcome, Error> {
    let Session { config, reaper, signals, lines, counters, .. } = &mut session;
    let stop_time = stop_time(config, &specs);
    check_grace_period(config, stop_time);
    let restart_unresponsive = config.watchdog.restart.unwrap_or(plan.restarts_unresponsive());
    let runtime =
        RuntimeContext { config, reaper, lines, counters, health: &health, started: began, restart_unresponsive };
    let trial = reloaded.filter(ReloadState::is_watched).map(|state| watch_reload(state, &runtime));
    let names: Vec<&'static str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    tokio::spawn(log_when_up(summary(config, &prepared.django, &names), health.subscribe()));
    let inputs = RunInputs { plan, prepared: &prepared, web: web.as_ref(), trial: trial.as_ref() };
    let RunEnd { ends, stop_begin, is_requested, mut restart } = run(signals, &runtime, inputs, specs).await;
    let is_on_trial = trial.is_some_and(|trial| trial.restores && !trial.passed.is_cancelled());
    // A service may exit uncleanly after a request to stop: that is no fault of the configuration.
    if is_on_trial && !is_requested && restart.is_none() {
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

/// Binds and serves the health listener. It comes first, so that probes can observe the start.
async fn start_health(
    session: &Session,
    expected: &[ServiceName],
    reloaded: Option<&mut ReloadState>,
    duplicate: &mut Option<OwnedFd>,
) -> Result<watch::Sender<HealthState>, Error> {
    let Session { config, counters, lines, .. } = session;
    let health = config.health;
    let state = HealthState {
        services: expected.iter().map(|name| ServiceHealth::new(name.as_str(), *name != ServiceName::Engine)).collect(),
        misses_allowed: config.watchdog.failure_threshold,
        database_only: health.database_only,
        ..HealthState::default()
    };
    let inherited = reloaded.and_then(|state| {
        counters.add(CountedEvent::ReloadApplied, state.applied_reloads);
        counters.add(CountedEvent::ReloadRefused, state.rejected_reloads);
        state.listener()
    });
    let sender = watch::Sender::new(state);
    let listener = server::bind(health.addr, inherited).await.map_err(|error| {
        let text = format!("cannot listen on {} for health probes: {error}", health.addr);
        Error::new(Kind::Unavailable, format!("{text}; set BOTS_CTL_HEALTH_ADDR to a free address"))
    })?;
    *duplicate = listener.as_fd().try_clone_to_owned().ok();
    let exporter =
        Arc::new(Exporter::new(Arc::clone(counters), lines.clone(), config.metrics.max_label_values as usize));
    let pages = AdminPages { metrics: exporter, has_status: health.status_page };
    tokio::spawn(server::serve(listener, sender.subscribe(), Arc::clone(counters), pages));
    Ok(sender)
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

/// What the running services need besides their context.
struct RunInputs<'a> {
    plan: &'a ServePlan,
    prepared: &'a Prepared,
    web: Option<&'a WebInstance>,
    trial: Option<&'a ReloadTrial>,
}

/// How all services have ended.
struct RunEnd {
    /// The end of each, by its index.
    ends: Vec<(usize, ServiceResult)>,
    /// When the stop began.
    stop_begin: Instant,
    /// Whether a signal has asked for it.
    is_requested: bool,
    /// Why bots-ctl executes itself again, if they were stopped for that.
    restart: Option<Restart>,
}

/// Runs the services until all have ended.
async fn run(
    signals: &mut Signals,
    runtime: &RuntimeContext<'_>,
    RunInputs { plan, prepared, web, trial }: RunInputs<'_>,
    specs: Vec<ServiceSpec>,
) -> RunEnd {
    let RuntimeContext { config, reaper, counters, health, .. } = *runtime;
    if specs.iter().all(|spec| spec.name != ServiceName::Jobqueue) {
        relay::listen(config, prepared.queue.port, counters).await;
    }
    runtime.spawn_checks(&prepared.targets);
    if specs.iter().any(|spec| [ServiceName::Jobqueue, ServiceName::Engine].contains(&spec.name)) {
        let (bots, database) = (prepared.bots.clone(), prepared.targets.database.clone());
        tokio::spawn(channel_check::run(config.clone(), bots, database, health.clone()));
    }
    let applied = specs.iter().any(|spec| spec.name == ServiceName::Webserver).then_some(config);
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
        match &next {
            Some(Restart::Reload(_)) => begin_reload(runtime, web, &shutdown).await,
            Some(Restart::RollBack(_)) => shutdown.reload.cancel(),
            None => {}
        }
        shutdown.stop.cancelled().await;
        stop_begin = Some(Instant::now());
        health.send_modify(|state| (state.reloading, state.stopping) = (false, true));
        pending::<Infallible>().await
    };
    let ends = tokio::select! {
        ends = plugin::watch::run_beside(applied, reaper, health, group::run(members, signals, &shutdown)) => ends,
        never = reloading => match never {},
    };
    RunEnd {
        ends,
        stop_begin: stop_begin.unwrap_or_else(Instant::now),
        is_requested: shutdown.signal.is_cancelled(),
        restart: next.filter(|_| !shutdown.stop.is_cancelled()),
    }
}

/// Stops the services for a reload, the web UI only when load balancers have noticed, if another one can serve their requests.
async fn begin_reload(runtime: &RuntimeContext<'_>, web: Option<&WebInstance>, shutdown: &Shutdown) {
    info!("the configuration is valid; restarting the services");
    runtime.health.send_modify(|state| state.reloading = true);
    if web.is_some_and(|web| !web.is_alone()) {
        shutdown.stop.run_until_cancelled(drain_web_ui(runtime.health, runtime.config.reload.drain)).await;
    }
    shutdown.reload.cancel();
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

/// Gives load balancers time to detect that the web UI is about to stop.
async fn drain_web_ui(health: &watch::Sender<HealthState>, drain: Duration) {
    info!("draining the web UI for {} s, since other replicas share its volume", drain.as_secs_f64());
    health.send_modify(|state| {
        let name = ServiceName::Webserver.as_str();
        state.services.iter_mut().filter(|service| service.name == name).for_each(|web| web.phase = Phase::Draining);
    });
    sleep(drain).await;
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
