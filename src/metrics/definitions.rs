//! Every metric by name, with its type, labels and meaning. A test compares `docs/metrics.md` with this table.

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

macro_rules! metrics {
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

metrics! {
    BUILD = "botsctl_build_info" Info ["version"] "Version of bots-ctl";
    BOTS = "botsctl_bots_info" Info ["version"] "Version of Bots";
    PROCESS_START = "process_start_time_seconds" Gauge [] "Start time of bots-ctl, in seconds since 1970";
    PROCESS_MEMORY = "process_resident_memory_bytes" Gauge [] "Resident memory of bots-ctl";
    PROCESS_CPU = "process_cpu_seconds_total" Counter [] "CPU time of bots-ctl and of its exited children";

    UP = "botsctl_service_up" Gauge ["service"]
        "1 if a service is running, on standby or scheduled; 0 if it is starting, restarting or gone";
    RESTARTS = "botsctl_service_restarts_total" Counter ["service"] "Restarts of a service";
    LAST_EXIT = "botsctl_service_last_exit_code" Gauge ["service"]
        "Exit code of the last process of a service; 128 + n for signal n";
    STARTED = "botsctl_service_start_time_seconds" Gauge ["service"]
        "Start time of the process of a service, in seconds since 1970";
    PROCESSES = "botsctl_service_processes" Gauge ["service"] "Processes of a service, including its descendants";
    MEMORY = "botsctl_service_resident_memory_bytes" Gauge ["service"]
        "Resident memory of a service and its descendants; shared memory counts once per process";
    CPU = "botsctl_service_cpu_seconds_total" Counter ["service"] "CPU time of a service and its descendants";

    HEALTH = "botsctl_health_status" Gauge ["probe"] "1 if the endpoint of this probe returns 200, else 0";
    CHECK = "botsctl_check_success" Gauge ["check"] "1 if the last background check passed, else 0";
    CHECK_DURATION = "botsctl_check_duration_seconds" Gauge ["check"] "Duration of the last background check";
    CHECK_TIME = "botsctl_check_timestamp_seconds" Gauge ["check"]
        "End of the last background check, in seconds since 1970";
    VOLUME_FREE = "botsctl_volume_free_bytes" Gauge [] "Free bytes on the volume of botssys";
    PROBES = "botsctl_probes_total" Counter ["path", "code"] "Requests answered by the health listener";

    INIT_DURATION = "botsctl_init_duration_seconds" Gauge [] "Time this start took to inspect and complete the database";
    INIT_SUCCESS = "botsctl_init_success" Gauge [] "1 if this start found or made the database complete, else 0";
    INIT_RUNS = "botsctl_init_runs_total" Counter ["outcome"]
        "Runs of init-db that had to change the database, by outcome: success or failed";

    ENGINE_RUNNING = "botsctl_engine_running" Gauge []
        "1 while an engine runs in any pod, else 0; absent while the database does not respond";
    ENGINE_RUNS = "botsctl_engine_runs_total" Counter ["outcome"]
        "Engine runs by outcome: success, errors, failed, busy, killed, lost or interrupted";
    ENGINE_DURATION = "botsctl_engine_run_duration_seconds" Histogram [] "Duration of finished engine runs";
    ENGINE_SUCCESS = "botsctl_engine_last_success_timestamp_seconds" Gauge []
        "Time of the last finished engine run, with or without errors in files, in seconds since 1970";
    ENGINE_WAIT = "botsctl_engine_lease_wait_seconds_total" Counter [] "Time that engine runs have waited for the engine lease";
    ENGINE_RECOVERIES = "botsctl_engine_recoveries_total" Counter []
        "Engine runs that recovered an interrupted run";

    EDI_RECEIVED = "botsctl_edi_files_received_total" Counter ["route"] "EDI files received";
    EDI_SENT = "botsctl_edi_files_sent_total" Counter ["route"] "EDI files sent";
    EDI_ERRORS = "botsctl_edi_file_errors_total" Counter ["route"] "EDI files received with errors";
    EDI_STUCK = "botsctl_edi_files_stuck" Gauge ["route"]
        "EDI files of the last day left unfinished by a run that is over";
    EDI_LOST = "botsctl_edi_runs_abandoned" Gauge []
        "Interrupted runs of the last day that were neither recovered nor given up";
    EDI_READ = "botsctl_edi_read_timestamp_seconds" Gauge []
        "Time of the last read of engine and EDI data from the database, in seconds since 1970";

    JOBS = "botsctl_jobs" Gauge ["state"] "Jobs in the queue, by state: waiting or running";
    OLDEST_JOB = "botsctl_job_oldest_age_seconds" Gauge [] "Age of the oldest waiting job; 0 if none";
    JOBS_ENDED = "botsctl_jobs_ended_total" Counter ["outcome"] "Jobs by outcome: done, failed or requeued";
    JOB_CALLS_REFUSED = "botsctl_jobqueue_calls_refused_total" Counter [] "Job queue calls rejected for a missing or wrong token";

    DIRECTORIES = "botsctl_dirmonitor_directories" Gauge ["backend"]
        "Entries of the directory monitor by watch method: inotify, poll, both or none";
    TARGETS_FAILED = "botsctl_dirmonitor_targets_failed" Gauge [] "Entries of the directory monitor that cannot be watched";
    OLDEST_FILE = "botsctl_dirmonitor_oldest_file_age_seconds" Gauge ["files", "route"]
        "Age of the oldest unprocessed file; 0 if none";
    UNFINISHED = "botsctl_dirmonitor_unfinished_files" Gauge ["files", "route"]
        "Files that are being written or not yet known to be complete";
    GIVEN_UP = "botsctl_dirmonitor_files_given_up_total" Counter []
        "Files still incomplete after BOTS_CTL_FILE_WAIT, for which their route no longer waits";
    PENDING_ROUTES = "botsctl_dirmonitor_pending_routes" Gauge [] "Routes with new files that are not yet in the job queue";
    WATCH_EVENTS = "botsctl_dirmonitor_events_total" Counter [] "inotify events of watched directories";
    FULL_SCANS = "botsctl_dirmonitor_full_scans_total" Counter [] "Full scans of an entry of the directory monitor";
    OVERFLOWS = "botsctl_dirmonitor_overflows_total" Counter []
        "inotify queue overflows, each followed by a full rescan";

    RELAY = "botsctl_relay_requests_total" Counter ["outcome"]
        "Calls relayed to the job queue of another container, by outcome: forwarded, unreachable or refused";
    RELOADS = "botsctl_config_reloads_total" Counter ["outcome"]
        "Configuration changes at run time, by outcome: applied or refused";
    RELOAD_SUCCESS = "botsctl_config_last_reload_success" Gauge []
        "0 while a configuration change is rejected, else 1";
    PLUGIN_SUCCESS = "botsctl_plugin_source_success" Gauge []
        "0 while the plugin of BOTS_CTL_PLUGIN_SOURCE is rejected, 1 when it is applied";
    DROPPED = "botsctl_log_lines_dropped_total" Counter [] "Log lines dropped because the output was not read in time";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_names_follow_conventions() {
        for (index, metric) in ALL.iter().enumerate() {
            let MetricDef { name, kind, labels, help } = metric;
            assert!(name.starts_with("botsctl_") || name.starts_with("process_"), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == MetricKind::Counter, "{name}");
            assert_eq!(name.ends_with("_info"), *kind == MetricKind::Info, "{name}");
            assert!(ALL[..index].iter().all(|other| other.base_name() != metric.base_name()), "{name} twice");
            assert!(!help.ends_with('.') && !labels.contains(&"le"), "{name}");
        }
    }
}
