//! Every metric of [`definitions`](super::definitions) with its values, theme by theme.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Instant, SystemTime};

use crate::database::run_metrics::{DURATION_BUCKETS_S, RunOutcome, RunTotals};
use crate::edi::stats::model::{EdiStats, FileCounts};
use crate::health::rules::{CHECKS, evaluate};
use crate::health::state::{
    CheckResult, EngineActivity, HealthState, MonitorStatus, MountedPlugin, Phase, ServiceHealth,
};
use crate::model::{Check, QueueCounts};
use crate::telemetry::child_output::ServiceOutput;
use crate::telemetry::counters::{CountedEvent, Counters};

use super::cpu_totals::UsageSample;
use super::definitions::{self as f, MetricDef};
use super::label_limit::LabelLimit;
use super::writer::{MetricWriter, age, moment, number};

/// One scrape: the page, and the source data of its values.
pub(super) struct Scrape<'a, 'page> {
    pub page: MetricWriter<'page>,
    pub counters: &'a Counters,
    pub lines: &'a ServiceOutput,
    pub routes: &'a LabelLimit<1>,
    pub directories: &'a LabelLimit<2>,
    pub health: &'a HealthState,
    pub usage: &'a UsageSample,
}

impl Scrape<'_, '_> {
    pub fn write(mut self) -> fmt::Result {
        self.process()?;
        self.services()?;
        self.checks()?;
        let is_running = match self.health.engine {
            EngineActivity::Unknown => None,
            EngineActivity::Idle => Some(0.0),
            EngineActivity::Running { .. } => Some(1.0),
        };
        self.page.write_single(&f::ENGINE_RUNNING, is_running)?;
        if let Some(results) = &self.health.results {
            let read = SystemTime::now().checked_sub(Instant::now().duration_since(results.read));
            self.page.write_single(&f::EDI_READ, read.map(moment))?;
            results.stats.totals.as_ref().map_or(Ok(()), |totals| self.engine(totals))?;
            self.routes(&results.stats)?;
        }
        self.health.services.iter().find_map(|service| service.jobs).map_or(Ok(()), |jobs| self.jobs(jobs))?;
        self.events(
            &f::RELAY,
            [
                ("forwarded", CountedEvent::RelayForwarded),
                ("unreachable", CountedEvent::RelayUnreachable),
                ("refused", CountedEvent::RelayRefused),
            ],
        )?;
        self.health.monitor.as_ref().map_or(Ok(()), |monitor| self.monitor(monitor))
    }

