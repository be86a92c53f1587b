//! The native directory monitor as a service: the source of its targets, its jobs and its health.

use std::fs;
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
use crate::fs::open_file::FileStamp;
use crate::fs::regular;
use crate::health::state::{IncompleteFiles, Phase, WatchStatus};
use crate::jobs::submitter::JobSubmitter;
use crate::model::ServiceName;
use crate::process::blocking;
use crate::supervisor::state::Termination;
use crate::supervisor::task::{ServiceResult, StopRequest};
use crate::telemetry::counters::Counters;
use crate::telemetry::escape::escape_control;
use crate::watch::monitor;
use crate::watch::monitor::MonitorCommand;
use crate::watch::scan::WatchState;
use crate::watch::status::{MonitorReport, TargetStatus};
use crate::watch::unfinished::PendingFiles;

use super::relay;
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
        let watching = monitor::run(received, config.dirmonitor.rescan_interval, &counters, arrived, |report| {
            update_health(&slot, &report)
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
            let names = names.iter().map(|name| escape_control(name)).collect::<Vec<_>>().join(", ");
            warn!(
                "stopped with routes that the job queue did not accept: {names}; their files stay in place, and the next \
                 start finds them again"
            );
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
        let Ok((stamp, words)) = blocking::run(move || (file_stamp(&file), consume(&trigger))).await else {
            continue;
        };
        let is_requested = words.is_some_and(|words| is_reload(&words));
        // Also in the first round: the file may have changed since the start read it.
        let before = seen.replace(stamp);
        let mut has_changed = is_requested || before != Some(stamp);
        if has_changed {
            let is_valid;
            (sources, is_valid) = read_again(sources, submitter, config).await;
            // The first read does not count as a change, unless it fails.
            if before.is_some() || !is_valid {
                counters.count_reload(is_valid);
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
        }
    }
}

/// `None` if the file does not exist. May wait for a file system.
fn file_stamp(path: &Path) -> Option<FileStamp> {
    fs::metadata(path).ok().as_ref().map(FileStamp::from)
}

/// Whether the routes have changed. The beginning and the end of an outage of the database are logged.
async fn read_database(sources: &mut TargetSources, was_away: &mut bool) -> bool {
    match sources.read_database().await {
        Ok(has_changed) => {
            if std::mem::take(was_away) {
                info!("the routes can be read from the database again");
            }
            has_changed
        }
        Err(error) => {
            if std::mem::replace(was_away, true) {
                debug!("{error}");
            } else {
                warn!("{error}; keeping the known routes");
            }
            false
        }
    }
}

/// Rereads bots.ini on a blocking thread. Returns whether all of it applies.
async fn read_again(mut sources: TargetSources, submitter: &JobSubmitter, config: &Config) -> (TargetSources, bool) {
    let read = move || {
        let read = sources.read_ini();
        (sources, read)
    };
    let (sources, read) = match tokio::task::spawn_blocking(read).await {
        Ok(read) => read,
        // A panic aborts the process, and this task is never cancelled.
        Err(_) => std::future::pending().await,
    };
    let is_valid = match read {
        Ok(queue) => {
            debug!("read {} again", queue.file.display());
            if !queue.enabled {
                error!("{}", queue.disabled_error(ServiceName::Dirmonitor));
            }
            submitter.set_target(relay::queue(config, queue.port));
            // Sections that are at fault are left out.
            sources.faults().is_empty()
        }
        Err(error) => {
            error!("{error}; keeping the previous settings");
            false
        }
    };
    (sources, is_valid)
}

/// Reads and deletes the trigger file. May wait for a file system.
fn consume(trigger: &Path) -> Option<String> {
    // Its writer creates it first: an empty file is not complete.
    let text = regular::read_to_string(trigger).ok().filter(|text| !text.trim().is_empty())?;
    match fs::remove_file(trigger) {
        Ok(()) => {
            info!("{} requests: {}", trigger.display(), text.trim());
            Some(text)
        }
        Err(error) => {
            warn!("cannot remove {}: {error}; ignoring its request", trigger.display());
            None
        }
    }
}

/// Parses the trigger file as Bots's monitor does: words, of which one is supported.
fn is_reload(text: &str) -> bool {
    let (known, unknown): (Vec<&str>, Vec<&str>) = text.split_whitespace().partition(|word| *word == "reload");
    if !unknown.is_empty() {
        warn!("unknown request: {}; supported: reload", unknown.join(" "));
    }
    !known.is_empty()
}

/// Publishes the status of the monitor. It is alive once each target is watched or has failed.
fn update_health(slot: &HealthSlot, report: &MonitorReport) {
    let directories: Arc<[WatchStatus]> = report.reports.iter().map(directory).collect();
    slot.health.send_modify(|health| {
        health.monitor.get_or_insert_default().directories = directories;
        let service = &mut health.services[slot.index];
        if report.is_complete && service.phase == Phase::Starting {
            (service.phase, service.alive) = (Phase::Running, true);
            info!("the directory monitor is ready");
        }
    });
}

fn directory(report: &TargetStatus) -> WatchStatus {
    let target = &report.target;
    let (backend, by, error) = match &report.watch_state {
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
        None => ("none", "not scanned yet".to_owned(), None),
    };
    let (files, route, unfinished) = (target.files(), target.route.clone(), unfinished(&report.unfinished));
    WatchStatus { files, route, backend, method: by, error, oldest: report.oldest, unfinished }
}

fn unfinished(pending: &PendingFiles) -> Option<IncompleteFiles> {
    let oldest = pending.oldest.as_ref()?;
    Some(IncompleteFiles {
        count: pending.count,
        example: oldest.path.to_string_lossy().into_owned(),
        reason: oldest.unfinished.reason.as_str().to_owned(),
        since: oldest.unfinished.since,
        held: pending.held,
        given_up: pending.given_up,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trigger_file_is_consumed_once_it_has_content() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("trigger");
        assert_eq!(consume(&file), None);
        fs::write(&file, "").expect("written");
        assert_eq!(consume(&file), None);
        fs::write(&file, "reload").expect("its writer still has it");
        assert_eq!(consume(&file).as_deref(), Some("reload"));
        assert!(!file.exists());
    }
}
