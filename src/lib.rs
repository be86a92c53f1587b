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
pub mod process;
pub mod pycompat;
pub mod random;
pub mod runtime;
pub mod status;
pub mod supervisor;
pub mod telemetry;
pub mod watch;

use std::ffi::OsString;

use clap::Parser;
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
    if let Some(arguments) = engine_shim::arguments(&args) {
        return command::engine::as_bots_engine(arguments);
    }
    match Cli::try_parse_from(args) {
        Ok(cli) => dispatch(cli),
        Err(error) => usage(&error),
    }
}

/// Help and version are no errors; everything else about the command line is code 64.
fn usage(error: &clap::Error) -> Result<Outcome, Error> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed pipe, as in `bots-ctl --help | head -1`, is no failure.
            let _ = error.print();
            Ok(Outcome::Success)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Err(Error::all(Kind::Usage, Vec::new()))
        }
        _ => {
            let text = error.render().to_string();
            Err(Error::new(Kind::Usage, in_one_line(text.strip_prefix("error: ").unwrap_or(&text))))
        }
    }
}

/// The error, the suggestion and a pointer to --help; without the usage that clap repeats each time.
fn in_one_line(text: &str) -> String {
    let said = text.split("\n\nUsage:").next().unwrap_or(text).split("\n\nFor more").next().unwrap_or(text);
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("tip: to pass"));
    let parts: Vec<&str> = lines.map(|line| line.strip_prefix("tip: ").unwrap_or(line)).collect();
    format!("{}; see --help", parts.join("; ").replace(":; ", ": "))
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
        Command::Config(cli::Config::Show { key, json }) => command::config::show(global, key.as_deref(), json),
        Command::Config(cli::Config::Check) => command::config::check(global),
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
