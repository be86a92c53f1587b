//! Metrics of the engine and of what came of EDI files, as the database told when it was read last. Each pod that can read
//! it tells the same.

use std::fmt;
use std::time::{Instant, SystemTime};

use crate::database::run_metrics::{DURATION_BUCKETS_S, RunOutcome, RunTotals};
use crate::edi::stats::{EdiStats, FileCounts};
use crate::health::state::HealthState;

use super::definitions as f;
use super::definitions::MetricDef;
use super::label_limit::LabelLimit;
use super::writer::{MetricWriter, moment, number};

pub(super) fn write(page: &mut MetricWriter<'_>, health: &HealthState, names: &LabelLimit) -> fmt::Result {
    page.write_single(&f::ENGINE_RUNNING, Some(f64::from(u8::from(health.engine.is_some()))))?;
    let Some(results) = &health.results else { return Ok(()) };
    let read = SystemTime::now().checked_sub(Instant::now().duration_since(results.read));
    page.write_single(&f::EDI_READ, read.map(moment))?;
    if let Some(totals) = &results.stats.totals {
        engine(page, totals)?;
    }
    routes(page, &results.stats, names)
}

fn engine(page: &mut MetricWriter<'_>, totals: &RunTotals) -> fmt::Result {
    let runs = RunOutcome::ALL.into_iter().zip(totals.runs);
    page.write_family(&f::ENGINE_RUNS, runs.map(|(outcome, count)| ([outcome.as_str().into()], number(count))))?;
    let ends = DURATION_BUCKETS_S.into_iter().map(f64::from).chain([f64::INFINITY]);
    let classes: Vec<(f64, u64)> = ends.zip(totals.classes).collect();
    page.histogram(&f::ENGINE_DURATION, totals.took.as_secs_f64(), &classes)?;
    page.write_single(&f::ENGINE_SUCCESS, totals.last_success.map(moment))?;
    page.write_single(&f::ENGINE_WAIT, Some(totals.waited.as_secs_f64()))?;
    page.write_single(&f::ENGINE_RECOVERIES, Some(number(totals.recoveries)))?;
    let (done, failed) = totals.initialisations;
    let outcomes = [("success", done), ("failed", failed)];
    page.write_family(&f::INIT_RUNS, outcomes.map(|(outcome, count)| ([outcome.into()], number(count))))
}

fn routes(page: &mut MetricWriter<'_>, stats: &EdiStats, names: &LabelLimit) -> fmt::Result {
    let named = stats.routes.iter().map(|route| (route.name.clone(), (route.total, route.recent)));
    // Those that the reading itself does not name are among the other ones here.
    let rest = (stats.rest.routes > 0).then_some((stats.rest.total, stats.rest.recent));
    let join = |(total, recent): &mut (FileCounts, FileCounts), more: (FileCounts, FileCounts)| {
        total.add(more.0);
        recent.add(more.1);
    };
    let sorted = names.group(named, rest, join);
    let mut write = |family: &MetricDef, value: fn(&(FileCounts, FileCounts)) -> u64| {
        page.write_family(family, sorted.iter().map(|(route, counts)| ([route.as_str().into()], number(value(counts)))))
    };
    write(&f::EDI_RECEIVED, |(total, _)| total.received)?;
    write(&f::EDI_SENT, |(total, _)| total.sent)?;
    write(&f::EDI_ERRORS, |(total, _)| total.errors)?;
    write(&f::EDI_STUCK, |(_, recent)| recent.stuck)?;
    page.write_single(&f::EDI_LOST, Some(number(stats.lost_runs)))
}
