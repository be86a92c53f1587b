//! From a description of a process to a running one: group, signal state, parent-death signal, pipes.
//!
//! The only module with `unsafe`: what has to happen between fork and exec.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::{Exit, Status};

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

/// A process to start. Not `Debug`: its environment holds secrets.
#[derive(Clone)]
pub struct Spec {
    /// Program: a path, or a name that is looked up on the child's PATH.
    pub program: OsString,
    /// Arguments, without the program.
    pub args: Vec<OsString>,
    /// Changes to our own environment.
    pub environment: Vec<(String, OsString)>,
    /// Variables the child does not get.
    pub removed: Vec<String>,
    /// Working directory, if not ours.
    pub directory: Option<PathBuf>,
    /// Standard input.
    pub input: Input,
    /// Standard output and error.
    pub output: Output,
    /// Takes the terminal's foreground, for programs a person types to.
    pub foreground: bool,
    /// A service: dies with us, and inherits no descriptor but the standard three.
    pub service: bool,
}

impl Spec {
    /// A process with no input, whose output is read.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            environment: Vec::new(),
            removed: Vec::new(),
            directory: None,
            input: Input::Null,
            output: Output::Pipe,
            foreground: false,
            service: true,
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
    /// There is no such program.
    #[error("cannot run {0:?}: there is no such program")]
    NotFound(String),
    /// The file is there but cannot be executed.
    #[error("cannot run {0}: {1}")]
    NotExecutable(String, io::Error),
    /// The system has no room for another process.
    #[error("cannot start {0}: {1}; the limit on processes (ulimit -u, pids.max) or memory is reached")]
    NoResources(String, io::Error),
}

