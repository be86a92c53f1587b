//! A program in the environment of the services, as its init: signals go to the program, and processes that it leaves behind are
//! terminated.

use std::env::current_dir;
use std::ffi::OsString;

use nix::libc;
use nix::unistd::{Pid, chdir, getpgrp, getpid};
use tracing::debug;

use crate::bots::child_env::ChildEnv;
use crate::bots::environment::Environment;
use crate::bots::{bin_dir, engine_shim};
use crate::exit::{Error, Kind, Outcome};
use crate::process::ChildStatus;
use crate::process::child::{Input, Output, ProcessGroup, ProcessSpec};
use crate::process::proc_table::is_stopped;
use crate::process::reaper::{Child, Reaper};
use crate::process::signal_map::SignalMap;
use crate::process::signals::{
    SignalInfo, is_stop_signal, is_suspend_signal, set_parent_death_signal, signal_group, signal_process,
};
use crate::process::terminal::Terminal;
use crate::process::terminate::{record_stop_request, terminate_all};

use super::bots_environment::child_variables;
use super::relay;
use super::session::Session;

/// How the program is run.
#[derive(Default)]
pub(crate) struct ExecOptions {
    pub rewrites: SignalMap,
    pub parent_death_signal: Option<i32>,
    pub success_exit_codes: Vec<u8>,
    pub single_child: bool,
    pub warn: bool,
    /// Background processes of the program outlive bots-ctl.
    pub jobs_live_on: bool,
    /// Jobs submitted here are forwarded to the queue of another container.
    pub relays: bool,
}

/// Runs the program; `parent` is the parent process of bots-ctl at its start.
///
/// # Errors
/// 126 and 127 as a shell gives them.
pub(crate) async fn run(
    mut session: Session,
    options: &ExecOptions,
    parent: Pid,
    command: Vec<OsString>,
) -> Result<Outcome, Error> {
    session
        .signals
        .read_for_exec()
        .map_err(|error| Error::new(Kind::Internal, format!("cannot read signals: {error}")))?;
    if let Some(number) = options.parent_death_signal {
        set_parent_death_signal(number, parent);
    }
    if options.warn {
        session.reaper.warn_of_orphans();
    }
    if options.relays {
        relay::listen_as_configured(&session.config, &Environment::paths(&session.config), &session.counters).await;
    }
    let spec = spec(&session, options, command)?;
    follow(&mut session, spec, options).await
}

fn spec(session: &Session, options: &ExecOptions, command: Vec<OsString>) -> Result<ProcessSpec, Error> {
    let mut argv = command.into_iter();
    let path = std::env::var_os("PATH");
    // The program also runs without Bots, for example a shell to find the cause.
    let bin_dir = bin_dir(&session.config.bots, path.as_deref()).ok();
    if let Some(bin_dir) = &bin_dir {
        ChildEnv::check_paths(&session.config, bin_dir)?;
    }
    let root = session.config.environment_root();
    if root.is_dir()
        && let Err(error) = engine_shim::create(root)
    {
        debug!("{error}");
    }
    let variables = child_variables(&session.config, bin_dir.as_deref());
    let program = argv.next().unwrap_or_default();
    Ok(ProcessSpec {
        args: argv.collect(),
        env_remove: variables.redundant_secret_file_vars().collect(),
        environment: variables.0,
        input: Input::Inherit,
        output: Output::Inherit,
        // Any other signal reaches bots-ctl, which forwards it.
        kill_on_parent_death: options.parent_death_signal == Some(libc::SIGKILL),
        is_isolated: false,
        ..ProcessSpec::new(program)
    })
}

/// A running program, and how signals reach it.
struct ExecChild<'a> {
    child: Child,
    reaper: &'a Reaper,
    terminal: Option<Terminal>,
    options: &'a ExecOptions,
}

/// Waits for the program, passing signals on, and then for the processes that it left behind.
async fn follow(session: &mut Session, mut spec: ProcessSpec, options: &ExecOptions) -> Result<Outcome, Error> {
    let mut terminal = Terminal::open();
    spec.group = terminal.as_ref().map_or(ProcessGroup::New, Terminal::group);
    leave_directory(&mut spec);
    let Session { config, reaper, signals, .. } = session;
    let spawned = reaper.spawn(&spec);
    if let (Err(_), Some(terminal)) = (&spawned, &mut terminal) {
        // The child took the foreground before its exec failed.
        terminal.take_foreground();
    }
    let mut program = ExecChild { child: spawned?, reaper, terminal, options };
    let exit = loop {
        tokio::select! {
            // A pid that was reaped may be another's: its end comes before any signal.
            biased;
            status = program.child.changed() => match status {
                ChildStatus::Exited(exit) => break exit,
                ChildStatus::Stopped if is_stopped(program.child.pid) => program.suspend_with_child(),
                ChildStatus::Stopped | ChildStatus::Running => {}
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

/// Moves bots-ctl to `/`, so that the program alone keeps the file system of the working directory busy.
fn leave_directory(spec: &mut ProcessSpec) {
    // The path of a directory that was removed or covered by a mount is useless to the program.
    if let Ok(here) = current_dir()
        && chdir(&here).is_ok()
        && chdir("/").is_ok()
    {
        spec.directory = Some(here);
    }
}

impl ExecChild<'_> {
    fn forward_signal(&mut self, received: SignalInfo) {
        let pid = self.child.pid;
        if let (libc::SIGCONT, Some(terminal)) = (received.number, &mut self.terminal) {
            terminal.give_foreground(pid);
        }
        // Without a terminal no shell can stop the program, which has a group that the kernel never stops by these signals.
        let suspends = self.terminal.is_none() && is_suspend_signal(received.number);
        let usual = if suspends && !self.options.single_child { libc::SIGSTOP } else { received.number };
        let Some(number) = self.options.rewrites.apply(received.number, usual) else { return };
        match &self.terminal {
            Some(terminal) if terminal.is_shared() => {
                if terminal.already_delivered(received, pid) {
                    self.record_stop_request(received.number, getpgrp());
                } else {
                    signal_process(pid, number);
                }
            }
            _ if self.options.single_child => signal_process(pid, number),
            _ => {
                self.record_stop_request(number, pid);
                signal_group(pid, number);
            }
        }
        if suspends {
            // The caller sees that the program is stopped; the SIGCONT that continues bots-ctl is forwarded.
            signal_process(getpid(), libc::SIGSTOP);
        }
    }

    fn record_stop_request(&self, number: i32, group: Pid) {
        if is_stop_signal(number) {
            record_stop_request(self.reaper, group);
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
