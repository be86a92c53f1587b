//! The terminal's foreground group: lent to a program a person types to, taken back when it stops or ends.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

use super::child::stop_own_group;

/// The controlling terminal, if it is our standard input.
pub struct Terminal {
    ours: Pid,
    /// Whether its foreground is ours to give: a shell that stops us, or goes on without us, takes it.
    held: bool,
}

impl Terminal {
    /// The terminal on standard input, if that is our controlling terminal.
    #[must_use]
    pub fn on_stdin() -> Option<Self> {
        let (stdin, ours) = (io::stdin(), getpgrp());
        let foreground = tcgetpgrp(stdin.as_fd()).ok().filter(|_| stdin.is_terminal())?;
        Some(Self { ours, held: foreground == ours })
    }

    /// Whether we, or the program it was lent to, have the foreground.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Makes `group` the foreground group, if that is us now; says whether it was.
    pub fn lend(&mut self, group: Pid) -> bool {
        let lent = tcgetpgrp(io::stdin().as_fd()) == Ok(self.ours);
        if lent {
            set_foreground(group);
            self.held = true;
        }
        lent
    }

    /// Makes us the foreground group, unless a shell has it.
    pub fn take_back(&mut self) {
        if std::mem::take(&mut self.held) {
            set_foreground(self.ours);
        }
    }

    /// Stops us, as `group` was stopped, so that the shell that started us shows its prompt. When we go on in the
    /// foreground, `group` has the terminal again, and the answer is true.
    pub fn stop_with(&mut self, group: Pid) -> bool {
        // It stopped for want of the terminal, and a shell has given us that in the meantime.
        if !self.held && self.lend(group) {
            return true;
        }
        self.take_back();
        stop_own_group();
        self.lend(group)
    }
}

/// A background group that calls tcsetpgrp is sent SIGTTOU, so it is blocked around the call.
fn set_foreground(group: Pid) {
    let mask = SigSet::from(Signal::SIGTTOU);
    let _ = mask.thread_block();
    let _ = tcsetpgrp(io::stdin().as_fd(), group);
    let _ = mask.thread_unblock();
}
