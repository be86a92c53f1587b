//! Metrics of each service: whether it is up, how often it was started, and what it uses.

use std::fmt;
use std::time::{Instant, SystemTime};

use crate::health::state::{HealthState, Phase, ServiceHealth};

use super::cpu_totals::UsageSample;
use super::definitions as f;
use super::writer::{MetricWriter, moment, number};

pub(super) fn write(page: &mut MetricWriter<'_>, health: &HealthState, readings: &UsageSample) -> fmt::Result {
    let services = || health.services.iter();
    let of = |service: &ServiceHealth| [service.name.into()];
    page.write_family(&f::UP, services().map(|service| (of(service), f64::from(u8::from(is_up(service.phase))))))?;
    page.write_family(&f::RESTARTS, services().map(|service| (of(service), f64::from(service.restarts))))?;
    let ended = services().filter_map(|service| Some((of(service), f64::from(service.last_exit?.code()))));
    page.write_family(&f::LAST_EXIT, ended)?;
    let (now, wall) = (Instant::now(), SystemTime::now());
    let begin = |started: Instant| moment(wall.checked_sub(now.duration_since(started)).unwrap_or(wall));
    page.write_family(&f::STARTED, services().filter_map(|service| Some((of(service), begin(service.started?)))))?;
    let used = || readings.services.iter();
    page.write_family(&f::PROCESSES, used().map(|(name, usage)| ([(*name).into()], number(usage.processes as u64))))?;
    page.write_family(&f::MEMORY, used().map(|(name, usage)| ([(*name).into()], number(usage.resident))))?;
    page.write_family(&f::CPU, used().map(|(name, usage)| ([(*name).into()], usage.cpu)))
}

/// Whether it does what it is there for.
fn is_up(phase: Phase) -> bool {
    match phase {
        Phase::Running | Phase::Draining | Phase::Waiting | Phase::Standby => true,
        Phase::Starting | Phase::Restarting | Phase::Ended => false,
    }
}
