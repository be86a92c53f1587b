//! Metrics of bots-ctl itself: versions, what it uses, its start, its log and its configuration.

use std::fmt;
use std::time::Duration;

use crate::health::state::HealthState;
use crate::telemetry::child_output::ServiceOutput;
use crate::telemetry::counters::{Counters, Event};

use super::cpu_totals::UsageSample;
use super::definitions as f;
use super::writer::{MetricWriter, moment, number};

pub(super) fn write(
    page: &mut MetricWriter<'_>,
    health: &HealthState,
    counters: &Counters,
    lines: &ServiceOutput,
    readings: &UsageSample,
) -> fmt::Result {
    page.write_family(&f::BUILD, [([env!("CARGO_PKG_VERSION").into()], 1.0)])?;
    page.write_family(&f::BOTS, health.bots_version.as_deref().map(|version| ([version.into()], 1.0)))?;
    page.write_single(&f::PROCESS_START, Some(moment(counters.started())))?;
    page.write_single(&f::PROCESS_MEMORY, readings.own.map(|own| number(own.resident)))?;
    page.write_single(&f::PROCESS_CPU, readings.own.map(|own| own.cpu))?;
    page.write_single(&f::INIT_DURATION, health.initialised.map(|(took, _)| Duration::as_secs_f64(&took)))?;
    page.write_single(&f::INIT_SUCCESS, health.initialised.map(|(_, is_success)| f64::from(u8::from(is_success))))?;
    let reloads = [("applied", Event::ReloadApplied), ("refused", Event::ReloadRefused)];
    page.write_family(&f::RELOADS, reloads.map(|(outcome, event)| ([outcome.into()], number(counters.of(event)))))?;
    page.write_single(&f::RELOAD_SUCCESS, Some(f64::from(u8::from(!counters.is_refused()))))?;
    page.write_single(&f::DROPPED, Some(number(lines.dropped())))
}
