//! The directory monitor as a service of bots-ctl itself: the source of its targets, and its jobs and health.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, interval};
use tracing::{debug, error, info, warn};

use crate::bots::context::BotsContext;
use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::config::Config;
use crate::database::DatabaseConfig;
use crate::exit::Error;
use crate::health::state::{IncompleteFiles, Phase, WatchStatus};
use crate::jobs::submitter::JobSubmitter;
use crate::model::ServiceName;
use crate::process::blocking;
use crate::process::open_file::FileStamp;
use crate::supervisor::state::Termination;
use crate::supervisor::task::{ServiceResult, StopRequest};
use crate::telemetry::counters::Counters;
use crate::watch::monitor;
use crate::watch::monitor::MonitorCommand;
use crate::watch::scan::WatchState;
use crate::watch::status::{MonitorStatus, TargetStatus};
use crate::watch::unfinished::PendingFiles;

use super::relay;
use super::reload_request;
use super::service_start::HealthSlot;
use super::watch_targets::TargetSources;

/// How often bots.ini and the trigger file are polled.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How often the routes are read from the database.
const DATABASE_POLL_INTERVAL: Duration = Duration::from_secs(10);

/// The monitor before its start.
pub(crate) struct DirMonitorService {
    sources: TargetSources,
    submitter: JobSubmitter,
    config: Config,
}

impl DirMonitorService {
    /// Reads the targets from bots.ini.
    pub fn new(
        config: &Config,
        bots: &BotsContext<'_>,
        queue: &BotsJobQueueIni,
        database: DatabaseConfig,
    ) -> Result<Self, Error> {
        let sources = TargetSources::new(config, bots.bots, bots.environment, database)?;
        let target = relay::queue(config, queue.port);
        let submitter = JobSubmitter::new(target, bots.environment.config.clone());
        Ok(Self { sources, submitter, config: config.clone() })
    }

    /// Runs it until it is stopped.
    pub async fn run(
        self,
        mut stop: UnboundedReceiver<StopRequest>,
        slot: HealthSlot,
        counters: Arc<Counters>,
    ) -> ServiceResult {
        let Self { sources, submitter, config } = self;
        let (commands, received) = mpsc::channel(4);
        let arrived =
            |arrival: monitor::NewFiles| submitter.add_pending(&arrival.route, arrival.files, arrival.example);
        let watching = monitor::run(received, config.dirmonitor.rescan_interval, &counters, arrived, |overview| {
            update_health(&slot, &overview)
        });
        let following = sync_targets(sources, &commands, &submitter, &config, &counters);
        let submitting = submitter.run(|pending| {
            slot.health.send_modify(|health| health.monitor.get_or_insert_default().pending_routes = pending);
        });
        tokio::select! {
            () = watching => {}
            () = following => {}
            () = submitting => {}
            _ = stop.recv() => {}
        }
        slot.update(|service| service.phase = Phase::Draining);
        let names = submitter.finish().await;
        if !names.is_empty() {
            let names = names.join(", ");
            warn!("the job queue does not answer: files of {names} are found again at the next start");
        }
        slot.update(|service| service.phase = Phase::Ended);
        Ok(Termination::Stopped)
    }
}

/// Sends the monitor its targets, now and whenever they change.
async fn sync_targets(
    mut sources: TargetSources,
    commands: &mpsc::Sender<MonitorCommand>,
    submitter: &JobSubmitter,
    config: &Config,
    counters: &Counters,
) {
    let mut poll = interval(POLL_INTERVAL);
    let mut seen: Option<Option<FileStamp>> = None;
    let mut next_read = Instant::now();
    let mut was_away = false;
    loop {
        poll.tick().await;
        let (file, trigger) = (sources.file(), sources.trigger().to_owned());
        let Ok((stamp, words)) = blocking::run(move || (file_stamp(&file), reload_request::consume(&trigger))).await
        else {
            continue;
        };
        let is_requested = words.is_some_and(|words| is_reload(&words));
        // Also in the first round: it may have changed since the start has read it.
        let before = seen.replace(stamp);
        let mut has_changed = is_requested || before != Some(stamp);
        let mut refusal = None;
        if has_changed {
            (sources, refusal) = read_again(sources, submitter, config).await;
            // The first reading is no change, unless it fails.
            if before.is_some() || refusal.is_some() {
                counters.count_reload(refusal.is_none());
            }
        }
        if is_requested || next_read <= Instant::now() {
            next_read = Instant::now() + DATABASE_POLL_INTERVAL;
            has_changed |= read_database(&mut sources, &mut was_away).await;
        }
        if has_changed {
            let _ = commands.send(MonitorCommand::SetTargets(sources.targets())).await;
        }
        if is_requested {
            let _ = commands.send(MonitorCommand::Rescan).await;
            let trigger = sources.trigger().to_owned();
            let _ = blocking::run(move || reload_request::answer(&trigger, refusal.as_deref())).await;
        }
    }
}

