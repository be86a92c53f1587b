//! Adds a service to the group, and connects its state with the health state.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::Config;
use crate::health::checks::{self, CheckTargets};
use crate::health::state::{HealthState, Phase, ServiceHealth};
use crate::health::{edi_refresh, watchdog};
use crate::model::ServiceName;
use crate::process::reaper::Reaper;
use crate::supervisor::group::GroupMember;
use crate::supervisor::interval::run_every;
use crate::supervisor::state::{AfterExit, ServiceState, StopReason};
use crate::supervisor::task::{ProcessMessage, ServiceControl, ServiceResult, ServiceSnapshot, supervise};
use crate::telemetry::child_output::ServiceOutput;
use crate::telemetry::counters::Counters;

use super::service_spec::{ServiceKind, ServiceSpec, supervised};

/// The inputs of all services.
#[derive(Clone, Copy)]
pub(crate) struct RuntimeContext<'a> {
    pub config: &'a Config,
    pub reaper: &'a Reaper,
    pub lines: &'a ServiceOutput,
    pub counters: &'a Arc<Counters>,
    pub health: &'a watch::Sender<HealthState>,
    /// When bots-ctl began.
    pub started: Instant,
    /// Whether an unresponsive service is restarted.
    pub restart_unresponsive: bool,
}

impl RuntimeContext<'_> {
    /// Starts the periodic checks of the services' dependencies, and the reader of the engine's results.
    pub fn spawn_checks(&self, targets: &CheckTargets) {
        let (database, time_zone) = (targets.database.clone(), targets.time_zone.clone());
        let interval = self.config.health.results_interval;
        tokio::spawn(edi_refresh::run(database, time_zone, interval, self.health.clone()));
        tokio::spawn(checks::run(targets.clone(), Arc::clone(self.counters), self.health.clone()));
    }

    /// Where the output of a service goes.
    fn lines(&self, name: ServiceName) -> ServiceOutput {
        if name == ServiceName::Engine {
            self.lines.with_run_ids(name.as_str())
        } else {
            self.lines.for_service(name.as_str())
        }
    }
}

/// The health of one service.
pub(crate) struct HealthSlot {
    pub health: watch::Sender<HealthState>,
    pub index: usize,
}

impl HealthSlot {
    pub fn update(&self, change: impl FnOnce(&mut ServiceHealth)) {
        self.health.send_modify(|health| change(&mut health.services[self.index]));
    }
}

/// A service as a member of the group, whose health is at `index`. Its turn comes when all before it are alive.
pub(crate) fn member(index: usize, spec: ServiceSpec, runtime: &RuntimeContext<'_>) -> GroupMember {
    let (name, (stop, requests)) = (spec.name, unbounded_channel());
    let slot = HealthSlot { health: runtime.health.clone(), index };
    let ready_message = spec.ready_message();
    if let Some(probe) = spec.probe().cloned() {
        tokio::spawn(watchdog::run(index, probe, runtime.config.health.interval, runtime.health.clone()));
    }
    let turn = CancellationToken::new();
    let (mut changes, its_turn) = (runtime.health.subscribe(), turn.clone());
    tokio::spawn(async move {
        let _ = changes.wait_for(|state| state.services[..index].iter().all(|service| service.alive)).await;
        its_turn.cancel();
    });
    let (reaper, lines) = (runtime.reaper.clone(), runtime.lines(name));
    let mut messages = None;
    let work: Pin<Box<dyn Future<Output = ServiceResult> + Send>> = match spec.work {
        ServiceKind::Child(child) => {
            let service = supervised(*child, spec.every.is_some(), runtime.config, lines);
            let (forward, received) = unbounded_channel();
            let snapshot = watch::Sender::default();
            let mut control =
                ServiceControl { stop: requests, messages: received, snapshot, started: None, deadline: None };
            let link = ProcessLink {
                slot,
                messages: forward.clone(),
                has_probe: service.has_liveness_probe,
                is_periodic: spec.every.is_some(),
                restarts_unresponsive: runtime.restart_unresponsive,
                started: runtime.started,
                ready_message,
                alive: None,
                unresponsive: None,
            };
            tokio::spawn(link.run(control.snapshot.subscribe()));
            messages = Some(forward);
            Box::pin(async move {
                match spec.every {
                    Some(every) => run_every(every, &service, &reaper, &mut control).await,
                    None => supervise(&service, &reaper, &mut control).await,
                }
            })
        }
        ServiceKind::JobQueue(queue) => {
            Box::pin(queue.run(reaper, lines, requests, slot, Arc::clone(runtime.counters)))
        }
        ServiceKind::DirMonitor(monitor) => Box::pin(monitor.run(requests, slot, Arc::clone(runtime.counters))),
    };
    GroupMember { name: name.as_str(), turn, stop, messages, work }
}

