//! The terminal's foreground group: given to a program that a person types to, taken back when it stops or ends.
//!
//! The controlling terminal has a foreground group, whatever standard input is: the keys of
//! `bots-ctl exec program <file` go to the program. As a part of a pipeline, `bots-ctl exec program | less`, the
//! foreground is not ours to give, since `less` reads the keys: there the program stays in our group.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::libc;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Pid, getpgrp, getpid, getsid, tcgetpgrp, tcsetpgrp};

use super::child::ProcessGroup;
use super::proc_table::{self, is_stopped};
use super::signals::{SignalInfo, stop_ourselves, stop_own_group};

/// Our controlling terminal.
pub struct Terminal {
    terminal: File,
    ours: Pid,
    /// Whether bots-ctl controls the foreground: a shell that stops it, or continues without it, takes it.
    foreground: bool,
    /// Whether the program is in bots-ctl's group, with other processes.
    shared: bool,
}

impl Terminal {
    /// Our controlling terminal, if there is one.
    #[must_use]
    pub fn open() -> Option<Self> {
        let terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let (ours, foreground) = (getpgrp(), tcgetpgrp(&terminal).ok()?);
        let is_foreground = foreground == ours;
        let shared = is_piped() && (is_foreground || shares_group(ours));
        Some(Self { terminal, ours, foreground: is_foreground && !shared, shared })
    }

    /// The group for a program a person types to.
    #[must_use]
    pub fn group(&self) -> ProcessGroup {
        match (self.shared, self.foreground) {
            (true, _) => ProcessGroup::Inherit,
            (false, true) => ProcessGroup::NewForeground,
            (false, false) => ProcessGroup::New,
        }
    }

    /// Whether the program is in bots-ctl's group, so that a signal to the group reaches others as well.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Whether the program, in our group, has this signal already: the terminal signals a whole group, and a shell
    /// continues all of it. Only SIGHUP of a terminal that is gone goes to the leader of a session alone.
    #[must_use]
    pub fn already_delivered(&self, received: SignalInfo, program: Pid) -> bool {
        match received.number {
            libc::SIGCONT => !is_stopped(program),
            libc::SIGHUP if getsid(None) == Ok(getpid()) => false,
            _ => received.from_kernel,
        }
    }

    /// Makes `group` the foreground group, if bots-ctl is in the foreground and the program has a separate group;
    /// returns whether it did.
    pub fn give_foreground(&mut self, group: Pid) -> bool {
        let lent = !self.shared && tcgetpgrp(&self.terminal) == Ok(self.ours);
        if lent {
            self.set_foreground(group);
            self.foreground = true;
        }
        lent
    }

    /// Makes us the foreground group, unless a shell has it.
    pub fn take_foreground(&mut self) {
        if std::mem::take(&mut self.foreground) {
            self.set_foreground(self.ours);
        }
    }

    /// Stops bots-ctl, as the program that leads `group` was stopped, so that the calling shell shows its prompt. When
    /// bots-ctl continues in the foreground, `group` gets the terminal back; then the result is true.
    pub fn stop_with(&mut self, group: Pid) -> bool {
        if self.shared {
            // The shell waits for all of the pipeline, and continues all of it.
            stop_ourselves();
            return false;
        }
        // It stopped since it lacked the terminal, and a shell has given us that in the meantime.
        if !self.foreground && self.give_foreground(group) {
            return true;
        }
        self.take_foreground();
        stop_own_group();
        self.give_foreground(group)
    }

    /// A background group that calls tcsetpgrp is sent SIGTTOU; we have it blocked.
    fn set_foreground(&self, group: Pid) {
        let _ = tcsetpgrp(&self.terminal, group);
    }
}

/// Whether standard input or output is a pipe, as in a pipeline or in a command substitution.
fn is_piped() -> bool {
    is_pipe(io::stdin()) || is_pipe(io::stdout())
}

fn is_pipe(stream: impl AsFd) -> bool {
    let kind = fstat(stream).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
    kind.is_ok_and(|kind| kind == SFlag::S_IFIFO || kind == SFlag::S_IFSOCK)
}

/// Whether another process is in bots-ctl's group. A supervisor starts it in a separate group, also with pipes.
fn shares_group(ours: Pid) -> bool {
    let others = proc_table::list().unwrap_or_default();
    others.iter().any(|process| process.group == ours && process.pid != getpid())
}
