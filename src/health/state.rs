//! Facts, and the rules for `ping`, `live`, `ready` and `startup`. Pure.
//!
//! Status words and names of checks are those of the health pages that Bots 4 has below `/bots/health`.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::exit::Exit;
use crate::model::Check;

/// What a check last told: not yet run, fine, or the reason why not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CheckResult {
    /// Not looked at yet.
    #[default]
    Pending,
    /// As it should be.
    Ok,
    /// Not as it should be, and why.
    Failed(String),
}

/// Where a service is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Preparations, or the start of the service.
    #[default]
    Starting,
    /// It has given a sign of life.
    Running,
    /// It was asked to stop, or is about to be.
    Draining,
    /// It has ended by itself and will be started again, or is being replaced.
    Restarting,
    /// Nothing of it runs until its next time has come.
    Waiting,
    /// Another one does the work, and it takes over when that ends.
    Standby,
    /// It is gone.
    Ended,
}

/// What is known of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceHealth {
    /// Its name, as in `webserver`.
    pub name: &'static str,
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether it takes work, so that `ready` depends on it. One that only runs now and then does not.
    pub counts_for_ready: bool,
    /// Its process, while there is one.
    pub pid: Option<i32>,
    /// When that was started.
    pub started: Option<Instant>,
    /// Whether that process has given a sign of life.
    pub alive: bool,
    /// Signs of life missed in a row.
    pub failures: u32,
    /// Those of them for which the database was no excuse.
    pub countable_failures: u32,
    /// How often it was started again.
    pub restarts: u32,
    /// How its last process ended.
    pub last_exit: Option<Exit>,
    /// Its jobs, where it knows of any.
    pub jobs: Option<QueueCounts>,
}

/// The jobs of a job queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueCounts {
    /// How many wait.
    pub waiting: u64,
    /// How many run.
    pub running: u64,
    /// When the one was submitted that waits longest.
    pub oldest: Option<SystemTime>,
    /// How many have ended well since the queue was started.
    pub done: u64,
    /// How many have not.
    pub failed: u64,
    /// How often one had to be put back, to run again.
    pub requeued: u64,
}

/// What the directory monitor knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MonitorStatus {
    /// What it watches.
    pub directories: Arc<[WatchStatus]>,
    /// Routes whose files have come and which the job queue does not have yet.
    pub pending_routes: usize,
}

/// Files that start a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchStatus {
    /// Directory and mask.
    pub files: String,
    /// The route.
    pub route: String,
    /// By what they are found, in a word.
    pub backend: &'static str,
    /// The same in words.
    pub method: String,
    /// Why they are not.
    pub error: Option<String>,
    /// Since when the file is there that came first and still waits.
    pub oldest: Option<SystemTime>,
    /// Files that are not complete, if there are any.
    pub unfinished: Option<IncompleteFiles>,
}

/// Files of a watched directory that are not complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncompleteFiles {
    /// How many.
    pub count: usize,
    /// The one that was seen first.
    pub example: String,
    /// Why it is not.
    pub reason: &'static str,
    /// Since when it is seen.
    pub since: Instant,
    /// Complete files that wait for them.
    pub held: usize,
    /// How many of them are no longer waited for.
    pub given_up: usize,
}

impl ServiceHealth {
    /// A service that is about to be started.
    #[must_use]
    pub fn new(name: &'static str, takes_work: bool) -> Self {
        Self {
            name,
            phase: Phase::Starting,
            counts_for_ready: takes_work,
            pid: None,
            started: None,
            alive: false,
            failures: 0,
            countable_failures: 0,
            restarts: 0,
            last_exit: None,
            jobs: None,
        }
    }
}

