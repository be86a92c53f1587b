//! The targets of the directory monitor: sections of bots.ini, routes of the database, and every change of both.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use crate::bots;
use crate::bots::Installation;
use crate::bots::dirmonitor_config::{DirmonitorConfig, FilePattern, WatchOptions};
use crate::bots::environment::Environment;
use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::config::Config;
use crate::database;
use crate::database::DatabaseConfig;
use crate::database::connect::{ConnectMode, connect};
use crate::database::query::Connection;
use crate::edi::monitored_routes;
use crate::edi::monitored_routes::{ChannelLock, MonitoredRoute};
use crate::edi::runs;
use crate::edi::stats::model::Route;
use crate::model::BotsVersion;
use crate::pycompat::fnmatch::FnMatch;
use crate::watch::target::{PathPattern, WatchTarget};

/// How long the database may take to answer.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(3);

/// The sources of targets.
pub(crate) struct TargetSources {
    config: Config,
    bots: Installation,
    environment: Environment,
    database: DatabaseConfig,
    connection: Option<Connection>,
    monitored: DirmonitorConfig,
    /// None until the database has answered for the first time.
    known: Option<DatabaseRoutes>,
    /// The warnings that were logged last, so that each is logged once.
    logged: Vec<String>,
}

/// The routes, channels and locks of the database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct DatabaseRoutes {
    monitored: Vec<MonitoredRoute>,
    locks: Vec<ChannelLock>,
    routes: Vec<Route>,
}

impl TargetSources {
    /// Reads bots.ini; the database comes later.
    pub fn new(
        config: &Config,
        bots: &Installation,
        environment: &Environment,
        database: DatabaseConfig,
    ) -> Result<Self, bots::Error> {
        let monitored = DirmonitorConfig::read(environment, bots)?;
        Ok(Self {
            config: config.clone(),
            bots: bots.clone(),
            environment: environment.clone(),
            database,
            connection: None,
            monitored,
            known: None,
            logged: Vec::new(),
        })
    }

    /// The file by which Bots's programs send their requests.
    pub fn trigger(&self) -> &Path {
        &self.monitored.trigger
    }

    /// Errors of bots.ini that affect only the named sections.
    pub fn faults(&self) -> &[String] {
        &self.monitored.faults
    }

    /// The bots.ini that is in use. One that is mounted becomes that once it was found valid.
    pub fn file(&self) -> PathBuf {
        self.environment.ini_file()
    }

    /// Reads bots.ini again, and returns the job queue that it names; after an error the targets stay.
    pub fn read_ini(&mut self) -> Result<BotsJobQueueIni, bots::Error> {
        self.monitored = DirmonitorConfig::read(&self.environment, &self.bots)?;
        BotsJobQueueIni::read(&self.config, &self.environment)
    }

    /// Reads the database again; returns whether it has changed. After an error the targets stay.
    pub async fn read_database(&mut self) -> Result<bool, database::Error> {
        let cached = self.connection.take();
        let is_4 = self.bots.bots_version() == BotsVersion::V4;
        let asking = query_routes(cached, &self.database, is_4);
        let late = |_| {
            let text =
                format!("the {} did not respond within {} s", self.database.describe(), DATABASE_TIMEOUT.as_secs());
            Err(database::Error::Unavailable(text))
        };
        let (connection, known) = timeout(DATABASE_TIMEOUT, asking).await.unwrap_or_else(late)?;
        self.connection = Some(connection);
        let is_other = self.known.as_ref() != Some(&known);
        self.known = Some(known);
        Ok(is_other)
    }

    /// All targets. A probable mistake is logged once.
    pub fn targets(&mut self) -> Vec<WatchTarget> {
        let mut warnings = self.monitored.faults.clone();
        let monitored = self.known.iter().flat_map(|known| &known.monitored);
        let of_sections = self.monitored.directories.iter().map(|directory| {
            let options = directory.options.or(self.monitored.default_options);
            let (origin, route) = (directory.origin.clone(), directory.route.clone());
            let target = self.target(origin, route, &directory.files, options);
            WatchTarget { is_recursive: directory.is_recursive, ..target }
        });
        let mut targets: Vec<WatchTarget> = of_sections.collect();
        for route in monitored {
            match self.monitored.files(&route.path, &route.filename) {
                Some(files) => {
                    let origin = format!("channel {} of route {}", route.channel, route.route);
                    let target = self.target(origin, route.route.clone(), &files, self.monitored.default_options);
                    // A file that a channel leaves in place would be read again at every start.
                    targets.push(WatchTarget { takes_existing: target.takes_existing && route.removes, ..target });
                }
                None => warnings
                    .push(format!("channel {} of route {} has no path or file mask", route.channel, route.route)),
            }
        }
        warnings.extend(self.collect_warnings(&targets));
        for warning in warnings.iter().filter(|warning| !self.logged.contains(warning)) {
            warn!("{warning}");
        }
        self.logged = warnings;
        targets
    }

