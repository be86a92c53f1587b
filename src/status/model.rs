//! The status document, for `bots-ctl status` and for the status page.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::edi::{ResultsStatus, results};
use super::problems::{Problem, problems};
use crate::health::rules::{CHECKS, evaluate, is_ready};
use crate::health::state::{CheckResult, EngineActivity, HealthState, MonitorStatus, Phase, ServiceHealth, SystemInfo};
use crate::model::{Check, QueueCounts};

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of bots-ctl.
    pub version: String,
    /// What runs here and where, after the preparations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<SystemInfo>,
    /// Whether all is ready.
    pub ready: bool,
    /// Why not.
    pub errors: Vec<String>,
    /// All problems, with their remedies.
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// Whether all services are being stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopping: bool,
    /// The time of this machine, in seconds since 1970: the times below are by the same clock, or by the database's.
    #[serde(default)]
    pub now: u64,
    /// The checks.
    #[serde(default)]
    pub checks: Vec<CheckStatus>,
    /// The services, in the order of their start.
    pub services: Vec<ServiceStatus>,
    /// The running engine, here or in another pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineStatus>,
    /// The directory monitor, if it is bots-ctl's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<MonitorStatus>,
    /// Statistics of the EDI files, after the first reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<ResultsStatus>,
    /// The errors of a mounted configuration that was rejected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

/// Something the services stand on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Its name.
    pub name: String,
    /// Whether the check succeeded; `None` before the first time.
    pub good: Option<bool>,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// An engine that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Pod and process of its bots-ctl.
    pub holder: String,
    /// For how many seconds.
    pub seconds: u64,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// `starting`, `running`, `stopping`, `restarting`, `waiting`, `standby` or `ended`.
    pub state: String,
    /// Its process, while there is one.
    pub pid: Option<i32>,
    /// Seconds since that was started.
    pub uptime: Option<u64>,
    /// How often it was started again.
    pub restarts: u32,
    /// How its last process ended: `exit code 1`, `signal SIGKILL`.
    pub last_exit: Option<String>,
    /// Whether it accepts work; `None` for a service that receives none.
    pub ready: Option<bool>,
    /// Seconds until the next run, for a service that runs on a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// The jobs, if the service is bots-ctl's job queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<QueueCounts>,
}

/// Creates the document; `unix` is the same time as `now`, in seconds since 1970.
#[must_use]
pub fn status(health: &HealthState, now: Instant, unix: u64) -> Status {
    let whole = evaluate(Check::Ready, health);
    let services = health.services.iter().map(|service| ServiceStatus {
        name: service.name.to_owned(),
        state: state(service.phase).to_owned(),
        pid: service.pid,
        uptime: service.started.map(|started| now.duration_since(started).as_secs()),
        restarts: service.restarts,
        last_exit: service.last_exit.map(|exit| exit.to_string()),
        ready: service.counts_for_ready.then(|| is_ready(service, health)),
        next: next_run(service, now),
        jobs: service.jobs,
    });
    let services = services.collect();
    let engine = match &health.engine {
        EngineActivity::Unknown | EngineActivity::Idle => None,
        EngineActivity::Running { holder, since } => {
            Some(EngineStatus { holder: holder.clone(), seconds: now.saturating_duration_since(*since).as_secs() })
        }
    };
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        system: health.system.as_deref().cloned(),
        ready: whole.healthy,
        problems: problems(health, &whole, i64::try_from(unix).unwrap_or(i64::MAX)),
        errors: whole.errors,
        stopping: health.stopping,
        now: unix,
        checks: checks(health),
        services,
        engine,
        monitor: health.monitor.clone(),
        results: health.results.as_ref().map(|last| results(last, now)),
        refused: health.refused.to_vec(),
    }
}

fn next_run(service: &ServiceHealth, now: Instant) -> Option<u64> {
    let next = service.last_start? + service.every?;
    (service.phase == Phase::Waiting).then(|| next.saturating_duration_since(now).as_secs())
}

fn checks(health: &HealthState) -> Vec<CheckStatus> {
    let rendered = CHECKS.iter().map(|check| {
        let (good, why) = match health.checks.get(check.name) {
            CheckResult::Pending => (None, None),
            CheckResult::Ok => (Some(true), None),
            CheckResult::Failed(why) => (Some(false), Some(why.clone())),
        };
        CheckStatus { name: check.name.to_owned(), good, why }
    });
    rendered.collect()
}

fn state(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Draining => "stopping",
        Phase::Restarting => "restarting",
        Phase::Waiting => "waiting",
        Phase::Standby => "standby",
        Phase::Ended => "ended",
    }
}
