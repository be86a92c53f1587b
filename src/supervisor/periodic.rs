//! Runs a service that is meant to end again and again, a fixed time from start to start and never twice at once.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::state::End;
use super::task::{Control, Service, Snapshot, supervise};
use crate::process::child::SpawnError;
use crate::process::reaper::Reaper;

/// Runs the service now and then `every` so often, until it is asked to stop. A run that takes longer delays the next.
/// How a run ends is for the log and for `observe`; it does not end the schedule.
///
/// # Errors
/// As [`supervise`].
pub async fn run_every(
    every: Duration,
    service: &mut Service,
    reaper: &Reaper,
    control: &mut mpsc::Receiver<Control>,
    mut observe: impl FnMut(Snapshot),
) -> Result<End, SpawnError> {
    let mut due = Instant::now();
    loop {
        if wait(due, service, control).await == Waited::Stopped {
            return Ok(End::Stopped);
        }
        due = Instant::now() + every;
        let mut was_asked = false;
        let run = supervise(service, reaper, control, Vec::new(), |snapshot| {
            was_asked = snapshot.was_asked;
            observe(snapshot);
        });
        // A stop may have come when no process ran any more: its own end says nothing of it then.
        match run.await? {
            End::Killed => return Ok(End::Killed),
            _ if was_asked => return Ok(End::Stopped),
            End::Exited(_) | End::NotStarted | End::Stopped => {}
        }
        info!(service = service.name, "next run in {} s", due.saturating_duration_since(Instant::now()).as_secs());
    }
}

#[derive(PartialEq, Eq)]
enum Waited {
    Due,
    Stopped,
}

/// Between two runs there is no process for any other message.
async fn wait(due: Instant, service: &mut Service, control: &mut mpsc::Receiver<Control>) -> Waited {
    loop {
        tokio::select! {
            () = sleep_until(due) => return Waited::Due,
            told = control.recv() => match told {
                Some(Control::Stop) | None => return Waited::Stopped,
                Some(Control::Renew(next)) => *service = *next,
                Some(Control::Forward(_) | Control::Answered(_) | Control::Hung(_)) => {}
            },
        }
    }
}
