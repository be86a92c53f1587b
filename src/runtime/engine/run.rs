//! One run of the engine under its lease: checks before, a summary after.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::bots::engine_args::EngineArgs;
use crate::bots::services;
use crate::config::Config;
use crate::database;
use crate::database::lease::Lease;
use crate::edi::recovery;
use crate::edi::recovery::PreviousRun;
use crate::edi::runs;
use crate::exit::{Error, Exit, Kind, Outcome};
use crate::process::reaper::Reaper;
use crate::process::signals;
use crate::process::signals::Signals;
use crate::process::terminate::terminate_all;
use crate::supervisor::state::Termination;
use crate::supervisor::task::{ProcessMessage, ServiceControl, StopRequest, SupervisedService, supervise};
use crate::telemetry::child_output::ServiceOutput;
use crate::telemetry::correlation;
use crate::telemetry::counters::Counters;

use super::incomplete_files::RunFiles;
use super::listings;
use super::maxruntime::MaxRuntime;
use super::preflight;
use super::preflight::LeasedRun;
use super::run_metrics;
use crate::runtime::bots_environment::load_django_settings;
use crate::runtime::bots_environment::{child_variables, find_bots, prepare};
use crate::runtime::init_db;
use crate::runtime::relay;
use crate::runtime::serve::to_outcome;
use crate::runtime::service_spec::policy;
use crate::runtime::session::{App, run_until_shutdown};

/// Bots's own code for an engine that finds another one running.
pub(crate) const BUSY: u8 = 3;

/// Bots's own code for a run that it could not do.
const FAILED: u8 = 1;

/// Bots's own code for a run in which files or channels had errors.
pub(crate) const ERRORS: u8 = 2;

/// Asks the engine for nothing but the recovery of a run that was cut off, and the cleaning up that every run ends with.
/// Without this, Bots recovers only those routes that the next run is for, and forgets the files of all others.
const RECOVER: &str = "--cleanup";

/// Everything that is settled before the engine starts.
struct PreparedRun<'a> {
    /// What recovers an earlier run first, where the engine itself would not recover all of it.
    recovery: Option<services::BotsServiceSpec>,
    service: services::BotsServiceSpec,
    max_runtime: MaxRuntime,
    files: RunFiles<'a>,
    lease: Box<Lease>,
    before: RunBaseline,
    /// Whether the database knows that it runs.
    is_noted: bool,
}

/// What the database said before this run.
struct RunBaseline {
    /// The newest report.
    report: u64,
    /// An earlier run was cut off.
    recovers: bool,
}

/// How the run ended, and whether the lease was lost meanwhile.
pub(crate) struct RunResult {
    pub end: Termination,
    pub lost: Option<String>,
    /// Whether it was asked to stop.
    was_asked: bool,
}

impl RunResult {
    /// Bots's code for errors of files, or of its own.
    fn has_errors(&self) -> bool {
        matches!(self.end, Termination::Exited(Exit::Code(FAILED | ERRORS)))
    }
}

/// What a run is followed with.
struct EngineRun<'a> {
    config: &'a Config,
    reaper: &'a Reaper,
    signals: &'a mut Signals,
    lines: &'a ServiceOutput,
    max_runtime: MaxRuntime,
    files: RunFiles<'a>,
    lease: &'a mut Lease,
}

/// Runs the engine once.
pub(crate) async fn run(mut session: App, arguments: &EngineArgs) -> Result<Outcome, Error> {
    let App { config, reaper, signals, lines, counters, .. } = &mut session;
    correlation::set_run_id();
    let preparing = prepare_run(config, reaper, counters, arguments);
    let prepared = match run_until_shutdown(signals, &TaskTracker::new(), preparing).await {
        Ok(prepared) => prepared?,
        Err(exit) => {
            terminate_all(reaper, signals, &[], config.stop.timeout).await;
            return Ok(Outcome::Child(exit.code()));
        }
    };
    let Some(ready) = prepared else { return Ok(Outcome::Child(BUSY)) };
    let PreparedRun { recovery, service, max_runtime, files, mut lease, before, is_noted } = ready;
    let begin = Instant::now();
    let run = EngineRun { config, reaper, signals, lines, max_runtime, files, lease: &mut lease };
    let ended = run.run(recovery, service).await;
    let took = begin.elapsed();
    // A database that is away is waited for once.
    let is_there = log_summary(&mut lease, before.report, took).await;
    if is_there && is_noted {
        run_metrics::end(&mut lease, &ended, took).await;
    }
    let ended = ended?;
    let is_open = ended.has_errors() && (!is_there || needs_recovery(&mut lease).await);
    lease.release().await;
    outcome(ended, is_open)
}

