//! Facts, and the rules for `ping`, `live`, `ready` and `startup`. Pure.
//!
//! Status words and names of checks are those of the health pages that Bots 4 has below `/bots/health`.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::exit::Exit;

/// What a check last told: not yet run, fine, or the reason why not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fact {
    /// Not looked at yet.
    #[default]
    Unknown,
    /// As it should be.
    Good,
    /// Not as it should be, and why.
    Bad(String),
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
pub struct Service {
    /// Its name, as in `webserver`.
    pub name: &'static str,
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether it takes work, so that `ready` depends on it. One that only runs now and then does not.
    pub takes_work: bool,
    /// Its process, while there is one.
    pub pid: Option<i32>,
    /// When that was started.
    pub started: Option<Instant>,
    /// Whether that process has given a sign of life.
    pub answered: bool,
    /// Signs of life missed in a row.
    pub misses: u32,
    /// Those of them for which the database was no excuse.
    pub unexcused_misses: u32,
    /// How often it was started again.
    pub restarts: u32,
    /// How its last process ended.
    pub last_exit: Option<Exit>,
    /// Its jobs, where it knows of any.
    pub jobs: Option<Jobs>,
}

/// The jobs of a job queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Jobs {
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
    pub repeated: u64,
}

/// What the directory monitor knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Monitor {
    /// What it watches.
    pub directories: Arc<[Directory]>,
    /// Routes whose files have come and which the job queue does not have yet.
    pub marked: usize,
}

/// Files that start a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Directory and mask.
    pub files: String,
    /// The route.
    pub route: String,
    /// By what they are found, in a word.
    pub backend: &'static str,
    /// The same in words.
    pub by: String,
    /// Why they are not.
    pub trouble: Option<String>,
    /// Since when the file is there that came first and still waits.
    pub oldest: Option<SystemTime>,
    /// Files that are not complete, if there are any.
    pub unfinished: Option<Unfinished>,
}

/// Files of a watched directory that are not complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// How many.
    pub count: usize,
    /// The one that was seen first.
    pub example: String,
    /// Why it is not.
    pub why: &'static str,
    /// Since when it is seen.
    pub since: Instant,
    /// Complete files that wait for them.
    pub held: usize,
    /// How many of them are no longer waited for.
    pub given_up: usize,
}

impl Service {
    /// A service that is about to be started.
    #[must_use]
    pub fn new(name: &'static str, takes_work: bool) -> Self {
        Self {
            name,
            phase: Phase::Starting,
            takes_work,
            pid: None,
            started: None,
            answered: false,
            misses: 0,
            unexcused_misses: 0,
            restarts: 0,
            last_exit: None,
            jobs: None,
        }
    }
}

/// Everything the answers are made from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// The services, in the order of their start; none where no service is looked at.
    pub services: Vec<Service>,
    /// How many signs of life in a row a service may miss before it counts as hung.
    pub misses_allowed: u32,
    /// Everything was asked to stop.
    pub stopping: bool,
    /// The database answers.
    pub database: Fact,
    /// It answers that another connection has it locked.
    pub database_busy: bool,
    /// The tables that every service needs are there.
    pub tables: Fact,
    /// Who runs an engine, here or in another pod, and since when.
    pub engine: Option<(String, Instant)>,
    /// What the directory monitor knows, where bots-ctl is that itself.
    pub monitor: Option<Monitor>,
    /// What came of the EDI files, once it was read.
    pub results: Option<Arc<super::edi_refresh::Results>>,
    /// The version of Bots, once it is known.
    pub bots_version: Option<String>,
    /// How long the database was looked at and completed at this start, and whether it is complete.
    pub initialised: Option<(Duration, bool)>,
    /// Bots's storage is there and writable.
    pub botssys: Fact,
    /// The user's scripts are there and writable.
    pub usersys: Fact,
    /// The configuration was found valid.
    pub config: Fact,
    /// What is wrong with a configuration that is mounted and was not taken over.
    pub refused: Arc<[String]>,
    /// `ready` is to look at the database alone.
    pub database_only: bool,
}

