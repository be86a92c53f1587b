//! The rules for `live`, `ready` and `startup`, and the one list of checks. Pure.
//!
//! Status words and names of checks are those of the health pages that Bots 4 has below `/bots/health`.

use serde::{Serialize, Serializer};

use super::state::{CheckResult, HealthState, Phase, ServiceHealth};
use crate::model::Check;
use crate::telemetry::counters::CheckTimer;

/// The names of checks.
pub const DATABASE: &str = "database";
pub const TABLES: &str = "tables";
pub const BOTSSYS: &str = "botssys";
pub const USERSYS: &str = "usersys";
pub const SPACE: &str = "space";
pub const CONFIG: &str = "config";

/// A check of something that the services depend on.
pub struct HealthCheck {
    /// The name in responses, metrics, status and log.
    pub name: &'static str,
    /// The subject of its messages.
    subject: &'static str,
    /// The probes that include the check: `live` only if there is no service.
    probes: &'static [Check],
    /// The timer of the check.
    pub timer: Option<CheckTimer>,
}

/// All checks: the responses to probes, the log, the status and the metrics go through them in this order.
pub const CHECKS: &[HealthCheck] = &[
    HealthCheck {
        name: DATABASE,
        subject: "the database",
        probes: &[Check::Ready, Check::Startup],
        timer: Some(CheckTimer::Database),
    },
    HealthCheck { name: TABLES, subject: "the tables", probes: &[Check::Startup], timer: Some(CheckTimer::Tables) },
    HealthCheck {
        name: BOTSSYS,
        subject: "botssys",
        probes: &[Check::Ready, Check::Startup],
        timer: Some(CheckTimer::Directories),
    },
    HealthCheck {
        name: USERSYS,
        subject: "usersys",
        probes: &[Check::Ready, Check::Startup],
        timer: Some(CheckTimer::Directories),
    },
    HealthCheck {
        name: SPACE,
        subject: "free space on the volume",
        probes: &[Check::Ready],
        timer: Some(CheckTimer::Directories),
    },
    HealthCheck { name: CONFIG, subject: "the configuration", probes: &[Check::Live, Check::Startup], timer: None },
];

impl HealthCheck {
    /// Whether the response to this probe includes the check.
    #[must_use]
    pub fn is_part_of(&self, probe: Check) -> bool {
        self.probes.contains(&probe)
    }

    fn error(&self, health: &HealthState) -> Option<String> {
        match health.checks.get(self.name) {
            CheckResult::Ok => None,
            CheckResult::Pending => Some(format!("not checked yet: {}", self.subject)),
            CheckResult::Failed(reason) => Some(reason.clone()),
        }
    }
}

type CheckOutcome = (&'static str, Option<String>);

/// The response to a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbeResponse {
    /// Whether all checks succeeded.
    #[serde(skip)]
    pub healthy: bool,
    /// The status word.
    pub status: &'static str,
    /// The name of the probe.
    pub check: &'static str,
    /// The checks in their order, and whether each succeeded.
    #[serde(serialize_with = "as_map")]
    pub checks: Vec<(&'static str, bool)>,
    /// The errors of the failed checks.
    pub errors: Vec<String>,
    /// Set if only a part was checked, as configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<&'static str>,
}

impl ProbeResponse {
    /// The body of the response.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn as_map<S: Serializer>(checks: &[(&'static str, bool)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(checks.iter().copied())
}

impl Check {
    /// The last part of the path.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Ready => "ready",
            Self::Startup => "startup",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Live => "liveness",
            Self::Ready => "readiness",
            Self::Startup => "startup",
        }
    }

    fn status(self, healthy: bool) -> &'static str {
        match (self, healthy) {
            (Self::Live, true) => "ok",
            (Self::Live, false) => "failed",
            (Self::Ready, true) => "ready",
            (Self::Ready, false) => "not_ready",
            (Self::Startup, true) => "started",
            (Self::Startup, false) => "starting",
        }
    }
}

