//! bots-ctl: the entrypoint, supervisor and health endpoint of the Bots EDI translator.

pub mod admin;
pub mod bots;
pub mod cli;
pub mod command;
pub mod config;
pub mod database;
pub mod edi;
pub mod exit;
pub mod fs;
pub mod health;
pub mod http;
pub mod jobs;
pub mod metrics;
pub mod model;
pub mod plugin;
pub mod process;
pub mod pycompat;
pub mod random;
pub mod runtime;
pub mod status;
pub mod supervisor;
pub mod telemetry;
pub mod watch;

use std::ffi::OsString;

use clap::CommandFactory;
use clap::error::ErrorKind;

use bots::engine_shim;
use cli::{Cli, Command};
use exit::{Error, Kind, Outcome};

/// Runs one command line, the program's own name first.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Result<Outcome, Error> {
    if std::process::id() == 1 {
        // The kernel drops a signal to PID 1 that is neither handled nor blocked.
        process::signals::block_all();
    }
    let args: Vec<OsString> = args.into_iter().collect();
    let outcome = run_command(&args)?;
    command::check_output()?;
    Ok(outcome)
}

fn run_command(args: &[OsString]) -> Result<Outcome, Error> {
    if let Some(arguments) = engine_shim::arguments(args) {
        return command::engine::as_bots_engine(arguments);
    }
    match Cli::read(args) {
        Ok(cli) => dispatch(cli),
        Err(error) => usage(&error, args),
    }
}

/// Help and version are not errors; all other errors of the command line are code 64.
fn usage(error: &clap::Error, args: &[OsString]) -> Result<Outcome, Error> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            command::record_output(error.print());
            Ok(Outcome::Success)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Err(Error::all(Kind::Usage, Vec::new()))
        }
        _ => Err(Error::new(Kind::Usage, cli::usage_message(error, args, &Cli::command()))),
    }
}

fn dispatch(cli: Cli) -> Result<Outcome, Error> {
    let global = &cli.global;
    match cli.command {
        Command::Webserver(flags) => command::webserver::run(global, &flags),
        Command::InitDb(flags) => command::init_db::run(global, &flags),
        Command::Healthcheck(flags) => command::healthcheck::run(global, flags),
        Command::Shell(flags) => command::exec::shell(global, flags.args),
        Command::Exec(flags) => command::exec::run(global, flags),
        Command::Program(words) => command::exec::program(global, words),
        Command::Install(flags) => command::install::run(global, &flags),
        Command::Demo(flags) => command::demo::run(global, &flags),
        Command::Plugin(plugin) => command::plugin::run(global, &plugin),
        Command::Config(cli::Config::Show { key, json }) => command::config::show(global, key.as_deref(), json),
        Command::Config(cli::Config::Check) => command::config::check(global),
        Command::Reload => command::reload::run(global, None),
        Command::Restart { service } => command::reload::run(global, service),
        Command::Help { words } => command::help::run(&words),
        Command::Version { json } => command::version::run(global, json),
        Command::Completions { script } => Ok(command::completions::run(script)),
        Command::Engine(flags) => command::engine::run(global, &flags),
        Command::Jobqueue(flags) => command::jobqueue::run(global, &flags),
        Command::Dirmonitor(flags) => command::dirmonitor::run(global, &flags),
        Command::Up(flags) => command::up::run(global, &flags),
        Command::Status(flags) => command::status::run(global, &flags),
        Command::Files(flags) => command::files::run(global, &flags),
        Command::Job(job) => command::job::run(global, &job),
    }
}