/// Which question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Is the process to be restarted?
    Live,
    /// Is it to be sent work?
    Ready,
    /// Has it come up?
    Startup,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
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
pub fn report(check: Check, facts: &Facts) -> Report {
    let database_only = check == Check::Ready && facts.database_only;
    let mut looked_at = match check {
        Check::Live if facts.services.is_empty() => vec![config(facts)],
        Check::Live => Vec::new(),
        Check::Ready if database_only => vec![database(facts)],
        Check::Ready => vec![database(facts), botssys(facts), usersys(facts)],
        Check::Startup => vec![database(facts), tables(facts), botssys(facts), usersys(facts), config(facts)],
    };
    let services = facts.services.iter();
    match check {
        Check::Live => looked_at.extend(services.map(|service| live(service, facts))),
        Check::Ready if database_only && !facts.stopping => {}
        Check::Ready => looked_at.extend(services.filter(|s| s.takes_work).map(|service| ready(service, facts))),
        Check::Startup => {}
    }
    let healthy = looked_at.iter().all(|(_, error)| error.is_none());
    Report {
        healthy,
        status: check.status(healthy),
        check: check.name(),
        checks: looked_at.iter().map(|(name, error)| (*name, error.is_none())).collect(),
        errors: looked_at.into_iter().filter_map(|(_, error)| error).collect(),
        mode: database_only.then_some("database_only"),
    }
}

