//! `exec`, `shell` and unknown words: a program with the environment of the services, and its exit code untouched.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use clap::CommandFactory;
use nix::libc;
use tokio::time::{Instant, sleep_until};

use crate::bots::{bin_dir, service};
use crate::cli::{Cli, Global};
use crate::exit::{Error, Exit, Kind, Outcome};
use crate::process::Status;
use crate::process::child::{Input, Output, Spec, group_exists, is_stopped, signal_group};
use crate::process::reaper::{Child, Reaper};
use crate::process::signals::{Signals, asks_to_stop};
use crate::process::terminal::Terminal;

use super::{Session, child_variables, load_config, with_session};

/// How long a killed process may take to be gone; longer only when the kernel cannot end it.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// Runs a program.
///
/// # Errors
/// 126 and 127 as a shell gives them.
pub fn run(global: &Global, command: Vec<OsString>) -> Result<Outcome, Error> {
    with_session(load_config(global, Vec::new())?, async |mut session| {
        let spec = spec(&session, command);
        follow(&mut session, &spec).await
    })
}

/// Runs a shell: `$SHELL`, else bash, else sh.
///
/// # Errors
/// As [`run`].
pub fn shell(global: &Global, args: Vec<OsString>) -> Result<Outcome, Error> {
    let preferred = std::env::var_os("SHELL").filter(|shell| Path::new(shell).is_file());
    let usual = || ["/bin/bash", "/usr/bin/bash"].into_iter().find(|shell| Path::new(shell).is_file());
    let shell = preferred.unwrap_or_else(|| usual().unwrap_or("/bin/sh").into());
    run(global, std::iter::once(shell).chain(args).collect())
}

/// Runs words that are no command of ours as a program, unless they look like a slip.
///
/// # Errors
/// As [`run`], with a suggestion.
pub fn program(global: &Global, words: Vec<OsString>) -> Result<Outcome, Error> {
    let name = words.first().cloned().unwrap_or_default();
    let near = meant(&name);
    match run(global, words) {
        Err(error) if error.kind() == Kind::NotFound => {
            let name = name.to_string_lossy();
            let hint = near.map_or_else(|| "see bots-ctl --help".to_owned(), |near| format!("did you mean {near}?"));
            Err(Error::new(Kind::NotFound, format!("there is no command and no program named {name}; {hint}")))
        }
        result => result,
    }
}

fn meant(word: &OsStr) -> Option<String> {
    let command = Cli::command();
    let names: BTreeSet<String> = command
        .get_subcommands()
        .flat_map(|c| std::iter::once(c.get_name()).chain(c.get_all_aliases()))
        .map(str::to_owned)
        .collect();
    crate::config::load::nearest(&word.to_string_lossy(), names.iter()).cloned()
}

fn spec(session: &Session, command: Vec<OsString>) -> Spec {
    let mut words = command.into_iter();
    let path = std::env::var_os("PATH");
    // Without Bots this is still a program to run: a shell to look why, for example.
    let bin_dir = bin_dir(&session.config.bots, path.as_deref()).ok();
    let service::Variables(environment) = child_variables(&session.config, bin_dir.as_deref());
    let program = words.next().unwrap_or_default();
    Spec {
        args: words.collect(),
        environment,
        input: Input::Inherit,
        output: Output::Inherit,
        foreground: Terminal::on_stdin().is_some_and(|terminal| terminal.is_held()),
        service: false,
        ..Spec::new(program)
    }
}

/// Waits for the program, passing signals on, and then for what it left behind.
async fn follow(session: &mut Session, spec: &Spec) -> Result<Outcome, Error> {
    let mut terminal = Terminal::on_stdin();
    let Session { config, reaper, signals, .. } = session;
    let spawned = reaper.spawn(spec);
    if let (Err(_), Some(terminal)) = (&spawned, &mut terminal) {
        // The child took the foreground before it found that there is nothing to run.
        terminal.take_back();
    }
    let mut child = spawned?;
    let exit = loop {
        tokio::select! {
            status = child.changed() => match status {
                Status::Exited(exit) => break exit,
                Status::Stopped if is_stopped(child.pid) => stop_with(terminal.as_mut(), &child),
                Status::Stopped | Status::Running => {}
            },
            number = signals.next() => {
                if let (libc::SIGCONT, Some(terminal)) = (number, &mut terminal) {
                    terminal.lend(child.pid);
                }
                signal_group(child.pid, number);
            }
        }
    };
    if let Some(terminal) = &mut terminal {
        terminal.take_back();
    }
    sweep(&child, config.stop.timeout, reaper, signals).await;
    Ok(outcome(exit))
}

/// On a terminal a stopped program hands the terminal to whoever started us; when we go on, so does it.
fn stop_with(terminal: Option<&mut Terminal>, child: &Child) {
    if terminal.is_some_and(|terminal| terminal.stop_with(child.pid)) {
        signal_group(child.pid, libc::SIGCONT);
    }
}

/// Ends what the program left in its group: asked first, killed at the deadline or when we are asked to stop.
async fn sweep(child: &Child, limit: Duration, reaper: &Reaper, signals: &mut Signals) {
    let mut reaped = reaper.reaped();
    if group_exists(child.pid) {
        signal_group(child.pid, libc::SIGTERM);
        // A stopped process acts on nothing but SIGKILL until it is continued.
        signal_group(child.pid, libc::SIGCONT);
    }
    let mut deadline = Instant::now() + limit;
    let mut killed = false;
    while group_exists(child.pid) {
        let now = tokio::select! {
            _ = reaped.changed() => false,
            () = sleep_until(deadline) => true,
            number = signals.next() => asks_to_stop(number),
        };
        if now && killed {
            tracing::warn!("a process that the program left behind does not end");
            return;
        }
        if now {
            tracing::warn!("killing the processes that the program left behind");
            signal_group(child.pid, libc::SIGKILL);
            (killed, deadline) = (true, Instant::now() + LAST_BREATH);
        }
    }
}

fn outcome(exit: Exit) -> Outcome {
    Outcome::Child(exit.code())
}
