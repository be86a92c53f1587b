//! Every metric by name, with its type, labels and meaning. `docs/metrics.md` says the same, and a test compares the two.

pub use prometheus_client::metrics::MetricType as MetricKind;

/// A metric with its labels.
#[derive(Debug, Clone, Copy)]
pub struct MetricDef {
    /// Its whole name.
    pub name: &'static str,
    /// The type.
    pub kind: MetricKind,
    /// The names of its labels, in their order.
    pub labels: &'static [&'static str],
    /// The meaning, in a sentence without a full stop.
    pub help: &'static str,
}

impl MetricDef {
    /// The name without the suffix that the formats append.
    pub(super) fn base_name(&self) -> &'static str {
        let end = match self.kind {
            MetricKind::Counter => "_total",
            MetricKind::Info => "_info",
            MetricKind::Gauge | MetricKind::Histogram | MetricKind::Unknown => "",
        };
        self.name.strip_suffix(end).unwrap_or(self.name)
    }
}

macro_rules! families {
    ($($constant:ident = $name:literal $kind:ident [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: MetricDef =
                MetricDef { name: $name, kind: MetricKind::$kind, labels: &[$($label),*], help: $help };
        )*

        /// All of them, in the order of the documentation.
        pub const ALL: &[MetricDef] = &[$($constant),*];
    };
}

families! {
    BUILD = "botsctl_build_info" Info ["version"] "The version of bots-ctl";
    BOTS = "botsctl_bots_info" Info ["version"] "The version of the Bots that it runs";
    PROCESS_START = "process_start_time_seconds" Gauge [] "When bots-ctl itself was started, in seconds since 1970";
    PROCESS_MEMORY = "process_resident_memory_bytes" Gauge [] "Resident memory of bots-ctl itself";
    PROCESS_CPU = "process_cpu_seconds_total" Counter [] "CPU time of bots-ctl itself and of children that have ended";

    UP = "botsctl_service_up" Gauge ["service"]
        "1 while a service runs, stands by or waits for its next time; 0 while it starts, is replaced or is gone";
    RESTARTS = "botsctl_service_restarts_total" Counter ["service"] "How often a service was started again after it had ended";
    LAST_EXIT = "botsctl_service_last_exit_code" Gauge ["service"]
        "The exit code of a service's last process that has ended; 128 + n for signal n";
    STARTED = "botsctl_service_start_time_seconds" Gauge ["service"]
        "When the process of a service was started, in seconds since 1970";
    PROCESSES = "botsctl_service_processes" Gauge ["service"] "Processes of a service, with all that it has started";
    MEMORY = "botsctl_service_resident_memory_bytes" Gauge ["service"]
        "Resident memory of a service with all that it has started; shared memory counts for each process";
    CPU = "botsctl_service_cpu_seconds_total" Counter ["service"] "CPU time of a service with all that it has started";

    HEALTH = "botsctl_health_status" Gauge ["probe"] "1 when a probe of this kind is answered with 200, else 0";
    CHECK = "botsctl_check_success" Gauge ["check"] "1 when the last background check was good, else 0";
    CHECK_DURATION = "botsctl_check_duration_seconds" Gauge ["check"] "How long the last background check took";
    CHECK_TIME = "botsctl_check_timestamp_seconds" Gauge ["check"]
        "When the last background check ended, in seconds since 1970";
    VOLUME_FREE = "botsctl_volume_free_bytes" Gauge [] "Bytes that are free on the volume of botssys";
    PROBES = "botsctl_probes_total" Counter ["path", "code"] "Requests that the health listener has answered";

    INIT_DURATION = "botsctl_init_duration_seconds" Gauge [] "How long the database was looked at and completed at this start";
    INIT_SUCCESS = "botsctl_init_success" Gauge [] "1 when the database was complete at this start or was completed, else 0";
    INIT_RUNS = "botsctl_init_runs_total" Counter ["outcome"]
        "Runs of init-db that had something to do, by outcome: success or failed";

    ENGINE_RUNNING = "botsctl_engine_running" Gauge [] "1 while an engine runs, in whatever pod, else 0";
    ENGINE_RUNS = "botsctl_engine_runs_total" Counter ["outcome"]
        "Runs of the engine, by outcome: success, errors, failed, busy, killed, lost or interrupted";
    ENGINE_DURATION = "botsctl_engine_run_duration_seconds" Histogram [] "How long runs of the engine took that were ended";
    ENGINE_SUCCESS = "botsctl_engine_last_success_timestamp_seconds" Gauge []
        "When the engine ran through last, with or without errors in files, in seconds since 1970";
    ENGINE_WAIT = "botsctl_engine_lease_wait_seconds_total" Counter [] "Time that runs of the engine have waited for another one";
    ENGINE_RECOVERIES = "botsctl_engine_recoveries_total" Counter []
        "Runs of the engine that recovered an earlier one which was cut off";

    EDI_RECEIVED = "botsctl_edi_files_received_total" Counter ["route"] "EDI files that were taken in";
    EDI_SENT = "botsctl_edi_files_sent_total" Counter ["route"] "EDI files that went out";
    EDI_ERRORS = "botsctl_edi_file_errors_total" Counter ["route"] "EDI files that were taken in and had errors";
    EDI_STUCK = "botsctl_edi_files_stuck" Gauge ["route"]
        "EDI files of the last day that are in an unfinished state though their run is over";
    EDI_LOST = "botsctl_edi_runs_abandoned" Gauge []
        "Runs of the last day that were broken off, and not recovered or given up";
    EDI_READ = "botsctl_edi_read_timestamp_seconds" Gauge []
        "When the figures of engine and EDI were last read from the database, in seconds since 1970";

    JOBS = "botsctl_jobs" Gauge ["state"] "Jobs in the queue: waiting or running";
    OLDEST_JOB = "botsctl_job_oldest_age_seconds" Gauge [] "How long the job that was submitted first has waited; 0 when none waits";
    JOBS_ENDED = "botsctl_jobs_ended_total" Counter ["outcome"] "Jobs that were run, by outcome: done, failed or requeued";
    JOB_CALLS_REFUSED = "botsctl_jobqueue_calls_refused_total" Counter [] "Calls for the job queue without its token";

    DIRECTORIES = "botsctl_dirmonitor_directories" Gauge ["backend"]
        "Entries of the directory monitor by how files are found: inotify, poll, both or none";
    TROUBLED = "botsctl_dirmonitor_targets_failed" Gauge [] "Entries of the directory monitor that cannot be watched";
    OLDEST_FILE = "botsctl_dirmonitor_oldest_file_age_seconds" Gauge ["files", "route"]
        "How long the file is there that came first and was not taken; 0 when there is none";
    UNFINISHED = "botsctl_dirmonitor_unfinished_files" Gauge ["files", "route"]
        "Files that are being written, or not known to be complete";
    GIVEN_UP = "botsctl_dirmonitor_files_given_up_total" Counter []
        "Files that were not complete after BOTS_CTL_FILE_WAIT, so that their route no longer waits for them";
    MARKED = "botsctl_dirmonitor_pending_routes" Gauge [] "Routes whose files have come and which the job queue does not have yet";
    WATCH_EVENTS = "botsctl_dirmonitor_events_total" Counter [] "What the kernel has told of watched directories";
    WATCH_SWEEPS = "botsctl_dirmonitor_full_scans_total" Counter [] "Looks at all files of an entry of the directory monitor";
    WATCH_LOSSES = "botsctl_dirmonitor_overflows_total" Counter []
        "How often the kernel told of more than could be taken in, so that everything was looked at";

    RELAY = "botsctl_relay_requests_total" Counter ["outcome"]
        "Calls for the job queue of another container, by outcome: passed, unreachable or refused";
    RELOADS = "botsctl_config_reloads_total" Counter ["outcome"]
        "Changes of the configuration while it was in use, by outcome: applied or refused";
    RELOAD_SUCCESS = "botsctl_config_last_reload_success" Gauge []
        "0 while the configuration was changed and the change is refused, else 1";
    DROPPED = "botsctl_log_lines_dropped_total" Counter [] "Lines of services and of bots-ctl that nobody took in time";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_the_conventions() {
        for (index, family) in ALL.iter().enumerate() {
            let MetricDef { name, kind, labels, help } = family;
            assert!(name.starts_with("botsctl_") || name.starts_with("process_"), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == MetricKind::Counter, "{name}");
            assert_eq!(name.ends_with("_info"), *kind == MetricKind::Info, "{name}");
            assert!(ALL[..index].iter().all(|other| other.base_name() != family.base_name()), "{name} twice");
            assert!(!help.ends_with('.') && !labels.contains(&"le"), "{name}");
        }
    }
}