/// Makes the response to a probe.
#[must_use]
pub fn evaluate(check: Check, health: &HealthState) -> ProbeResponse {
    let database_only = check == Check::Ready && health.database_only;
    let services = health.services.iter();
    let mut looked_at: Vec<CheckOutcome> = CHECKS
        .iter()
        .filter(|one| one.is_part_of(check) && !(database_only && [BOTSSYS, USERSYS].contains(&one.name)))
        .filter(|_| check != Check::Live || health.services.is_empty())
        .map(|one| (one.name, one.error(health)))
        .collect();
    match check {
        Check::Live => looked_at.extend(services.map(|service| live(service, health))),
        Check::Ready => looked_at.extend(services.filter(|s| s.counts_for_ready).map(|service| ready(service, health))),
        Check::Startup => {}
    }
    let healthy = looked_at.iter().all(|(_, error)| error.is_none());
    ProbeResponse {
        healthy,
        status: check.status(healthy),
        check: check.name(),
        checks: looked_at.iter().map(|(name, error)| (*name, error.is_none())).collect(),
        errors: looked_at.into_iter().filter_map(|(_, error)| error).collect(),
        mode: database_only.then_some("database_only"),
    }
}

/// Whether a service can be sent work.
#[must_use]
pub fn is_ready(service: &ServiceHealth, health: &HealthState) -> bool {
    ready(service, health).1.is_none()
}

/// Ready: the service answers, and is not being stopped.
fn ready(service: &ServiceHealth, health: &HealthState) -> CheckOutcome {
    let name = service.name;
    let error = match service.phase {
        Phase::Ended | Phase::Draining if health.reloading => Some(format!("{name} is restarting")),
        Phase::Ended => Some(format!("{name} has exited")),
        Phase::Draining => Some(format!("{name} is stopping")),
        _ if health.stopping => Some(format!("{name} is stopping")),
        Phase::Running | Phase::Waiting if service.failures == 0 => {
            service.page_error.as_ref().map(|error| format!("{name}: {error}"))
        }
        Phase::Running | Phase::Waiting => Some(format!("{name} does not respond")),
        Phase::Starting => Some(format!("{name} is starting")),
        Phase::Restarting => Some(format!("{name} is restarting")),
        Phase::Standby => Some(format!("{name} is on standby: another instance is active")),
    };
    (name, error)
}

