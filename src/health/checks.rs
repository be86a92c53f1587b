//! The background probes of what the services stand on: database, tables, directories.
//!
//! Each probe has a time limit. One that has not come back by then is left running and counts as failed until it
//! does, so that nothing piles up on a hung server or volume, and nothing blocks the thread that answers requests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::state::{Fact, Facts};
use crate::database::lease_row::Holder;
use crate::database::ping::{Answer, Pinger};
use crate::database::{self, Settings, schema};
use crate::telemetry::counters::{self, Counters};

/// How long one probe may take.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// What is looked at.
#[derive(Debug, Clone)]
pub struct Targets {
    /// The database.
    pub database: Settings,
    /// Bots's storage.
    pub botssys: PathBuf,
    /// The user's scripts.
    pub usersys: PathBuf,
    /// Django's time zone, in which Bots notes times where the database does not.
    pub time_zone: Option<String>,
    /// Time between two rounds.
    pub interval: Duration,
}

/// Looks until the task is dropped, and notes how long that takes.
pub async fn watch(targets: Targets, counters: Arc<Counters>, facts: watch::Sender<Facts>) {
    let mut probes = Probes::new(&targets, counters);
    loop {
        probes.look(&targets, &facts).await;
        sleep(targets.interval).await;
    }
}

/// One look at everything but the service.
pub async fn look_once(targets: &Targets, facts: &watch::Sender<Facts>) {
    Probes::new(targets, Arc::default()).look(targets, facts).await;
}

/// The probes, which may still be under way from an earlier round.
struct Probes {
    /// Shared with the question that is under way, of which there is never more than one.
    pinger: Arc<Mutex<Pinger>>,
    database: Probe<(Result<Answer, database::Error>, Option<Holder>)>,
    tables: Probe<Result<(), database::Error>>,
    directories: Probe<[Fact; 2]>,
    counters: Arc<Counters>,
}

impl Probes {
    fn new(targets: &Targets, counters: Arc<Counters>) -> Self {
        let pinger = Arc::new(Mutex::new(Pinger::new(targets.database.clone())));
        let (database, tables, directories) = (Probe::default(), Probe::default(), Probe::default());
        Self { pinger, database, tables, directories, counters }
    }

    async fn look(&mut self, targets: &Targets, facts: &watch::Sender<Facts>) {
        let pinger = Arc::clone(&self.pinger);
        let ping = self.database.ask(|| {
            tokio::spawn(async move {
                let mut pinger = pinger.lock().await;
                let answer = pinger.ping().await;
                let engine = if matches!(answer, Ok(Answer::Free)) { pinger.engine().await } else { None };
                (answer, engine)
            })
        });
        let (botssys, usersys) = (targets.botssys.clone(), targets.usersys.clone());
        let look = move || [directory(&botssys), directory(&usersys)];
        let directories = self.directories.ask(|| tokio::task::spawn_blocking(look));
        let (ping, directories) = tokio::join!(
            timed(&self.counters, counters::Probe::Database, ping),
            timed(&self.counters, counters::Probe::Directories, directories)
        );
        let (ping, engine) = ping.map_or((None, None), |(answer, engine)| (Some(answer), engine));
        let tables = self.look_for_tables(targets, facts).await;
        publish(facts, |facts| {
            // Counted only while the database is no excuse for silence.
            if !matches!(ping, Some(Ok(Answer::Free))) {
                facts.services.iter_mut().for_each(|service| service.unexcused_misses = 0);
            }
            facts.database_busy = matches!(ping, Some(Ok(Answer::Busy)));
            facts.database = fact("the database", ping);
            facts.tables = tables;
            facts.engine = engine.and_then(|holder| Some((holder.name, Instant::now().checked_sub(holder.since)?)));
            let late = || Fact::Bad(format!("the volume did not answer within {} s", PROBE_TIMEOUT.as_secs()));
            [facts.botssys, facts.usersys] = directories.unwrap_or_else(|| [late(), late()]);
        });
    }

