//! `exec`, `shell` and unknown words: a program with the environment of the services, and its unchanged exit code.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;
use nix::unistd::getppid;

use crate::bots::engine_command;
use crate::cli::{self, Global};
use crate::config::FlagOverride;
use crate::exit::{Error, Kind, Outcome};
use crate::process::proc_table::is_entrypoint;
use crate::process::signal_map::{SignalMap, parse_signal};
use crate::process::signals::{self, is_forwarded};
use crate::runtime::{self, exec::ExecOptions, session::with_session};

use super::{load_config, overrides, read_config, unknown_command};

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
            "{bypass}: an engine that is started in this way does not acquire the lease, and could run at the same time as \
             another one; use bots-engine or bots-ctl engine"
        );
        return Err(Error::new(Kind::Usage, text));
    }
    let command = engine_command::with_todays_name(command);
    // From here on, a signal stays pending until the program runs.
    signals::block_all();
    let parent = getppid();
    with_session(load_config(global, given)?, async |session| {
        runtime::exec::run(session, options, parent, command).await
    })
}

fn options(flags: &cli::Exec) -> Result<ExecOptions, Error> {
    let wrong = |flag: &str, text: String| Error::new(Kind::Usage, format!("{flag} {text}; see bots-ctl exec --help"));
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
    let is_interactive =
        args.iter().all(|arg| arg.as_bytes().starts_with(b"-") && arg != "-c") && io::stdin().is_terminal();
    // A background job of the user keeps running, as after any shell.
    let jobs_live_on = is_interactive && std::process::id() != 1;
    let options = ExecOptions { jobs_live_on, relays: true, ..ExecOptions::default() };
    start(global, Vec::new(), &options, std::iter::once(shell).chain(args).collect())
}

/// Runs a command line that is not a command of bots-ctl as a program, if bots-ctl is the entrypoint of a container.
///
/// # Errors
/// As [`run`], and 64 elsewhere; both name the intended command.
pub fn program(global: &Global, argv: Vec<OsString>) -> Result<Outcome, Error> {
    let name = argv.first().cloned().unwrap_or_default();
    let advice = unknown_command(&name);
    let name = name.to_string_lossy().into_owned();
    if !is_entrypoint() && !read_config(global, Vec::new())?.0.command_line.is_entrypoint {
        let text = format!("there is no command {name}; {advice}; bots-ctl exec -- {name} runs a program of that name");
        return Err(Error::new(Kind::Usage, text));
    }
    match start(global, Vec::new(), &ExecOptions::default(), argv) {
        Err(error) if error.kind() == Kind::NotFound => {
            Err(Error::new(Kind::NotFound, format!("there is no command and no program named {name}; {advice}")))
        }
        result => result,
    }
}
