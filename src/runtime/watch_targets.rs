//! What is to be watched: the sections of bots.ini, routes of the database, and every change of both.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use crate::bots;
use crate::bots::dirmonitor_config::{Files, Monitored, Way};
use crate::bots::environment::Environment;
use crate::bots::services::JobQueue;
use crate::bots::{Generation, Installation};
use crate::config::Config;
use crate::database;
use crate::database::Settings;
use crate::database::connect::{Purpose, connect};
use crate::database::connection::Connection;
use crate::edi::monitored_routes;
use crate::edi::monitored_routes::{ChannelLock, MonitoredRoute};
use crate::edi::runs;
use crate::edi::runs::Route;
use crate::pycompat::fnmatch::Mask;
use crate::watch::target::{Entry, Pattern};

/// How long the database may take to answer.
const DATABASE_LIMIT: Duration = Duration::from_secs(3);

/// Where entries come from.
pub(crate) struct Sources {
    config: Config,
    bots: Installation,
    environment: Environment,
    database: Settings,
    connection: Option<Connection>,
    monitored: Monitored,
    /// Nothing until the database has answered for the first time.
    known: Option<Known>,
    /// What the log was told of last, so that it is told once.
    told: Vec<String>,
}

/// What the database says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Known {
    monitored: Vec<MonitoredRoute>,
    locks: Vec<ChannelLock>,
    routes: Vec<Route>,
}

/// What a file was like when it was read.
pub(crate) type FileState = Option<(u64, u64, i64, i64)>;

impl Sources {
    /// Reads bots.ini; the database comes later.
    ///
    /// # Errors
    /// What is wrong with bots.ini.
    pub fn new(
        config: &Config,
        bots: &Installation,
        environment: &Environment,
        database: Settings,
    ) -> Result<Self, bots::Error> {
        let monitored = Monitored::read(environment, bots)?;
        Ok(Self {
            config: config.clone(),
            bots: bots.clone(),
            environment: environment.clone(),
            database,
            connection: None,
            monitored,
            known: None,
            told: Vec::new(),
        })
    }

    /// The file by which Bots's programs make themselves heard.
    pub fn trigger(&self) -> &Path {
        &self.monitored.trigger
    }

    /// The bots.ini that is in use. One that is mounted becomes that once it was found valid.
    pub fn file(&self) -> PathBuf {
        self.environment.config.join("bots.ini")
    }

    /// Reads bots.ini again.
    ///
    /// # Errors
    /// What is wrong with it; then the entries stay.
    pub fn read_ini(&mut self) -> Result<(), bots::Error> {
        self.monitored = Monitored::read(&self.environment, &self.bots)?;
        Ok(())
    }

    /// Which job queue bots.ini names.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn job_queue(&self) -> Result<JobQueue, bots::Error> {
        JobQueue::read(&self.environment)
    }

    /// Asks the database again; says whether it answers something else than before.
    ///
    /// # Errors
    /// When it does not answer; then the entries stay.
    pub async fn read_database(&mut self) -> Result<bool, database::Error> {
        let kept = self.connection.take();
        let is_4 = self.bots.generation() == Generation::Four;
        let asking = ask(kept, &self.database, is_4);
        let late = |_| {
            let text = format!("the {} did not answer within {} s", self.database.describe(), DATABASE_LIMIT.as_secs());
            Err(database::Error::Unavailable(text))
        };
        let (connection, known) = timeout(DATABASE_LIMIT, asking).await.unwrap_or_else(late)?;
        self.connection = Some(connection);
        let is_other = self.known.as_ref() != Some(&known);
        self.known = Some(known);
        Ok(is_other)
    }

    /// Everything that is to be watched. What looks like a mistake is told, once.
    pub fn entries(&mut self) -> Vec<Entry> {
        let mut doubts = Vec::new();
        let monitored = self.known.iter().flat_map(|known| &known.monitored);
        let of_sections = self.monitored.directories.iter().map(|directory| {
            let way = directory.way.or(self.monitored.way);
            let (origin, route) = (directory.origin.clone(), directory.route.clone());
            let entry = self.entry(origin, route, &directory.files, way);
            Entry { is_recursive: directory.is_recursive, ..entry }
        });
        let mut entries: Vec<Entry> = of_sections.collect();
        for route in monitored {
            match self.monitored.files(&route.path, &route.filename) {
                Some(files) => {
                    let origin = format!("channel {} of route {}", route.channel, route.route);
                    let entry = self.entry(origin, route.route.clone(), &files, self.monitored.way);
                    // What a channel leaves where it is would be read again at every start.
                    entries.push(Entry { takes_existing: entry.takes_existing && route.removes, ..entry });
                }
                None => doubts.push(format!("channel {} of route {} names no files", route.channel, route.route)),
            }
        }
        doubts.extend(self.doubts(&entries));
        for doubt in doubts.iter().filter(|doubt| !self.told.contains(doubt)) {
            warn!("{doubt}");
        }
        self.told = doubts;
        entries
    }

    fn entry(&self, origin: String, route: String, files: &Files, way: Way) -> Entry {
        let locks = self.known.iter().flat_map(|known| &known.locks);
        let locks = locks.map(|lock| (lock.path.as_str(), lock.name.as_str()));
        entry(&self.config, &self.monitored, (origin, route), files, way, locks)
    }

    fn doubts(&self, entries: &[Entry]) -> Vec<String> {
        let mut doubts = Vec::new();
        let is_inactive = |name: &str| {
            let mut routes = self.known.iter().map(|known| &known.routes);
            routes.any(|routes| !routes.iter().any(|route| route.name == name && route.is_active))
        };
        let mut first: HashMap<String, &Entry> = HashMap::new();
        for entry in entries {
            if is_inactive(&entry.route) {
                doubts.push(format!(
                    "{}: there is no active route {}, so its files are not taken until there is",
                    entry.origin, entry.route
                ));
            }
            let files = entry.files();
            match first.get(&files) {
                Some(other) if other.route != entry.route => doubts.push(format!(
                    "{} and {} watch the same files, {files}: both routes are started, and the first takes them",
                    other.origin, entry.origin
                )),
                Some(_) => {}
                None => {
                    first.insert(files, entry);
                }
            }
        }
        if entries.is_empty() && self.known.is_some() {
            let file = self.environment.config.join("bots.ini");
            let routes = match self.bots.generation() {
                Generation::Three => "",
                Generation::Four => ", and no active route asks for it",
            };
            doubts.push(format!("nothing is watched: no section [dirmonitor1] is in {}{routes}", file.display()));
        }
        doubts
    }
}

