//! `exec`, `shell` and unknown words: a program with the environment of the services, and its exit code untouched.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::CommandFactory;
use nix::libc;
use nix::unistd::getppid;

use crate::bots::engine_command;
use crate::cli::{self, Cli, Global};
use crate::config::FlagOverride;
use crate::exit::{Error, Kind, Outcome};
use crate::process::signal_map::{SignalMap, parse_signal};
use crate::process::signals::{self, is_forwarded};
use crate::runtime::{self, exec::ExecOptions, session::with_app};

use super::{load_config, overrides};

/// Runs a program.
///
/// # Errors
/// 126 and 127 as a shell gives them.
pub fn run(global: &Global, flags: cli::Exec) -> Result<Outcome, Error> {
    let level = match flags.verbose {
        0 => None,
        1 => Some("debug"),
        _ => Some("trace"),
    };
    let given = overrides([("log.level", "--verbose", level.map(str::to_owned))]);
    start(global, given, &options(&flags)?, flags.command)
}

fn start(
    global: &Global,
    given: Vec<FlagOverride>,
    options: &ExecOptions,
    command: Vec<OsString>,
) -> Result<Outcome, Error> {
    if let Some(bypass) = engine_command::bypass(&command) {
        let text = format!(
            "{bypass}: an engine that is started in this way takes no lease, and would run beside another one; use bots-engine, \
             or bots-ctl engine"
        );
        return Err(Error::new(Kind::Usage, text));
    }
    let command = engine_command::with_todays_name(command);
    // From here on a signal waits for the program.
    signals::block_all();
    let parent = getppid();
    with_app(load_config(global, given)?, async |session| runtime::exec::run(session, options, parent, command).await)
}

fn options(flags: &cli::Exec) -> Result<ExecOptions, Error> {
    let wrong = |flag: &str, text: String| Error::new(Kind::Usage, format!("{flag} {text}; see exec --help"));
    let rewrites = SignalMap::read(&flags.rewrites).map_err(|text| wrong("--rewrite", text))?;
    let death = flags.parent_death_signal.as_deref().map(parse_signal).transpose();
    let parent_death_signal = death.map_err(|text| wrong("--parent-death-signal", text))?;
    if let Some(number) = parent_death_signal.filter(|number| *number != libc::SIGKILL && !is_forwarded(*number)) {
        let text = format!("{}: it is never passed on; choose another, such as TERM or KILL", signals::name(number));
        return Err(wrong("--parent-death-signal", text));
    }
    let (success_exit_codes, single_child, warn) = (flags.success_exit_codes.clone(), flags.single_child, flags.warn);
    Ok(ExecOptions { rewrites, parent_death_signal, success_exit_codes, single_child, warn, ..ExecOptions::default() })
}

/// Runs a shell: `$SHELL`, else bash, else sh.
///
/// # Errors
/// As [`run`].
pub fn shell(global: &Global, args: Vec<OsString>) -> Result<Outcome, Error> {
    let preferred = std::env::var_os("SHELL").filter(|shell| Path::new(shell).is_file());
    let usual = || ["/bin/bash", "/usr/bin/bash"].into_iter().find(|shell| Path::new(shell).is_file());
    let shell = preferred.unwrap_or_else(|| usual().unwrap_or("/bin/sh").into());
    let types = args.iter().all(|arg| arg.as_bytes().starts_with(b"-") && arg != "-c") && io::stdin().is_terminal();
    // A job that a person leaves in the background goes on, as it does behind any shell.
    let jobs_live_on = types && std::process::id() != 1;
    let options = ExecOptions { jobs_live_on, relays: true, ..ExecOptions::default() };
    start(global, Vec::new(), &options, std::iter::once(shell).chain(args).collect())
}

/// Runs a command line that is no command of bots-ctl as a program, unless it looks like a typing error.
///
/// # Errors
/// As [`run`], with a suggestion.
pub fn program(global: &Global, argv: Vec<OsString>) -> Result<Outcome, Error> {
    let name = argv.first().cloned().unwrap_or_default();
    let near = suggest_command(&name);
    match start(global, Vec::new(), &ExecOptions::default(), argv) {
        Err(error) if error.kind() == Kind::NotFound => {
            let name = name.to_string_lossy();
            let hint = near.map_or_else(|| "see bots-ctl --help".to_owned(), |near| format!("did you mean {near}?"));
            Err(Error::new(Kind::NotFound, format!("there is no command and no program named {name}; {hint}")))
        }
        result => result,
    }
}

fn suggest_command(word: &OsStr) -> Option<String> {
    let command = Cli::command();
    let names: BTreeSet<String> = command
        .get_subcommands()
        .flat_map(|c| std::iter::once(c.get_name()).chain(c.get_all_aliases()))
        .map(str::to_owned)
        .collect();
    crate::config::layers::closest_match(&word.to_string_lossy(), names.iter()).cloned()
}
