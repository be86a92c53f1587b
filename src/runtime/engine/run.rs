//! One run of the engine under its lease: checks before, a summary after.

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tracing::{error, info, warn};

use crate::bots::django_settings::Context;
use crate::bots::engine_args::EngineArguments;
use crate::bots::services;
use crate::config::Config;
use crate::database;
use crate::database::lease::Lease;
use crate::edi::recovery;
use crate::edi::recovery::Earlier;
use crate::edi::runs;
use crate::exit::{Error, Exit, Kind, Outcome};
use crate::process::reaper::Reaper;
use crate::process::signals;
use crate::process::signals::Signals;
use crate::process::tree;
use crate::supervisor::state::{End, Plan};
use crate::supervisor::task::{Control, Service, supervise};
use crate::telemetry::child_output::LineSink;
use crate::telemetry::correlation;
use crate::telemetry::counters::Counters;

use super::incomplete_files::FilesOfRun;
use super::maxruntime::MaxRuntime;
use super::preflight;
use super::preflight::Leased;
use super::run_metrics;
use crate::runtime::bots_environment::{child_variables, find_bots, prepare};
use crate::runtime::init_db;
use crate::runtime::relay;
use crate::runtime::serve::{known_facts, outcome_of};
use crate::runtime::service_spec::never;
use crate::runtime::session::{Session, until_stopped};

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
struct Ready {
    /// What recovers an earlier run first, where the engine itself would not recover all of it.
    recovery: Option<services::Service>,
    service: services::Service,
    longest: MaxRuntime,
    lease: Box<Lease>,
    before: Before,
    /// Whether the database knows that it runs.
    is_noted: bool,
}

/// What the database said before this run.
struct Before {
    /// The newest report.
    report: u64,
    /// An earlier run was cut off.
    recovers: bool,
}

/// How the run ended, and whether the lease was lost meanwhile.
pub(crate) struct Ended {
    pub end: End,
    pub lost: Option<String>,
    /// Whether it was asked to stop.
    was_asked: bool,
}

impl Ended {
    /// Bots's code for errors of files, or of its own.
    fn has_errors(&self) -> bool {
        matches!(self.end, End::Exited(Exit::Code(FAILED | ERRORS)))
    }
}

/// What a run is followed with.
struct Ground<'a> {
    config: &'a Config,
    reaper: &'a Reaper,
    signals: &'a mut Signals,
    lines: &'a LineSink,
    longest: MaxRuntime,
    lease: &'a mut Lease,
}

/// Runs the engine once.
pub(crate) async fn run(mut session: Session, arguments: &EngineArguments) -> Result<Outcome, Error> {
    let Session { config, reaper, signals, lines, counters, .. } = &mut session;
    correlation::begin_run();
    let preparing = prepare_run(config, reaper, counters, arguments);
    let prepared = match until_stopped(signals, &Cell::new(false), preparing).await {
        Ok(prepared) => prepared?,
        Err(exit) => {
            tree::end_all(reaper, signals, &[], config.stop.timeout).await;
            return Ok(Outcome::Child(exit.code()));
        }
    };
    let Some(ready) = prepared else { return Ok(Outcome::Child(BUSY)) };
    let Ready { recovery, service, longest, mut lease, before, is_noted } = ready;
    let begin = Instant::now();
    let ground = Ground { config, reaper, signals, lines, longest, lease: &mut lease };
    let ended = ground.run(recovery, service).await;
    let took = begin.elapsed();
    // A database that is away is waited for once.
    let is_there = summarise(&mut lease, before.report, took).await;
    if is_there && is_noted {
        run_metrics::end(&mut lease, &ended, took).await;
    }
    let ended = ended?;
    let is_open = ended.has_errors() && (!is_there || is_open(&mut lease).await);
    lease.release().await;
    outcome(ended, is_open)
}

