//! One run of the engine under its lease: checks before, a summary after.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::bots::context::BotsContext;
use crate::bots::engine_args::EngineArgs;
use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::bots::services::BotsServiceSpec;
use crate::config::Config;
use crate::database;
use crate::database::lease::Lease;
use crate::edi::recovery::{self, PreviousRun};
use crate::edi::runs;
use crate::edi::stats::model::FileCounts;
use crate::exit::{Error, Exit, Kind, Outcome};
use crate::process::port_holder;
use crate::process::reaper::Reaper;
use crate::process::terminate::terminate_all;
use crate::supervisor::state::Termination;
use crate::telemetry::correlation;
use crate::telemetry::counters::Counters;

use super::incomplete_files::RunFiles;
use super::supervise::{BUSY, ERRORS, EngineRun, RunResult};
use super::{preflight, run_metrics};
use crate::runtime::bots_environment::{child_variables, find_bots, mounted_files};
use crate::runtime::init_db;
use crate::runtime::prepare::prepare_environment;
use crate::runtime::relay;
use crate::runtime::serve::to_outcome;
use crate::runtime::session::{App, run_until_shutdown};

/// Has the engine do no more than recover an interrupted run and clean up as every run does. Without this, Bots recovers only
/// the routes of the next run, and forgets the files of all others.
const RECOVER: &str = "--cleanup";

/// The result of all preparations of a run.
struct PreparedRun<'a> {
    /// Recovers an earlier run first, where the engine itself would not recover all of it.
    recovery: Option<BotsServiceSpec>,
    service: BotsServiceSpec,
    ini: BotsJobQueueIni,
    files: RunFiles<'a>,
    lease: Box<Lease>,
    /// The newest report before this run.
    newest_report: u64,
    /// Whether the begin of the run is in the database.
    is_recorded: bool,
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
    let Some(prepared) = prepared else { return Ok(Outcome::Child(BUSY)) };
    let PreparedRun { recovery, service, ini, files, mut lease, newest_report, is_recorded } = prepared;
    let (engine_port, ini_file) = (ini.engine_port, ini.file.clone());
    let begin = Instant::now();
    let run = EngineRun { config, reaper, signals, lines, ini, files, lease: &mut lease };
    let result = run_all(run, recovery, service).await;
    let took = begin.elapsed();
    // Only one of these queries waits for a database that is away.
    let is_available = log_summary(&mut lease, newest_report, took).await;
    if is_available && is_recorded {
        run_metrics::end(&mut lease, &result, took).await;
    }
    let result = result?;
    if matches!(result.end, Termination::Exited(Exit::Code(BUSY))) && !result.stop_requested {
        log_port_taken(engine_port, &ini_file);
    }
    let is_open = result.has_errors() && (!is_available || needs_recovery(&mut lease).await);
    lease.release().await;
    outcome(result, is_open)
}

/// Returns None when another engine runs.
async fn prepare_run<'a>(
    config: &'a Config,
    reaper: &Reaper,
    counters: &Arc<Counters>,
    arguments: &'a EngineArgs,
) -> Result<Option<PreparedRun<'a>>, Error> {
    let bots = find_bots(config, reaper).await?;
    let variables = child_variables(config, Some(&bots.bin_dir));
    let source = mounted_files(config).await?;
    let (environment, django) = prepare_environment(config, reaper, &bots, &variables, source).await?;
    let ini = BotsJobQueueIni::read(config, &environment)?;
    relay::listen_as_configured(config, &environment, counters).await;
    let context = BotsContext { reaper, bots: &bots, environment: &environment, variables: &variables };
    django.log_warnings();
    let settings = init_db::database_config(config, &django)?;
    let mut files = RunFiles::new(config, bots.clone(), environment.clone(), arguments);
    let Some((mut lease, waited)) = preflight::begin(config, &settings, arguments, &mut files).await? else {
        return Ok(None);
    };
    let (recovers, newest_report) = match check_previous_run(&mut lease, arguments).await {
        Ok(checked) => checked,
        Err(error) => {
            lease.release().await;
            return Err(error);
        }
    };
    let is_recorded = run_metrics::begin(&mut lease, waited, recovers).await;
    let recovery = (recovers && !arguments.routes.is_empty()).then(|| context.engine(&[RECOVER.into()]));
    let service = context.engine(&arguments.to_argv());
    Ok(Some(PreparedRun { recovery, service, ini, files, lease, newest_report, is_recorded }))
}

