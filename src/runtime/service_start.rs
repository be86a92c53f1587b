//! How a service becomes a member of the group, and what all of them need.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::Config;
use crate::health::checks;
use crate::health::checks::CheckTargets;
use crate::health::state::HealthState;
use crate::health::{edi_refresh, watchdog};
use crate::model::ServiceName;
use crate::process::reaper::Reaper;
use crate::supervisor::group;
use crate::supervisor::group::GroupMember;
use crate::telemetry::child_output::ServiceOutput;
use crate::telemetry::counters::Counters;

use super::events::update_service_health;
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

/// A service as a member of the group, at `index` of the facts.
pub(crate) fn start(index: usize, spec: ServiceSpec, runtime: &RuntimeContext<'_>) -> GroupMember {
    let RuntimeContext { config, reaper, counters, health, .. } = runtime;
    if let Some(probe) = spec.probe().cloned() {
        tokio::spawn(watchdog::run(index, probe, config.health.interval, (*health).clone()));
    }
    let name = spec.name;
    let work = match spec.work {
        ServiceKind::Child(process) => {
            let every = process.every;
            let service = process.supervised(spec.times, config, runtime.lines(name));
            let (health, is_watched) = ((*health).clone(), service.has_liveness_probe);
            let observe = Box::new(move |snapshot| {
                health.send_modify(|state| {
                    update_service_health(&mut state.services[index], snapshot, is_watched, every.is_some())
                });
            });
            group::MemberKind::Process(Box::new(group::ChildMember { service, every, observe }))
        }
        ServiceKind::JobQueue(queue) => {
            group::MemberKind::Task(queue.task(index, reaper, &runtime.lines(name), health))
        }
        ServiceKind::DirMonitor(monitor) => group::MemberKind::Task(monitor.task(index, health, counters)),
    };
    let mut turn = health.subscribe();
    let turn = Box::pin(async move {
        let _ = turn.wait_for(|state| state.services[..index].iter().all(|service| service.alive)).await;
    });
    GroupMember { name: name.as_str(), work, turn }
}
