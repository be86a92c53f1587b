//! The directory monitor as a service of bots-ctl itself: where its entries come from, and what becomes of its news.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval};
use tracing::{debug, error, info, warn};

use crate::bots::services::{Ground, JobQueue};
use crate::config::Config;
use crate::database::Settings;
use crate::exit::Error;
use crate::health::state::{Directory, Facts, Phase, Unfinished};
use crate::jobs::submitter::Submitter;
use crate::process::blocking;
use crate::supervisor::group::Task;
use crate::supervisor::state::End;
use crate::supervisor::task::Control;
use crate::telemetry::counters::Counters;
use crate::watch::monitor;
use crate::watch::monitor::Order;
use crate::watch::scan::Condition;
use crate::watch::status::{Overview, Report};
use crate::watch::unfinished::Pending;

use super::in_process::{Place, Successor, asked_to_stop};
use super::relay;
use super::watch_targets::{FileState, Sources, state, take_trigger};

/// How often it is looked whether bots.ini has changed or somebody asks for something.
const LOOK: Duration = Duration::from_secs(1);

/// How often the database is asked for routes.
const ASK: Duration = Duration::from_secs(10);

/// What is known before anything is started.
pub(crate) struct NativeMonitor {
    sources: Sources,
    submitter: Submitter,
    config: Config,
    sweep: Duration,
}

impl NativeMonitor {
    /// Reads what is to be watched.
    ///
    /// # Errors
    /// What is wrong with bots.ini.
    pub fn new(config: &Config, ground: &Ground<'_>, queue: &JobQueue, database: Settings) -> Result<Self, Error> {
        let sources = Sources::new(config, ground.bots, ground.environment, database)?;
        let target = relay::queue(config, queue.port);
        let submitter = Submitter::new(target, ground.environment.config.clone());
        Ok(Self { sources, submitter, config: config.clone(), sweep: config.dirmonitor.sweep })
    }

    /// As a member of a fleet, whose facts are at `index`, until there is a successor.
    pub fn task(
        self,
        index: usize,
        facts: &watch::Sender<Facts>,
        counters: &Arc<Counters>,
        successor: Successor<Self>,
    ) -> Task {
        let counters = Arc::clone(counters);
        let place = Place { facts: facts.clone(), index };
        Box::new(move |mut control| {
            Box::pin(async move {
                let mut monitor = self;
                while monitor.live(&mut control, &place, &counters, &successor).await == Left::ToSuccessor
                    && let Some(next) = successor.take()
                {
                    monitor = next;
                }
                place.change(|service| service.phase = Phase::Ended);
                Ok(End::Stopped)
            })
        })
    }

    async fn live(
        self,
        control: &mut mpsc::Receiver<Control>,
        place: &Place,
        counters: &Counters,
        successor: &Successor<Self>,
    ) -> Left {
        let Self { sources, submitter, config, sweep } = self;
        let (orders, asked) = mpsc::channel(4);
        let arrived = |arrival: monitor::Arrival| submitter.mark(&arrival.route, arrival.files, arrival.example);
        let watching = monitor::run(asked, sweep, counters, arrived, |overview| note(place, &overview));
        let following = follow(sources, &orders, &submitter, &config, counters);
        let submitting = submitter.run(|marked| {
            place.facts.send_modify(|facts| facts.monitor.get_or_insert_default().marked = marked);
        });
        let left = tokio::select! {
            () = watching => Left::ForGood,
            () = following => Left::ForGood,
            () = submitting => Left::ForGood,
            () = asked_to_stop(control) => Left::ForGood,
            () = successor.is_named() => Left::ToSuccessor,
        };
        if left == Left::ForGood {
            place.change(|service| service.phase = Phase::Draining);
        }
        let names = submitter.finish().await;
        if !names.is_empty() {
            let names = names.join(", ");
            warn!("the job queue does not answer: files of {names} are found again at the next start");
        }
        left
    }
}

/// How a monitor has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    ForGood,
    ToSuccessor,
}