    /// Tables that were there once do not go away by themselves.
    async fn look_for_tables(&mut self, targets: &Targets, facts: &watch::Sender<Facts>) -> Fact {
        if facts.borrow().tables == Fact::Good {
            return Fact::Good;
        }
        let database = targets.database.clone();
        let looking = self.tables.ask(|| tokio::spawn(async move { tables(&database).await }));
        fact("the database", timed(&self.counters, counters::Probe::Tables, looking).await)
    }
}

/// Takes down how long a probe takes, or is waited for.
async fn timed<T>(counters: &Counters, probe: counters::Probe, asked: impl Future<Output = T>) -> T {
    let begin = Instant::now();
    let answer = asked.await;
    counters.note_probe(probe, begin.elapsed());
    answer
}

/// A question that is asked again only when the last one has been answered.
struct Probe<T>(Option<JoinHandle<T>>);

impl<T> Default for Probe<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Probe<T> {
    /// The answer, or `None` when it has not come in time.
    async fn ask(&mut self, start: impl FnOnce() -> JoinHandle<T>) -> Option<T> {
        let handle = self.0.get_or_insert_with(start);
        let answer = timeout(PROBE_TIMEOUT, handle).await.ok()?;
        self.0 = None;
        answer.ok()
    }
}

fn fact<T>(what: &str, answer: Option<Result<T, database::Error>>) -> Fact {
    match answer {
        Some(Ok(_)) => Fact::Good,
        Some(Err(error)) => Fact::Bad(error.to_string()),
        None => Fact::Bad(format!("{what} did not answer within {} s", PROBE_TIMEOUT.as_secs())),
    }
}

/// Only what differs from before is published.
pub(super) fn publish(facts: &watch::Sender<Facts>, change: impl FnOnce(&mut Facts)) {
    facts.send_if_modified(|facts| {
        let before = facts.clone();
        change(facts);
        log_changes(&before, facts);
        *facts != before
    });
}

/// Once each way: a database that is away for an hour is one line, and one more when it is back.
fn log_changes(before: &Facts, after: &Facts) {
    let pairs = [
        ("database", &before.database, &after.database),
        ("botssys", &before.botssys, &after.botssys),
        ("usersys", &before.usersys, &after.usersys),
    ];
    for (name, before, after) in pairs {
        match (before, after) {
            (Fact::Good | Fact::Unknown, Fact::Bad(why)) => tracing::error!(check = name, "{why}"),
            (Fact::Bad(_), Fact::Good) => tracing::info!(check = name, "{name} is well again"),
            _ => {}
        }
    }
}

async fn tables(settings: &Settings) -> Result<(), database::Error> {
    let missing = schema::missing_required(settings).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(", ");
    Err(database::Error::Failed(format!("the {} lacks {names}: run init-db", settings.describe())))
}

/// Whether a directory is there and can be written to.
fn directory(path: &Path) -> Fact {
    use nix::unistd::{AccessFlags, access};
    if !path.is_dir() {
        return Fact::Bad(format!("{} is not a directory", path.display()));
    }
    match access(path, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => Fact::Good,
        Err(error) => Fact::Bad(format!("cannot write to {}: {}", path.display(), error.desc())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hung_probe_is_not_asked_again_until_it_has_answered() {
        let asked = std::cell::Cell::new(0);
        let mut probe = Probe::default();
        let ask = || {
            asked.set(asked.get() + 1);
            tokio::spawn(sleep(PROBE_TIMEOUT * 5 / 2))
        };
        assert!(probe.ask(ask).await.is_none());
        assert!(probe.ask(ask).await.is_none());
        assert!(probe.ask(ask).await.is_some());
        assert_eq!(asked.get(), 1);
        assert!(probe.ask(ask).await.is_none());
        assert_eq!(asked.get(), 2);
    }
}
