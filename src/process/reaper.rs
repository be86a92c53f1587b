//! The only waiter: starts children, reaps them and every orphan, and publishes the status of each child.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::libc;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;
use tokio::sync::watch;

use super::child::{self, ProcessSpec, SpawnError};
use super::proc_table::Process;
use super::{ChildStatus, Exit, signals, sys};

/// Batch size, after which other tasks get their turn: thousands of processes may exit together, and a signal or a
/// probe must not wait for all of them.
const MAX_BATCH: usize = 256;

/// Starts and reaps. Clones share one table.
#[derive(Clone)]
pub struct Reaper {
    table: Arc<Mutex<HashMap<Pid, watch::Sender<ChildStatus>>>>,
    /// Counts every reaped process, child or orphan; a change triggers another check of a group.
    reaped: Arc<watch::Sender<u64>>,
    /// Whether the log warns of each orphan.
    warns: Arc<AtomicBool>,
    /// Descendants that were sent a stop signal, with the time of their start: they would treat a second one as a request to
    /// hurry. Those that their own parents reap stay here until their number is reused.
    requested: Arc<Mutex<HashMap<Pid, u64>>>,
}

/// A started child. Dropping it does not affect the process.
pub struct Child {
    /// Its PID, which is also the ID of its group, unless it is in the group of bots-ctl.
    pub pid: Pid,
    /// Its standard input, if that is a pipe.
    pub stdin: Option<OwnedFd>,
    /// Its standard output, if that is a pipe.
    pub stdout: Option<OwnedFd>,
    /// Its standard error, if that is a pipe.
    pub stderr: Option<OwnedFd>,
    status: watch::Receiver<ChildStatus>,
}

impl Reaper {
    /// Starts reaping, in a task of the current runtime.
    pub fn start() -> io::Result<Self> {
        // Orphans of descendants are adopted even if bots-ctl is not PID 1.
        let _ = set_child_subreaper(true);
        // With an inherited SIG_IGN the kernel itself would reap, and the exit statuses would be lost.
        sys::reset_signal(libc::SIGCHLD);
        let sigchld = SigSet::from(Signal::SIGCHLD);
        sigchld.thread_block()?;
        let deaths = sys::signal_queue(&sigchld)?;
        let reaped = Arc::new(watch::Sender::new(0));
        let reaper = Self { table: Arc::default(), reaped, warns: Arc::default(), requested: Arc::default() };
        let task = reaper.clone();
        tokio::spawn(async move {
            // The first round is for earlier children: a program with children may execute bots-ctl.
            loop {
                while task.reap_some() {
                    tokio::task::yield_now().await;
                }
                if signals::read(&deaths).await.is_none() {
                    return;
                }
            }
        });
        Ok(reaper)
    }

    /// Starts a process and waits for its exit status.
    pub fn spawn(&self, spec: &ProcessSpec) -> Result<Child, SpawnError> {
        // Held over fork and registration, so that the exit of the child is never taken for an orphan's.
        let mut table = self.lock();
        let started = child::spawn(spec)?;
        let pid = Pid::from_raw(started.id().cast_signed());
        let (sender, status) = watch::channel(ChildStatus::Running);
        table.insert(pid, sender);
        let (stdin, stdout) = (started.stdin.map(OwnedFd::from), started.stdout.map(OwnedFd::from));
        Ok(Child { pid, stdin, stdout, stderr: started.stderr.map(OwnedFd::from), status })
    }

    /// Waits for the exit status of a child that was not started by [`Reaper::spawn`]. `None` when there is no such child.
    #[must_use]
    pub fn adopt(&self, pid: Pid) -> Option<Child> {
        let mut table = self.lock();
        if table.contains_key(&pid) || !sys::is_child(pid) {
            return None;
        }
        let (sender, status) = watch::channel(ChildStatus::Running);
        table.insert(pid, sender);
        Some(Child { pid, stdin: None, stdout: None, stderr: None, status })
    }

    /// From now on, a warning is logged for each orphan, at any log level.
    pub fn warn_of_orphans(&self) {
        self.warns.store(true, Relaxed);
    }

    /// Whether there is any process to wait for; otherwise no descendant is left.
    #[must_use]
    pub fn has_children(&self) -> bool {
        sys::has_children()
    }

    /// Whether any started or adopted child runs.
    #[must_use]
    pub fn has_running_child(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Records a stop signal to this process; whether it is the first one.
    pub fn record_request(&self, process: &Process) -> bool {
        self.requested().insert(process.pid, process.started) != Some(process.started)
    }

    /// Whether this process was sent a stop signal.
    #[must_use]
    pub fn was_requested(&self, process: &Process) -> bool {
        self.requested().get(&process.pid) == Some(&process.started)
    }

    fn requested(&self) -> MutexGuard<'_, HashMap<Pid, u64>> {
        self.requested.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A receiver that changes whenever processes have been reaped.
    #[must_use]
    pub fn reaped(&self) -> watch::Receiver<u64> {
        self.reaped.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Pid, watch::Sender<ChildStatus>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reaps a batch; returns whether there may be more.
    fn reap_some(&self) -> bool {
        let (mut table, mut ended, mut more) = (self.lock(), 0, true);
        for _ in 0..MAX_BATCH {
            let Some((pid, status)) = sys::wait_any() else {
                more = false;
                break;
            };
            match (status, table.get(&pid)) {
                (_, Some(holder)) => {
                    holder.send_replace(status);
                }
                (ChildStatus::Exited(exit), None) => self.log_orphan(pid, exit),
                (_, None) => {}
            }
            if matches!(status, ChildStatus::Exited(_)) {
                table.remove(&pid);
                self.requested().remove(&pid);
                ended += 1;
            }
        }
        if ended > 0 {
            self.reaped.send_modify(|count| *count += ended);
        }
        more
    }

    fn log_orphan(&self, pid: Pid, exit: Exit) {
        match self.warns.load(Relaxed) {
            // tini's message, which tools search for.
            true => tracing::warn!(%exit, "Reaped zombie process with pid={pid}"),
            false => tracing::debug!(pid = pid.as_raw(), "reaped an orphan: {exit}"),
        }
    }
}

impl Child {
    /// Waits until the child has ended.
    pub async fn exited(&mut self) -> Exit {
        // The sender lives in the reaper's table until the exit is known.
        match self.status.wait_for(|status| matches!(status, ChildStatus::Exited(_))).await.as_deref() {
            Ok(ChildStatus::Exited(exit)) => *exit,
            _ => Exit::Signal(libc::SIGKILL),
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_exited(&self) -> bool {
        matches!(*self.status.borrow(), ChildStatus::Exited(_))
    }

    /// Waits for the next change: stopped or ended.
    pub async fn changed(&mut self) -> ChildStatus {
        let _ = self.status.changed().await;
        *self.status.borrow_and_update()
    }
}

#[cfg(test)]
mod tests {
    use super::super::proc_table;
    use super::*;

    #[test]
    fn stop_request_is_not_that_of_earlier_process_with_same_number() {
        let (reaped, table) = (Arc::new(watch::Sender::new(0)), Arc::default());
        let reaper = Reaper { table, reaped, warns: Arc::default(), requested: Arc::default() };
        let earlier = proc_table::read(nix::unistd::getpid()).expect("it runs");
        assert!(earlier.started > 0);
        let later = Process { started: earlier.started + 1, ..earlier.clone() };
        assert!(reaper.record_request(&earlier) && !reaper.record_request(&earlier));
        assert!(reaper.was_requested(&earlier) && !reaper.was_requested(&later));
        assert!(reaper.record_request(&later));
    }
}
