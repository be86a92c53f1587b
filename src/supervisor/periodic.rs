//! Runs a service that is meant to end again and again, a fixed time from start to start and never twice at once.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::state::Termination;
use super::task::{ServiceCommand, ServiceSnapshot, SupervisedService, supervise};
use crate::process::child::SpawnError;
use crate::process::reaper::Reaper;

/// Runs the service now and then `every` so often, until it is asked to stop. A run that takes longer delays the next.
/// How a run ends is for the log and for `observe`; it does not end the schedule.
///
/// # Errors
/// As [`supervise`].
pub async fn run_every(
    every: Duration,
    service: &SupervisedService,
    reaper: &Reaper,
    control: &mut mpsc::Receiver<ServiceCommand>,
    mut observe: impl FnMut(ServiceSnapshot),
) -> Result<Termination, SpawnError> {
    let mut due = Instant::now();
    loop {
        if wait(due, control).await == Wake::Stop {
            return Ok(Termination::Stopped);
        }
        due = Instant::now() + every;
        let mut was_asked = false;
        let run = supervise(service, reaper, control, Vec::new(), |snapshot| {
            was_asked = snapshot.was_asked;
            observe(snapshot);
        });
        // A stop may have come when no process ran any more: its own end says nothing of it then.
        match run.await? {
            Termination::Killed => return Ok(Termination::Killed),
            _ if was_asked => return Ok(Termination::Stopped),
            Termination::Exited(_) | Termination::NotStarted | Termination::Stopped => {}
        }
        info!(service = service.name, "next run in {} s", due.saturating_duration_since(Instant::now()).as_secs());
    }
}

#[derive(PartialEq, Eq)]
enum Wake {
    Due,
    Stop,
}

/// Between two runs there is no process for any other message.
async fn wait(due: Instant, control: &mut mpsc::Receiver<ServiceCommand>) -> Wake {
    loop {
        tokio::select! {
            () = sleep_until(due) => return Wake::Due,
            command = control.recv() => match command {
                Some(ServiceCommand::Stop | ServiceCommand::StopForReload) | None => return Wake::Stop,
                Some(ServiceCommand::Forward(_) | ServiceCommand::MarkAlive(_) | ServiceCommand::MarkUnresponsive(_)) => {}
            },
        }
    }
}
