//! Metrics of probes, and of the checks behind them.

use std::fmt;

use crate::health::rules::{CHECKS, evaluate};
use crate::health::state::{CheckResult, HealthState};
use crate::model::Check;
use crate::telemetry::counters::Counters;

use super::definitions as f;
use super::writer::{MetricWriter, moment, number};

pub(super) fn write(page: &mut MetricWriter<'_>, health: &HealthState, counters: &Counters) -> fmt::Result {
    let probes = [Check::Live, Check::Ready, Check::Startup];
    let status = probes.map(|check| ([check.path().into()], f64::from(u8::from(evaluate(check, health).healthy))));
    page.write_family(&f::HEALTH, status)?;
    let results = CHECKS.iter().map(|check| (check.name, (check.result)(health)));
    let known = results.filter(|(_, result)| **result != CheckResult::Pending);
    let good = known.map(|(name, result)| ([name.into()], f64::from(u8::from(*result == CheckResult::Ok))));
    page.write_family(&f::CHECK, good)?;
    let probed = || CHECKS.iter().filter_map(|check| Some((check.name, counters.probe(check.probe?)?)));
    page.write_family(&f::CHECK_DURATION, probed().map(|(name, (took, _))| ([name.into()], took.as_secs_f64())))?;
    page.write_family(&f::CHECK_TIME, probed().map(|(name, (_, ended))| ([name.into()], moment(ended))))?;
    let responses =
        counters.responses().map(|(path, code, count)| ([path.into(), code.to_string().into()], number(count)));
    page.write_family(&f::PROBES, responses)
}
