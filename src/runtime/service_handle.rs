//! The place of a service that runs: how it becomes a member of the fleet, and how another one takes its place.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::health::checks;
use crate::health::checks::CheckTargets;
use crate::health::state::HealthState;
use crate::health::{edi_refresh, watchdog};
use crate::model::{LivenessProbe, ServiceName};
use crate::process::reaper::Reaper;
use crate::supervisor::group;
use crate::supervisor::group::GroupMember;
use crate::telemetry::child_output::ServiceOutput;
use crate::telemetry::counters::Counters;

use super::dirmonitor_service::DirMonitorService;
use super::events::{Reconfiguration, update_service_health};
use super::in_process::Handover;
use super::jobqueue_service::JobQueueService;
use super::service_spec::{ServiceKind, ServiceSpec};

/// What all services need.
#[derive(Clone, Copy)]
pub(crate) struct RuntimeContext<'a> {
    pub config: &'a Config,
    pub reaper: &'a Reaper,
    pub lines: &'a ServiceOutput,
    pub counters: &'a Arc<Counters>,
    pub health: &'a watch::Sender<HealthState>,
}

impl RuntimeContext<'_> {
    /// Looks at what the services stand on, and at what came of the engine's runs.
    pub fn spawn_checks(&self, targets: &CheckTargets) -> Vec<JoinHandle<()>> {
        let (database, time_zone) = (targets.database.clone(), targets.time_zone.clone());
        let interval = self.config.health.results_interval;
        vec![
            tokio::spawn(edi_refresh::run(database, time_zone, interval, self.health.clone())),
            tokio::spawn(checks::run(targets.clone(), Arc::clone(self.counters), self.health.clone())),
        ]
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

/// A service that runs.
pub(crate) struct ServiceHandle {
    pub name: ServiceName,
    pub kind: HandleKind,
    index: usize,
    probe: Option<LivenessProbe>,
    watchdog: Option<JoinHandle<()>>,
}

/// What it is, and how it hears of its successor.
pub(crate) enum HandleKind {
    /// A process of Bots.
    Child,
    /// A process that is run again and again, and let finish each time.
    Periodic,
    JobQueue(Handover<JobQueueService>),
    DirMonitor(Handover<DirMonitorService>),
}

impl ServiceHandle {
    /// Takes the place at `index` of the facts.
    pub fn start(index: usize, spec: ServiceSpec, runtime: &RuntimeContext<'_>) -> (Self, GroupMember) {
        let RuntimeContext { config, reaper, counters, health, .. } = runtime;
        let (name, probe, watchdog) = (spec.name, spec.probe().cloned(), spawn_watchdog(index, &spec, runtime));
        let (kind, work) = match spec.work {
            ServiceKind::Child(process) => {
                let every = process.every;
                let kind = if every.is_some() { HandleKind::Periodic } else { HandleKind::Child };
                let service = process.supervised(spec.times, config, runtime.lines(name));
                let (health, is_watched) = ((*health).clone(), service.has_liveness_probe);
                let observe = Box::new(move |snapshot| {
                    health.send_modify(|state| {
                        update_service_health(&mut state.services[index], snapshot, is_watched, every.is_some())
                    });
                });
                (kind, group::MemberKind::Process(Box::new(group::ChildMember { service, every, observe })))
            }
            ServiceKind::JobQueue(queue) => {
                let handover = Handover::default();
                let task = queue.task(index, reaper, &runtime.lines(name), health, handover.clone());
                (HandleKind::JobQueue(handover), group::MemberKind::Task(task))
            }
            ServiceKind::DirMonitor(monitor) => {
                let handover = Handover::default();
                (
                    HandleKind::DirMonitor(handover.clone()),
                    group::MemberKind::Task(monitor.task(index, health, counters, handover)),
                )
            }
        };
        let mut turn = health.subscribe();
        let turn = Box::pin(async move {
            let _ = turn.wait_for(|state| state.services[..index].iter().all(|service| service.alive)).await;
        });
        (Self { name, kind, index, probe, watchdog }, GroupMember { name: name.as_str(), work, turn })
    }

    /// Has another one take the place, as soon as this one has finished what it does.
    pub async fn reconfigure(
        &mut self,
        spec: ServiceSpec,
        runtime: &RuntimeContext<'_>,
        reconfigurations: &mpsc::Sender<Reconfiguration>,
    ) {
        let reply = spec.ready_message();
        if self.probe.as_ref() != spec.probe() {
            self.probe = spec.probe().cloned();
            // Nobody asks the old process in the new way: it is no longer running when the first question is due.
            self.watchdog.iter().for_each(JoinHandle::abort);
            self.watchdog = spawn_watchdog(self.index, &spec, runtime);
        }
        match (&self.kind, spec.work) {
            (HandleKind::Child | HandleKind::Periodic, ServiceKind::Child(process)) => {
                let service = Box::new(process.supervised(spec.times, runtime.config, runtime.lines(self.name)));
                let _ = reconfigurations.send(Reconfiguration { index: self.index, service, reply }).await;
            }
            (HandleKind::JobQueue(handover), ServiceKind::JobQueue(queue)) => handover.set(*queue),
            (HandleKind::DirMonitor(handover), ServiceKind::DirMonitor(monitor)) => handover.set(*monitor),
            // What a service is does not change while bots-ctl runs.
            (HandleKind::Child | HandleKind::Periodic | HandleKind::JobQueue(_) | HandleKind::DirMonitor(_), _) => {}
        }
    }
}

/// Looks for signs of life from now on.
fn spawn_watchdog(index: usize, spec: &ServiceSpec, runtime: &RuntimeContext<'_>) -> Option<JoinHandle<()>> {
    let probe = spec.probe()?.clone();
    let watching = watchdog::run(index, probe, runtime.config.health.interval, runtime.health.clone());
    Some(tokio::spawn(watching))
}
