//! One run of the engine under its lease: checks before, a summary after.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::bots::engine_args::EngineArgs;
use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::bots::services::BotsServiceSpec;
use crate::config::Config;
use crate::database;
use crate::database::lease::Lease;
use crate::database::run_metrics::{RunEnd, RunOutcome};
use crate::edi::recovery::{self, PreviousRun};
use crate::edi::runs;
use crate::edi::stats::model::FileCounts;
use crate::exit::{Error, Exit, Kind, Outcome};
use crate::plugin::journal::Journal;
use crate::process::forked::ForkedProcess;
use crate::process::port_holder;
use crate::process::reaper::Reaper;
use crate::process::terminate::terminate_all;
use crate::supervisor::state::Termination;
use crate::telemetry::correlation;
use crate::telemetry::counters::Counters;

use super::incomplete_files::RunFiles;
use super::preflight::{self, MayBegin};
use super::result::{BUSY, ERRORS, RunResult};
use super::run_metrics::{self, RunBegin};
use super::supervise::EngineRun;
use crate::runtime::bots_environment::{FoundBots, mounted_files};
use crate::runtime::init_db;
use crate::runtime::plugin;
use crate::runtime::prepare::prepare_environment;
use crate::runtime::relay;
use crate::runtime::serve::to_outcome;
use crate::runtime::session::{Session, run_until_shutdown};

/// Makes the engine only recover an interrupted run and clean up, as every run does. Without this, Bots recovers only the routes
/// of the next run, and forgets the files of all others.
const RECOVER: &str = "--cleanup";

/// The result of all preparations of a run.
struct PreparedRun<'a> {
    /// Recovers an earlier run first, if the engine alone would not recover all of it.
    recovery: Option<BotsServiceSpec>,
    service: BotsServiceSpec,
    ini: BotsJobQueueIni,
    files: RunFiles<'a>,
    /// The newest report before this run.
    newest_report: u64,
    begin: RunBegin,
}

/// Runs the engine once, in the process that was forked for it, if any.
pub(crate) async fn run(
    mut session: Session,
    arguments: &EngineArgs,
    forked: Option<ForkedProcess>,
) -> Result<Outcome, Error> {
    let Session { config, reaper, signals, lines, counters, .. } = &mut session;
    correlation::set_run_id();
    let mut held = None;
    let preparing = prepare_run(config, reaper, counters, arguments, &mut held);
    let prepared = run_until_shutdown(signals, &TaskTracker::new(), preparing).await;
    let (prepared, mut lease) = match (prepared, held) {
        (Ok(Ok(Some(prepared))), Some(lease)) => (prepared, lease),
        (ended, held) => {
            // Otherwise engines of all pods would wait until it expires.
            if let Some(lease) = held {
                lease.release().await;
            }
            return match ended {
                Ok(prepared) => prepared.map(|_| Outcome::Child(BUSY)),
                Err(exit) => {
                    terminate_all(reaper, signals, &[], config.stop.timeout).await;
                    Ok(Outcome::Child(exit.code()))
                }
            };
        }
    };
    let PreparedRun { recovery, service, ini, files, newest_report, begin } = prepared;
    let (engine_port, ini_file) = (ini.engine_port, ini.file.clone());
    let (begun_at, mut recorded) = (Instant::now(), None);
    let run = EngineRun {
        config,
        reaper,
        signals,
        lines,
        ini,
        files,
        forked,
        lease: &mut lease,
        begin,
        recorded: &mut recorded,
    };
    let result = run_all(run, recovery, service).await;
    let is_open = finish(lease, newest_report, begin, recorded, &result, begun_at.elapsed()).await;
    let result = result?;
    if matches!(result.end, Termination::Exited(Exit::Code(BUSY))) && !result.stop_requested {
        log_port_taken(engine_port, &ini_file);
    }
    to_run_outcome(result, is_open)
}

