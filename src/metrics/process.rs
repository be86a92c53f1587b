//! Metrics of bots-ctl itself: versions, what it uses, its start, its log and its configuration.

use std::fmt;
use std::time::Duration;

use crate::health::state::Facts;
use crate::telemetry::child_output::LineSink;
use crate::telemetry::counters::{Counters, Event};

use super::cpu_totals::Readings;
use super::definitions as f;
use super::writer::{Writer, moment, number};

pub(super) fn write(
    page: &mut Writer<'_>,
    facts: &Facts,
    counters: &Counters,
    lines: &LineSink,
    readings: &Readings,
) -> fmt::Result {
    page.all(&f::BUILD, [([env!("CARGO_PKG_VERSION").into()], 1.0)])?;
    page.all(&f::BOTS, facts.bots_version.as_deref().map(|version| ([version.into()], 1.0)))?;
    page.one(&f::PROCESS_START, Some(moment(counters.started())))?;
    page.one(&f::PROCESS_MEMORY, readings.own.map(|own| number(own.resident)))?;
    page.one(&f::PROCESS_CPU, readings.own.map(|own| own.cpu))?;
    page.one(&f::INIT_DURATION, facts.initialised.map(|(took, _)| Duration::as_secs_f64(&took)))?;
    page.one(&f::INIT_SUCCESS, facts.initialised.map(|(_, is_success)| f64::from(u8::from(is_success))))?;
    let reloads = [("applied", Event::ReloadApplied), ("refused", Event::ReloadRefused)];
    page.all(&f::RELOADS, reloads.map(|(outcome, event)| ([outcome.into()], number(counters.of(event)))))?;
    page.one(&f::RELOAD_SUCCESS, Some(f64::from(u8::from(!counters.is_refused()))))?;
    page.one(&f::DROPPED, Some(number(lines.dropped())))
}
