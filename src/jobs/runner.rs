//! One run of a job: a child process in a group of its own, with its output in our log and a watch over its time.

use std::future::pending;
use std::time::Duration;

use nix::libc::{SIGKILL, SIGTERM};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::exit::Exit;
use crate::process::child::{ProcessSpec, SpawnError, signal_group};
use crate::process::reaper::{Child, Reaper};
use crate::supervisor::output::{drain, pump_child};
use crate::telemetry::child_output::ServiceOutput;
use crate::telemetry::tail::OutputTail;

/// How long a job may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunLimits {
    /// After this it is an error.
    pub max_runtime: Duration,
    /// And the end of the job, if this is set.
    pub kill_overdue: bool,
    /// How long it may take to stop before it is killed.
    pub stop_timeout: Duration,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEnd {
    /// By itself, or by somebody else's signal.
    Exited(Exit),
    /// It was asked to stop, since it had run for too long.
    TimedOut(Exit),
    /// The queue ends and could not wait any longer.
    KilledAtStop,
    /// There was no room for another process.
    NoResources,
    /// There is no such program, or it cannot be executed.
    SpawnFailed(String),
}

/// Runs a job to its end, under this name. `kill` is cancelled when there is no more time to wait.
pub async fn run(
    number: i64,
    run: &str,
    spec: &ProcessSpec,
    limits: RunLimits,
    reaper: &Reaper,
    lines: &ServiceOutput,
    kill: CancellationToken,
) -> (RunEnd, String) {
    let tail = OutputTail::default();
    let mut child = match reaper.spawn(spec) {
        Ok(child) => child,
        Err(error @ SpawnError::NoResources(..)) => {
            warn!(job = number, run_id = run, "{error}");
            return (RunEnd::NoResources, String::new());
        }
        Err(error) => return (RunEnd::SpawnFailed(error.to_string()), error.to_string()),
    };
    let sink = lines.for_job(number, run, tail.clone());
    let output = pump_child(&mut child, &sink);
    let ended = follow(number, run, &mut child, limits, kill).await;
    drain(&output).await;
    (ended, tail.text())
}

async fn follow(number: i64, run: &str, child: &mut Child, limits: RunLimits, kill: CancellationToken) -> RunEnd {
    let mut overdue = Some(Instant::now() + limits.max_runtime);
    let (mut deadline, mut was_stopped) = (None, false);
    loop {
        tokio::select! {
            biased;
            exit = child.exited() => return if was_stopped { RunEnd::TimedOut(exit) } else { RunEnd::Exited(exit) },
            () = kill.cancelled() => {
                signal_group(child.pid, SIGKILL);
                child.exited().await;
                return RunEnd::KilledAtStop;
            }
            () = at(overdue) => {
                overdue = None;
                error!(job = number, run_id = run, "job {number} exceeded maxruntime of {} minutes", limits.max_runtime.as_secs() / 60);
                if limits.kill_overdue {
                    info!(job = number, run_id = run, "stopping job {number}, as [jobqueue] killjobsintimeout says");
                    signal_group(child.pid, SIGTERM);
                    (deadline, was_stopped) = (Some(Instant::now() + limits.stop_timeout), true);
                }
            }
            () = at(deadline) => {
                deadline = None;
                warn!(job = number, run_id = run, "job {number} did not stop within {} s: killing it", limits.stop_timeout.as_secs_f64());
                signal_group(child.pid, SIGKILL);
            }
        }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}
