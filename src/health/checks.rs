//! The background probes: database, tables, directories, and the service's sign of life.
//!
//! One round at a time, each probe with its own timeout, so nothing piles up. Only what differs from before is
//! published.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::report::{Fact, Facts, Phase};
use super::sign_of_life::HttpService;
use crate::database::{self, Settings, connect, schema};

/// How long one probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often to look while a service starts: its users wait for it.
const STARTING_INTERVAL: Duration = Duration::from_millis(20);

/// A sign of life is asked for once in so many rounds: it costs the service a request.
const ROUNDS_PER_SIGN_OF_LIFE: u32 = 3;

/// What is looked at.
#[derive(Debug, Clone)]
pub struct Targets {
    /// The database.
    pub database: Settings,
    /// Bots's storage.
    pub botssys: PathBuf,
    /// The user's scripts.
    pub usersys: PathBuf,
    /// How the service is asked for a sign of life.
    pub service: HttpService,
    /// Time between two rounds.
    pub interval: Duration,
}

/// Looks until the task is dropped.
pub async fn watch(targets: Targets, facts: watch::Sender<Facts>) {
    let mut round: u32 = 0;
    loop {
        let starting = facts.borrow().phase == Phase::Starting;
        if starting || round.is_multiple_of(ROUNDS_PER_SIGN_OF_LIFE) {
            let answer = timeout(PROBE_TIMEOUT, targets.service.answers()).await;
            let alive = answer.is_ok_and(|answer| answer.unwrap_or(false));
            publish(&facts, |facts| note_sign_of_life(facts, alive));
        }
        let still_starting = starting && facts.borrow().phase == Phase::Starting;
        if !still_starting || round == 0 {
            look(&targets, &facts).await;
        }
        round = round.wrapping_add(1);
        sleep(if still_starting { STARTING_INTERVAL } else { targets.interval }).await;
    }
}

/// One look at everything but the service.
pub async fn look(targets: &Targets, facts: &watch::Sender<Facts>) {
    let database = within("the database", connect::ping(&targets.database)).await;
    // Tables that were there once do not go away by themselves.
    let seen_before = facts.borrow().tables == Fact::Good;
    let tables = if seen_before { Fact::Good } else { within("the database", tables(&targets.database)).await };
    let (botssys, usersys) = (directory(&targets.botssys), directory(&targets.usersys));
    publish(facts, |facts| {
        facts.database = database;
        facts.tables = tables;
        facts.botssys = botssys;
        facts.usersys = usersys;
    });
}

fn publish(facts: &watch::Sender<Facts>, change: impl FnOnce(&mut Facts)) {
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
    if before.misses == 0 && after.misses == 1 {
        tracing::warn!("{} does not answer", after.service);
    }
}

fn note_sign_of_life(facts: &mut Facts, alive: bool) {
    match (facts.phase, alive) {
        (Phase::Starting, true) => {
            facts.phase = Phase::Running;
            facts.misses = 0;
        }
        (Phase::Running, true) => facts.misses = 0,
        (Phase::Running, false) => facts.misses = facts.misses.saturating_add(1),
        _ => {}
    }
}

async fn within<T>(what: &str, probe: impl Future<Output = Result<T, database::Error>>) -> Fact {
    match timeout(PROBE_TIMEOUT, probe).await {
        Ok(Ok(_)) => Fact::Good,
        Ok(Err(error)) => Fact::Bad(error.to_string()),
        Err(_) => Fact::Bad(format!("{what} did not answer within {} s", PROBE_TIMEOUT.as_secs())),
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
#[must_use]
pub fn directory(path: &Path) -> Fact {
    use nix::unistd::{AccessFlags, access};
    if !path.is_dir() {
        return Fact::Bad(format!("{} is not a directory", path.display()));
    }
    match access(path, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => Fact::Good,
        Err(error) => Fact::Bad(format!("cannot write to {}: {}", path.display(), error.desc())),
    }
}
