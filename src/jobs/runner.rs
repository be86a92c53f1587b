//! One run of a job: a child process in a separate group, with a time limit, whose output goes to the log of bots-ctl.

use std::future::pending;
use std::time::Duration;

use nix::libc::{SIGKILL, SIGTERM};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::exit::Exit;
use crate::process::child::SpawnError;
use crate::process::reaper::Child;
use crate::process::signals::signal_group;
use crate::supervisor::output::pump_child;
use crate::telemetry::child_output::ServiceOutput;
use crate::telemetry::tail::OutputTail;

/// The time limits of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunLimits {
    /// Longer is an error.
    pub max_runtime: Duration,
    /// Whether the job is stopped then.
    pub kill_overdue: bool,
    /// Limit of the stop, after which it is killed.
    pub stop_timeout: Duration,
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEnd {
    /// By itself, or by a signal of another process.
    Exited(Exit),
    /// It was stopped, since it ran for too long.
    TimedOut(Exit),
    /// The queue ended and could not wait any longer.
    KilledAtStop,
    /// The limit on processes or memory is reached.
    NoResources,
    /// The program does not exist or cannot be executed.
    SpawnFailed(String),
}

/// A run that has ended.
pub struct JobRun {
    pub end: RunEnd,
    /// The end of its output.
    pub output: String,
}

/// Follows a job to its end. `run` is the run's ID. `kill` is cancelled to end it at once.
pub async fn run(
    number: i64,
    run: &str,
    child: Result<Child, SpawnError>,
    limits: RunLimits,
    lines: &ServiceOutput,
    kill: CancellationToken,
) -> JobRun {
    let tail = OutputTail::default();
    let mut child = match child {
        Ok(child) => child,
        Err(error @ SpawnError::NoResources(..)) => {
            warn!(job = number, run_id = run, "{error}");
            return JobRun { end: RunEnd::NoResources, output: String::new() };
        }
        Err(error) => return JobRun { end: RunEnd::SpawnFailed(error.to_string()), output: error.to_string() },
    };
    let sink = lines.for_job(number, run, tail.clone());
    let output = pump_child(&mut child, &sink);
    let end = follow(number, run, &mut child, limits, kill).await;
    output.drain().await;
    JobRun { end, output: tail.text() }
}

async fn follow(number: i64, run: &str, child: &mut Child, limits: RunLimits, kill: CancellationToken) -> RunEnd {
    // bots.ini may set a limit that the clock cannot represent.
    let mut overdue = Instant::now().checked_add(limits.max_runtime);
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
                    info!(job = number, run_id = run, "stopping job {number}, because [jobqueue] killjobsintimeout is set");
                    signal_group(child.pid, SIGTERM);
                    (deadline, was_stopped) = (Some(Instant::now() + limits.stop_timeout), true);
                }
            }
            () = at(deadline) => {
                deadline = None;
                warn!(job = number, run_id = run, "job {number} did not stop within {} s; sending SIGKILL", limits.stop_timeout.as_secs_f64());
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