/// None where there is no such file. May wait for a file system.
fn file_stamp(path: &Path) -> Option<FileStamp> {
    std::fs::metadata(path).ok().as_ref().map(FileStamp::from)
}

/// Whether the routes have changed. A database that is away is logged once, and once more when it is back.
async fn read_database(sources: &mut TargetSources, was_away: &mut bool) -> bool {
    match sources.read_database().await {
        Ok(has_changed) => {
            if std::mem::take(was_away) {
                info!("the routes were read from the database again");
            }
            has_changed
        }
        Err(error) => {
            if std::mem::replace(was_away, true) {
                debug!("{error}");
            } else {
                warn!("{error}; going on with the routes that are known");
            }
            false
        }
    }
}

/// Reads bots.ini again, on a thread that may wait for it. The result is the reason where it is not in force.
async fn read_again(
    mut sources: TargetSources,
    submitter: &JobSubmitter,
    config: &Config,
) -> (TargetSources, Option<String>) {
    let read = move || {
        let read = sources.read_ini();
        (sources, read)
    };
    let (sources, read) = match tokio::task::spawn_blocking(read).await {
        Ok(read) => read,
        // A panic aborts the process, and nothing cancels this.
        Err(_) => std::future::pending().await,
    };
    let refusal = match read {
        Ok(queue) => {
            debug!("read {} again", queue.file.display());
            if !queue.enabled {
                error!("{}", queue.disabled_error(ServiceName::Dirmonitor));
            }
            submitter.set_target(relay::queue(config, queue.port));
            // Sections that are at fault are left out.
            Some(sources.faults().join("; ")).filter(|faults| !faults.is_empty())
        }
        Err(error) => {
            error!("{error}; going on with what was read before");
            Some(error.to_string())
        }
    };
    (sources, refusal)
}

/// As Bots's monitor reads it: words, of which it knows one.
fn is_reload(text: &str) -> bool {
    let (known, unknown): (Vec<&str>, Vec<&str>) = text.split_whitespace().partition(|word| *word == "reload");
    if !unknown.is_empty() {
        warn!("asked for what is not known: {}; known is: reload", unknown.join(" "));
    }
    !known.is_empty()
}

/// Publishes the status of the monitor. It is alive once each target is watched or has failed.
fn update_health(slot: &HealthSlot, overview: &MonitorStatus) {
    let directories: Arc<[WatchStatus]> = overview.reports.iter().map(directory).collect();
    slot.health.send_modify(|health| {
        health.monitor.get_or_insert_default().directories = directories;
        let service = &mut health.services[slot.index];
        if overview.is_complete && service.phase == Phase::Starting {
            (service.phase, service.alive) = (Phase::Running, true);
            info!("the directory monitor watches");
        }
    });
}

fn directory(report: &TargetStatus) -> WatchStatus {
    let target = &report.target;
    let (backend, by, error) = match &report.condition {
        Some(WatchState::Watching { directories, backend, .. }) => {
            let targets = if *directories == 1 { String::new() } else { format!(", {directories} directories") };
            let word = match (backend.events, backend.polls) {
                (true, true) => "both",
                (true, false) => "inotify",
                (false, _) => "poll",
            };
            (word, format!("{} ({}){targets}", backend.name(), backend.reason), None)
        }
        Some(WatchState::Failed { reason: why, .. }) => ("none", String::new(), Some(why.clone())),
        None => ("none", "not looked at yet".to_owned(), None),
    };
    let (files, route, unfinished) = (target.files(), target.route.clone(), unfinished(&report.unfinished));
    WatchStatus { files, route, backend, method: by, error, oldest: report.oldest, unfinished }
}

fn unfinished(pending: &PendingFiles) -> Option<IncompleteFiles> {
    let (example, reason, since) = pending.oldest.as_ref()?;
    Some(IncompleteFiles {
        count: pending.count,
        example: example.to_string_lossy().into_owned(),
        reason: reason.as_str().to_owned(),
        since: *since,
        held: pending.held,
        given_up: pending.given_up,
    })
}