/// Returns None when another engine is running. `held` has the lease whenever it is held.
async fn prepare_run<'a>(
    config: &'a Config,
    reaper: &Reaper,
    counters: &Arc<Counters>,
    arguments: &'a EngineArgs,
    held: &mut Option<Box<Lease>>,
) -> Result<Option<PreparedRun<'a>>, Error> {
    let bots = FoundBots::find(config, reaper).await?;
    let (environment, django) = prepare_environment(config, &bots, mounted_files(config).await?).await?;
    let ini = BotsJobQueueIni::read(config, &environment)?;
    relay::listen_as_configured(config, &environment, counters).await;
    let context = bots.context(&environment);
    django.log_warnings();
    let settings = init_db::database_config(config, &django)?;
    let mut files = RunFiles::new(config, bots.installation.clone(), environment.clone(), arguments);
    let may_begin = preflight::begin(config, &settings, arguments, &mut files, held).await?;
    let (Some(MayBegin { waited, has_open_run }), Some(lease)) = (may_begin, held.as_mut()) else { return Ok(None) };
    let journal = Journal::new(&django.directories.botssys, &django.directories.usersys);
    plugin::recover::recover(lease, &journal).await?;
    let (recovers, newest_report) = check_previous_run(lease, arguments, has_open_run).await?;
    let begin = RunBegin { waited, recovers };
    let recovery = (recovers && !arguments.routes.is_empty()).then(|| context.engine(&[RECOVER.into()]));
    let service = context.engine(&arguments.to_argv());
    Ok(Some(PreparedRun { recovery, service, ini, files, newest_report, begin }))
}

/// Whether Bots recovers an earlier run, and the newest report.
async fn check_previous_run(
    lease: &mut Lease,
    arguments: &EngineArgs,
    has_open_run: bool,
) -> Result<(bool, u64), Error> {
    let of = if arguments.routes.is_empty() { "" } else { ", of all routes" };
    record_finished(lease).await;
    let previous = match has_open_run {
        true => lease.query_with_retry(recovery::check_previous_run).await?,
        false => PreviousRun::Completed,
    };
    let recovers = match previous {
        PreviousRun::Completed => false,
        PreviousRun::Abandoned { run, failures, kills } => {
            error!(
                "engine run {run} did not finish, {failures} of its recoveries failed and {kills} were killed; giving up and \
                 processing new files: find files that it received but did not send in Bots's web UI, and send them again"
            );
            false
        }
        PreviousRun::Failed => {
            warn!("previous engine run failed; recovering it first{of}");
            true
        }
        PreviousRun::Interrupted => {
            warn!("previous engine run was interrupted; recovering it first{of}");
            true
        }
    };
    if recovers && lease.query_with_retry(recovery::prepare).await? {
        warn!("recovery did not finish; restarting it");
    }
    Ok((recovers, lease.query_with_retry(runs::newest_report).await?))
}

/// Runs the engine, after the recovery of an unfinished earlier run.
async fn run_all(
    mut run: EngineRun<'_>,
    recovery: Option<BotsServiceSpec>,
    service: BotsServiceSpec,
) -> Result<RunResult, Error> {
    let Some(recovery) = recovery else { return run.run_once(service).await };
    let first = run.run_once(recovery).await?;
    let code = match first.end {
        Termination::Exited(Exit::Code(code @ (0 | ERRORS))) if first.lost.is_none() => code,
        Termination::Stopped if first.lost.is_none() => 0,
        _ => return Ok(first),
    };
    if first.stop_requested {
        // The routes must not count as done.
        info!("recovered the previous run; stopping before running the requested routes");
        return Ok(RunResult { end: Termination::Exited(Exit::Code(BUSY)), ..first });
    }
    let second = run.run_once(service).await?;
    // As if both had been one run of Bots.
    Ok(match second.end {
        Termination::Exited(Exit::Code(0)) => RunResult { end: Termination::Exited(Exit::Code(code)), ..second },
        _ => second,
    })
}

/// Logs and records the end of the run, and releases the lease. Returns whether the next run has to recover this one.
async fn finish(
    mut lease: Box<Lease>,
    report_before: u64,
    begin: RunBegin,
    recorded: Option<bool>,
    result: &Result<RunResult, Error>,
    took: Duration,
) -> bool {
    // Only one of these queries waits for a database that is away.
    let newest_report = log_summary(&mut lease, report_before, took).await;
    let has_errors = result.as_ref().is_ok_and(RunResult::has_errors);
    let is_open = has_errors && (newest_report.is_none() || needs_recovery(&mut lease).await);
    let (outcome, exit_code) = run_metrics::outcome(result);
    let is_recorded = match newest_report {
        Some(newest_report) => {
            let end = RunEnd { outcome, exit_code, took, newest_report };
            record_end(&mut lease, begin, recorded, end).await
        }
        None => false,
    };
    match is_recorded {
        true => lease.close().await,
        false => lease.release().await,
    }
    is_open
}

