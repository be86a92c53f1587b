//! One file per command: the composition roots. Each wires parts together and holds no mechanism of its own.

mod channel_names;
pub mod completions;
pub mod config;
pub mod dirmonitor;
pub mod engine;
pub mod exec;
pub mod healthcheck;
pub mod init_db;
pub mod install;
pub mod job;
pub mod jobqueue;
mod launch;
mod monitor_entries;
mod native_monitor;
mod native_queue;
mod own_service;
mod rehearsal;
mod relay;
mod reload;
mod requests;
mod scratch;
mod seat;
mod services;
pub mod status;
pub mod up;
pub mod webserver;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::bots::django::Facts;
use crate::bots::environment::Environment;
use crate::bots::service::{Inherited, Variables, variables};
use crate::bots::source::Source;
use crate::bots::{self, Installation, files};
use crate::cli::Global;
use crate::config::keys::{CONFIG_FILE_ENV, CONFIG_SOURCE};
use crate::config::{Config, Fault, Override};
use crate::database;
use crate::exit::{Error, Exit, Kind};
use crate::health::checks::Targets;
use crate::process::blocking;
use crate::process::child::SpawnError;
use crate::process::reaper::Reaper;
use crate::process::signals::{self, Signals};
use crate::telemetry::counters::Counters;
use crate::telemetry::lines::LineSink;
use crate::telemetry::logging::{self, Guard};

/// Longer than any process of ours lives.
const THREAD_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Reads the configuration for a command line; `more` holds what its own flags set.
fn load_config(global: &Global, more: Vec<Override>) -> Result<Config, Error> {
    let (config, faults) = read_config(global, more)?;
    if faults.is_empty() {
        return Ok(config);
    }
    let kind = if faults.iter().all(|fault| fault.is_usage) { Kind::Usage } else { Kind::Configuration };
    Err(Error::all(kind, faults.into_iter().map(|fault| fault.text).collect()))
}

/// As [`load_config`]; faults do not keep the rest from being read.
fn read_config(global: &Global, more: Vec<Override>) -> Result<(Config, Vec<Fault>), Error> {
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .collect();
    let overrides = overrides(global, more);
    let home = home(environment.get("HOME"))?;
    let (config, faults) = Config::read(&environment, &overrides, global.config.as_deref(), &home);
    Ok((config, faults))
}

/// Where the listener of this container is, and what is wrong with the configuration. Whoever runs may have refused that and
/// go on with the one before, so it is told only when nobody answers.
fn health_addr(global: &Global) -> Result<(SocketAddr, Option<Error>), Error> {
    let (config, faults) = read_config(global, Vec::new())?;
    let faults: Vec<String> = faults.into_iter().map(|fault| fault.text).collect();
    Ok((config.health.addr, (!faults.is_empty()).then(|| Error::all(Kind::Configuration, faults))))
}

fn overrides(global: &Global, more: Vec<Override>) -> Vec<Override> {
    let mut overrides = more;
    if let Some(dir) = &global.config_dir {
        let value = std::path::absolute(dir).unwrap_or_else(|_| dir.clone()).display().to_string();
        overrides.push(Override { path: "environment.config_dir", flag: "--config-dir", value });
    }
    if let Some(level) = &global.log_level {
        overrides.push(Override { path: "log.level", flag: "--log-level", value: level.clone() });
    }
    overrides
}

/// The flag `--health-addr`, where a command has it.
fn health_override(value: Option<&String>) -> Vec<Override> {
    let given = value.map(|value| Override { path: "health.addr", flag: "--health-addr", value: value.clone() });
    given.into_iter().collect()
}

/// `HOME`, else what the user database says, as Bots itself does.
fn home(variable: Option<&String>) -> Result<PathBuf, Error> {
    let named = variable.filter(|home| home.starts_with('/')).map(PathBuf::from);
    let known = || nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.dir);
    named.or_else(known).ok_or_else(|| {
        let uid = nix::unistd::getuid();
        let text = format!("HOME is not set, and user {uid} has no home directory: set HOME to a writable directory");
        Error::new(Kind::Configuration, text)
    })
}

/// The parts that a command which starts processes needs.
struct Session {
    config: Config,
    reaper: Reaper,
    signals: Signals,
    lines: LineSink,
    counters: Arc<Counters>,
    /// Declared last: flushed after everything else is gone.
    _log: Guard,
}

/// Sets up log, runtime, signals and reaper, and runs `body` in them.
fn with_session<T>(config: Config, body: impl AsyncFnOnce(Session) -> Result<T, Error>) -> Result<T, Error> {
    signals::hold();
    let (log, lines) = logging::init(config.log);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // A thread for work that blocks is kept once there is one: in want of processes there may be no other.
    let runtime = runtime.enable_io().enable_time().thread_keep_alive(THREAD_LIFE).build();
    let runtime = runtime.map_err(|error| internal(&error))?;
    let result = runtime.block_on(async {
        let signals = Signals::install().map_err(|error| internal(&error))?;
        let reaper = Reaper::start().map_err(|error| internal(&error))?;
        body(Session { config, reaper, signals, lines, counters: Arc::default(), _log: log }).await
    });
    // Whatever still runs in the background must not hold up the end.
    runtime.shutdown_background();
    result
}

