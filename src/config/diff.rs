//! What of another configuration a process can go on with that has been started with this one.

use super::Config;

/// Keys, by the beginnings of their paths, that decide what the process itself is: where it listens and logs, which
/// services it runs, and of which environment.
const FIXED: [&str; 11] = [
    "environment.",
    "bots.",
    "up.",
    "up.engine_interval",
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
pub struct ConfigDiff {
    /// Whether services are made from another one.
    pub needs_service_restart: bool,
    /// Keys that take effect when bots-ctl itself is started again.
    pub needs_own_restart: Vec<&'static str>,
}

impl Config {
    /// The configuration to go on with, and how it differs from this one. What cannot change any more stays.
    #[must_use]
    pub fn merge_reloadable(&self, next: Self) -> (Self, ConfigDiff) {
        let is_fixed = |path: &str| FIXED.iter().any(|beginning| path.starts_with(beginning));
        // Both were read by the same code, which asks for the keys in one order.
        let pairs = self.effective_settings.iter().zip(&next.effective_settings);
        let changed = pairs.filter(|(old, new)| old.value_hash != new.value_hash).map(|(old, _)| old.path);
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
        (followed, ConfigDiff { needs_service_restart: !at_once.is_empty(), needs_own_restart: later })
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
        let (config, faults) = Config::read(&variables, &[], None, Path::new("/nowhere"));
        assert!(faults.is_empty(), "{faults:?}");
        config
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
        let (followed, difference) = running.merge_reloadable(config(&next));
        let mut later = difference.needs_own_restart;
        later.sort_unstable();
        assert_eq!(
            later,
            ["dirmonitor.backend", "environment.config_dir", "environment.name", "health.addr", "log.level"]
        );
        assert!(!difference.needs_service_restart);
        assert_eq!(followed.health.addr, running.health.addr);
        assert_eq!(followed.environment.config_dir, running.environment.config_dir);
    }

    #[test]
    fn what_services_are_made_from_is_taken_over_secrets_included() {
        let running = config(&[("DB_PASSWORD", "one")]);
        let (_, same) = running.merge_reloadable(config(&[("DB_PASSWORD", "one")]));
        assert_eq!(same, ConfigDiff::default());
        let (followed, difference) = running.merge_reloadable(config(&[("DB_PASSWORD", "two"), ("TZ", "UTC")]));
        assert_eq!(difference, ConfigDiff { needs_service_restart: true, needs_own_restart: Vec::new() });
        assert_eq!(followed.django.time_zone.as_deref(), Some("UTC"));
    }
}
