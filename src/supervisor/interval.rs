//! Runs a service on a schedule, with a fixed interval between starts, and never twice at once.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::state::Termination;
use super::task::{ServiceControl, ServiceResult, StopRequest, SupervisedService, supervise};
use crate::process::reaper::Reaper;

/// Runs the service at the interval `every`, until a stop is requested. A run that takes longer delays the next one.
/// The result of a run is logged and stored in the snapshot; it does not end the schedule.
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
        if is_stopped_before(due, &mut control.stop).await {
            return Ok(Termination::Stopped);
        }
        // Signals received between two runs have no target process.
        while control.messages.try_recv().is_ok() {}
        due = Instant::now() + every;
        let end = supervise(service, reaper, control).await?;
        // A stop may have been requested when no process was running any more, so the end of the run does not show it.
        if end == Termination::Killed {
            return Ok(end);
        } else if control.snapshot.borrow().was_asked {
            return Ok(Termination::Stopped);
        }
        debug!(service = service.name, "next run in {} s", due.saturating_duration_since(Instant::now()).as_secs());
    }
}

/// Waits until the next run is due; whether a stop was requested instead. A run that began in a stop would be killed.
async fn is_stopped_before(due: Instant, stop: &mut UnboundedReceiver<StopRequest>) -> bool {
    tokio::select! {
        biased;
        _ = stop.recv() => true,
        () = sleep_until(due) => false,
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_run_starts_after_stop_request() {
        // Without an order, one of two ready events would be chosen at random.
        for _ in 0..100 {
            let (sender, mut stop) = unbounded_channel();
            assert!(!is_stopped_before(Instant::now(), &mut stop).await);
            sender.send(StopRequest { for_reload: false }).expect("it is received");
            assert!(is_stopped_before(Instant::now(), &mut stop).await);
        }
    }
}
