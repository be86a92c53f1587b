//! Signals sent to bots-ctl, as a stream.
//!
//! They are never handled, only blocked, in all threads for the lifetime of the process, and read from a signalfd. So
//! the kernel queues them from the start: no signal is lost before the descriptor is open, even as PID 1, a realtime
//! signal arrives as often as it was sent, and an ignored signal arrives as well.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SignalFd, siginfo};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;
use tracing::debug;

pub use super::sys::{
    group_exists, inherited_signals, set_parent_death_signal, signal_group, signal_process, stop_ourselves,
    stop_own_group,
};

use super::sys::{LAST_SIGNAL, reset_signal, signal_queue};

/// Signals that the C library reserves for its own use.
const RESERVED: [i32; 2] = [32, 33];

/// Never forwarded: signals that cannot be caught, and that of the reaper.
const NOT_FORWARDED: [Signal; 3] = [Signal::SIGKILL, Signal::SIGSTOP, Signal::SIGCHLD];

/// Forwarded only by `exec`: signals that the terminal driver sends to background groups, and fault signals. A fault of
/// bots-ctl itself is never read: it kills a process that has the signal blocked.
const FORWARDED_BY_EXEC: [Signal; 9] = [
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
    Signal::SIGTRAP,
    Signal::SIGSYS,
    Signal::SIGABRT,
];

/// A stop signal that comes so soon after another is part of the same request: `timeout(1)` signals its child and then its own
/// group, and a terminal and a shell may both report its end.
const REPEAT_WINDOW: Duration = Duration::from_secs(2);

/// A signal that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalInfo {
    /// Its number.
    pub number: i32,
    /// Whether the kernel sent it, as for keys of a terminal: then the whole group has received it.
    pub from_kernel: bool,
    /// Whether it is a stop signal and another one was read less than `REPEAT_WINDOW` before.
    pub is_repeated: bool,
}

/// Blocks all signals, so that they stay pending until they are read: PID 1 would lose earlier ones.
pub fn block_all() {
    inherited_signals();
    let _ = SigSet::all().thread_block();
}

/// All signals that are forwarded, in the order of the kernel.
pub struct Signals {
    queue: AsyncFd<SignalFd>,
    /// Read from the descriptor, and not returned yet.
    waiting: VecDeque<SignalInfo>,
    /// When the latest request to stop began.
    requested: Option<Instant>,
    /// Whether stop signals that were ignored at the start have no effect on bots-ctl.
    is_for_exec: bool,
}

impl Signals {
    /// Blocks the signals and opens the descriptor. Must be called before there is another thread, since threads inherit
    /// the mask.
    pub fn install() -> io::Result<Self> {
        let wanted = wanted(&[]);
        let queue = signal_queue(&wanted)?;
        // The reaper has a separate descriptor. A write to a terminal with another foreground group must never stop
        // bots-ctl.
        let mut blocked = wanted;
        blocked.add(Signal::SIGCHLD);
        blocked.add(Signal::SIGTTOU);
        reset_signal(libc::SIGTSTP);
        blocked.thread_set_mask()?;
        Ok(Self { queue, waiting: VecDeque::new(), requested: None, is_for_exec: false })
    }

    /// From now on reads for `exec`: every signal that can be forwarded. A stop signal that was ignored at the start is a request
    /// to the program alone.
    pub fn read_for_exec(&mut self) -> io::Result<()> {
        let wanted = wanted(&FORWARDED_BY_EXEC);
        wanted.thread_block()?;
        self.queue.get_ref().set_mask(&wanted)?;
        self.is_for_exec = true;
        Ok(())
    }

    /// The number of the next signal that is not a repetition.
    pub async fn next(&mut self) -> i32 {
        loop {
            let received = self.receive().await;
            let (number, is_stop) = (received.number, is_stop_signal(received.number));
            if received.is_repeated {
                debug!("received {} again within two seconds: treated as one stop request", name(number));
            } else if !(is_stop && self.is_for_exec && inherited_signals().ignores(number)) {
                return number;
            }
        }
    }

    /// The next signal, repetitions included.
    pub async fn receive(&mut self) -> SignalInfo {
        match self.waiting.pop_front() {
            Some(received) => received,
            None => self.read().await,
        }
    }

    /// Resolves at the next stop signal. All others stay queued, in order, for the next reader.
    pub async fn stop_requested(&mut self) -> i32 {
        let mut read = 0;
        loop {
            let found = self
                .waiting
                .iter()
                .skip(read)
                .position(|received| is_stop_signal(received.number) && !received.is_repeated);
            if let Some(received) = found.and_then(|at| self.waiting.remove(read + at)) {
                return received.number;
            }
            read = self.waiting.len();
            let received = self.read().await;
            self.waiting.push_back(received);
        }
    }

