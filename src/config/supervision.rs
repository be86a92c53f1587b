//! How services are stopped, started again and watched, and which of them `up` runs.

use std::time::Duration;

use super::keys::{self, Setting};
use super::layers::LayeredConfig;
use crate::model::{RestartRules, ServiceName};

/// How long a service stays up, no longer ready, in Kubernetes: endpoints need some seconds to forget a pod.
pub(super) const DRAIN_IN_KUBERNETES: Duration = Duration::from_secs(5);

/// How services are stopped.
#[derive(Debug, Clone, Copy)]
pub struct StopConfig {
    /// Time between the stop signal and SIGKILL, where nothing else is said.
    pub timeout: Duration,
    /// How long the pod may take to stop, if that is known.
    pub grace_period: Option<Duration>,
    /// The web UI.
    pub webserver: StopTimeouts,
    /// The job queue.
    pub jobqueue: StopTimeouts,
    /// The directory monitor.
    pub dirmonitor: StopTimeouts,
    /// The engine.
    pub engine: StopTimeouts,
}

/// The times of one service's stop.
#[derive(Debug, Clone, Copy)]
pub struct StopTimeouts {
    /// Time between "not ready" and the stop signal.
    pub drain: Duration,
    /// Time between the stop signal and SIGKILL.
    pub timeout: Duration,
}

/// When a service counts as hung, and what then.
#[derive(Debug, Clone, Copy)]
pub struct WatchdogConfig {
    /// Signs of life that it may miss in a row.
    pub failure_threshold: u32,
    /// Whether it is restarted; `None` leaves that to the command.
    pub restart: Option<bool>,
}

/// What `up` runs.
#[derive(Debug, Clone)]
pub struct UpConfig {
    /// The services, when they are chosen.
    pub services: Option<Vec<ServiceName>>,
    /// Time between the starts of two engine runs.
    pub engine_interval: Duration,
}

/// How engines are run.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Exit codes that become 0.
    pub success_exit_codes: Vec<u8>,
    /// How long to wait for an engine that runs already.
    pub lease_wait: Duration,
    /// How long a run of another engine may make no progress before it counts as cut off.
    pub progress_timeout: Duration,
    /// How long a file that is not complete keeps a run from being started.
    pub file_wait: Duration,
    /// Whether routes need not be known.
    pub allow_unknown_routes: bool,
}

pub(super) fn read_stop(reader: &mut LayeredConfig<'_>, in_kubernetes: bool) -> StopConfig {
    let drain = if in_kubernetes { DRAIN_IN_KUBERNETES } else { Duration::ZERO };
    let drain = reader.get_or(&keys::DRAIN, drain, &in_seconds(drain));
    let timeout = reader.get(&keys::STOP_TIMEOUT);
    let mut timeout_of = |key| or_span(reader, key, timeout);
    let [webserver, jobqueue, dirmonitor, engine] = [
        timeout_of(&keys::WEBSERVER_STOP_TIMEOUT),
        timeout_of(&keys::JOBQUEUE_STOP_TIMEOUT),
        timeout_of(&keys::DIRMONITOR_STOP_TIMEOUT),
        timeout_of(&keys::ENGINE_STOP_TIMEOUT),
    ];
    StopConfig {
        timeout,
        grace_period: reader.optional(&keys::GRACE_PERIOD),
        webserver: StopTimeouts { drain: or_span(reader, &keys::WEBSERVER_DRAIN, drain), timeout: webserver },
        jobqueue: StopTimeouts { drain: or_span(reader, &keys::JOBQUEUE_DRAIN, Duration::ZERO), timeout: jobqueue },
        dirmonitor: StopTimeouts { drain: Duration::ZERO, timeout: dirmonitor },
        engine: StopTimeouts { drain: Duration::ZERO, timeout: engine },
    }
}

fn or_span(reader: &mut LayeredConfig<'_>, key: &Setting<Duration>, default: Duration) -> Duration {
    reader.get_or(key, default, &in_seconds(default))
}

fn in_seconds(span: Duration) -> String {
    format!("{}s", span.as_secs_f64())
}

pub(super) fn read_restart(reader: &mut LayeredConfig<'_>) -> RestartRules {
    RestartRules {
        policy: reader.get(&keys::RESTART),
        limit: reader.get(&keys::RESTART_LIMIT),
        initial_delay: reader.get(&keys::RESTART_INITIAL_DELAY),
        max_delay: reader.get(&keys::RESTART_MAX_DELAY),
        reset_after: reader.get(&keys::RESTART_RESET_AFTER),
    }
}

pub(super) fn read_watchdog(reader: &mut LayeredConfig<'_>) -> WatchdogConfig {
    WatchdogConfig {
        failure_threshold: reader.get(&keys::WATCHDOG_FAILURE_THRESHOLD),
        restart: reader.optional(&keys::WATCHDOG_RESTART),
    }
}

pub(super) fn read_engine(reader: &mut LayeredConfig<'_>) -> EngineConfig {
    EngineConfig {
        success_exit_codes: reader.optional(&keys::ENGINE_SUCCESS_EXIT_CODES).unwrap_or_default(),
        lease_wait: reader.get(&keys::ENGINE_LEASE_WAIT),
        progress_timeout: reader.get(&keys::ENGINE_PROGRESS_TIMEOUT),
        file_wait: reader.get(&keys::ENGINE_FILE_WAIT),
        allow_unknown_routes: reader.get(&keys::ENGINE_ALLOW_UNKNOWN_ROUTES),
    }
}

pub(super) fn read_up(reader: &mut LayeredConfig<'_>) -> UpConfig {
    UpConfig { services: reader.optional(&keys::UP_SERVICES), engine_interval: reader.get(&keys::ENGINE_INTERVAL) }
}
