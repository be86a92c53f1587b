//! The place of a service that runs: how it becomes a member of the fleet, and how another one takes its place.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::bots::services::Sign;
use crate::config::{Config, ServiceName};
use crate::health::checks;
use crate::health::checks::Targets;
use crate::health::state::Facts;
use crate::health::{edi_refresh, watchdog};
use crate::process::reaper::Reaper;
use crate::supervisor::group;
use crate::supervisor::group::Member;
use crate::telemetry::child_output::LineSink;
use crate::telemetry::counters::Counters;

use super::dirmonitor_service::NativeMonitor;
use super::events::{Renewal, note};
use super::in_process::Successor;
use super::jobqueue_service::NativeQueue;
use super::service_spec::{Launch, Work};

/// What all services need.
#[derive(Clone, Copy)]
pub(crate) struct House<'a> {
    pub config: &'a Config,
    pub reaper: &'a Reaper,
    pub lines: &'a LineSink,
    pub counters: &'a Arc<Counters>,
    pub facts: &'a watch::Sender<Facts>,
}

impl House<'_> {
    /// Looks at what the services stand on, and at what came of the engine's runs.
    pub fn check(&self, targets: &Targets) -> Vec<JoinHandle<()>> {
        let (database, time_zone) = (targets.database.clone(), targets.time_zone.clone());
        let interval = self.config.health.results_interval;
        vec![
            tokio::spawn(edi_refresh::watch(database, time_zone, interval, self.facts.clone())),
            tokio::spawn(checks::watch(targets.clone(), Arc::clone(self.counters), self.facts.clone())),
        ]
    }

    /// Where the output of a service goes.
    fn lines(&self, name: ServiceName) -> LineSink {
        if name == ServiceName::Engine { self.lines.of_runs(name.as_str()) } else { self.lines.of(name.as_str()) }
    }
}

/// A service that runs.
pub(crate) struct Seat {
    pub name: ServiceName,
    pub kind: Kind,
    index: usize,
    sign: Sign,
    watchdog: Option<JoinHandle<()>>,
}

/// What it is, and how it hears of its successor.
pub(crate) enum Kind {
    /// A process of Bots.
    Process,
    /// A process that is run again and again, and let finish each time.
    Scheduled,
    Queue(Successor<NativeQueue>),
    Monitor(Successor<NativeMonitor>),
}

impl Seat {
    /// Takes the place at `index` of the facts.
    pub fn fill(index: usize, launch: Launch, house: &House<'_>) -> (Self, Member) {
        let House { config, reaper, counters, facts, .. } = house;
        let (name, sign, watchdog) = (launch.name, launch.sign().clone(), watch_over(index, &launch, house));
        let (kind, work) = match launch.work {
            Work::Process(process) => {
                let every = process.every;
                let kind = if every.is_some() { Kind::Scheduled } else { Kind::Process };
                let service = process.supervised(launch.times, config, house.lines(name));
                let (facts, is_watched) = ((*facts).clone(), service.is_watched);
                let observe = Box::new(move |snapshot| {
                    facts.send_modify(|facts| note(&mut facts.services[index], snapshot, is_watched, every.is_some()));
                });
                (kind, group::Work::Process(Box::new(group::Process { service, every, observe })))
            }
            Work::Queue(queue) => {
                let successor = Successor::default();
                let task = queue.task(index, reaper, &house.lines(name), facts, successor.clone());
                (Kind::Queue(successor), group::Work::Task(task))
            }
            Work::Monitor(monitor) => {
                let successor = Successor::default();
                (Kind::Monitor(successor.clone()), group::Work::Task(monitor.task(index, facts, counters, successor)))
            }
        };
        let mut turn = facts.subscribe();
        let turn = Box::pin(async move {
            let _ = turn.wait_for(|facts| facts.services[..index].iter().all(|service| service.answered)).await;
        });
        (Self { name, kind, index, sign, watchdog }, Member { name: name.as_str(), work, turn })
    }

    /// Has another one take the place, as soon as this one has finished what it does.
    pub async fn renew(&mut self, launch: Launch, house: &House<'_>, renewals: &mpsc::Sender<Renewal>) {
        let answer = launch.place();
        if self.sign != *launch.sign() {
            self.sign = launch.sign().clone();
            // Nobody asks the old process in the new way: it is no longer running when the first question is due.
            self.watchdog.iter().for_each(JoinHandle::abort);
            self.watchdog = watch_over(self.index, &launch, house);
        }
        match (&self.kind, launch.work) {
            (Kind::Process | Kind::Scheduled, Work::Process(process)) => {
                let service = Box::new(process.supervised(launch.times, house.config, house.lines(self.name)));
                let _ = renewals.send(Renewal { place: self.index, service, answer }).await;
            }
            (Kind::Queue(successor), Work::Queue(queue)) => successor.name(*queue),
            (Kind::Monitor(successor), Work::Monitor(monitor)) => successor.name(*monitor),
            // What a service is does not change while bots-ctl runs.
            (Kind::Process | Kind::Scheduled | Kind::Queue(_) | Kind::Monitor(_), _) => {}
        }
    }
}

/// Looks for signs of life from now on.
fn watch_over(index: usize, launch: &Launch, house: &House<'_>) -> Option<JoinHandle<()>> {
    let sign = launch.sign_of_life()?;
    let watching = watchdog::watch(index, sign, house.config.health.interval, house.facts.clone());
    Some(tokio::spawn(watching))
}
