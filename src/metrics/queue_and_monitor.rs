//! Metrics of the job queue, of the way to it, and of the directory monitor.

use std::collections::BTreeMap;
use std::fmt;

use crate::health::state::{HealthState, MonitorStatus, QueueCounts};
use crate::telemetry::counters::{Counters, Event};

use super::definitions as f;
use super::label_limit::LabelLimit;
use super::writer::{MetricWriter, age, number};

pub(super) fn write(
    page: &mut MetricWriter<'_>,
    health: &HealthState,
    counters: &Counters,
    names: &LabelLimit,
) -> fmt::Result {
    if let Some(jobs) = health.services.iter().find_map(|service| service.jobs) {
        queue(page, jobs)?;
    }
    let calls = [
        ("forwarded", Event::RelayForwarded),
        ("unreachable", Event::RelayUnreachable),
        ("refused", Event::RelayRefused),
    ];
    page.write_family(&f::RELAY, calls.map(|(outcome, event)| ([outcome.into()], number(counters.of(event)))))?;
    match &health.monitor {
        Some(found) => monitor(page, found, counters, names),
        None => Ok(()),
    }
}

fn queue(page: &mut MetricWriter<'_>, jobs: QueueCounts) -> fmt::Result {
    let states = [("waiting", jobs.waiting), ("running", jobs.running)];
    page.write_family(&f::JOBS, states.map(|(state, count)| ([state.into()], number(count))))?;
    page.write_single(&f::OLDEST_JOB, Some(age(jobs.oldest)))?;
    let outcomes = [("done", jobs.done), ("failed", jobs.failed), ("requeued", jobs.requeued)];
    page.write_family(&f::JOBS_ENDED, outcomes.map(|(outcome, count)| ([outcome.into()], number(count))))
}

fn monitor(
    page: &mut MetricWriter<'_>,
    monitor: &MonitorStatus,
    counters: &Counters,
    names: &LabelLimit,
) -> fmt::Result {
    let directories = monitor.directories.iter();
    let mut backends: BTreeMap<&str, u64> = ["inotify", "poll", "both", "none"].map(|backend| (backend, 0)).into();
    for directory in directories.clone() {
        *backends.entry(directory.backend).or_default() += 1;
    }
    page.write_family(&f::DIRECTORIES, backends.into_iter().map(|(backend, count)| ([backend.into()], number(count))))?;
    let troubled = directories.clone().filter(|directory| directory.error.is_some()).count();
    page.write_single(&f::TROUBLED, Some(number(troubled as u64)))?;
    // One entry is known by its route and its files.
    let stats = directories.map(|directory| {
        let key = format!("{}\0{}", directory.files, directory.route);
        let unfinished = directory.unfinished.as_ref().map_or(0, |unfinished| unfinished.count);
        (key, (age(directory.oldest), unfinished))
    });
    let counts = names.group(stats, None, |sum, other| *sum = (sum.0.max(other.0), sum.1 + other.1));
    let labels = |key: &str| {
        let (files, route) = key.split_once('\0').unwrap_or((key, key));
        [files.to_owned().into(), route.to_owned().into()]
    };
    page.write_family(&f::OLDEST_FILE, counts.iter().map(|(key, (age, _))| (labels(key), *age)))?;
    page.write_family(&f::UNFINISHED, counts.iter().map(|(key, (_, count))| (labels(key), number(*count as u64))))?;
    page.write_single(&f::GIVEN_UP, Some(number(counters.of(Event::FileGivenUp))))?;
    page.write_single(&f::MARKED, Some(number(monitor.pending_routes as u64)))?;
    page.write_single(&f::WATCH_EVENTS, Some(number(counters.of(Event::InotifyEvents))))?;
    page.write_single(&f::WATCH_SWEEPS, Some(number(counters.of(Event::FullScans))))?;
    page.write_single(&f::WATCH_LOSSES, Some(number(counters.of(Event::EventOverflows))))
}
