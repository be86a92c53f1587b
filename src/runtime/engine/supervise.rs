//! One run of Bots's engine as a supervised process, under the lease.
//!
//! The lease is a fence: if it is lost, the engine is killed before another one can start.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::bots::services::BotsServiceSpec;
use crate::config::Config;
use crate::database::lease::Lease;
use crate::exit::{Error, Exit};
use crate::process::child::ProcessSpec;
use crate::process::forked::ForkedProcess;
use crate::process::reaper::{Child, Reaper};
use crate::process::signals::{self, Signals};
use crate::process::terminate::terminate_all;
use crate::supervisor::state::Termination;
use crate::supervisor::task::{ProcessMessage, ServiceControl, StopRequest, supervise};
use crate::telemetry::child_output::ServiceOutput;

use super::incomplete_files::RunFiles;
use super::listings;
use super::result::{BUSY, RunResult};
use super::run_metrics::{self, RunBegin};
use crate::runtime::service_spec::supervised;

pub(super) struct EngineRun<'a> {
    pub config: &'a Config,
    pub reaper: &'a Reaper,
    pub signals: &'a mut Signals,
    pub lines: &'a ServiceOutput,
    /// Limits the time of a run. In Bots only the job queue enforces it; bots-ctl does so for every start.
    pub ini: BotsJobQueueIni,
    pub files: RunFiles<'a>,
    /// A process that has imported the engine's modules.
    pub forked: Option<ForkedProcess>,
    pub lease: &'a mut Lease,
    pub begin: RunBegin,
    /// Whether the begin is in the database; none before it was tried.
    pub recorded: &'a mut Option<bool>,
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
            lost = self.lease.confirm(&stop) => lost,
            never = stop_request => match never {},
        };
        let stop_requested = stop.is_cancelled();
        let end = match lost {
            Some(_) => Termination::NotStarted,
            None if stop_requested => {
                info!("engine not started: stop requested");
                Termination::Exited(Exit::Code(BUSY))
            }
            None => return self.supervise(service).await,
        };
        Ok(RunResult { end, lost, stop_requested })
    }

    async fn supervise(&mut self, mut service: BotsServiceSpec) -> Result<RunResult, Error> {
        let answering = listings::answer(&mut self.files, &mut service.spec);
        let lines = self.lines.for_service(service.name.as_str());
        let started = start_forked(self.forked.take(), self.reaper, &service.spec).await;
        let service = supervised(service, true, self.config, lines);
        let ((stop, requests), (forward, messages)) = (unbounded_channel(), unbounded_channel());
        let mut control =
            ServiceControl { stop: requests, messages, started, snapshot: watch::Sender::default(), deadline: None };
        let [ended, stop_requested, is_overdue, is_lost] = std::array::from_fn(|_| CancellationToken::new());
        let fencing = async {
            // While the engine starts, since each flush to the disk would delay it.
            if self.recorded.is_none() {
                *self.recorded = Some(run_metrics::begin(self.lease, self.begin).await);
            }
            hold_lease(self.lease, &ended, &stop, &is_lost).await
        };
        let running = async {
            let end = tokio::select! {
                end = supervise(&service, self.reaper, &mut control) => end,
                never = stop_overdue(&self.ini, &stop, &is_overdue) => match never {},
                never = forward_signals(self.signals, &stop, &forward, &stop_requested, &is_overdue) => match never {},
                never = answering => match never {},
            };
            // No process of this run may go on when the next one begins, in any pod.
            // A stop has one deadline; the end of a run begins another.
            let deadline = control.deadline.filter(|_| stop_requested.is_cancelled());
            let rest = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let limit = rest.unwrap_or(service.policy.timeout);
            if end_leftovers(self.reaper, self.signals, limit, &is_lost).await {
                stop_requested.cancel();
            }
            ended.cancel();
            end
        };
        let (lost, end) = tokio::join!(fencing, running);
        Ok(RunResult { end: end?, lost, stop_requested: stop_requested.is_cancelled() })
    }
}

/// Starts the engine in the process that was forked for it. Without one, or if that fails, the engine starts with a new Python.
async fn start_forked(forked: Option<ForkedProcess>, reaper: &Reaper, spec: &ProcessSpec) -> Option<Child> {
    let started = match forked?.adopt(reaper) {
        Some(waiting) => waiting.start(spec).await,
        None => Err("the forked process has ended".to_owned()),
    };
    started.inspect_err(|reason| debug!("the engine imports its modules itself: {reason}")).ok()
}

/// Logs a run that exceeds maxruntime, and stops the engine if bots.ini requires it.
async fn stop_overdue(
    ini: &BotsJobQueueIni,
    stop: &UnboundedSender<StopRequest>,
    is_overdue: &CancellationToken,
) -> Infallible {
    sleep(ini.max_runtime).await;
    error!("the engine exceeded maxruntime of {} minutes", ini.max_runtime.as_secs() / 60);
    if ini.has_kill_on_timeout {
        info!("stopping the engine, because [jobqueue] killjobsintimeout is set");
        is_overdue.cancel();
        let _ = stop.send(StopRequest { for_reload: false });
    }
    pending().await
}

/// Ends the remaining processes of a run: in order, or at once if the lease is lost. Returns whether a stop was
/// requested.
async fn end_leftovers(reaper: &Reaper, signals: &mut Signals, limit: Duration, is_lost: &CancellationToken) -> bool {
    tokio::select! {
        ended = terminate_all(reaper, signals, &[], limit) => return ended.stop_requested,
        () = is_lost.cancelled() => {}
    }
    terminate_all(reaper, signals, &[], Duration::ZERO).await.stop_requested
}

/// Renews the lease until the run has `ended`. When it is lost the engine is killed at once, before another one may start.
async fn hold_lease(
    lease: &mut Lease,
    ended: &CancellationToken,
    stop: &UnboundedSender<StopRequest>,
    is_lost: &CancellationToken,
) -> Option<String> {
    let lost = lease.keep_renewed(ended).await?;
    error!("lost the engine lease: {lost}; killing the engine");
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
    is_overdue: &CancellationToken,
) -> Infallible {
    loop {
        let number = signals.next().await;
        if signals::is_stop_signal(number) {
            let name = signals::name(number);
            let is_repeated = stop_requested.is_cancelled();
            stop_requested.cancel();
            match (is_repeated, is_overdue.is_cancelled()) {
                (false, false) => info!("received {name}; the engine finishes its run"),
                // A second request would not leave it the rest of its time.
                (false, true) => {
                    info!("received {name}; the engine is being stopped already");
                    continue;
                }
                (true, _) => info!("received {name} again; no longer waiting for the run"),
            }
            let _ = stop.send(StopRequest { for_reload: false });
        } else {
            let _ = forward.send(ProcessMessage::Forward(number));
        }
    }
}
