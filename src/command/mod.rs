//! One file per command: it parses its flags, calls a layer below, and prints.

pub mod completions;
pub mod config;
pub mod demo;
pub mod dirmonitor;
pub mod engine;
pub mod exec;
pub mod files;
pub mod healthcheck;
pub mod help;
pub mod init_db;
pub mod install;
pub mod job;
pub mod jobqueue;
pub mod plugin;
pub mod reload;
pub mod status;
pub mod up;
pub mod version;
pub mod webserver;

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;

use clap::CommandFactory;
use tokio_util::task::TaskTracker;

use crate::cli::{self, Cli, Global};
use crate::config::layers::closest_match;
use crate::config::{Config, Diagnostic, FlagOverride, LogFormat};
use crate::exit::{Error, Kind, Outcome};
use crate::model::ServiceName;
use crate::process::reaper::Reaper;
use crate::process::terminate::terminate_all;
use crate::runtime::config_inputs::ConfigInputs;
use crate::runtime::serve::serve;
use crate::runtime::service_spec::ServePlan;
use crate::runtime::session::{Session, run_until_shutdown, with_session};

/// Reads the configuration for a command line; `more` are the overrides by flags of the command itself.
fn load_config(global: &Global, more: Vec<FlagOverride>) -> Result<Config, Error> {
    load(&config_inputs(global, more))
}

fn load(inputs: &ConfigInputs) -> Result<Config, Error> {
    let (config, faults) = inputs.read_in_use()?;
    if faults.is_empty() {
        return Ok(config);
    }
    let kind = if faults.iter().all(|fault| fault.is_from_command_line) { Kind::Usage } else { Kind::Configuration };
    Err(Error::all(kind, faults.into_iter().map(|fault| fault.text).collect()))
}

/// Runs one service, with arguments for its program, or those of `up`, until they end. With `needs_install`, Bots is installed
/// first if none is found.
fn run_services(
    global: &Global,
    given: Vec<FlagOverride>,
    only: Option<ServiceName>,
    args: &[OsString],
    needs_install: bool,
) -> Result<Outcome, Error> {
    let inputs = ConfigInputs { is_up: only.is_none(), ..config_inputs(global, given) };
    with_session(load(&inputs)?, async |mut session| {
        if needs_install && let Some(interrupted) = install::install_if_missing(&mut session).await? {
            return Ok(interrupted);
        }
        serve(session, ServePlan { only, args: args.to_vec(), inputs }).await
    })
}

/// Runs a command that does one thing for a user and ends. A stop signal interrupts `work`, except while it holds a token of
/// `critical`, and terminates its processes.
fn run_one_shot(
    global: &Global,
    more: Vec<FlagOverride>,
    critical: &TaskTracker,
    work: impl AsyncFnOnce(&Config, &Reaper) -> Result<Outcome, Error>,
) -> Result<Outcome, Error> {
    run_one_shot_with(for_one_shot(load_config(global, more)?), critical, work)
}

/// As [`run_one_shot`], with a configuration that is read already.
fn run_one_shot_with(
    config: Config,
    critical: &TaskTracker,
    work: impl AsyncFnOnce(&Config, &Reaper) -> Result<Outcome, Error>,
) -> Result<Outcome, Error> {
    with_session(config, async |mut session| {
        let Session { config, reaper, signals, .. } = &mut session;
        match run_until_shutdown(signals, critical, work(config, reaper)).await {
            Ok(outcome) => outcome,
            Err(exit) => {
                // Requests to Python no longer matter.
                terminate_all(reaper, signals, &[], config.stop.timeout).await;
                Ok(Outcome::Child(exit.code()))
            }
        }
    })
}

/// The log of a one-shot command is text unless JSON is requested.
fn for_one_shot(mut config: Config) -> Config {
    if config.log.format == LogFormat::Auto {
        config.log.format = LogFormat::Text;
    }
    config
}

/// The configuration without a look at the volume, for probes; errors do not prevent it from reading the rest.
fn read_config(global: &Global, more: Vec<FlagOverride>) -> Result<(Config, Vec<Diagnostic>), Error> {
    config_inputs(global, more).read()
}