/// Logs the result of the run in one line, whatever Bots has printed. Returns the number of the newest report of the run, 0 if
/// there is none; `None` when the database was not available.
async fn log_summary(lease: &mut Lease, before: u64, took: Duration) -> Option<u64> {
    let seconds = (took.as_secs_f64() * 100.0).round() / 100.0;
    let summed = lease.query_with_retry(async |connection| runs::summary_since(connection, before).await).await;
    match summed {
        Ok(runs::Summary { reports, files, process_errors, newest }) => {
            let FileCounts { received, done, errors, stuck, sent } = files;
            let hint = if errors + stuck > 0 { "; bots-ctl files --errors lists them with the reasons" } else { "" };
            info!(
                // As in Bots's own reports, and in the names of its logs.
                bots_run = (newest > 0).then_some(newest),
                reports,
                received,
                done,
                errors,
                stuck,
                sent,
                process_errors,
                seconds,
                "the run received {received} files, finished {done}, had errors in {errors}, left {stuck} stuck, \
                 sent {sent}, in {seconds} s{hint}"
            );
            Some(newest)
        }
        Err(error) => {
            warn!("cannot read the result of the run: {error}");
            (!matches!(error, database::Error::Unavailable(_))).then_some(0)
        }
    }
}

/// Records the end of the run, and its begin if no engine was started. Returns whether this released the lease.
async fn record_end(lease: &mut Lease, begin: RunBegin, recorded: Option<bool>, end: RunEnd) -> bool {
    let is_lost = end.outcome == RunOutcome::LeaseLost;
    if begin.recovers && !is_lost {
        record_finished(lease).await;
    }
    let is_recorded = match recorded {
        Some(is_recorded) => is_recorded,
        // The run of the new holder must not count as interrupted.
        None if is_lost => false,
        None => run_metrics::begin(lease, begin).await,
    };
    is_recorded && run_metrics::end(lease, end).await
}

/// Records the finished run. If that fails, the next run records it, unless its report is deleted before.
async fn record_finished(lease: &mut Lease) {
    if let Err(error) = lease.query_with_retry(recovery::record_finished).await {
        warn!("{error}");
    }
}

/// Bots's engine exits with 3 without a message if its port is in use. Under the lease, the user of the port is not an engine of bots-ctl.
fn log_port_taken(port: u16, ini_file: &Path) {
    let holder = port_holder::holder(port).map_or_else(
        || "a program not visible in /proc, such as an engine of Bots in another container".to_owned(),
        |process| format!("{} (process {})", process.name, process.pid),
    );
    error!(
        port,
        "engine not started: port {port} on 127.0.0.1, which engines of Bots use as a lock, is in \
         use by {holder}; stop that program, or set [settings] port in {} to a free port",
        ini_file.display()
    );
}

/// Whether the next run has to recover this one. Bots has one exit code for a run that its database failed and for one in
/// which a file had an error; the first must not count as done.
async fn needs_recovery(lease: &mut Lease) -> bool {
    lease.query_with_retry(recovery::is_open).await.unwrap_or_else(|error| {
        warn!("cannot determine whether the run finished: {error}");
        true
    })
}

fn to_run_outcome(result: RunResult, is_open: bool) -> Result<Outcome, Error> {
    if let Some(lost) = result.lost {
        let text = match result.end {
            Termination::NotStarted => format!("engine not started: lease lost ({lost})"),
            _ => format!("killed the engine: lease lost ({lost}); the next run recovers its unfinished files"),
        };
        return Err(Error::new(Kind::Unavailable, text));
    }
    if is_open {
        let text = "the run did not finish: its database failed; the next run recovers its unfinished files";
        return Err(Error::new(Kind::Unavailable, text));
    }
    match result.end {
        // The engine's own code counts, also after a stop.
        Termination::Exited(exit) => Ok(Outcome::Child(exit.code())),
        Termination::Stopped => Ok(Outcome::Child(Exit::Code(0).code())),
        Termination::Killed => {
            warn!("the engine was killed during its run; the next run recovers its unfinished files");
            to_outcome("engine", Ok(result.end))
        }
        Termination::NotStarted => to_outcome("engine", Ok(result.end)),
    }
}