/// Does work until it is done or a signal asks to stop, and then says how the command ends. While `critical` is set
/// such a signal lets the work go on to its end, so that nothing is cut in the middle; so does a second one.
/// Signals that ask for something else stay for what comes next.
async fn until_stopped<T>(
    signals: &mut Signals,
    critical: &Cell<bool>,
    work: impl Future<Output = T>,
) -> Result<T, Exit> {
    tokio::pin!(work);
    let mut stopped_by = None;
    loop {
        tokio::select! {
            done = &mut work => return stopped_by.map_or(Ok(done), |number| Err(Exit::Signal(number))),
            number = signals.next_where(signals::asks_to_stop) => {
                if !critical.get() {
                    return Err(Exit::Signal(stopped_by.unwrap_or(number)));
                }
                tracing::info!("asked to stop by {}: the database is completed first", signals::name(number));
                stopped_by.get_or_insert(number);
            }
        }
    }
}

/// Finds Bots on this machine.
async fn find_bots(config: &Config, reaper: &Reaper) -> Result<Installation, bots::Error> {
    let path = std::env::var_os("PATH");
    Installation::find(&config.bots, path.as_deref(), reaper).await
}

/// The variables for children, on top of our own.
fn child_variables(config: &Config, bin_dir: Option<&Path>) -> Variables {
    let inherited = Inherited {
        path: std::env::var_os("PATH"),
        python_path: std::env::var_os("PYTHONPATH").filter(|path| !path.is_empty()),
        temporary: temporary_directory(config),
    };
    variables(config, bin_dir, &inherited)
}

/// The variables of services. What they start, engines for instance, is bots-ctl again and takes over nothing: what is
/// mounted is taken over here, once it was found valid.
fn service_variables(config: &Config, bots: &Installation) -> Variables {
    let mut variables = child_variables(config, Some(&bots.bin_dir));
    let places = &config.environment;
    variables.set(CONFIG_SOURCE.env, &places.config_dir);
    let own_file = config.file.as_ref().and_then(|file| file.strip_prefix(&places.config_source).ok());
    if let Some(name) = own_file {
        variables.set(CONFIG_FILE_ENV, places.config_dir.join(name));
    }
    variables
}

/// With a read-only root file system the usual place for temporary files cannot be written to.
fn temporary_directory(config: &Config) -> Option<PathBuf> {
    if files::check_writable(&std::env::temp_dir()).is_ok() {
        return None;
    }
    let own = config.home.join(".bots/tmp");
    files::make_dir(&own).is_ok().then_some(own)
}

/// Prepares the environment off the runtime's thread: filling a volume may take a while, and probes come in.
async fn prepare(config: &Config, bots: &Installation) -> Result<Environment, Error> {
    let (config, bots) = (config.clone(), bots.clone());
    let prepare = move || {
        let source = Source::mounted(&config.environment.config_source, &config.environment.config_dir)?;
        prepare_from(&config, &bots, &source)
    };
    Ok(blocking(prepare).await??)
}

/// The same on this thread, with what is mounted.
fn prepare_from(config: &Config, bots: &Installation, source: &Source) -> Result<Environment, bots::Error> {
    Environment::prepare(config, bots, source, &|line| tracing::info!("{line}"))
}

/// Does what may wait for a volume off the runtime's thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    blocking::run(work).await.map_err(|error| Error::new(Kind::Unavailable, error.to_string()))
}

/// What the health checks look at, in the places that Bots itself says.
fn health_targets(config: &Config, django: &Facts) -> Result<Targets, Error> {
    Ok(Targets {
        database: init_db::settings(config, django)?,
        botssys: django.directories.botssys.clone(),
        usersys: django.directories.usersys.clone(),
        time_zone: django.time_zone.clone(),
        interval: config.health.interval,
    })
}

fn internal(error: &dyn std::error::Error) -> Error {
    Error::new(Kind::Internal, format!("internal error: {error}"))
}

impl From<bots::Error> for Error {
    fn from(error: bots::Error) -> Self {
        match error {
            bots::Error::NotInstalled(text) => Self::new(Kind::NotFound, text),
            bots::Error::Faults(faults) => Self::all(Kind::Configuration, faults),
            bots::Error::Failed(text) => Self::new(Kind::Failed, text),
            bots::Error::Unavailable(text) => Self::new(Kind::Unavailable, text),
        }
    }
}

impl From<database::Error> for Error {
    fn from(error: database::Error) -> Self {
        let kind = match error {
            database::Error::Unsupported(_) | database::Error::Disagreement(_) => Kind::Configuration,
            database::Error::Unavailable(_) | database::Error::Refused(_) => Kind::Unavailable,
            database::Error::Failed(_) => Kind::Failed,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<SpawnError> for Error {
    fn from(error: SpawnError) -> Self {
        let kind = match error {
            SpawnError::NotFound(_) => Kind::NotFound,
            SpawnError::NotExecutable(..) => Kind::CannotExecute,
            SpawnError::NoResources(..) => Kind::Unavailable,
        };
        Self::new(kind, error.to_string())
    }
}

/// Writes a command's result. A reader that went away is no failure.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}
