//! Metrics of the engine and of what came of EDI files, as the database told when it was read last. Each pod that can read
//! it tells the same.

use std::fmt;
use std::time::{Instant, SystemTime};

use crate::database::run_metrics::{CLASSES, Outcome, Sums};
use crate::edi::stats::{Counts, Figures};
use crate::health::state::Facts;

use super::definitions as f;
use super::definitions::Family;
use super::label_limit::Names;
use super::writer::{Writer, moment, number};

pub(super) fn write(page: &mut Writer<'_>, facts: &Facts, names: &Names) -> fmt::Result {
    page.one(&f::ENGINE_RUNNING, Some(f64::from(u8::from(facts.engine.is_some()))))?;
    let Some(results) = &facts.results else { return Ok(()) };
    let read = SystemTime::now().checked_sub(Instant::now().duration_since(results.read));
    page.one(&f::EDI_READ, read.map(moment))?;
    if let Some(sums) = &results.figures.sums {
        engine(page, sums)?;
    }
    routes(page, &results.figures, names)
}

fn engine(page: &mut Writer<'_>, sums: &Sums) -> fmt::Result {
    let runs = Outcome::ALL.into_iter().zip(sums.runs);
    page.all(&f::ENGINE_RUNS, runs.map(|(outcome, count)| ([outcome.as_str().into()], number(count))))?;
    let ends = CLASSES.into_iter().map(f64::from).chain([f64::INFINITY]);
    let classes: Vec<(f64, u64)> = ends.zip(sums.classes).collect();
    page.histogram(&f::ENGINE_DURATION, sums.took.as_secs_f64(), &classes)?;
    page.one(&f::ENGINE_SUCCESS, sums.last_success.map(moment))?;
    page.one(&f::ENGINE_WAIT, Some(sums.waited.as_secs_f64()))?;
    page.one(&f::ENGINE_RECOVERIES, Some(number(sums.recoveries)))?;
    let (done, failed) = sums.initialisations;
    let outcomes = [("success", done), ("failed", failed)];
    page.all(&f::INIT_RUNS, outcomes.map(|(outcome, count)| ([outcome.into()], number(count))))
}

fn routes(page: &mut Writer<'_>, figures: &Figures, names: &Names) -> fmt::Result {
    let named = figures.routes.iter().map(|route| (route.name.clone(), (route.total, route.recent)));
    // Those that the reading itself does not name are among the other ones here.
    let rest = (figures.rest.routes > 0).then_some((figures.rest.total, figures.rest.recent));
    let join = |(total, recent): &mut (Counts, Counts), more: (Counts, Counts)| {
        total.add(more.0);
        recent.add(more.1);
    };
    let sorted = names.sort(named, rest, join);
    let mut write = |family: &Family, value: fn(&(Counts, Counts)) -> u64| {
        page.all(family, sorted.iter().map(|(route, counts)| ([route.as_str().into()], number(value(counts)))))
    };
    write(&f::EDI_RECEIVED, |(total, _)| total.received)?;
    write(&f::EDI_SENT, |(total, _)| total.sent)?;
    write(&f::EDI_ERRORS, |(total, _)| total.errors)?;
    write(&f::EDI_STUCK, |(_, recent)| recent.stuck)?;
    page.one(&f::EDI_LOST, Some(number(figures.lost_runs)))
}