    /// How often something has happened, by its outcome.
    fn events<const N: usize>(&mut self, metric: &MetricDef, events: [(&'static str, CountedEvent); N]) -> fmt::Result {
        self.page.write_counts(metric, events.map(|(outcome, event)| (outcome, self.counters.of(event))))
    }

    fn event(&mut self, metric: &MetricDef, event: CountedEvent) -> fmt::Result {
        self.page.write_single(metric, number(self.counters.of(event)))
    }

    fn process(&mut self) -> fmt::Result {
        let (counters, health, own) = (self.counters, self.health, self.usage.own);
        self.page.write_metric(&f::BUILD, [([env!("CARGO_PKG_VERSION").into()], 1.0)])?;
        self.page.write_metric(&f::BOTS, health.bots_version.as_deref().map(|version| ([version.into()], 1.0)))?;
        self.page.write_single(&f::PROCESS_START, moment(counters.started()))?;
        self.page.write_single(&f::PROCESS_MEMORY, own.map(|own| number(own.resident)))?;
        self.page.write_single(&f::PROCESS_CPU, own.map(|own| own.cpu))?;
        self.page.write_single(&f::INIT_DURATION, health.init_run.map(|run| run.took.as_secs_f64()))?;
        self.page.write_single(&f::INIT_SUCCESS, health.init_run.map(|run| f64::from(run.is_success)))?;
        self.events(&f::RELOADS, [("applied", CountedEvent::ReloadApplied), ("refused", CountedEvent::ReloadRefused)])?;
        self.page.write_single(&f::RELOAD_SUCCESS, f64::from(!counters.is_refused()))?;
        let plugin = match health.plugin {
            MountedPlugin::NotTried => None,
            MountedPlugin::Applied => Some(1.0),
            MountedPlugin::Rejected(_) => Some(0.0),
        };
        self.page.write_single(&f::PLUGIN_SUCCESS, plugin)?;
        self.page.write_single(&f::DROPPED, number(self.lines.dropped()))
    }

    fn services(&mut self) -> fmt::Result {
        let services = || self.health.services.iter();
        let of = |service: &ServiceHealth| [service.name.into()];
        self.page.write_metric(&f::UP, services().map(|service| (of(service), f64::from(is_up(service.phase)))))?;
        self.page.write_metric(&f::RESTARTS, services().map(|service| (of(service), f64::from(service.restarts))))?;
        let ended = services().filter_map(|service| Some((of(service), f64::from(service.last_exit?.code()))));
        self.page.write_metric(&f::LAST_EXIT, ended)?;
        let (now, wall) = (Instant::now(), SystemTime::now());
        let begin = |started: Instant| moment(wall.checked_sub(now.duration_since(started)).unwrap_or(wall));
        let started = services().filter_map(|service| Some((of(service), begin(service.started?))));
        self.page.write_metric(&f::STARTED, started)?;
        let used = || self.usage.services.iter();
        self.page.write_counts(&f::PROCESSES, used().map(|(name, usage)| (*name, usage.processes as u64)))?;
        self.page.write_counts(&f::MEMORY, used().map(|(name, usage)| (*name, usage.resident)))?;
        self.page.write_metric(&f::CPU, used().map(|(name, usage)| ([(*name).into()], usage.cpu)))
    }

    fn checks(&mut self) -> fmt::Result {
        let (health, counters) = (self.health, self.counters);
        let probes = [Check::Live, Check::Ready, Check::Startup];
        let status = probes.map(|check| ([check.path().into()], f64::from(evaluate(check, health).healthy)));
        self.page.write_metric(&f::HEALTH, status)?;
        let results = CHECKS.iter().map(|check| (check.name, health.checks.get(check.name)));
        let known = results.filter(|(_, result)| **result != CheckResult::Pending);
        let good = known.map(|(name, result)| ([name.into()], f64::from(*result == CheckResult::Ok)));
        self.page.write_metric(&f::CHECK, good)?;
        let timed = || CHECKS.iter().filter_map(|check| Some((check.name, counters.last_check(check.timer?)?)));
        let took = timed().map(|(name, (took, _))| ([name.into()], took.as_secs_f64()));
        self.page.write_metric(&f::CHECK_DURATION, took)?;
        let ended = timed().map(|(name, (_, ended))| ([name.into()], moment(ended)));
        self.page.write_metric(&f::CHECK_TIME, ended)?;
        self.page.write_single(&f::VOLUME_FREE, counters.free().map(number))?;
        let responses = counters.responses();
        let responses = responses.map(|(path, code, count)| ([path.into(), code.to_string().into()], number(count)));
        self.page.write_metric(&f::PROBES, responses)
    }

    fn engine(&mut self, totals: &RunTotals) -> fmt::Result {
        let runs = RunOutcome::ALL.into_iter().zip(totals.runs).map(|(outcome, count)| (outcome.as_str(), count));
        self.page.write_counts(&f::ENGINE_RUNS, runs)?;
        let ends = DURATION_BUCKETS_S.into_iter().map(f64::from).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = ends.zip(totals.classes).collect();
        self.page.histogram(&f::ENGINE_DURATION, totals.took.as_secs_f64(), &buckets)?;
        self.page.write_single(&f::ENGINE_SUCCESS, totals.last_success.map(moment))?;
        self.page.write_single(&f::ENGINE_WAIT, totals.waited.as_secs_f64())?;
        self.page.write_single(&f::ENGINE_RECOVERIES, number(totals.recoveries))?;
        let (done, failed) = (totals.initialisations, totals.failed_initialisations);
        self.page.write_counts(&f::INIT_RUNS, [("success", done), ("failed", failed)])
    }

    fn routes(&mut self, stats: &EdiStats) -> fmt::Result {
        let named = stats.routes.iter().map(|route| ([route.name.clone()], (route.total, route.recent)));
        // Routes that the reader does not name count as `other`.
        let rest = (stats.rest.routes > 0).then_some((stats.rest.total, stats.rest.recent));
        let join = |(total, recent): &mut (FileCounts, FileCounts), more: (FileCounts, FileCounts)| {
            total.add(more.0);
            recent.add(more.1);
        };
        let sorted = self.routes.group(named, rest, join);
        let mut write = |metric: &MetricDef, value: fn(&(FileCounts, FileCounts)) -> u64| {
            self.page.write_counts(metric, sorted.iter().map(|([route], counts)| (route.as_str(), value(counts))))
        };
        write(&f::EDI_RECEIVED, |(total, _)| total.received)?;
        write(&f::EDI_SENT, |(total, _)| total.sent)?;
        write(&f::EDI_ERRORS, |(total, _)| total.errors)?;
        write(&f::EDI_STUCK, |(_, recent)| recent.stuck)?;
        self.page.write_single(&f::EDI_LOST, number(stats.lost_runs))
    }

    fn jobs(&mut self, jobs: QueueCounts) -> fmt::Result {
        self.page.write_counts(&f::JOBS, [("waiting", jobs.waiting), ("running", jobs.running)])?;
        self.page.write_single(&f::OLDEST_JOB, age(jobs.oldest))?;
        let outcomes = [("done", jobs.done), ("failed", jobs.failed), ("requeued", jobs.requeued)];
        self.page.write_counts(&f::JOBS_ENDED, outcomes)?;
        self.event(&f::JOB_CALLS_REFUSED, CountedEvent::JobCallRefused)
    }

    fn monitor(&mut self, monitor: &MonitorStatus) -> fmt::Result {
        let directories = monitor.directories.iter();
        let mut backends: BTreeMap<&str, u64> = ["inotify", "poll", "both", "none"].map(|backend| (backend, 0)).into();
        for directory in directories.clone() {
            *backends.entry(directory.backend).or_default() += 1;
        }
        self.page.write_counts(&f::DIRECTORIES, backends)?;
        let failed = directories.clone().filter(|directory| directory.error.is_some()).count();
        self.page.write_single(&f::TARGETS_FAILED, number(failed as u64))?;
        // An entry is known by its route and its files.
        let stats = directories.map(|directory| {
            let labels = [directory.files.clone(), directory.route.clone()];
            let unfinished = directory.unfinished.as_ref().map_or(0, |unfinished| unfinished.count);
            (labels, (age(directory.oldest), unfinished))
        });
        let join = |sum: &mut (f64, usize), other: (f64, usize)| *sum = (sum.0.max(other.0), sum.1 + other.1);
        let counts = self.directories.group(stats, None, join);
        self.page.write_metric(&f::OLDEST_FILE, counts.iter().map(|(labels, (age, _))| (borrowed(labels), *age)))?;
        let unfinished = counts.iter().map(|(labels, (_, count))| (borrowed(labels), number(*count as u64)));
        self.page.write_metric(&f::UNFINISHED, unfinished)?;
        self.event(&f::GIVEN_UP, CountedEvent::FileGivenUp)?;
        self.page.write_single(&f::PENDING_ROUTES, number(monitor.pending_routes as u64))?;
        self.event(&f::WATCH_EVENTS, CountedEvent::InotifyEvents)?;
        self.event(&f::FULL_SCANS, CountedEvent::FullScans)?;
        self.event(&f::OVERFLOWS, CountedEvent::EventOverflows)
    }
}

fn borrowed(labels: &[String; 2]) -> [Cow<'_, str>; 2] {
    labels.each_ref().map(Into::into)
}

/// Whether the service does its work, or would if there were any.
fn is_up(phase: Phase) -> bool {
    match phase {
        Phase::Running | Phase::Draining | Phase::Waiting | Phase::Standby => true,
        Phase::Starting | Phase::Restarting | Phase::Ended => false,
    }
}
