//! The terminal's foreground group: lent to a program a person types to, taken back when it stops or ends.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use nix::sys::signal::{SigSet, Signal, raise};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// A terminal whose foreground group we are.
pub struct Terminal {
    ours: Pid,
}

impl Terminal {
    /// The terminal on standard input, if there is one and we are in its foreground.
    #[must_use]
    pub fn in_foreground() -> Option<Self> {
        let stdin = io::stdin();
        let ours = getpgrp();
        (stdin.is_terminal() && tcgetpgrp(stdin.as_fd()) == Ok(ours)).then_some(Self { ours })
    }

    /// Makes `group` the foreground group again, after it was stopped and we were continued.
    pub fn lend(&self, group: Pid) {
        set_foreground(group);
    }

    /// Makes us the foreground group.
    pub fn take_back(&self) {
        set_foreground(self.ours);
    }

    /// Stops ourselves, as the child was stopped, so that the shell that started us shows its prompt.
    /// Returns when the shell continues us.
    pub fn stop_ourselves(&self) {
        self.take_back();
        stop_ourselves();
    }
}

/// Does what Ctrl-Z asks for, which a handler of SIGTSTP has kept from happening. PID 1 cannot be stopped.
pub fn stop_ourselves() {
    let _ = raise(Signal::SIGSTOP);
}

/// A background group that calls tcsetpgrp is sent SIGTTOU, so it is blocked around the call.
fn set_foreground(group: Pid) {
    let mask = SigSet::from(Signal::SIGTTOU);
    let _ = mask.thread_block();
    let _ = tcsetpgrp(io::stdin().as_fd(), group);
    let _ = mask.thread_unblock();
}