/// Nothing when another engine runs.
async fn prepare_run(
    config: &Config,
    reaper: &Reaper,
    counters: &Arc<Counters>,
    arguments: &EngineArguments,
) -> Result<Option<Ready>, Error> {
    let bots = find_bots(config, reaper).await?;
    let variables = child_variables(config, Some(&bots.bin_dir));
    let environment = prepare(config, &bots).await?;
    let longest = MaxRuntime::read(&environment)?;
    relay::start(config, &environment, counters).await;
    let context = Context { reaper, bots: &bots, environment: &environment, variables: &variables };
    let settings = init_db::settings(config, &known_facts(&context).await?)?;
    let mut files = FilesOfRun::new(config, &bots, &environment, arguments);
    let Some(Leased { mut lease, name, waited }) = preflight::begin(config, &settings, arguments, &mut files).await?
    else {
        return Ok(None);
    };
    match look_before(&mut lease, arguments).await {
        Ok(before) => {
            let is_noted = run_metrics::begin(&mut lease, &name, waited, before.recovers).await;
            let ground = services::Ground { bots: &bots, environment: &environment, variables: &variables };
            let recovery = (before.recovers && !arguments.routes.is_empty()).then(|| ground.engine(&[RECOVER.into()]));
            Ok(Some(Ready { recovery, service: ground.engine(&arguments.words()), longest, lease, before, is_noted }))
        }
        Err(error) => {
            lease.release().await;
            Err(error)
        }
    }
}

async fn look_before(lease: &mut Lease, arguments: &EngineArguments) -> Result<Before, Error> {
    let earlier = lease.ask(recovery::find).await?;
    let recovers = matches!(earlier, Earlier::CutOff | Earlier::Failed);
    if let Earlier::GivenUp { run, failures } = earlier {
        error!(
            "run {run} of the engine failed, and so did {failures} recoveries of it: it is left as it is, and new files are \
             processed; look in Bots's web UI for files that it had taken and not sent, and send those again"
        );
    }
    if recovers {
        let of = if arguments.routes.is_empty() { "" } else { ", of all routes" };
        if earlier == Earlier::Failed {
            warn!("an earlier run of the engine failed before its end: Bots recovers it first{of}");
        } else {
            warn!("an earlier run of the engine was cut off: Bots recovers it first{of}");
        }
        if lease.ask(recovery::prepare).await? {
            warn!("its recovery did not come to its end, and is begun again");
        }
    }
    Ok(Before { report: lease.ask(runs::newest_report).await?, recovers })
}

impl Ground<'_> {
    /// What was asked for, after the recovery of an earlier run where there is one.
    async fn run(mut self, recovery: Option<services::Service>, service: services::Service) -> Result<Ended, Error> {
        let Some(recovery) = recovery else { return self.follow(service).await };
        let first = self.follow(recovery).await?;
        let code = match first.end {
            End::Exited(Exit::Code(code @ (0 | ERRORS))) => code,
            End::Stopped => 0,
            End::Exited(_) | End::Killed | End::NotStarted => return Ok(first),
        };
        if first.lost.is_some() {
            return Ok(first);
        }
        if first.was_asked {
            // Whoever has asked for the routes must not take them for done.
            info!("the earlier run is recovered; the routes were not run, since a stop was asked for");
            return Ok(Ended { end: End::Exited(Exit::Code(BUSY)), ..first });
        }
        let second = self.follow(service).await?;
        // As if both had been one run of Bots.
        Ok(match second.end {
            End::Exited(Exit::Code(0)) => Ended { end: End::Exited(Exit::Code(code)), ..second },
            _ => second,
        })
    }

    /// One run of Bots, from the confirmation of the lease until nothing of the run is left.
    async fn follow(&mut self, service: services::Service) -> Result<Ended, Error> {
        let (enough, was_asked) = (Notify::new(), Cell::new(false));
        let asked = async {
            self.signals.next_where(signals::asks_to_stop).await;
            was_asked.set(true);
            enough.notify_one();
            std::future::pending::<Infallible>().await
        };
        let lost = tokio::select! {
            lost = self.lease.confirm(&enough) => lost,
            never = asked => match never {},
        };
        if lost.is_some() {
            return Ok(Ended { end: End::NotStarted, lost, was_asked: was_asked.get() });
        }
        if was_asked.get() {
            info!("the engine was not started, since a stop was asked for");
            return Ok(Ended { end: End::Exited(Exit::Code(BUSY)), lost, was_asked: true });
        }
        self.supervise(service).await
    }

    async fn supervise(&mut self, service: services::Service) -> Result<Ended, Error> {
        let name = service.name.as_str();
        let times = self.config.stop.engine;
        let plan = Plan {
            drain: times.drain,
            renewal_drain: times.drain,
            timeout: times.timeout,
            stop_signal: service.stop_signal,
            settle: times.drain,
            restart: never(self.config),
        };
        let mut service = Service { name, spec: service.spec, plan, lines: self.lines.of(name), is_watched: false };
        let (sender, mut control) = mpsc::channel(64);
        let (enough, was_asked, is_lost) = (Notify::new(), Cell::new(false), watch::Sender::new(false));
        let overdue = self.longest.watch(sender.clone());
        let fencing = fence(self.lease, &enough, sender.clone(), &is_lost);
        let running = async {
            let end = tokio::select! {
                end = supervise(&mut service, self.reaper, &mut control, Vec::new(), |_| {}) => end,
                never = pass_on(self.signals, sender, &was_asked) => match never {},
                never = overdue => match never {},
            };
            // Nothing of this run may go on when the next one begins, in whatever pod.
            if end_rest(self.reaper, self.signals, times.timeout, is_lost.subscribe()).await {
                was_asked.set(true);
            }
            enough.notify_one();
            end
        };
        let (end, lost) = tokio::join!(running, fencing);
        Ok(Ended { end: end?, lost, was_asked: was_asked.get() })
    }
}

