//! Runs a service that is meant to end again and again, a fixed time from start to start and never twice at once.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::state::Termination;
use super::task::{ServiceControl, ServiceResult, SupervisedService, supervise};
use crate::process::reaper::Reaper;

/// Runs the service now and then `every` so often, until it is asked to stop. A run that takes longer delays the next.
/// How a run ends is for the log and for the snapshot; it does not end the schedule.
///
/// # Errors
/// As [`supervise`].
pub async fn run_every(
    every: Duration,
    service: &SupervisedService,
    reaper: &Reaper,
    control: &mut ServiceControl,
) -> ServiceResult {
    let mut due = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(due) => {}
            _ = control.stop.recv() => return Ok(Termination::Stopped),
        }
        // Signals that came between two runs were for no process.
        while control.messages.try_recv().is_ok() {}
        due = Instant::now() + every;
        let end = supervise(service, reaper, control).await?;
        // A stop may have come when no process ran any more: its own end says nothing of it then.
        if end == Termination::Killed {
            return Ok(end);
        } else if control.snapshot.borrow().was_asked {
            return Ok(Termination::Stopped);
        }
        info!(service = service.name, "next run in {} s", due.saturating_duration_since(Instant::now()).as_secs());
    }
}
