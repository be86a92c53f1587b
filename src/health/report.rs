//! Facts, and the rules for `ping`, `live`, `ready` and `startup`. Pure.
//!
//! Status words and names of checks are those of the health pages that Bots 4 has below `/bots/health`.

/// How many sign-of-life probes in a row a service may miss before it counts as hung.
pub const MISSES_ALLOWED: u32 = 3;

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

/// Where the service is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Preparations, or the start of the service.
    #[default]
    Starting,
    /// It has given a sign of life.
    Running,
    /// It was asked to stop, or is about to be.
    Draining,
    /// Its process is gone.
    Ended,
}

/// Everything the answers are made from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Name of the service, as in `webserver`; empty where no service is looked at.
    pub service: &'static str,
    /// Where it is in its life.
    pub phase: Phase,
    /// Signs of life missed in a row.
    pub misses: u32,
    /// Those of them for which the database was no excuse.
    pub unexcused_misses: u32,
    /// The database answers.
    pub database: Fact,
    /// It answers that another connection has it locked.
    pub database_busy: bool,
    /// The tables that every service needs are there.
    pub tables: Fact,
    /// Bots's storage is there and writable.
    pub botssys: Fact,
    /// The user's scripts are there and writable.
    pub usersys: Fact,
    /// The configuration was found valid.
    pub config: Fact,
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
    let looked_at = match check {
        Check::Live if facts.service.is_empty() => vec![config(facts)],
        Check::Live => vec![live(facts)],
        Check::Ready if database_only && facts.phase == Phase::Draining => vec![database(facts), service(facts)],
        Check::Ready if database_only => vec![database(facts)],
        Check::Ready if facts.service.is_empty() => vec![database(facts), botssys(facts), usersys(facts)],
        Check::Ready => vec![database(facts), botssys(facts), usersys(facts), service(facts)],
        Check::Startup => vec![database(facts), tables(facts), botssys(facts), usersys(facts), config(facts)],
    };
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

/// Ready: it has answered, is not being stopped, and answered the last time it was asked.
fn service(facts: &Facts) -> Looked {
    let error = match facts.phase {
        Phase::Running if facts.misses == 0 => None,
        Phase::Running => Some(format!("{} does not answer", facts.service)),
        Phase::Starting => Some(format!("{} is starting", facts.service)),
        Phase::Draining => Some(format!("{} is stopping", facts.service)),
        Phase::Ended => Some(format!("{} has ended", facts.service)),
    };
    (facts.service, error)
}

/// Alive: its process is there, and is not hung. Requests that wait for a database which is away or locked occupy the
/// web server's workers, so silence at such a time is no evidence against the process.
fn live(facts: &Facts) -> Looked {
    let misses = facts.unexcused_misses;
    let error = match facts.phase {
        Phase::Ended => Some(format!("{} has ended", facts.service)),
        _ if misses >= MISSES_ALLOWED => Some(format!("{} has not answered {misses} times in a row", facts.service)),
        _ => None,
    };
    (facts.service, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Facts {
        Facts {
            service: "webserver",
            phase: Phase::Running,
            misses: 0,
            unexcused_misses: 0,
            database: Fact::Good,
            database_busy: false,
            tables: Fact::Good,
            botssys: Fact::Good,
            usersys: Fact::Good,
            config: Fact::Good,
            database_only: false,
        }
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
        let facts = Facts { database: away, misses: 100, ..healthy() };
        let ready = report(Check::Ready, &facts);
        assert!(!ready.healthy && ready.errors.contains(&"connection refused".to_owned()));
        assert!(report(Check::Live, &facts).healthy);
    }

    #[test]
    fn a_hung_service_is_unready_at_once_and_dead_after_some_misses() {
        let once = Facts { misses: 1, unexcused_misses: 1, ..healthy() };
        assert!(!report(Check::Ready, &once).healthy);
        assert!(report(Check::Live, &once).healthy);
        let often = Facts { misses: MISSES_ALLOWED, unexcused_misses: MISSES_ALLOWED, ..healthy() };
        assert!(!report(Check::Live, &often).healthy);
    }

    #[test]
    fn the_life_of_a_service() {
        let at = |phase, check| report(check, &Facts { phase, ..healthy() }).healthy;
        assert!(at(Phase::Starting, Check::Live) && !at(Phase::Starting, Check::Ready));
        assert!(at(Phase::Draining, Check::Live) && !at(Phase::Draining, Check::Ready));
        assert!(!at(Phase::Ended, Check::Live) && !at(Phase::Ended, Check::Ready));
    }

    #[test]
    fn nothing_is_assumed_before_it_was_checked() {
        let fresh = Facts { service: "webserver", ..Facts::default() };
        assert_eq!(report(Check::Startup, &fresh).checks.iter().filter(|(_, good)| *good).count(), 0);
        assert_eq!(report(Check::Startup, &fresh).status, "starting");
    }

    #[test]
    fn ready_may_be_about_the_database_alone() {
        let facts = Facts { database_only: true, phase: Phase::Starting, ..healthy() };
        let ready = report(Check::Ready, &facts);
        assert_eq!((ready.checks, ready.mode), (vec![("database", true)], Some("database_only")));
        assert!(!report(Check::Ready, &Facts { phase: Phase::Draining, ..facts }).healthy);
    }
}
