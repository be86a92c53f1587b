//! The system calls that no safe interface offers: the steps between fork and exec, signals by number, and the wait for any
//! child.

use std::ffi::OsString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::signal::{self, SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpid, getppid, tcsetpgrp};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{ChildStatus, Exit};

/// The highest signal number on Linux.
pub const LAST_SIGNAL: i32 = 64;

/// Makes our group the terminal's foreground group. SIGTTOU must be blocked for it; `reset_signals` undoes that.
pub(crate) fn take_foreground() {
    let _ = SigSet::from(Signal::SIGTTOU).thread_block();
    if let Ok(terminal) = open(c"/dev/tty", OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty()) {
        let _ = tcsetpgrp(&terminal, getpid());
    }
}

/// Default dispositions and an empty mask: a Python that inherits an ignored SIGINT never stops on it. Errors are
/// expected for the two signals that cannot be changed and for those reserved by the C library.
pub(crate) fn reset_signals() {
    (1..=LAST_SIGNAL).for_each(reset_signal);
    let _ = SigSet::empty().thread_set_mask();
}

/// Marks everything beyond the standard three as close-on-exec. Kernels before 5.11 lack the flag; our own
/// descriptors are close-on-exec anyway, so only what our parent leaked to us is missed there.
pub(crate) fn close_inherited_on_exec() {
    // SAFETY: sets a flag on descriptors; the standard library's error pipe already has it.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

/// Makes a descriptor inheritable for the executed program.
pub(super) fn keep_on_exec(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: fcntl with this command takes integers alone; it fails on a descriptor that is not open.
    let done = unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Stops our own group, as Ctrl-Z would if SIGTSTP were not blocked. Returns when we are continued; at once where no process
/// could continue us: as PID 1, or as the first program on a terminal.
pub fn stop_own_group() {
    stop(Pid::from_raw(0));
}

/// As [`stop_own_group`], for this process alone.
pub fn stop_ourselves() {
    stop(getpid());
}

fn stop(target: Pid) {
    signal_process(target, libc::SIGTSTP);
    // The signal is pending until it may be delivered, which stops this very thread.
    let stop = SigSet::from(Signal::SIGTSTP);
    let _ = stop.thread_unblock();
    let _ = stop.thread_block();
}

/// Makes the kernel send this process a signal when `parent` dies; if that has already happened, the signal is sent now.
pub fn set_parent_death_signal(number: i32, parent: Pid) {
    // SAFETY: prctl with these arguments only sets an attribute of the calling process.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, number);
    }
    if getppid() != parent {
        signal_process(getpid(), number);
    }
}

/// Sends signal `number` to a whole group. A missing group is not an error: the race is normal.
pub fn signal_group(group: Pid, number: i32) {
    signal_process(Pid::from_raw(-group.as_raw()), number);
}

/// Sends a signal to a pid as kill(2) does; the caller ensures that it was not reused.
pub fn signal_process(pid: Pid, number: i32) {
    // SAFETY: kill takes two integers; realtime signals have no name in nix, so its wrapper cannot be used.
    unsafe {
        libc::kill(pid.as_raw(), number);
    }
}

/// Resets a signal to its default disposition.
pub fn reset_signal(number: i32) {
    set_action(number, libc::SIG_DFL);
}

fn set_action(number: i32, action: libc::sighandler_t) {
    // SAFETY: the action is SIG_DFL or SIG_IGN, and zeroed flags are valid; no handler is replaced, since bots-ctl has
    // none.
    unsafe {
        let mut new: libc::sigaction = std::mem::zeroed();
        new.sa_sigaction = action;
        libc::sigaction(number, &raw const new, std::ptr::null_mut());
    }
}

/// The signals that this process began with as ignored, as `nohup` arranges it, and as blocked.
#[derive(Debug, Clone, Copy)]
pub struct InheritedSignals {
    /// Ignored ones, as bits.
    ignored: u64,
    blocked: SigSet,
}

impl InheritedSignals {
    /// Those of this moment.
    fn read() -> Self {
        let is_set = |number: &i32| match *number {
            libc::SIGPIPE => SIGPIPE_IS_IGNORED.load(Relaxed),
            number => is_ignored(number),
        };
        let ignored = (1..=LAST_SIGNAL).filter(is_set).fold(0, |bits, number| bits | bit(number));
        Self { ignored, blocked: SigSet::thread_get_mask().unwrap_or_else(|_| SigSet::empty()) }
    }

    /// Whether this signal was ignored.
    #[must_use]
    pub fn ignores(&self, number: i32) -> bool {
        self.ignored & bit(number) != 0
    }

    /// Ignores and blocks the same signals, between fork and exec.
    pub(super) fn restore(&self) {
        (1..=LAST_SIGNAL).filter(|number| self.ignores(*number)).for_each(|n| set_action(n, libc::SIG_IGN));
        let _ = self.blocked.thread_set_mask();
    }
}

/// The signals that were ignored and blocked when this was first called, which is before signals are blocked.
pub fn inherited_signals() -> InheritedSignals {
    static AT_START: OnceLock<InheritedSignals> = OnceLock::new();
    *AT_START.get_or_init(InheritedSignals::read)
}

fn bit(number: i32) -> u64 {
    1 << (number - 1)
}

/// Whether SIGPIPE was ignored when this process began: the standard library ignores it before `main`.
static SIGPIPE_IS_IGNORED: AtomicBool = AtomicBool::new(false);

// SAFETY: the C library calls the functions of this section before `main`; this one makes one system call and stores one value.
#[used]
#[unsafe(link_section = ".init_array")]
static READ_SIGPIPE: extern "C" fn() = {
    extern "C" fn read() {
        SIGPIPE_IS_IGNORED.store(is_ignored(libc::SIGPIPE), Relaxed);
    }
    read
};

/// Whether a signal is ignored in this process.
fn is_ignored(number: i32) -> bool {
    // SAFETY: with no new action, sigaction only writes the present one to this stack; all zeroes are valid for it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(number, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Whether any process of the group is left, zombies included.
#[must_use]
pub fn group_exists(group: Pid) -> bool {
    signal::killpg(group, None::<Signal>).is_ok()
}

/// A descriptor that receives these signals, once they are blocked.
pub fn signal_queue(wanted: &SigSet) -> io::Result<AsyncFd<SignalFd>> {
    let descriptor = SignalFd::with_flags(wanted, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    // SAFETY: the SignalFd owns its descriptor, always returns the same one, and closes it when it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

/// Whether there is any child at all, running, stopped or dead.
#[must_use]
pub fn has_children() -> bool {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::All, peek) != Err(Errno::ECHILD)
}

/// Whether this is a child of ours, running or dead.
pub fn is_child(pid: Pid) -> bool {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(pid), peek).is_ok()
}

/// The next status change of any child, without waiting; `None` if there is none.
///
/// nix's wrapper drops the pid of a process killed by a realtime signal, so the status is decoded here.
pub fn wait_any() -> Option<(Pid, ChildStatus)> {
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

fn status(raw: i32) -> ChildStatus {
    if libc::WIFSTOPPED(raw) {
        ChildStatus::Stopped
    } else if libc::WIFSIGNALED(raw) {
        ChildStatus::Exited(Exit::Signal(libc::WTERMSIG(raw)))
    } else {
        ChildStatus::Exited(Exit::Code(libc::WEXITSTATUS(raw).to_le_bytes()[0]))
    }
}

/// Has all threads share the heap of the first one. Each other heap would keep its own free memory; the threads of bots-ctl
/// rarely allocate at the same time.
pub fn use_one_heap() {
    // SAFETY: mallopt takes two integers, and the C library accepts these.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Returns free memory of the heap to the kernel.
pub fn return_free_memory() {
    // SAFETY: malloc_trim touches free memory alone.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Unmaps the pages of a private mapping of a file that was never written to. The next access maps them again.
pub(super) fn unmap_pages(start: usize, length: usize) {
    // SAFETY: the pages have the content of the file, so an access after this call finds the same bytes as before.
    unsafe {
        libc::madvise(std::ptr::with_exposed_provenance_mut(start), length, libc::MADV_DONTNEED);
    }
}

/// Removes a variable from the environment of this process. Call it before starting another thread.
#[expect(clippy::disallowed_methods, reason = "what is taken out is meant for no child")]
pub fn take_variable(name: &str) -> Option<OsString> {
    let value = std::env::var_os(name)?;
    // SAFETY: the environment is changed while no other thread reads it.
    unsafe { std::env::remove_var(name) };
    Some(value)
}

/// A descriptor that the program before has left open for us, if it is open; closed at the next exec.
pub fn adopt_descriptor(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl takes three integers, and fails if the descriptor is not open.
    let is_open = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
    // SAFETY: nothing in this program owns it, since it was open before the program began.
    is_open.then(|| unsafe { OwnedFd::from_raw_fd(number) })
}
