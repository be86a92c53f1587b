//! Metrics of probes, and of the checks behind them.

use std::fmt;

use crate::health::state::{CheckResult, HealthState, evaluate};
use crate::model::Check;
use crate::telemetry::counters::{Counters, Probe};

use super::definitions as f;
use super::writer::{MetricWriter, moment, number};

pub(super) fn write(page: &mut MetricWriter<'_>, health: &HealthState, counters: &Counters) -> fmt::Result {
    let probes = [Check::Live, Check::Ready, Check::Startup];
    let status = probes.map(|check| ([check.path().into()], f64::from(u8::from(evaluate(check, health).healthy))));
    page.write_family(&f::HEALTH, status)?;
    let checks = [
        ("database", &health.database, Some(Probe::Database)),
        ("tables", &health.tables, Some(Probe::Tables)),
        ("botssys", &health.botssys, Some(Probe::Directories)),
        ("usersys", &health.usersys, Some(Probe::Directories)),
        ("config", &health.config, None),
    ];
    let good = checks.iter().filter(|(_, result, _)| **result != CheckResult::Pending);
    page.write_family(
        &f::CHECK,
        good.map(|(name, check_result, _)| ([(*name).into()], f64::from(u8::from(**check_result == CheckResult::Ok)))),
    )?;
    let probed = || checks.iter().filter_map(|(name, _, probe)| Some((*name, counters.probe((*probe)?)?)));
    page.write_family(&f::CHECK_DURATION, probed().map(|(name, (took, _))| ([name.into()], took.as_secs_f64())))?;
    page.write_family(&f::CHECK_TIME, probed().map(|(name, (_, ended))| ([name.into()], moment(ended))))?;
    let responses =
        counters.responses().map(|(path, code, count)| ([path.into(), code.to_string().into()], number(count)));
    page.write_family(&f::PROBES, responses)
}
