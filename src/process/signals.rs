//! Signals that reach bots-ctl, as a stream. The only module that installs handlers, beside the reaper's own.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use nix::libc;
use nix::sys::signal::SigSet;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::child::is_ignored;

/// The highest signal number on Linux.
pub const LAST: i32 = 64;

/// Not forwarded: what cannot be caught, what the terminal driver sends to background groups, what belongs to
/// the reaper, and what a process raises by its own fault.
const NOT_FORWARDED: [i32; 12] = [
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGCHLD,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGABRT,
];

/// Written to when the reader may be gone: the default disposition would end us.
const IGNORED: i32 = libc::SIGPIPE;

/// The C library keeps the first two realtime signals to itself.
const C_LIBRARY: [i32; 2] = [32, 33];

/// Holds signals back until there is somebody to hear them: PID 1 would lose those that come before.
pub fn hold() {
    let _ = SigSet::all().thread_block();
}

/// All signals that are to be passed on, in the order they are found pending.
pub struct Signals {
    listeners: Vec<(i32, Signal)>,
}

impl Signals {
    /// Installs the handlers, and lets go what [`hold`] held.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn install() -> io::Result<Self> {
        let listen = |number| Ok((number, signal(SignalKind::from_raw(number))?));
        // Under nohup the program is to survive its terminal, and so are we.
        let wanted = |number: &i32| is_forwarded(*number) && !(*number == libc::SIGHUP && is_ignored(*number));
        let listeners: io::Result<Vec<_>> = (1..=LAST).filter(wanted).map(listen).collect();
        let _ = SigSet::all().thread_unblock();
        Ok(Self { listeners: listeners? })
    }

    /// The next signal's number.
    pub async fn next(&mut self) -> i32 {
        poll_fn(|context| {
            for (number, listener) in &mut self.listeners {
                if listener.poll_recv(context).is_ready() {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        })
        .await
    }
}

fn is_forwarded(number: i32) -> bool {
    !NOT_FORWARDED.contains(&number) && !C_LIBRARY.contains(&number) && number != IGNORED
}

/// Whether the signal asks a service to stop. SIGHUP does: it is what a closing terminal sends.
#[must_use]
pub fn asks_to_stop(number: i32) -> bool {
    [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP].contains(&number)
}

/// The signal's name, such as `SIGTERM`.
#[must_use]
pub fn name(number: i32) -> String {
    match nix::sys::signal::Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) => format!("SIGRTMIN+{}", number - 34),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_catchable_is_forwarded() {
        let forwarded: Vec<i32> = (1..=LAST).filter(|number| is_forwarded(*number)).collect();
        assert!(forwarded.contains(&libc::SIGTERM) && forwarded.contains(&libc::SIGWINCH) && forwarded.contains(&64));
        assert!(!forwarded.contains(&libc::SIGCHLD) && !forwarded.contains(&libc::SIGKILL));
        assert_eq!(forwarded.len(), 64 - NOT_FORWARDED.len() - C_LIBRARY.len() - 1);
    }

    #[test]
    fn names_are_those_of_the_manual() {
        assert_eq!(name(libc::SIGTERM), "SIGTERM");
        assert_eq!(name(36), "SIGRTMIN+2");
    }
}