/// Tells the monitor what to watch, now and whenever that changes.
async fn follow(
    mut sources: Sources,
    orders: &mpsc::Sender<Order>,
    submitter: &Submitter,
    config: &Config,
    counters: &Counters,
) {
    let mut look = interval(LOOK);
    let mut seen: Option<FileState> = None;
    let mut next_ask = Instant::now();
    let mut was_away = false;
    loop {
        look.tick().await;
        let (file, trigger) = (sources.file(), sources.trigger().to_owned());
        let Ok((state, asked)) = blocking::run(move || (state(&file), take_trigger(&trigger))).await else { continue };
        let is_asked = asked.is_some_and(|text| is_reload(&text));
        // Also the first time: it may have changed since the start has read it.
        let before = seen.replace(state);
        let mut has_changed = is_asked || before != Some(state);
        if has_changed {
            let is_read;
            (sources, is_read) = read_again(sources, submitter, config).await;
            // What is read at the start is no change, unless it is wrong by now.
            if before.is_some() || !is_read {
                counters.count_reload(is_read);
            }
        }
        if is_asked || next_ask <= Instant::now() {
            next_ask = Instant::now() + ASK;
            has_changed |= read_database(&mut sources, &mut was_away).await;
        }
        if has_changed {
            let _ = orders.send(Order::Watch(sources.entries())).await;
        }
        if is_asked {
            let _ = orders.send(Order::LookAnew).await;
        }
    }
}

/// Whether the database says something else than before. One that is away is told once each way.
async fn read_database(sources: &mut Sources, was_away: &mut bool) -> bool {
    match sources.read_database().await {
        Ok(is_other) => {
            if std::mem::take(was_away) {
                info!("the routes were read from the database again");
            }
            is_other
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

/// Reads bots.ini again, on a thread that may wait for it; says whether what it says now is in force.
async fn read_again(mut sources: Sources, submitter: &Submitter, config: &Config) -> (Sources, bool) {
    let read = move || {
        let read = sources.read_ini().and_then(|()| sources.job_queue());
        (sources, read)
    };
    let (sources, read) = match tokio::task::spawn_blocking(read).await {
        Ok(read) => read,
        // A panic aborts the process, and nothing cancels this.
        Err(_) => std::future::pending().await,
    };
    let is_read = read.is_ok();
    match read {
        Ok(queue) => {
            debug!("read {} again", queue.file.display());
            if !queue.enabled {
                error!("{}", queue.disabled(crate::config::ServiceName::Dirmonitor));
            }
            submitter.aim(relay::queue(config, queue.port));
        }
        Err(error) => error!("{error}; going on with what was read before"),
    }
    (sources, is_read)
}

/// As Bots's monitor understands it: words, of which it knows one.
fn is_reload(text: &str) -> bool {
    let (known, unknown): (Vec<&str>, Vec<&str>) = text.split_whitespace().partition(|word| *word == "reload");
    if !unknown.is_empty() {
        warn!("asked for what is not known: {}; known is: reload", unknown.join(" "));
    }
    !known.is_empty()
}

/// Takes down how the monitor fares. It takes work once each entry is watched or known to be in trouble.
fn note(place: &Place, overview: &Overview) {
    let directories: Arc<[Directory]> = overview.reports.iter().map(directory).collect();
    place.facts.send_modify(|facts| {
        facts.monitor.get_or_insert_default().directories = directories;
        let service = &mut facts.services[place.index];
        if overview.is_complete && service.phase == Phase::Starting {
            (service.phase, service.answered) = (Phase::Running, true);
            info!("the directory monitor watches");
        }
    });
}

fn directory(report: &Report) -> Directory {
    let entry = &report.entry;
    let (backend, by, trouble) = match &report.condition {
        Some(Condition::Watched { directories, backend, .. }) => {
            let places = if *directories == 1 { String::new() } else { format!(", {directories} directories") };
            let word = match (backend.events, backend.polls) {
                (true, true) => "both",
                (true, false) => "inotify",
                (false, _) => "poll",
            };
            (word, format!("{} ({}){places}", backend.name(), backend.why), None)
        }
        Some(Condition::Trouble { why, .. }) => ("none", String::new(), Some(why.clone())),
        None => ("none", "not looked at yet".to_owned(), None),
    };
    let (files, route, unfinished) = (entry.files(), entry.route.clone(), unfinished(&report.unfinished));
    Directory { files, route, backend, by, trouble, oldest: report.oldest, unfinished }
}

fn unfinished(pending: &Pending) -> Option<Unfinished> {
    let (example, oldest) = pending.oldest.as_ref()?;
    Some(Unfinished {
        count: pending.count,
        example: example.to_string_lossy().into_owned(),
        why: oldest.reason.as_str(),
        since: oldest.since,
        held: pending.held,
        given_up: pending.given_up,
    })
}
