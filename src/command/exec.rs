//! `exec`, `shell` and unknown words: a program with the environment of the services, and its exit code untouched.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::CommandFactory;
use nix::libc;
use nix::unistd::getppid;
use tracing::debug;

use crate::bots::environment::Environment;
use crate::bots::{bin_dir, engine_command, engine_shim};
use crate::cli::{self, Cli, Global};
use crate::config::FlagOverride;
use crate::exit::{Error, Kind, Outcome};
use crate::process::Status;
use crate::process::child::{
    Input, Output, ProcessGroup, ProcessSpec, set_parent_death_signal, signal_group, signal_process,
};
use crate::process::proc_table::is_stopped;
use crate::process::reaper::Child;
use crate::process::signal_map::{SignalMap, parse_signal};
use crate::process::signals::{self, SignalInfo, is_forwarded};
use crate::process::terminal::Terminal;
use crate::process::terminate::terminate_all;

use super::{load_config, overrides};
use crate::runtime::bots_environment::child_variables;
use crate::runtime::relay;
use crate::runtime::session::{App, with_app};

/// The flags of `exec`, checked.
#[derive(Default)]
struct ExecOptions {
    rewrites: SignalMap,
    parent_death_signal: Option<i32>,
    success_exit_codes: Vec<u8>,
    single_child: bool,
    warn: bool,
    /// Background processes of the program live on after bots-ctl.
    jobs_live_on: bool,
    /// Jobs that are submitted here are passed on to the queue of another container.
    relays: bool,
}

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
    with_app(load_config(global, given)?, async |mut session| {
        if let Some(number) = options.parent_death_signal {
            set_parent_death_signal(number, parent);
        }
        if options.warn {
            session.reaper.warn_of_orphans();
        }
        if options.relays {
            relay::listen_as_configured(&session.config, &Environment::paths(&session.config), &session.counters).await;
        }
        let spec = spec(&session, options, command);
        follow(&mut session, spec, options).await
    })
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

fn spec(session: &App, options: &ExecOptions, command: Vec<OsString>) -> ProcessSpec {
    let mut argv = command.into_iter();
    let path = std::env::var_os("PATH");
    // Without Bots this is still a program to run: a shell to find out why, for example.
    let bin_dir = bin_dir(&session.config.bots, path.as_deref()).ok();
    let root = session.config.environment_root();
    if root.is_dir()
        && let Err(error) = engine_shim::create(root)
    {
        debug!("{error}");
    }
    let variables = child_variables(&session.config, bin_dir.as_deref());
    let program = argv.next().unwrap_or_default();
    ProcessSpec {
        args: argv.collect(),
        env_remove: variables.redundant_secret_file_vars().collect(),
        environment: variables.0,
        input: Input::Inherit,
        output: Output::Inherit,
        // Any other signal reaches bots-ctl, which passes it on.
        kill_on_parent_death: options.parent_death_signal == Some(libc::SIGKILL),
        service: false,
        ..ProcessSpec::new(program)
    }
}

/// A program that runs, and how signals reach it.
struct ExecChild<'a> {
    child: Child,
    terminal: Option<Terminal>,
    options: &'a ExecOptions,
}

/// Waits for the program, passing signals on, and then for the processes that it left behind.
async fn follow(session: &mut App, mut spec: ProcessSpec, options: &ExecOptions) -> Result<Outcome, Error> {
    let mut terminal = Terminal::open();
    spec.group = terminal.as_ref().map_or(ProcessGroup::New, Terminal::group);
    let App { config, reaper, signals, .. } = session;
    let spawned = reaper.spawn(&spec);
    if let (Err(_), Some(terminal)) = (&spawned, &mut terminal) {
        // The child took the foreground before it found that there is nothing to run.
        terminal.take_foreground();
    }
    let mut program = ExecChild { child: spawned?, terminal, options };
    let exit = loop {
        tokio::select! {
            // A pid that was reaped may be another's: its end comes before any signal.
            biased;
            status = program.child.changed() => match status {
                Status::Exited(exit) => break exit,
                Status::Stopped if is_stopped(program.child.pid) => program.suspend_with_child(),
                Status::Stopped | Status::Running => {}
            },
            received = signals.receive() => program.forward_signal(received),
        }
    };
    if let Some(terminal) = &mut program.terminal {
        terminal.take_foreground();
    }
    if !options.jobs_live_on {
        terminate_all(reaper, signals, &[program.child.pid], config.stop.timeout).await;
    }
    let code = exit.code();
    Ok(Outcome::Child(if options.success_exit_codes.contains(&code) { 0 } else { code }))
}

impl ExecChild<'_> {
    fn forward_signal(&mut self, received: SignalInfo) {
        let pid = self.child.pid;
        if let (libc::SIGCONT, Some(terminal)) = (received.number, &mut self.terminal) {
            terminal.give_foreground(pid);
        }
        let Some(number) = self.options.rewrites.apply(received.number) else { return };
        match &self.terminal {
            Some(terminal) if terminal.is_shared() => {
                if !terminal.already_delivered(received, pid) {
                    signal_process(pid, number);
                }
            }
            _ if self.options.single_child => signal_process(pid, number),
            _ => signal_group(pid, number),
        }
    }

    /// On a terminal a stopped program hands the terminal to the parent of bots-ctl; when bots-ctl continues, so does the
    /// program.
    fn suspend_with_child(&mut self) {
        let pid = self.child.pid;
        if self.terminal.as_mut().is_some_and(|terminal| terminal.stop_with(pid)) {
            signal_group(pid, libc::SIGCONT);
        }
    }
}