/// Files of a route, with what is configured for them; `name` is the origin of the entry and the route, `locks` are paths and
/// names.
pub(crate) fn entry<'a>(
    config: &Config,
    monitored: &Monitored,
    (origin, route): (String, String),
    files: &Files,
    way: Way,
    locks: impl Iterator<Item = (&'a str, &'a str)>,
) -> Entry {
    let defaults = config.dirmonitor;
    let is_here =
        |(path, name): &(&str, &str)| monitored.files(path, name).is_some_and(|lock| lock.directory == files.directory);
    Entry {
        origin,
        route,
        directory: Pattern::new(&files.directory),
        mask: Mask::new(&files.mask),
        is_recursive: false,
        takes_existing: monitored.process_existing,
        locks: locks.filter(is_here).map(|(_, name)| name.to_owned()).collect(),
        watch_by: way.watch_by.unwrap_or(defaults.watch_by),
        poll_interval: way.poll_interval.unwrap_or(defaults.poll_interval),
        settle: way.settle.unwrap_or(defaults.settle),
        file_wait: config.engine.file_wait,
        is_channel: false,
    }
}

async fn ask(
    kept: Option<Connection>,
    settings: &Settings,
    is_4: bool,
) -> Result<(Connection, Known), database::Error> {
    if let Some(mut connection) = kept
        && let Ok(known) = question(&mut connection, settings, is_4).await
    {
        return Ok((connection, known));
    }
    // The kept one may have been cut by a server that is well again.
    let mut connection = connect(settings, Purpose::Probe).await?;
    let known = question(&mut connection, settings, is_4).await?;
    Ok((connection, known))
}

async fn question(connection: &mut Connection, settings: &Settings, is_4: bool) -> Result<Known, database::Error> {
    let routes = runs::routes(connection, settings).await?;
    let monitored = if is_4 { monitored_routes::routes(connection, settings).await? } else { Vec::new() };
    Ok(Known { monitored, locks: monitored_routes::locks(connection, settings).await?, routes })
}

/// What a file is like now; nothing when it is not there. May wait for a file system.
pub(crate) fn state(path: &Path) -> FileState {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

/// Takes what was written to the trigger file, and removes it. May wait for a file system.
pub(crate) fn take_trigger(file: &Path) -> Option<String> {
    // Who writes to it makes it first: while it is empty the words are yet to come.
    let text = std::fs::read_to_string(file).ok().filter(|text| !text.trim().is_empty())?;
    match std::fs::remove_file(file) {
        Ok(()) => {
            info!("{} asks for: {}", file.display(), text.trim());
            Some(text)
        }
        Err(error) => {
            warn!("cannot remove {}: {error}; what it asks for is not done", file.display());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_is_taken_when_its_words_are_there() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("trigger");
        assert_eq!(take_trigger(&file), None);
        std::fs::write(&file, "").expect("written");
        assert_eq!(take_trigger(&file), None);
        std::fs::write(&file, "reload").expect("its writer still has it");
        assert_eq!(take_trigger(&file).as_deref(), Some("reload"));
        assert!(!file.exists());
    }
}