type Looked = (&'static str, Option<String>);

fn database(facts: &Facts) -> Looked {
    ("database", error("the database", &facts.database))
}

fn tables(facts: &Facts) -> Looked {
    ("tables", error("the tables", &facts.tables))
}

fn botssys(facts: &Facts) -> Looked {
    ("botssys", error("botssys", &facts.botssys))
}

fn usersys(facts: &Facts) -> Looked {
    ("usersys", error("usersys", &facts.usersys))
}

fn config(facts: &Facts) -> Looked {
    ("config", error("the configuration", &facts.config))
}

fn error(what: &str, fact: &Fact) -> Option<String> {
    match fact {
        Fact::Good => None,
        Fact::Unknown => Some(format!("{what} was not checked yet")),
        Fact::Bad(why) => Some(why.clone()),
    }
}

/// Whether a service can be sent work.
#[must_use]
pub fn is_ready(service: &Service, facts: &Facts) -> bool {
    ready(service, facts).1.is_none()
}

/// Ready: it has answered, is not being stopped, and answered the last time it was asked.
fn ready(service: &Service, facts: &Facts) -> Looked {
    let name = service.name;
    let error = match service.phase {
        Phase::Ended => Some(format!("{name} has ended")),
        Phase::Draining => Some(format!("{name} is stopping")),
        _ if facts.stopping => Some(format!("{name} is stopping")),
        Phase::Running | Phase::Waiting if service.misses == 0 => None,
        Phase::Running | Phase::Waiting => Some(format!("{name} does not answer")),
        Phase::Starting => Some(format!("{name} is starting")),
        Phase::Restarting => Some(format!("{name} is being restarted")),
        Phase::Standby => Some(format!("{name} stands by: another one is active")),
    };
    (name, error)
}

/// Alive: its process is there or will be again, and is not hung. Requests that wait for a database which is away or
/// locked occupy the web server's workers, so silence at such a time is no evidence against the process.
fn live(service: &Service, facts: &Facts) -> Looked {
    let (name, misses) = (service.name, service.unexcused_misses);
    let error = match service.phase {
        Phase::Ended => Some(format!("{name} has ended")),
        _ if misses >= facts.misses_allowed.max(1) => Some(format!("{name} has not answered {misses} times in a row")),
        _ => None,
    };
    (name, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running() -> Service {
        Service { phase: Phase::Running, answered: true, ..Service::new("webserver", true) }
    }

    fn with(service: Service) -> Facts {
        Facts {
            services: vec![service],
            misses_allowed: 3,
            stopping: false,
            database: Fact::Good,
            database_busy: false,
            tables: Fact::Good,
            engine: None,
            monitor: None,
            results: None,
            bots_version: None,
            initialised: None,
            botssys: Fact::Good,
            usersys: Fact::Good,
            config: Fact::Good,
            refused: Arc::default(),
            database_only: false,
        }
    }

    fn healthy() -> Facts {
        with(running())
    }

    #[test]
    fn all_is_well() {
        let ready = report(Check::Ready, &healthy());
        assert!(ready.healthy && ready.errors.is_empty());
        assert_eq!((ready.status, ready.check), ("ready", "readiness"));
        let names: Vec<_> = ready.checks.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["database", "botssys", "usersys", "webserver"]);
        let startup = report(Check::Startup, &healthy());
        let names: Vec<_> = startup.checks.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["database", "tables", "botssys", "usersys", "config"]);
        assert_eq!(report(Check::Live, &healthy()).status, "ok");
    }

    #[test]
    fn a_database_outage_makes_unready_but_never_dead() {
        let away = Fact::Bad("connection refused".into());
        let facts = Facts { database: away, ..with(Service { misses: 100, ..running() }) };
        let ready = report(Check::Ready, &facts);
        assert!(!ready.healthy && ready.errors.contains(&"connection refused".to_owned()));
        assert!(report(Check::Live, &facts).healthy);
    }

    #[test]
    fn a_hung_service_is_unready_at_once_and_dead_after_some_misses() {
        let missed = |misses| with(Service { misses, unexcused_misses: misses, ..running() });
        let once = missed(1);
        assert!(!report(Check::Ready, &once).healthy);
        assert!(report(Check::Live, &once).healthy);
        assert!(!report(Check::Live, &missed(3)).healthy);
        assert!(report(Check::Live, &Facts { misses_allowed: 4, ..missed(3) }).healthy);
    }

    #[test]
    fn the_life_of_a_service() {
        let at = |phase, check| report(check, &with(Service { phase, ..running() })).healthy;
        assert!(at(Phase::Starting, Check::Live) && !at(Phase::Starting, Check::Ready));
        assert!(at(Phase::Draining, Check::Live) && !at(Phase::Draining, Check::Ready));
        assert!(at(Phase::Restarting, Check::Live) && !at(Phase::Restarting, Check::Ready));
        assert!(at(Phase::Standby, Check::Live) && !at(Phase::Standby, Check::Ready));
        assert!(!at(Phase::Ended, Check::Live) && !at(Phase::Ended, Check::Ready));
    }

    #[test]
    fn each_service_has_its_own_check() {
        let queue = Service { phase: Phase::Starting, ..Service::new("jobqueue", true) };
        let engine = Service { phase: Phase::Waiting, ..Service::new("engine", false) };
        let facts = Facts { services: vec![queue, running(), engine], ..healthy() };
        let ready = report(Check::Ready, &facts);
        assert_eq!(ready.checks[3..], [("jobqueue", false), ("webserver", true)]);
        assert_eq!(ready.errors, ["jobqueue is starting"]);
        let live = report(Check::Live, &facts);
        assert_eq!(live.checks, [("jobqueue", true), ("webserver", true), ("engine", true)]);
        let stopping = report(Check::Ready, &Facts { stopping: true, ..facts });
        assert_eq!(stopping.checks[3..], [("jobqueue", false), ("webserver", false)]);
    }

    #[test]
    fn nothing_is_assumed_before_it_was_checked() {
        let fresh = Facts { services: vec![Service::new("webserver", true)], ..Facts::default() };
        assert_eq!(report(Check::Startup, &fresh).checks.iter().filter(|(_, good)| *good).count(), 0);
        assert_eq!(report(Check::Startup, &fresh).status, "starting");
    }

    #[test]
    fn ready_may_be_about_the_database_alone() {
        let facts = Facts { database_only: true, ..with(Service::new("webserver", true)) };
        let ready = report(Check::Ready, &facts);
        assert_eq!((ready.checks, ready.mode), (vec![("database", true)], Some("database_only")));
        assert!(!report(Check::Ready, &Facts { stopping: true, ..facts }).healthy);
    }
}
