//! Child processes: starting, signalling, and the only place that waits for them. Independent of Bots.
//!
//! Theory of operation. [`reaper::Reaper`] owns every wait: on SIGCHLD it calls `waitpid(-1, WNOHANG)` until no status
//! is left and passes each status to that pid's [`reaper::Child`]; a pid without one is an orphan that was re-parented
//! to bots-ctl. As long as there is a child to wait for, a descendant is left ([`terminate`]). Forking and registering happen under
//! one lock, so the exit of a short-lived child is never missed. Every child leads a separate process group, except a
//! part of a pipeline, so a signal to the group reaches its descendants. Signals are blocked in all threads and read
//! ([`signals`]). The runtime has a single thread, because a parent-death signal is tied to the thread that forked.

pub mod blocking;
pub mod capture;
pub mod child;
pub mod forked;
pub mod memory;
pub mod network;
pub mod periodic;
pub mod port_holder;
pub mod proc_table;
pub mod reaper;
pub mod reexec;
pub mod signal_map;
pub mod signals;
mod sys;
pub mod terminal;
pub mod terminate;
pub mod usage;

pub use crate::exit::Exit;

/// The last known status of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildStatus {
    /// It runs.
    Running,
    /// It was stopped, as Ctrl-Z does.
    Stopped,
    /// It has ended.
    Exited(Exit),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {}", signals::name(*signal)),
        }
    }
}