/// Ends what a run has left: in order, or at once when the lease is lost. Says whether a signal has asked to stop meanwhile.
async fn end_rest(reaper: &Reaper, signals: &mut Signals, limit: Duration, mut is_lost: watch::Receiver<bool>) -> bool {
    tokio::select! {
        was_asked = tree::end_all(reaper, signals, &[], limit) => return was_asked,
        _ = is_lost.wait_for(|is_lost| *is_lost) => {}
    }
    tree::end_all(reaper, signals, &[], Duration::ZERO).await
}

/// Keeps the lease until it is `enough`. When it is lost the engine is killed at once, before another one may start.
async fn fence(
    lease: &mut Lease,
    enough: &Notify,
    control: mpsc::Sender<Control>,
    is_lost: &watch::Sender<bool>,
) -> Option<String> {
    let lost = lease.keep(enough).await?;
    error!("the engine lease is lost: {lost}; killing the engine");
    is_lost.send_replace(true);
    for _ in 0..2 {
        // The second one does not wait for the run to finish.
        let _ = control.send(Control::Stop).await;
    }
    Some(lost)
}

/// Signals never end, so neither does passing them on. Of those that ask to stop, none reaches the engine: it would
/// leave a crash behind, or lose the files it has taken.
async fn pass_on(signals: &mut Signals, control: mpsc::Sender<Control>, was_asked: &Cell<bool>) -> Infallible {
    loop {
        let number = signals.next().await;
        let told = if signals::asks_to_stop(number) { Control::Stop } else { Control::Forward(number) };
        if matches!(told, Control::Stop) {
            was_asked.set(true);
            info!("asked to stop by {}: the engine finishes its run", signals::name(number));
        }
        if control.send(told).await.is_err() {
            std::future::pending::<Infallible>().await;
        }
    }
}

/// One line that says what came of the run, whatever Bots has printed. The answer is whether the database was there.
async fn summarise(lease: &mut Lease, before: u64, took: Duration) -> bool {
    let seconds = (took.as_secs_f64() * 100.0).round() / 100.0;
    let summed = lease.ask(async |connection, settings| runs::summary_since(connection, settings, before).await);
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
async fn is_open(lease: &mut Lease) -> bool {
    lease.ask(recovery::is_open).await.unwrap_or_else(|error| {
        warn!("cannot tell whether the run came to its end: {error}");
        true
    })
}

fn outcome(ended: Ended, is_open: bool) -> Result<Outcome, Error> {
    if let Some(lost) = ended.lost {
        let text = match ended.end {
            End::NotStarted => format!("the engine was not started, since its lease was lost ({lost})"),
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
        End::Exited(exit) => Ok(Outcome::Child(exit.code())),
        End::Stopped => Ok(Outcome::Child(Exit::Code(0).code())),
        End::Killed => {
            warn!("the engine was killed in the middle of its run: the next one recovers what it had begun");
            outcome_of("engine", Ok(ended.end))
        }
        End::NotStarted => outcome_of("engine", Ok(ended.end)),
    }
}
