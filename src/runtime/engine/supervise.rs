//! One run of Bots's engine as a supervised process, under the lease.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::bots::services::BotsServiceSpec;
use crate::config::Config;
use crate::database::lease::Lease;
use crate::exit::{Error, Exit};
use crate::process::reaper::Reaper;
use crate::process::signals::{self, Signals};
use crate::process::terminate::terminate_all;
use crate::supervisor::state::Termination;
use crate::supervisor::task::{ProcessMessage, ServiceControl, StopRequest, supervise};
use crate::telemetry::child_output::ServiceOutput;

use super::incomplete_files::RunFiles;
use super::listings;
use crate::runtime::service_spec::supervised;

/// Bots's own code for an engine that finds another one running.
pub(super) const BUSY: u8 = 3;

/// Bots's own code for a run that it could not do.
const FAILED: u8 = 1;

/// Bots's own code for a run in which files or channels had errors.
pub(super) const ERRORS: u8 = 2;

/// The end of a run.
pub(super) struct RunResult {
    pub end: Termination,
    /// The reason, when the lease was lost.
    pub lost: Option<String>,
    pub stop_requested: bool,
}

impl RunResult {
    /// Bots's code for errors of files, or of its own.
    pub fn has_errors(&self) -> bool {
        matches!(self.end, Termination::Exited(Exit::Code(FAILED | ERRORS)))
    }
}

pub(super) struct EngineRun<'a> {
    pub config: &'a Config,
    pub reaper: &'a Reaper,
    pub signals: &'a mut Signals,
    pub lines: &'a ServiceOutput,
    /// Has the longest time of a run. Bots itself leaves that to its job queue, so no other start would hold it.
    pub ini: BotsJobQueueIni,
    pub files: RunFiles<'a>,
    pub lease: &'a mut Lease,
}

impl EngineRun<'_> {
    /// One run of Bots, from the confirmation of the lease until no process of the run is left.
    pub async fn run_once(&mut self, service: BotsServiceSpec) -> Result<RunResult, Error> {
        let stop = CancellationToken::new();
        let stop_request = async {
            self.signals.stop_requested().await;
            stop.cancel();
            pending::<Infallible>().await
        };
        let lost = tokio::select! {
            lost = self.lease.renew(&stop, true) => lost,
            never = stop_request => match never {},
        };
        let stop_requested = stop.is_cancelled();
        let end = match lost {
            Some(_) => Termination::NotStarted,
            None if stop_requested => {
                info!("the engine was not started, since a stop was asked for");
                Termination::Exited(Exit::Code(BUSY))
            }
            None => return self.supervise(service).await,
        };
        Ok(RunResult { end, lost, stop_requested })
    }

    async fn supervise(&mut self, mut service: BotsServiceSpec) -> Result<RunResult, Error> {
        let answering = listings::answer(&mut self.files, &mut service.spec);
        let lines = self.lines.for_service(service.name.as_str());
        let service = supervised(service, true, self.config, lines);
        let ((stop, requests), (forward, messages)) = (unbounded_channel(), unbounded_channel());
        let mut control =
            ServiceControl { stop: requests, messages, snapshot: watch::Sender::default(), deadline: None };
        let (ended, stop_requested, is_lost) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let fencing = hold_lease(self.lease, &ended, &stop, &is_lost);
        let running = async {
            let end = tokio::select! {
                end = supervise(&service, self.reaper, &mut control) => end,
                never = stop_overdue(&self.ini, &stop) => match never {},
                never = forward_signals(self.signals, &stop, &forward, &stop_requested) => match never {},
                never = answering => match never {},
            };
            // No process of this run may go on when the next one begins, in any pod.
            // A stop has one deadline; the end of a run begins another.
            let deadline = control.deadline.filter(|_| stop_requested.is_cancelled());
            let rest = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let limit = rest.unwrap_or(service.plan.timeout);
            if end_leftovers(self.reaper, self.signals, limit, &is_lost).await {
                stop_requested.cancel();
            }
            ended.cancel();
            end
        };
        let (end, lost) = tokio::join!(running, fencing);
        Ok(RunResult { end: end?, lost, stop_requested: stop_requested.is_cancelled() })
    }
}

/// Reports a run that exceeds maxruntime, and stops the engine if bots.ini says so.
async fn stop_overdue(ini: &BotsJobQueueIni, stop: &UnboundedSender<StopRequest>) -> Infallible {
    sleep(Duration::from_secs(ini.longest_minutes.saturating_mul(60))).await;
    error!("the engine exceeded maxruntime of {} minutes", ini.longest_minutes);
    if ini.kills_overdue {
        info!("stopping the engine, as [jobqueue] killjobsintimeout says");
        let _ = stop.send(StopRequest { for_reload: false });
    }
    pending().await
}

/// Ends the remaining processes of a run: in order, or at once when the lease is lost. Returns whether a stop was requested
/// meanwhile.
async fn end_leftovers(reaper: &Reaper, signals: &mut Signals, limit: Duration, is_lost: &CancellationToken) -> bool {
    tokio::select! {
        stop_requested = terminate_all(reaper, signals, &[], limit) => return stop_requested,
        () = is_lost.cancelled() => {}
    }
    terminate_all(reaper, signals, &[], Duration::ZERO).await
}

/// Renews the lease until the run has `ended`. When it is lost the engine is killed at once, before another one may start.
async fn hold_lease(
    lease: &mut Lease,
    ended: &CancellationToken,
    stop: &UnboundedSender<StopRequest>,
    is_lost: &CancellationToken,
) -> Option<String> {
    let lost = lease.renew(ended, false).await?;
    error!("the engine lease is lost: {lost}; killing the engine");
    is_lost.cancel();
    for _ in 0..2 {
        // The second one does not wait for the run to finish.
        let _ = stop.send(StopRequest { for_reload: false });
    }
    Some(lost)
}

/// Forwards signals. Stop signals do not reach the engine: it would leave a crash behind, or lose the files that it has taken.
async fn forward_signals(
    signals: &mut Signals,
    stop: &UnboundedSender<StopRequest>,
    forward: &UnboundedSender<ProcessMessage>,
    stop_requested: &CancellationToken,
) -> Infallible {
    loop {
        let number = signals.next().await;
        if signals::is_stop_signal(number) {
            let name = signals::name(number);
            match stop_requested.is_cancelled() {
                false => info!("asked to stop by {name}: the engine finishes its run"),
                true => info!("asked to stop again by {name}: not waiting for the run any longer"),
            }
            stop_requested.cancel();
            let _ = stop.send(StopRequest { for_reload: false });
        } else {
            let _ = forward.send(ProcessMessage::Forward(number));
        }
    }
}