/// Everything the answers are made from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HealthState {
    /// The services, in the order of their start; none where no service is looked at.
    pub services: Vec<ServiceHealth>,
    /// How many signs of life in a row a service may miss before it counts as hung.
    pub misses_allowed: u32,
    /// Everything was asked to stop.
    pub stopping: bool,
    /// The database answers.
    pub database: CheckResult,
    /// It answers that another connection has it locked.
    pub database_busy: bool,
    /// The tables that every service needs are there.
    pub tables: CheckResult,
    /// Who runs an engine, here or in another pod, and since when.
    pub engine: Option<(String, Instant)>,
    /// What the directory monitor knows, where bots-ctl is that itself.
    pub monitor: Option<MonitorStatus>,
    /// What came of the EDI files, once it was read.
    pub results: Option<Arc<super::edi_refresh::CachedEdiStats>>,
    /// The version of Bots, once it is known.
    pub bots_version: Option<String>,
    /// How long the database was looked at and completed at this start, and whether it is complete.
    pub initialised: Option<(Duration, bool)>,
    /// Bots's storage is there and writable.
    pub botssys: CheckResult,
    /// The user's scripts are there and writable.
    pub usersys: CheckResult,
    /// The configuration was found valid.
    pub config: CheckResult,
    /// What is wrong with a configuration that is mounted and was not taken over.
    pub refused: Arc<[String]>,
    /// `ready` is to look at the database alone.
    pub database_only: bool,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResponse {
    /// Whether all is well.
    pub healthy: bool,
    /// The status word.
    pub status: &'static str,
    /// The name of the question.
    pub check: &'static str,
    /// Each thing looked at.
    pub checks: Vec<(&'static str, bool)>,
    /// Why not.
    pub errors: Vec<String>,
    /// Set when only a part was looked at, as configured.
    pub mode: Option<&'static str>,
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

/// Answers a question from the facts.
#[must_use]
pub fn evaluate(check: Check, health: &HealthState) -> ProbeResponse {
    let database_only = check == Check::Ready && health.database_only;
    let mut looked_at = match check {
        Check::Live if health.services.is_empty() => vec![config(health)],
        Check::Live => Vec::new(),
        Check::Ready if database_only => vec![database(health)],
        Check::Ready => vec![database(health), botssys(health), usersys(health)],
        Check::Startup => vec![database(health), tables(health), botssys(health), usersys(health), config(health)],
    };
    let services = health.services.iter();
    match check {
        Check::Live => looked_at.extend(services.map(|service| live(service, health))),
        Check::Ready if database_only && !health.stopping => {}
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

type CheckOutcome = (&'static str, Option<String>);

fn database(health: &HealthState) -> CheckOutcome {
    ("database", error("the database", &health.database))
}

fn tables(health: &HealthState) -> CheckOutcome {
    ("tables", error("the tables", &health.tables))
}

fn botssys(health: &HealthState) -> CheckOutcome {
    ("botssys", error("botssys", &health.botssys))
}

fn usersys(health: &HealthState) -> CheckOutcome {
    ("usersys", error("usersys", &health.usersys))
}

fn config(health: &HealthState) -> CheckOutcome {
    ("config", error("the configuration", &health.config))
}

fn error(what: &str, result: &CheckResult) -> Option<String> {
    match result {
        CheckResult::Ok => None,
        CheckResult::Pending => Some(format!("{what} was not checked yet")),
        CheckResult::Failed(reason) => Some(reason.clone()),
    }
}

/// Whether a service can be sent work.
#[must_use]
pub fn is_ready(service: &ServiceHealth, health: &HealthState) -> bool {
    ready(service, health).1.is_none()
}

/// Ready: it has answered, is not being stopped, and answered the last time it was asked.
fn ready(service: &ServiceHealth, health: &HealthState) -> CheckOutcome {
    let name = service.name;
    let error = match service.phase {
        Phase::Ended => Some(format!("{name} has ended")),
        Phase::Draining => Some(format!("{name} is stopping")),
        _ if health.stopping => Some(format!("{name} is stopping")),
        Phase::Running | Phase::Waiting if service.failures == 0 => None,
        Phase::Running | Phase::Waiting => Some(format!("{name} does not answer")),
        Phase::Starting => Some(format!("{name} is starting")),
        Phase::Restarting => Some(format!("{name} is being restarted")),
        Phase::Standby => Some(format!("{name} stands by: another one is active")),
    };
    (name, error)
}

/// Alive: its process is there or will be again, and is not hung. Requests that wait for a database which is away or
/// locked occupy the web server's workers, so silence at such a time is no evidence against the process.
fn live(service: &ServiceHealth, health: &HealthState) -> CheckOutcome {
    let (name, misses) = (service.name, service.countable_failures);
    let error = match service.phase {
        Phase::Ended => Some(format!("{name} has ended")),
        _ if misses >= health.misses_allowed.max(1) => Some(format!("{name} has not answered {misses} times in a row")),
        _ => None,
    };
    (name, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running() -> ServiceHealth {
        ServiceHealth { phase: Phase::Running, alive: true, ..ServiceHealth::new("webserver", true) }
    }

    fn with(service: ServiceHealth) -> HealthState {
        HealthState {
            services: vec![service],
            misses_allowed: 3,
            stopping: false,
            database: CheckResult::Ok,
            database_busy: false,
            tables: CheckResult::Ok,
            engine: None,
            monitor: None,
            results: None,
            bots_version: None,
            initialised: None,
            botssys: CheckResult::Ok,
            usersys: CheckResult::Ok,
            config: CheckResult::Ok,
            refused: Arc::default(),
            database_only: false,
        }
    }

    fn healthy() -> HealthState {
        with(running())
    }

    #[test]
    fn all_is_well() {
        let ready = evaluate(Check::Ready, &healthy());
        assert!(ready.healthy && ready.errors.is_empty());
        assert_eq!((ready.status, ready.check), ("ready", "readiness"));
        let names: Vec<_> = ready.checks.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["database", "botssys", "usersys", "webserver"]);
        let startup = evaluate(Check::Startup, &healthy());
        let names: Vec<_> = startup.checks.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["database", "tables", "botssys", "usersys", "config"]);
        assert_eq!(evaluate(Check::Live, &healthy()).status, "ok");
    }

    #[test]
    fn a_database_outage_makes_unready_but_never_dead() {
        let away = CheckResult::Failed("connection refused".into());
        let health = HealthState { database: away, ..with(ServiceHealth { failures: 100, ..running() }) };
        let ready = evaluate(Check::Ready, &health);
        assert!(!ready.healthy && ready.errors.contains(&"connection refused".to_owned()));
        assert!(evaluate(Check::Live, &health).healthy);
    }

    #[test]
    fn a_hung_service_is_unready_at_once_and_dead_after_some_misses() {
        let missed = |misses| with(ServiceHealth { failures: misses, countable_failures: misses, ..running() });
        let once = missed(1);
        assert!(!evaluate(Check::Ready, &once).healthy);
        assert!(evaluate(Check::Live, &once).healthy);
        assert!(!evaluate(Check::Live, &missed(3)).healthy);
        assert!(evaluate(Check::Live, &HealthState { misses_allowed: 4, ..missed(3) }).healthy);
    }

    #[test]
    fn the_life_of_a_service() {
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
        assert_eq!(ready.checks[3..], [("jobqueue", false), ("webserver", true)]);
        assert_eq!(ready.errors, ["jobqueue is starting"]);
        let live = evaluate(Check::Live, &health);
        assert_eq!(live.checks, [("jobqueue", true), ("webserver", true), ("engine", true)]);
        let stopping = evaluate(Check::Ready, &HealthState { stopping: true, ..health });
        assert_eq!(stopping.checks[3..], [("jobqueue", false), ("webserver", false)]);
    }

    #[test]
    fn nothing_is_assumed_before_it_was_checked() {
        let fresh = HealthState { services: vec![ServiceHealth::new("webserver", true)], ..HealthState::default() };
        assert_eq!(evaluate(Check::Startup, &fresh).checks.iter().filter(|(_, good)| *good).count(), 0);
        assert_eq!(evaluate(Check::Startup, &fresh).status, "starting");
    }

    #[test]
    fn ready_may_be_about_the_database_alone() {
        let health = HealthState { database_only: true, ..with(ServiceHealth::new("webserver", true)) };
        let ready = evaluate(Check::Ready, &health);
        assert_eq!((ready.checks, ready.mode), (vec![("database", true)], Some("database_only")));
        assert!(!evaluate(Check::Ready, &HealthState { stopping: true, ..health }).healthy);
    }
}