/// Nothing when another engine runs.
async fn prepare_run<'a>(
    config: &'a Config,
    reaper: &Reaper,
    counters: &Arc<Counters>,
    arguments: &'a EngineArgs,
) -> Result<Option<PreparedRun<'a>>, Error> {
    let bots = find_bots(config, reaper).await?;
    let variables = child_variables(config, Some(&bots.bin_dir));
    let environment = prepare(config, &bots).await?;
    let max_runtime = MaxRuntime::read(&environment)?;
    relay::start(config, &environment, counters).await;
    let context = services::BotsContext { reaper, bots: &bots, environment: &environment, variables: &variables };
    let settings = init_db::database_config(config, &load_django_settings(&context).await?)?;
    let mut files = RunFiles::new(config, bots.clone(), environment.clone(), arguments);
    let Some(LeasedRun { mut lease, name, waited }) =
        preflight::begin(config, &settings, arguments, &mut files).await?
    else {
        return Ok(None);
    };
    match check_previous_run(&mut lease, arguments).await {
        Ok(before) => {
            let is_noted = run_metrics::begin(&mut lease, &name, waited, before.recovers).await;
            let recovery = (before.recovers && !arguments.routes.is_empty()).then(|| context.engine(&[RECOVER.into()]));
            let service = context.engine(&arguments.to_argv());
            Ok(Some(PreparedRun { recovery, service, max_runtime, files, lease, before, is_noted }))
        }
        Err(error) => {
            lease.release().await;
            Err(error)
        }
    }
}

async fn check_previous_run(lease: &mut Lease, arguments: &EngineArgs) -> Result<RunBaseline, Error> {
    let earlier = lease.query_with_retry(recovery::check_previous_run).await?;
    let recovers = matches!(earlier, PreviousRun::Interrupted | PreviousRun::Failed);
    if let PreviousRun::Abandoned { run, failures } = earlier {
        error!(
            "run {run} of the engine failed, and so did {failures} recoveries of it: it is left as it is, and new files are \
             processed; look in Bots's web UI for files that it had taken and not sent, and send those again"
        );
    }
    if recovers {
        let of = if arguments.routes.is_empty() { "" } else { ", of all routes" };
        if earlier == PreviousRun::Failed {
            warn!("an earlier run of the engine failed before its end: Bots recovers it first{of}");
        } else {
            warn!("an earlier run of the engine was cut off: Bots recovers it first{of}");
        }
        if lease.query_with_retry(recovery::prepare).await? {
            warn!("its recovery did not come to its end, and is begun again");
        }
    }
    Ok(RunBaseline { report: lease.query_with_retry(runs::newest_report).await?, recovers })
}

impl EngineRun<'_> {
    /// What was asked for, after the recovery of an earlier run where there is one.
    async fn run(
        mut self,
        recovery: Option<services::BotsServiceSpec>,
        service: services::BotsServiceSpec,
    ) -> Result<RunResult, Error> {
        let Some(recovery) = recovery else { return self.run_once(service).await };
        let first = self.run_once(recovery).await?;
        let code = match first.end {
            Termination::Exited(Exit::Code(code @ (0 | ERRORS))) => code,
            Termination::Stopped => 0,
            Termination::Exited(_) | Termination::Killed | Termination::NotStarted => return Ok(first),
        };
        if first.lost.is_some() {
            return Ok(first);
        }
        if first.was_asked {
            // Whoever has asked for the routes must not take them for done.
            info!("the earlier run is recovered; the routes were not run, since a stop was asked for");
            return Ok(RunResult { end: Termination::Exited(Exit::Code(BUSY)), ..first });
        }
        let second = self.run_once(service).await?;
        // As if both had been one run of Bots.
        Ok(match second.end {
            Termination::Exited(Exit::Code(0)) => RunResult { end: Termination::Exited(Exit::Code(code)), ..second },
            _ => second,
        })
    }

    /// One run of Bots, from the confirmation of the lease until nothing of the run is left.
    async fn run_once(&mut self, service: services::BotsServiceSpec) -> Result<RunResult, Error> {
        let stop = CancellationToken::new();
        let stop_request = async {
            self.signals.stop_requested().await;
            stop.cancel();
            std::future::pending::<Infallible>().await
        };
        let lost = tokio::select! {
            lost = self.lease.renew_once(&stop) => lost,
            never = stop_request => match never {},
        };
        if lost.is_some() {
            return Ok(RunResult { end: Termination::NotStarted, lost, was_asked: stop.is_cancelled() });
        }
        if stop.is_cancelled() {
            info!("the engine was not started, since a stop was asked for");
            return Ok(RunResult { end: Termination::Exited(Exit::Code(BUSY)), lost, was_asked: true });
        }
        self.supervise(service).await
    }

    async fn supervise(&mut self, mut service: services::BotsServiceSpec) -> Result<RunResult, Error> {
        let name = service.name.as_str();
        let answering = listings::answer(&mut self.files, &mut service.spec);
        let plan = policy(&service, true, self.config);
        let service = SupervisedService {
            name,
            spec: service.spec,
            plan,
            lines: self.lines.for_service(name),
            has_liveness_probe: false,
        };
        let ((stop, requests), (forward, messages)) = (unbounded_channel(), unbounded_channel());
        let mut control = ServiceControl { stop: requests, messages, snapshot: watch::Sender::default() };
        let (ended, was_asked, is_lost) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let overdue = self.max_runtime.watch(stop.clone());
        let fencing = hold_lease(self.lease, &ended, &stop, &is_lost);
        let running = async {
            let end = tokio::select! {
                end = supervise(&service, self.reaper, &mut control) => end,
                never = forward_signals(self.signals, &stop, &forward, &was_asked) => match never {},
                never = overdue => match never {},
                never = answering => match never {},
            };
            // Nothing of this run may go on when the next one begins, in whatever pod.
            if terminate_leftovers(self.reaper, self.signals, plan.timeout, &is_lost).await {
                was_asked.cancel();
            }
            ended.cancel();
            end
        };
        let (end, lost) = tokio::join!(running, fencing);
        Ok(RunResult { end: end?, lost, was_asked: was_asked.is_cancelled() })
    }
}

