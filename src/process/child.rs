//! From a description of a process to a running one: group, signal state, parent-death signal, pipes.
//!
//! Only this module, `sys` and `fs::open_file` contain `unsafe`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use nix::libc;
use nix::unistd::getpid;

use super::sys::{
    close_inherited_on_exec, inherited_signals, keep_on_exec, reset_signals, set_parent_death_signal, take_foreground,
};

/// Where a child's standard input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// `/dev/null`.
    Null,
    /// Ours.
    Inherit,
    /// A pipe that we write to.
    Pipe,
}

/// Where a child's standard output and error go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Ours.
    Inherit,
    /// Two pipes that we read.
    Pipe,
}

/// Which process group a child is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessGroup {
    /// A separate group, so that its descendants get the same signals.
    New,
    /// A separate group in the foreground of the terminal, for interactive programs.
    NewForeground,
    /// Ours, as a part of a pipeline.
    Inherit,
}

/// A process to start. Not `Debug`: its environment holds secrets.
#[derive(Clone)]
pub struct ProcessSpec {
    /// Program: a path, or a name that is looked up on the child's PATH.
    pub program: OsString,
    /// Arguments, without the program.
    pub args: Vec<OsString>,
    /// Changes to our own environment.
    pub environment: Vec<(String, OsString)>,
    /// Variables the child does not get.
    pub env_remove: Vec<String>,
    /// Working directory, if not ours.
    pub directory: Option<PathBuf>,
    /// Standard input.
    pub input: Input,
    /// Standard output and error.
    pub output: Output,
    /// Its process group.
    pub group: ProcessGroup,
    /// Is killed by the kernel when we die.
    pub kill_on_parent_death: bool,
    /// Inherits only the three standard descriptors and those below, and neither ignored nor blocked signals.
    pub is_isolated: bool,
    /// Pipes that it inherits under the numbers that they have here.
    pub inherited: Vec<Arc<OwnedFd>>,
}

impl ProcessSpec {
    /// A process with no input, whose output is read.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            environment: Vec::new(),
            env_remove: Vec::new(),
            directory: None,
            input: Input::Null,
            output: Output::Pipe,
            group: ProcessGroup::New,
            kill_on_parent_death: true,
            is_isolated: true,
            inherited: Vec::new(),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.args.extend(args.into_iter().map(OsString::from));
        self
    }
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The program does not exist.
    #[error("cannot run {0:?}: there is no such program")]
    NotFound(String),
    /// The file is there but cannot be executed.
    #[error("cannot run {0}: {1}")]
    NotExecutable(String, io::Error),
    /// The system cannot create another process, or has no descriptors for its pipes.
    #[error("cannot start {0}: {1}; the limit on {limit} is reached", limit = exhausted(.1))]
    NoResources(String, io::Error),
}

/// Forks and executes. The caller holds the reaper's lock, so that no other thread waits for the new pid.
pub(super) fn spawn(spec: &ProcessSpec) -> Result<Child, SpawnError> {
    command(spec).spawn().map_err(|error| explain(spec, error))
}

fn explain(spec: &ProcessSpec, error: io::Error) -> SpawnError {
    let name = spec.program.to_string_lossy().into_owned();
    if let Some(directory) = spec.directory.as_ref().filter(|directory| !directory.is_dir()) {
        let text = format!("its working directory {} does not exist", directory.display());
        return SpawnError::NotExecutable(name, io::Error::other(text));
    }
    match error.raw_os_error() {
        // A script with a missing interpreter also causes ENOENT, although the file exists.
        Some(libc::ENOENT) if is_there(spec) => {
            SpawnError::NotExecutable(name, io::Error::other("the interpreter its first line names does not exist"))
        }
        Some(libc::ENOENT | libc::ENOTDIR) => SpawnError::NotFound(name),
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => SpawnError::NoResources(name, error),
        _ => SpawnError::NotExecutable(name, error),
    }
}

fn exhausted(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => "open files (ulimit -n)",
        _ => "processes (ulimit -u, pids.max) or memory",
    }
}

/// Whether the file exists: at its path, or for a bare name on the child's PATH.
fn is_there(spec: &ProcessSpec) -> bool {
    let program = spec.directory.as_deref().unwrap_or(Path::new("")).join(&spec.program);
    if spec.program.as_bytes().contains(&b'/') {
        return program.exists();
    }
    let given = spec.environment.iter().rev().find(|(name, _)| name == "PATH").map(|(_, path)| path.clone());
    let path = given.or_else(|| std::env::var_os("PATH")).unwrap_or_default();
    !spec.program.is_empty() && std::env::split_paths(&path).any(|dir| dir.join(&spec.program).is_file())
}

/// The complete environment of a process.
pub fn environment(spec: &ProcessSpec) -> BTreeMap<OsString, OsString> {
    let mut all: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    spec.env_remove.iter().for_each(|name| drop(all.remove(OsStr::new(name))));
    all.extend(spec.environment.iter().map(|(name, value)| (name.into(), value.clone())));
    all
}

fn command(spec: &ProcessSpec) -> Command {
    let mut command = Command::new(&spec.program);
    command.args(&spec.args);
    for name in &spec.env_remove {
        command.env_remove(name);
    }
    command.envs(spec.environment.iter().map(|(name, value)| (name, value)));
    if let Some(directory) = &spec.directory {
        command.current_dir(directory);
    }
    if spec.group != ProcessGroup::Inherit {
        command.process_group(0);
    }
    command.stdin(match spec.input {
        Input::Null => Stdio::null(),
        Input::Inherit => Stdio::inherit(),
        Input::Pipe => Stdio::piped(),
    });
    let output = || if spec.output == Output::Pipe { Stdio::piped() } else { Stdio::inherit() };
    command.stdout(output()).stderr(output());
    let (is_foreground, is_isolated, parent) = (spec.group == ProcessGroup::NewForeground, spec.is_isolated, getpid());
    let signals = (!spec.is_isolated).then(inherited_signals);
    let kill_on_parent_death = spec.kill_on_parent_death;
    let inherited: Vec<_> = spec.inherited.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: the closure runs between fork and exec, where only async-signal-safe calls are allowed. It makes
    // system calls alone (open, tcsetpgrp, sigaction, sigprocmask, prctl, getppid, kill, close_range, fcntl), allocates
    // nothing and takes no lock; its captures are Copy values and a list of numbers that is only read.
    unsafe {
        command.pre_exec(move || {
            if is_foreground {
                take_foreground();
            }
            reset_signals();
            if let Some(signals) = &signals {
                signals.restore();
            }
            if kill_on_parent_death {
                set_parent_death_signal(libc::SIGKILL, parent);
            }
            if is_isolated {
                close_inherited_on_exec();
            }
            inherited.iter().try_for_each(|descriptor| keep_on_exec(*descriptor))
        });
    }
    command
}