/// Live: the process of the service exists or will be restarted, and is responsive. Requests that wait for an unreachable or
/// locked database occupy the workers of the web server, so a missing response at such a time does not count as a failure.
fn live(service: &ServiceHealth, health: &HealthState) -> CheckOutcome {
    let (name, misses) = (service.name, service.countable_failures);
    let error = match service.phase {
        Phase::Ended if !health.reloading => Some(format!("{name} has exited")),
        _ if misses >= health.misses_allowed.max(1) => Some(format!("{name} has failed {misses} probes in a row")),
        _ => None,
    };
    (name, error)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::health::state::{CheckResults, EngineActivity, MountedPlugin};

    fn running() -> ServiceHealth {
        ServiceHealth { phase: Phase::Running, alive: true, ..ServiceHealth::new("webserver", true) }
    }

    fn with(service: ServiceHealth) -> HealthState {
        HealthState {
            services: vec![service],
            misses_allowed: 3,
            stopping: false,
            reloading: false,
            checks: CheckResults::all_ok(CHECKS.iter().map(|check| check.name)),
            database_busy: false,
            engine: EngineActivity::Unknown,
            monitor: None,
            results: None,
            results_error: None,
            channels: Arc::default(),
            bots_version: None,
            system: None,
            init_run: None,
            refused: Arc::default(),
            plugin: MountedPlugin::NotTried,
            database_only: false,
        }
    }

    fn healthy() -> HealthState {
        with(running())
    }

    #[test]
    fn healthy_state_passes_all_checks() {
        let ready = evaluate(Check::Ready, &healthy());
        assert!(ready.healthy && ready.errors.is_empty());
        assert_eq!((ready.status, ready.check), ("ready", "readiness"));
        let names: Vec<_> = ready.checks.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["database", "botssys", "usersys", "space", "webserver"]);
        let startup = evaluate(Check::Startup, &healthy());
        let names: Vec<_> = startup.checks.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["database", "tables", "botssys", "usersys", "config"]);
        assert_eq!(evaluate(Check::Live, &healthy()).status, "ok");
    }

    #[test]
    fn database_outage_fails_readiness_but_not_liveness() {
        let away = CheckResult::Failed("connection refused".into());
        let mut health = with(ServiceHealth { failures: 100, ..running() });
        health.checks.set(DATABASE, away);
        let ready = evaluate(Check::Ready, &health);
        assert!(!ready.healthy && ready.errors.contains(&"connection refused".to_owned()));
        assert!(evaluate(Check::Live, &health).healthy);
    }

    #[test]
    fn hung_service_fails_readiness_before_liveness() {
        let missed = |misses| with(ServiceHealth { failures: misses, countable_failures: misses, ..running() });
        let once = missed(1);
        assert!(!evaluate(Check::Ready, &once).healthy);
        assert!(evaluate(Check::Live, &once).healthy);
        assert!(!evaluate(Check::Live, &missed(3)).healthy);
        assert!(evaluate(Check::Live, &HealthState { misses_allowed: 4, ..missed(3) }).healthy);
    }

    #[test]
    fn service_phase_decides_liveness_and_readiness() {
        let at = |phase, check| evaluate(check, &with(ServiceHealth { phase, ..running() })).healthy;
        assert!(at(Phase::Starting, Check::Live) && !at(Phase::Starting, Check::Ready));
        assert!(at(Phase::Draining, Check::Live) && !at(Phase::Draining, Check::Ready));
        assert!(at(Phase::Restarting, Check::Live) && !at(Phase::Restarting, Check::Ready));
        assert!(at(Phase::Standby, Check::Live) && !at(Phase::Standby, Check::Ready));
        assert!(!at(Phase::Ended, Check::Live) && !at(Phase::Ended, Check::Ready));
    }

    #[test]
    fn each_service_has_its_own_check() {
        let queue = ServiceHealth { phase: Phase::Starting, ..ServiceHealth::new("jobqueue", true) };
        let engine = ServiceHealth { phase: Phase::Waiting, ..ServiceHealth::new("engine", false) };
        let health = HealthState { services: vec![queue, running(), engine], ..healthy() };
        let ready = evaluate(Check::Ready, &health);
        assert_eq!(ready.checks[4..], [("jobqueue", false), ("webserver", true)]);
        assert_eq!(ready.errors, ["jobqueue is starting"]);
        let live = evaluate(Check::Live, &health);
        assert_eq!(live.checks, [("jobqueue", true), ("webserver", true), ("engine", true)]);
        let stopping = evaluate(Check::Ready, &HealthState { stopping: true, ..health });
        assert_eq!(stopping.checks[4..], [("jobqueue", false), ("webserver", false)]);
    }

    #[test]
    fn unchecked_state_fails_startup() {
        let fresh = HealthState { services: vec![ServiceHealth::new("webserver", true)], ..HealthState::default() };
        assert_eq!(evaluate(Check::Startup, &fresh).checks.iter().filter(|(_, good)| *good).count(), 0);
        assert_eq!(evaluate(Check::Startup, &fresh).status, "starting");
    }

    #[test]
    fn database_only_readiness_omits_directories() {
        let without = |phase| HealthState {
            database_only: true,
            checks: CheckResults::all_ok([DATABASE, SPACE]),
            ..with(ServiceHealth { phase, ..running() })
        };
        let ready = evaluate(Check::Ready, &without(Phase::Running));
        assert_eq!(ready.checks, [("database", true), ("space", true), ("webserver", true)]);
        assert!(ready.healthy && ready.mode == Some("database_only"));
        for phase in [Phase::Starting, Phase::Standby, Phase::Restarting, Phase::Ended] {
            assert!(!evaluate(Check::Ready, &without(phase)).healthy, "{phase:?}");
        }
        assert!(!evaluate(Check::Ready, &HealthState { stopping: true, ..without(Phase::Running) }).healthy);
    }
}
