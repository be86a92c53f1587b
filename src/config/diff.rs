//! What of another configuration a process can go on with that has been started with this one.

use super::Config;

/// Keys, by the beginnings of their paths, that decide what the process itself is: where it listens and logs, which
/// services it runs, and of which environment.
const FIXED: [&str; 11] = [
    "environment.",
    "bots.",
    "up.",
    "engine.every",
    "jobqueue.backend",
    "jobqueue.addr",
    "dirmonitor.backend",
    "reload.",
    "watchdog.",
    "health.",
    "log.",
];

/// What differs from the configuration before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Whether services are made from another one.
    pub is_other: bool,
    /// Keys that take effect when bots-ctl itself is started again.
    pub later: Vec<&'static str>,
}

impl Config {
    /// The configuration to go on with, and how it differs from this one. What cannot change any more stays.
    #[must_use]
    pub fn followed_by(&self, next: Self) -> (Self, Difference) {
        let is_fixed = |path: &str| FIXED.iter().any(|beginning| path.starts_with(beginning));
        // Both were read by the same code, which asks for the keys in one order.
        let pairs = self.shown.iter().zip(&next.shown);
        let changed = pairs.filter(|(old, new)| old.mark != new.mark).map(|(old, _)| old.path);
        let (later, at_once): (Vec<_>, Vec<_>) = changed.partition(|path| is_fixed(path));
        let mut followed = Self {
            environment: self.environment.clone(),
            bots: self.bots.clone(),
            up: self.up.clone(),
            reload: self.reload,
            watchdog: self.watchdog,
            health: self.health,
            log: self.log,
            ..next
        };
        followed.jobqueue.backend = self.jobqueue.backend;
        followed.jobqueue.addr = self.jobqueue.addr;
        followed.dirmonitor.backend = self.dirmonitor.backend;
        (followed, Difference { is_other: !at_once.is_empty(), later })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    fn config(variables: &[(&str, &str)]) -> Config {
        let variables: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::load(&variables, &[], None, Path::new("/nowhere")).expect("it is valid")
    }

    #[test]
    fn what_the_process_itself_is_stays() {
        let running = config(&[("LOG_LEVEL", "info")]);
        let next = [
            ("LOG_LEVEL", "debug"),
            ("BOTS_CTL_HEALTH_ADDR", "127.0.0.1:1"),
            ("BOTSENV", "other"),
            ("BOTS_CTL_DIRMONITOR_BACKEND", "python"),
        ];
        let (followed, difference) = running.followed_by(config(&next));
        let mut later = difference.later;
        later.sort_unstable();
        assert_eq!(
            later,
            ["dirmonitor.backend", "environment.config_dir", "environment.name", "health.addr", "log.level"]
        );
        assert!(!difference.is_other);
        assert_eq!(followed.health.addr, running.health.addr);
        assert_eq!(followed.environment.config_dir, running.environment.config_dir);
    }

    #[test]
    fn what_services_are_made_from_is_taken_over_secrets_included() {
        let running = config(&[("DB_PASSWORD", "one")]);
        let (_, same) = running.followed_by(config(&[("DB_PASSWORD", "one")]));
        assert_eq!(same, Difference::default());
        let (followed, difference) = running.followed_by(config(&[("DB_PASSWORD", "two"), ("TZ", "UTC")]));
        assert_eq!(difference, Difference { is_other: true, later: Vec::new() });
        assert_eq!(followed.django.time_zone.as_deref(), Some("UTC"));
    }
}