    async fn read(&mut self) -> SignalInfo {
        loop {
            if let Some(mut received) = read(&self.queue).await.as_ref().and_then(from_other_process) {
                let is_stop = is_stop_signal(received.number);
                received.is_repeated = is_stop && self.requested.is_some_and(|at| at.elapsed() < REPEAT_WINDOW);
                if is_stop && !received.is_repeated {
                    self.requested = Some(Instant::now());
                }
                return received;
            }
        }
    }
}

/// A write of bots-ctl to a pipe without a reader returns an error there; its SIGPIPE is not forwarded.
fn from_other_process(info: &siginfo) -> Option<SignalInfo> {
    let number = info.ssi_signo.cast_signed();
    let own = number == libc::SIGPIPE && info.ssi_pid == std::process::id();
    (!own).then_some(SignalInfo { number, from_kernel: info.ssi_code == libc::SI_KERNEL, is_repeated: false })
}

/// Waits for the next signal of a queue.
pub(super) async fn read(queue: &AsyncFd<SignalFd>) -> Option<siginfo> {
    let read = |descriptor: &SignalFd| descriptor.read_signal()?.ok_or(io::ErrorKind::WouldBlock.into());
    queue.async_io(Interest::READABLE, read).await.ok()
}

/// The signals to read; `rare` are some of [`FORWARDED_BY_EXEC`]. `SigSet::all` excludes the two that the C library
/// reserves.
fn wanted(rare: &[Signal]) -> SigSet {
    let mut set = SigSet::all();
    NOT_FORWARDED.iter().chain(&FORWARDED_BY_EXEC).for_each(|signal| set.remove(*signal));
    rare.iter().for_each(|signal| set.add(*signal));
    if inherited_signals().ignores(libc::SIGHUP) {
        // Under nohup the program survives its terminal, and so does bots-ctl.
        set.remove(Signal::SIGHUP);
    }
    set
}

/// Whether a signal suspends, as the terminal's Ctrl-Z does.
#[must_use]
pub fn is_suspend_signal(number: i32) -> bool {
    [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&number)
}

/// Whether the signal asks a service to stop. SIGHUP does, since a closing terminal sends it.
#[must_use]
pub fn is_stop_signal(number: i32) -> bool {
    [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP].contains(&number)
}

/// The signal's name, such as `SIGTERM`; the number of a reserved one.
#[must_use]
pub fn name(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) if RESERVED.contains(&number) => number.to_string(),
        Err(_) if number == libc::SIGRTMIN() => "SIGRTMIN".to_owned(),
        Err(_) => format!("SIGRTMIN+{}", number - libc::SIGRTMIN()),
    }
}

/// The number of a signal that is given as `TERM`, `SIGTERM`, `RTMIN+1` or `15`, unless it is reserved.
#[must_use]
pub fn parse(text: &str) -> Option<i32> {
    let mut known = (1..=LAST_SIGNAL).filter(|number| !RESERVED.contains(number));
    if let Ok(given) = text.parse::<i32>() {
        return known.find(|number| *number == given);
    }
    let upper = text.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    known.find(|number| name(*number).strip_prefix("SIG") == Some(short) || rtmax_name(*number) == short)
}

/// A realtime signal may also be counted from the last one.
fn rtmax_name(number: i32) -> String {
    if number == LAST_SIGNAL { "RTMAX".to_owned() } else { format!("RTMAX-{}", LAST_SIGNAL - number) }
}

/// Whether `exec` forwards this signal.
#[must_use]
pub fn is_forwarded(number: i32) -> bool {
    Signal::try_from(number).map_or(number >= libc::SIGRTMIN(), |signal| !NOT_FORWARDED.contains(&signal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_names_match_manual() {
        assert_eq!(name(libc::SIGTERM), "SIGTERM");
        assert_eq!(name(34), "SIGRTMIN");
        assert_eq!(name(36), "SIGRTMIN+2");
        assert_eq!(name(32), "32");
    }

    #[test]
    fn parse_accepts_signal_names_and_numbers() {
        for number in (1..=LAST_SIGNAL).filter(|number| !RESERVED.contains(number)) {
            let full = name(number);
            let short = full.strip_prefix("SIG").expect("it begins so");
            for text in [&full, short, &short.to_lowercase(), &number.to_string()] {
                assert_eq!(parse(text), Some(number), "{text}");
            }
        }
        assert_eq!((parse("RTMAX"), parse("SIGRTMAX-14")), (Some(64), Some(50)));
        for wrong in ["", "0", "32", "33", "65", "-1", "TERMINATE", "SIG", "RTMIN+31", "RTMAX-31"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