/// Whether Bots recovers an earlier run, and the newest report.
async fn check_previous_run(lease: &mut Lease, arguments: &EngineArgs) -> Result<(bool, u64), Error> {
    let of = if arguments.routes.is_empty() { "" } else { ", of all routes" };
    let recovers = match lease.query_with_retry(recovery::check_previous_run).await? {
        PreviousRun::Completed => false,
        PreviousRun::Abandoned { run, failures } => {
            error!(
                "run {run} of the engine failed, and so did {failures} recoveries of it: it is left as it is, and new files \
                 are processed; look in Bots's web UI for files that it had taken and not sent, and send those again"
            );
            false
        }
        PreviousRun::Failed => {
            warn!("an earlier run of the engine failed before its end: Bots recovers it first{of}");
            true
        }
        PreviousRun::Interrupted => {
            warn!("an earlier run of the engine was cut off: Bots recovers it first{of}");
            true
        }
    };
    if recovers && lease.query_with_retry(recovery::prepare).await? {
        warn!("its recovery did not come to its end, and is begun again");
    }
    Ok((recovers, lease.query_with_retry(runs::newest_report).await?))
}

/// Runs the engine, after the recovery of an earlier run where there is one.
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
        info!("the earlier run is recovered; the routes were not run, since a stop was asked for");
        return Ok(RunResult { end: Termination::Exited(Exit::Code(BUSY)), ..first });
    }
    let second = run.run_once(service).await?;
    // As if both had been one run of Bots.
    Ok(match second.end {
        Termination::Exited(Exit::Code(0)) => RunResult { end: Termination::Exited(Exit::Code(code)), ..second },
        _ => second,
    })
}

/// Logs the result of the run in one line, whatever Bots has printed. Returns whether the database was available.
async fn log_summary(lease: &mut Lease, before: u64, took: Duration) -> bool {
    let seconds = (took.as_secs_f64() * 100.0).round() / 100.0;
    let summed = lease
        .query_with_retry(async |connection, settings| runs::summary_since(connection, settings, before).await)
        .await;
    let is_available = !matches!(summed, Err(database::Error::Unavailable(_)));
    match summed {
        Ok(runs::Summary { reports, files, process_errors, newest }) => {
            let FileCounts { received, done, errors, stuck, sent } = files;
            let hint = if errors + stuck > 0 { "; bots-ctl files --errors says which and why" } else { "" };
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
        }
        Err(error) => warn!("cannot tell what came of the run: {error}"),
    }
    is_available
}

/// Bots's engine ends with its code 3 without a word when its port is taken. Under the lease that is no engine of bots-ctl.
fn log_port_taken(port: u16, ini_file: &Path) {
    let holder = port_holder::holder(port).map_or_else(
        || "a program that /proc does not show, such as an engine of Bots that bots-ctl did not start".to_owned(),
        |process| format!("{} (process {})", process.name, process.pid),
    );
    error!(
        port,
        "nothing was run: port {port} of 127.0.0.1, by which engines of Bots keep each other out, is held by {holder}; end that \
         program, or set [settings] port in {} to a free port",
        ini_file.display()
    );
}

/// Whether the next run has to recover this one. Bots has one exit code for a run that its database failed and for one in
/// which a file had an error; the first must not count as done.
async fn needs_recovery(lease: &mut Lease) -> bool {
    lease.query_with_retry(recovery::is_open).await.unwrap_or_else(|error| {
        warn!("cannot tell whether the run came to its end: {error}");
        true
    })
}

fn outcome(result: RunResult, is_open: bool) -> Result<Outcome, Error> {
    if let Some(lost) = result.lost {
        let text = match result.end {
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
    match result.end {
        // The engine's own code counts, also after a stop.
        Termination::Exited(exit) => Ok(Outcome::Child(exit.code())),
        Termination::Stopped => Ok(Outcome::Child(Exit::Code(0).code())),
        Termination::Killed => {
            warn!("the engine was killed in the middle of its run: the next one recovers what it had begun");
            to_outcome("engine", Ok(result.end))
        }
        Termination::NotStarted => to_outcome("engine", Ok(result.end)),
    }
}
