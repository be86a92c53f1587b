//! Metrics of the job queue, of the way to it, and of the directory monitor.

use std::collections::BTreeMap;
use std::fmt;

use crate::health::state::{Facts, Jobs, Monitor};
use crate::telemetry::counters::{Counters, Event};

use super::definitions as f;
use super::label_limit::Names;
use super::writer::{Writer, age, number};

pub(super) fn write(page: &mut Writer<'_>, facts: &Facts, counters: &Counters, names: &Names) -> fmt::Result {
    if let Some(jobs) = facts.services.iter().find_map(|service| service.jobs) {
        queue(page, jobs)?;
    }
    let calls =
        [("passed", Event::RelayPassed), ("unreachable", Event::RelayUnreachable), ("refused", Event::RelayRefused)];
    page.all(&f::RELAY, calls.map(|(outcome, event)| ([outcome.into()], number(counters.of(event)))))?;
    match &facts.monitor {
        Some(found) => monitor(page, found, counters, names),
        None => Ok(()),
    }
}

fn queue(page: &mut Writer<'_>, jobs: Jobs) -> fmt::Result {
    let states = [("waiting", jobs.waiting), ("running", jobs.running)];
    page.all(&f::JOBS, states.map(|(state, count)| ([state.into()], number(count))))?;
    page.one(&f::OLDEST_JOB, Some(age(jobs.oldest)))?;
    let outcomes = [("done", jobs.done), ("failed", jobs.failed), ("repeated", jobs.repeated)];
    page.all(&f::JOBS_ENDED, outcomes.map(|(outcome, count)| ([outcome.into()], number(count))))
}

fn monitor(page: &mut Writer<'_>, monitor: &Monitor, counters: &Counters, names: &Names) -> fmt::Result {
    let directories = monitor.directories.iter();
    let mut backends: BTreeMap<&str, u64> = ["inotify", "poll", "both", "none"].map(|backend| (backend, 0)).into();
    for directory in directories.clone() {
        *backends.entry(directory.backend).or_default() += 1;
    }
    page.all(&f::DIRECTORIES, backends.into_iter().map(|(backend, count)| ([backend.into()], number(count))))?;
    let troubled = directories.clone().filter(|directory| directory.trouble.is_some()).count();
    page.one(&f::TROUBLED, Some(number(troubled as u64)))?;
    // One entry is known by its route and its files.
    let figures = directories.map(|directory| {
        let key = format!("{}\0{}", directory.files, directory.route);
        let unfinished = directory.unfinished.as_ref().map_or(0, |unfinished| unfinished.count);
        (key, (age(directory.oldest), unfinished))
    });
    let figures = names.sort(figures, None, |sum, other| *sum = (sum.0.max(other.0), sum.1 + other.1));
    let labels = |key: &str| {
        let (files, route) = key.split_once('\0').unwrap_or((key, key));
        [files.to_owned().into(), route.to_owned().into()]
    };
    page.all(&f::OLDEST_FILE, figures.iter().map(|(key, (age, _))| (labels(key), *age)))?;
    page.all(&f::UNFINISHED, figures.iter().map(|(key, (_, count))| (labels(key), number(*count as u64))))?;
    page.one(&f::GIVEN_UP, Some(number(counters.of(Event::FileGivenUp))))?;
    page.one(&f::MARKED, Some(number(monitor.marked as u64)))?;
    page.one(&f::WATCH_EVENTS, Some(number(counters.of(Event::WatchTold))))?;
    page.one(&f::WATCH_SWEEPS, Some(number(counters.of(Event::WatchSwept))))?;
    page.one(&f::WATCH_LOSSES, Some(number(counters.of(Event::WatchLost))))
}