/// Between a process's supervisor and its health.
struct ProcessLink {
    slot: HealthSlot,
    messages: UnboundedSender<ProcessMessage>,
    has_probe: bool,
    is_periodic: bool,
    restarts_unresponsive: bool,
    started: Instant,
    /// Logged when the service is alive for the first time.
    ready_message: Option<String>,
    /// The process that was reported as alive, and the one that was reported as unresponsive.
    alive: Option<i32>,
    unresponsive: Option<i32>,
}

impl ProcessLink {
    /// Until the supervisor has ended.
    async fn run(mut self, mut snapshots: watch::Receiver<ServiceSnapshot>) {
        let mut changes = self.slot.health.subscribe();
        loop {
            tokio::select! {
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let snapshot = *snapshots.borrow_and_update();
                    self.slot.update(|service| update_health(service, snapshot, self.has_probe, self.is_periodic));
                }
                Ok(()) = changes.changed() => self.report(&changes.borrow_and_update()),
            }
        }
    }

    /// Passes the results of probes to the supervisor.
    fn report(&mut self, health: &HealthState) {
        let service = &health.services[self.slot.index];
        let Some(pid) = service.pid else { return };
        if service.alive && self.alive != Some(pid) {
            self.alive = Some(pid);
            if let Some(message) = self.ready_message.take() {
                info!("{message} after {:.2} s", self.started.elapsed().as_secs_f64());
            }
            let _ = self.messages.send(ProcessMessage::Alive(pid));
        }
        let is_unresponsive = service.countable_failures >= health.misses_allowed.max(1);
        if self.restarts_unresponsive && is_unresponsive && self.unresponsive != Some(pid) {
            self.unresponsive = Some(pid);
            let _ = self.messages.send(ProcessMessage::Unresponsive(pid));
        }
    }
}

/// A process without a probe counts as alive from its start.
fn update_health(service: &mut ServiceHealth, snapshot: ServiceSnapshot, has_probe: bool, is_periodic: bool) {
    if snapshot.pid != service.pid {
        service.started = snapshot.pid.map(|_| Instant::now());
        service.last_start = service.started.or(service.last_start);
        service.alive = !has_probe && snapshot.pid.is_some();
        service.page_error = None;
        service.failures = 0;
        service.countable_failures = 0;
    }
    service.pid = snapshot.pid;
    service.restarts = snapshot.restarts;
    service.last_exit = snapshot.last_exit.or(service.last_exit);
    service.phase = match snapshot.state {
        ServiceState::Starting => Phase::Starting,
        ServiceState::Running => Phase::Running,
        ServiceState::Stopping(_, StopReason::Unresponsive | StopReason::Restart)
        | ServiceState::Killing(StopReason::Unresponsive | StopReason::Restart) => Phase::Restarting,
        ServiceState::WaitingForGroup(AfterExit::Restart) | ServiceState::Backoff => Phase::Restarting,
        ServiceState::Ended(_) if is_periodic => Phase::Waiting,
        ServiceState::Ended(_) => Phase::Ended,
        ServiceState::Draining
        | ServiceState::Stopping(_, StopReason::Shutdown)
        | ServiceState::Killing(StopReason::Shutdown)
        | ServiceState::WaitingForGroup(AfterExit::End(_))
        | ServiceState::KillingGroup(_) => Phase::Draining,
    };
}
