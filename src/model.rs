//! Plain data that every layer may use: it depends on nothing of this crate.

use std::time::Duration;

/// A service of Bots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ServiceName {
    Webserver,
    Jobqueue,
    Dirmonitor,
    Engine,
}

impl ServiceName {
    /// All of them, in the order in which they are started.
    pub const ALL: [Self; 4] = [Self::Jobqueue, Self::Webserver, Self::Dirmonitor, Self::Engine];

    /// The name in commands, logs and health answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webserver => "webserver",
            Self::Jobqueue => "jobqueue",
            Self::Dirmonitor => "dirmonitor",
            Self::Engine => "engine",
        }
    }
}

/// When a service that has ended by itself is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartRules {
    /// After which ends.
    pub policy: RestartPolicy,
    /// How many times in a row, before its end is the end.
    pub limit: u32,
    /// The pause before the first restart; each further one takes twice as long.
    pub initial_delay: Duration,
    /// The longest pause.
    pub max_delay: Duration,
    /// How long it has to run well until the count begins anew.
    pub reset_after: Duration,
}

/// After which ends a service is started again; `OnFailure` are all but exit code 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum RestartPolicy {
    Never,
    OnFailure,
    Always,
}

/// The two families of Bots, which differ in their tables and in what they can import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BotsVersion {
    /// Up to 3.3.1.
    V3,
    /// 4.0 and later.
    V4,
}