/// Where the configuration of a command line is read from, again at each reload.
fn config_inputs(global: &Global, more: Vec<FlagOverride>) -> ConfigInputs {
    let absolute = |dir: &PathBuf| std::path::absolute(dir).unwrap_or_else(|_| dir.clone()).display().to_string();
    let mut flags = more;
    flags.extend(overrides([
        ("environment.config_dir", "--config-dir", global.config_dir.as_ref().map(absolute)),
        ("log.level", "--log-level", global.log_level.clone()),
    ]));
    ConfigInputs { overrides: flags, file: global.config.clone(), is_up: false }
}

/// This container's health listener, for the commands that query it.
struct HealthListener {
    inputs: ConfigInputs,
    config: Config,
    /// The errors of the configuration, because of which the address may be wrong. The running bots-ctl may have rejected an
    /// invalid configuration and use the previous one, so they matter only if there is no response.
    faults: Vec<String>,
}

impl HealthListener {
    fn find(global: &Global) -> Result<Self, Error> {
        let inputs = config_inputs(global, Vec::new());
        let (config, faults) = inputs.read()?;
        Ok(Self { inputs, config, faults: faults.into_iter().map(|fault| fault.text).collect() })
    }

    fn addr(&self) -> SocketAddr {
        self.config.health.addr
    }

    /// Queries bots-ctl at its address. While a reload waits, and after it was rejected, the mounted file may name another
    /// address than the one in use. The volume, which may hang, is read only if there is no response.
    fn query<T, E>(&self, ask: impl Fn(SocketAddr) -> Result<T, E>) -> Result<T, E> {
        ask(self.addr()).or_else(|error| {
            let applied = self.inputs.read_applied(&self.config).map(|config| config.health.addr);
            match applied.filter(|addr| *addr != self.addr()) {
                Some(addr) => ask(addr).map_err(|_| error),
                None => Err(error),
            }
        })
    }

    /// The reason for an error of a query: the errors of the configuration, if the listener is unavailable.
    fn explain(&self, error: Error) -> Error {
        match error.kind() {
            Kind::Unavailable if !self.faults.is_empty() => Error::all(Kind::Configuration, self.faults.clone()),
            _ => error,
        }
    }
}

/// The command that a first word which is not a command probably means.
fn unknown_command(word: &OsStr) -> String {
    cli::unknown_command(word, &Cli::command(), |word, names| closest_match(word, names.iter()).cloned())
}

/// The flags that were given, of those that set a key of the configuration: key, flag and value.
fn overrides<const N: usize>(flags: [(&'static str, &'static str, Option<String>); N]) -> Vec<FlagOverride> {
    let given = flags.into_iter().filter_map(|(path, flag, value)| Some(FlagOverride { path, flag, value: value? }));
    given.collect()
}

/// Writes a line of a command's result.
fn write_line(line: &(impl Display + ?Sized)) {
    write_stdout(&format!("{line}\n"));
}

/// Writes a command's result. The command continues after an error, since its work must not be left half done.
fn write_stdout(text: &str) {
    let mut stdout = io::stdout();
    record_output(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
}

/// The first error of standard output.
static OUTPUT_ERROR: OnceLock<io::Error> = OnceLock::new();

/// Keeps the first error of standard output for [`check_output`]; returns whether the text was written. A closed pipe, as in
/// `bots-ctl --help | head -1`, is not an error.
pub(crate) fn record_output(written: io::Result<()>) -> bool {
    let is_written = written.is_ok();
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        let _ = OUTPUT_ERROR.set(error);
    }
    is_written
}

/// The check at the end of each command.
///
/// # Errors
/// 1 if a part of its result could not be written, as on a full disk.
pub(crate) fn check_output() -> Result<(), Error> {
    match OUTPUT_ERROR.get() {
        Some(error) => Err(Error::new(Kind::Failed, format!("cannot write to standard output: {error}"))),
        None => Ok(()),
    }
}