    fn target(&self, origin: String, route: String, files: &FilePattern, options: WatchOptions) -> WatchTarget {
        let locks = self.known.iter().flat_map(|known| &known.locks);
        let locks = locks.map(|lock| (lock.path.as_str(), lock.name.as_str()));
        target(&self.config, &self.monitored, (origin, route), files, options, locks)
    }

    fn collect_warnings(&self, targets: &[WatchTarget]) -> Vec<String> {
        let mut warnings = Vec::new();
        let is_inactive = |name: &str| {
            let mut routes = self.known.iter().map(|known| &known.routes);
            routes.any(|routes| !routes.iter().any(|route| route.name == name && route.is_active))
        };
        let mut first: HashMap<String, &WatchTarget> = HashMap::new();
        for target in targets {
            if is_inactive(&target.route) {
                warnings.push(inactive_route(&target.origin, &target.route));
            }
            let files = target.files();
            match first.get(&files) {
                Some(other) if other.route != target.route => warnings.push(format!(
                    "{} and {} watch the same files, {files}: both routes are started, and the first one processes the files",
                    other.origin, target.origin
                )),
                Some(_) => {}
                None => {
                    first.insert(files, target);
                }
            }
        }
        if targets.is_empty() && self.known.is_some() {
            let file = self.environment.ini_file();
            let routes = match self.bots.bots_version() {
                BotsVersion::V3 => "",
                BotsVersion::V4 => ", and no active route has a monitored channel",
            };
            warnings.push(format!("nothing to watch: no section [dirmonitor1] in {}{routes}", file.display()));
        }
        warnings
    }
}

/// The warning of files for which no route runs.
pub(crate) fn inactive_route(origin: &str, route: &str) -> String {
    format!("{origin}: no active route {route}; its files stay unprocessed until the route is active")
}

/// Files of a route, with their options; `name` is the origin of the entry and the route, `locks` are paths and names.
pub(crate) fn target<'a>(
    config: &Config,
    monitored: &DirmonitorConfig,
    (origin, route): (String, String),
    files: &FilePattern,
    options: WatchOptions,
    locks: impl Iterator<Item = (&'a str, &'a str)>,
) -> WatchTarget {
    let defaults = config.dirmonitor;
    let is_here =
        |(path, name): &(&str, &str)| monitored.files(path, name).is_some_and(|lock| lock.directory == files.directory);
    WatchTarget {
        origin,
        route,
        directory: PathPattern::new(&files.directory),
        mask: FnMatch::new(&files.mask),
        is_recursive: false,
        takes_existing: monitored.process_existing,
        locks: locks.filter(is_here).map(|(_, name)| name.to_owned()).collect(),
        watch_by: options.watch_by.unwrap_or(defaults.watch_by),
        poll_interval: options.poll_interval.unwrap_or(defaults.poll_interval),
        stable_after: options.stable_after.unwrap_or(defaults.stable_after),
        file_wait: config.engine.file_wait,
        is_channel: false,
    }
}

async fn query_routes(
    cached: Option<Connection>,
    settings: &DatabaseConfig,
    is_4: bool,
) -> Result<(Connection, DatabaseRoutes), database::Error> {
    if let Some(mut connection) = cached
        && let Ok(known) = read_routes(&mut connection, is_4).await
    {
        return Ok((connection, known));
    }
    // The cached connection may have been cut by a server that has recovered.
    let mut connection = connect(settings, ConnectMode::Probe).await?;
    let known = read_routes(&mut connection, is_4).await?;
    Ok((connection, known))
}

async fn read_routes(connection: &mut Connection, is_4: bool) -> Result<DatabaseRoutes, database::Error> {
    let routes = runs::routes(connection).await?;
    let monitored = if is_4 { monitored_routes::routes(connection).await? } else { Vec::new() };
    Ok(DatabaseRoutes { monitored, locks: monitored_routes::locks(connection).await?, routes })
}
