//! Metrics of probes, and of the checks behind them.

use std::fmt;

use crate::health::state::{Check, Fact, Facts, report};
use crate::telemetry::counters::{Counters, Probe};

use super::definitions as f;
use super::writer::{Writer, moment, number};

pub(super) fn write(page: &mut Writer<'_>, facts: &Facts, counters: &Counters) -> fmt::Result {
    let probes = [Check::Live, Check::Ready, Check::Startup];
    let status = probes.map(|check| ([check.path().into()], f64::from(u8::from(report(check, facts).healthy))));
    page.all(&f::HEALTH, status)?;
    let checks = [
        ("database", &facts.database, Some(Probe::Database)),
        ("tables", &facts.tables, Some(Probe::Tables)),
        ("botssys", &facts.botssys, Some(Probe::Directories)),
        ("usersys", &facts.usersys, Some(Probe::Directories)),
        ("config", &facts.config, None),
    ];
    let good = checks.iter().filter(|(_, fact, _)| **fact != Fact::Unknown);
    page.all(&f::CHECK, good.map(|(name, fact, _)| ([(*name).into()], f64::from(u8::from(**fact == Fact::Good)))))?;
    let probed = || checks.iter().filter_map(|(name, _, probe)| Some((*name, counters.probe((*probe)?)?)));
    page.all(&f::CHECK_DURATION, probed().map(|(name, (took, _))| ([name.into()], took.as_secs_f64())))?;
    page.all(&f::CHECK_TIME, probed().map(|(name, (_, ended))| ([name.into()], moment(ended))))?;
    let answers = counters.answers().map(|(path, code, count)| ([path.into(), code.to_string().into()], number(count)));
    page.all(&f::PROBES, answers)
}