/// What `spawn` hands to the reaper.
pub(super) struct Spawned {
    pub pid: Pid,
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// Forks and executes. The caller holds the reaper's lock, so that nobody else waits for the new pid.
pub(super) fn spawn(spec: &Spec) -> Result<Spawned, SpawnError> {
    let mut child = command(spec).spawn().map_err(|error| explain(spec, error))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    Ok(Spawned {
        pid,
        stdin: child.stdin.take().map(OwnedFd::from),
        stdout: child.stdout.take().map(OwnedFd::from),
        stderr: child.stderr.take().map(OwnedFd::from),
    })
}

fn explain(spec: &Spec, error: io::Error) -> SpawnError {
    let name = spec.program.to_string_lossy().into_owned();
    if let Some(directory) = spec.directory.as_ref().filter(|directory| !directory.is_dir()) {
        let text = format!("its working directory {} does not exist", directory.display());
        return SpawnError::NotExecutable(name, io::Error::other(text));
    }
    match error.raw_os_error() {
        // A script whose interpreter is gone gives ENOENT as well, though the file is there.
        Some(libc::ENOENT) if is_there(spec) => {
            SpawnError::NotExecutable(name, io::Error::other("the interpreter its first line names does not exist"))
        }
        Some(libc::ENOENT | libc::ENOTDIR) => SpawnError::NotFound(name),
        Some(libc::EAGAIN | libc::ENOMEM) => SpawnError::NoResources(name, error),
        _ => SpawnError::NotExecutable(name, error),
    }
}

/// Whether there is such a file: at its path, or for a bare name on the PATH that the child has.
fn is_there(spec: &Spec) -> bool {
    let program = Path::new(&spec.program);
    if spec.program.as_bytes().contains(&b'/') {
        return program.exists();
    }
    let given = spec.environment.iter().rev().find(|(name, _)| name == "PATH").map(|(_, path)| path.clone());
    let path = given.or_else(|| std::env::var_os("PATH")).unwrap_or_default();
    !spec.program.is_empty() && std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn command(spec: &Spec) -> Command {
    let mut command = Command::new(&spec.program);
    command.args(&spec.args).process_group(0);
    for name in &spec.removed {
        command.env_remove(name);
    }
    command.envs(spec.environment.iter().map(|(name, value)| (name, value)));
    if let Some(directory) = &spec.directory {
        command.current_dir(directory);
    }
    command.stdin(match spec.input {
        Input::Null => Stdio::null(),
        Input::Inherit => Stdio::inherit(),
        Input::Pipe => Stdio::piped(),
    });
    let output = || if spec.output == Output::Pipe { Stdio::piped() } else { Stdio::inherit() };
    command.stdout(output()).stderr(output());
    let (foreground, service, parent) = (spec.foreground, spec.service, nix::unistd::getpid());
    // SAFETY: the closure runs between fork and exec, where only async-signal-safe calls are allowed. It makes
    // system calls alone (tcsetpgrp, sigaction, sigprocmask, prctl, getppid, close_range), allocates nothing
    // and takes no lock; its captures are Copy values.
    unsafe {
        command.pre_exec(move || {
            if foreground {
                take_foreground();
            }
            reset_signals();
            if service {
                die_with(parent)?;
                close_inherited_on_exec();
            }
            Ok(())
        });
    }
    command
}

/// Makes our group the terminal's foreground group. SIGTTOU must be blocked for it; `reset_signals` undoes that.
fn take_foreground() {
    // SAFETY: plain system calls on a signal set that lives on this stack.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTTOU);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        libc::tcsetpgrp(libc::STDIN_FILENO, libc::getpid());
    }
}

/// Default dispositions and an empty mask: a Python whose SIGINT is inherited as ignored never stops on it.
fn reset_signals() {
    // SAFETY: plain system calls; a zeroed sigaction is SIG_DFL with no flags. Errors for the two signals that
    // cannot be changed and for those the C library keeps to itself are expected and of no consequence.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        for number in 1..=super::signals::LAST {
            libc::sigaction(number, &raw const default, std::ptr::null_mut());
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Asks the kernel to kill this process when `parent` dies, and stops at once if that has already happened.
fn die_with(parent: Pid) -> io::Result<()> {
    // SAFETY: prctl with these arguments only sets an attribute of the calling process.
    let set = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if set == 0 && nix::unistd::getppid() == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

/// Marks everything beyond the standard three as close-on-exec. Kernels before 5.11 lack the flag; our own
/// descriptors are close-on-exec anyway, so only what our parent leaked to us is missed there.
fn close_inherited_on_exec() {
    // SAFETY: sets a flag on descriptors; the standard library's error pipe already has it.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

/// Stops our own group, as Ctrl-Z would if SIGTSTP had no handler. Returns when we are continued; at once where
/// the kernel sees nobody who could continue us: as PID 1, or as the first program on a terminal.
pub fn stop_own_group() {
    // SAFETY: sigaction and kill with values on this stack; a zeroed sigaction is SIG_DFL. The handler is put back.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        let mut handler: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGTSTP, &raw const default, &raw mut handler);
        libc::kill(0, libc::SIGTSTP);
        libc::sigaction(libc::SIGTSTP, &raw const handler, std::ptr::null_mut());
    }
}

/// Sends signal `number` to a whole group. A group that is gone is no error: the race is the normal case.
pub fn signal_group(group: Pid, number: i32) {
    // SAFETY: kill takes two integers; realtime signals have no name in nix, so its wrapper cannot be used.
    unsafe {
        libc::kill(-group.as_raw(), number);
    }
}

/// Sends signal `number` to one process that the reaper still holds.
pub fn signal_process(pid: Pid, number: i32) {
    // SAFETY: as in `signal_group`.
    unsafe {
        libc::kill(pid.as_raw(), number);
    }
}

/// Whether a signal is ignored in this process, as `nohup` arranges for its program.
#[must_use]
pub fn is_ignored(number: i32) -> bool {
    // SAFETY: with no new action, sigaction only writes the present one to this stack; all zeroes are valid for it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(number, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Whether a process is stopped at this moment; what the reaper told of it may be older than its last SIGCONT.
#[must_use]
pub fn is_stopped(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// Whether any process of the group is left, zombies included.
#[must_use]
pub fn group_exists(group: Pid) -> bool {
    signal::killpg(group, None::<Signal>).is_ok()
}

/// Adopts orphans of our descendants even when we are not PID 1.
pub(super) fn become_subreaper() {
    // SAFETY: prctl with these arguments only sets an attribute of the calling process.
    unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
    }
}

/// The next status change of any child, without waiting; `None` when there is none to tell.
///
/// nix's own wrapper forgets the pid of a process that a realtime signal ended, so the status is read here.
pub(super) fn wait_any() -> Option<(Pid, Status)> {
    let mut raw = 0;
    loop {
        // SAFETY: waitpid writes one integer that lives on this stack.
        let pid = unsafe { libc::waitpid(-1, &raw mut raw, libc::WNOHANG | libc::WUNTRACED) };
        match (pid, Errno::last()) {
            (1.., _) => return Some((Pid::from_raw(pid), status(raw))),
            (-1, Errno::EINTR) => {}
            _ => return None,
        }
    }
}

fn status(raw: i32) -> Status {
    if libc::WIFSTOPPED(raw) {
        Status::Stopped
    } else if libc::WIFSIGNALED(raw) {
        Status::Exited(Exit::Signal(libc::WTERMSIG(raw)))
    } else {
        Status::Exited(Exit::Code(libc::WEXITSTATUS(raw).to_le_bytes()[0]))
    }
}