/// Ends what a run has left: in order, or at once when the lease is lost. Says whether a signal has asked to stop meanwhile.
async fn terminate_leftovers(
    reaper: &Reaper,
    signals: &mut Signals,
    limit: Duration,
    is_lost: &CancellationToken,
) -> bool {
    tokio::select! {
        was_asked = terminate_all(reaper, signals, &[], limit) => return was_asked,
        () = is_lost.cancelled() => {}
    }
    terminate_all(reaper, signals, &[], Duration::ZERO).await
}

/// Keeps the lease until the run has `ended`. When it is lost the engine is killed at once, before another one may start.
async fn hold_lease(
    lease: &mut Lease,
    ended: &CancellationToken,
    stop: &UnboundedSender<StopRequest>,
    is_lost: &CancellationToken,
) -> Option<String> {
    let lost = lease.renew_until(ended).await?;
    error!("the engine lease is lost: {lost}; killing the engine");
    is_lost.cancel();
    for _ in 0..2 {
        // The second one does not wait for the run to finish.
        let _ = stop.send(StopRequest { for_reload: false });
    }
    Some(lost)
}

/// Signals never end, so neither does passing them on. Of those that ask to stop, none reaches the engine: it would
/// leave a crash behind, or lose the files it has taken.
async fn forward_signals(
    signals: &mut Signals,
    stop: &UnboundedSender<StopRequest>,
    forward: &UnboundedSender<ProcessMessage>,
    was_asked: &CancellationToken,
) -> Infallible {
    loop {
        let number = signals.next().await;
        if signals::is_stop_signal(number) {
            was_asked.cancel();
            info!("asked to stop by {}: the engine finishes its run", signals::name(number));
            let _ = stop.send(StopRequest { for_reload: false });
        } else {
            let _ = forward.send(ProcessMessage::Forward(number));
        }
    }
}

/// One line that says what came of the run, whatever Bots has printed. The answer is whether the database was there.
async fn log_summary(lease: &mut Lease, before: u64, took: Duration) -> bool {
    let seconds = (took.as_secs_f64() * 100.0).round() / 100.0;
    let summed =
        lease.query_with_retry(async |connection, settings| runs::summary_since(connection, settings, before).await);
    let summed = summed.await;
    let is_there = !matches!(summed, Err(database::Error::Unavailable(_)));
    match summed {
        Ok(runs::Summary { reports, received, done, errors, sent, process_errors, newest }) => info!(
            // As in Bots's own reports, and in the names of its logs.
            bots_run = (newest > 0).then_some(newest),
            reports,
            received,
            done,
            errors,
            sent,
            process_errors,
            seconds,
            "the run received {received} files, finished {done}, had errors in {errors}, sent {sent}, in {seconds} s"
        ),
        Err(error) => warn!("cannot tell what came of the run: {error}"),
    }
    is_there
}

/// Whether something is left for the next run to recover. Bots does not tell a run that its database failed from one in which
/// a file had an error; whoever has asked for it must not take it for done.
async fn needs_recovery(lease: &mut Lease) -> bool {
    lease.query_with_retry(recovery::is_open).await.unwrap_or_else(|error| {
        warn!("cannot tell whether the run came to its end: {error}");
        true
    })
}

fn outcome(ended: RunResult, is_open: bool) -> Result<Outcome, Error> {
    if let Some(lost) = ended.lost {
        let text = match ended.end {
            Termination::NotStarted => format!("the engine was not started, since its lease was lost ({lost})"),
            _ => format!(
                "the engine was killed, since its lease was lost ({lost}); the next run recovers what it had begun"
            ),
        };
        return Err(Error::new(Kind::Unavailable, text));
    }
    if is_open {
        let text =
            "the run did not come to its end, since its database failed; the next run recovers what it had begun";
        return Err(Error::new(Kind::Unavailable, text));
    }
    match ended.end {
        // The engine's own code is its answer, also when it was asked to stop.
        Termination::Exited(exit) => Ok(Outcome::Child(exit.code())),
        Termination::Stopped => Ok(Outcome::Child(Exit::Code(0).code())),
        Termination::Killed => {
            warn!("the engine was killed in the middle of its run: the next one recovers what it had begun");
            to_outcome("engine", Ok(ended.end))
        }
        Termination::NotStarted => to_outcome("engine", Ok(ended.end)),
    }
}
