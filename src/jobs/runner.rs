//! One run of a job: a child process in a group of its own, with its output in our log and a watch over its time.

use std::future::pending;
use std::time::Duration;

use nix::libc::{SIGKILL, SIGTERM};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{error, info, warn};

use crate::exit::Exit;
use crate::process::child::{SpawnError, Spec, signal_group};
use crate::process::reaper::{Child, Reaper};
use crate::supervisor::output::carry;
use crate::telemetry::child_output::{LineSink, Stream};
use crate::telemetry::tail::Tail;

/// How long the last lines of a job may take to arrive after its end: they are in a pipe already, unless something
/// that it has started holds that open.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How long a job may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// After this it is an error.
    pub longest: Duration,
    /// And the end of the job, if this is set.
    pub kill: bool,
    /// How long it may take to stop before it is killed.
    pub grace: Duration,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// By itself, or by somebody else's signal.
    Exited(Exit),
    /// It was asked to stop, since it had run for too long.
    Overdue(Exit),
    /// The queue ends and could not wait any longer.
    CutShort,
    /// There was no room for another process.
    NoRoom,
    /// There is no such program, or it cannot be executed.
    NotStarted(String),
}

/// Runs a job to its end, under this name. `kill` turns true when there is no more time to wait.
pub async fn run(
    number: i64,
    run: &str,
    spec: &Spec,
    limits: Limits,
    reaper: &Reaper,
    lines: &LineSink,
    kill: watch::Receiver<bool>,
) -> (Ended, String) {
    let tail = Tail::default();
    let mut child = match reaper.spawn(spec) {
        Ok(child) => child,
        Err(error @ SpawnError::NoResources(..)) => {
            warn!(job = number, run_id = run, "{error}");
            return (Ended::NoRoom, String::new());
        }
        Err(error) => return (Ended::NotStarted(error.to_string()), error.to_string()),
    };
    let sink = lines.of_job(number, run, tail.clone());
    let streams = [(child.stdout.take(), Stream::Stdout), (child.stderr.take(), Stream::Stderr)];
    let output: Vec<JoinHandle<()>> =
        streams.into_iter().filter_map(|(fd, stream)| Some(carry(fd?, stream, sink.clone()))).collect();
    let ended = follow(number, run, &mut child, limits, kill).await;
    for task in output {
        let _ = timeout(LAST_LINES, task).await;
    }
    (ended, tail.text())
}

async fn follow(number: i64, run: &str, child: &mut Child, limits: Limits, mut kill: watch::Receiver<bool>) -> Ended {
    let mut overdue = Some(Instant::now() + limits.longest);
    let (mut deadline, mut was_stopped) = (None, false);
    loop {
        tokio::select! {
            biased;
            exit = child.exited() => return if was_stopped { Ended::Overdue(exit) } else { Ended::Exited(exit) },
            () = is_set(&mut kill) => {
                signal_group(child.pid, SIGKILL);
                child.exited().await;
                return Ended::CutShort;
            }
            () = at(overdue) => {
                overdue = None;
                error!(job = number, run_id = run, "job {number} exceeded maxruntime of {} minutes", limits.longest.as_secs() / 60);
                if limits.kill {
                    info!(job = number, run_id = run, "stopping job {number}, as [jobqueue] killjobsintimeout says");
                    signal_group(child.pid, SIGTERM);
                    (deadline, was_stopped) = (Some(Instant::now() + limits.grace), true);
                }
            }
            () = at(deadline) => {
                deadline = None;
                warn!(job = number, run_id = run, "job {number} did not stop within {} s: killing it", limits.grace.as_secs_f64());
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

/// A sender that is gone never sets it.
async fn is_set(flag: &mut watch::Receiver<bool>) {
    if flag.wait_for(|set| *set).await.is_err() {
        pending::<()>().await;
    }
}
