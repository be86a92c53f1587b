//! The only waiter: starts children, reaps them and every orphan, and tells each holder how its child fares.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::child::{self, SpawnError, Spawned, Spec};
use super::{Exit, Status};

/// Starts and reaps. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Reaper {
    table: Arc<Mutex<HashMap<Pid, watch::Sender<Status>>>>,
    /// Counts every process reaped, ours or orphaned; a change is the moment to look at a group again.
    reaped: Arc<watch::Sender<u64>>,
}

/// A child that was started. Dropping it leaves the process alone.
pub struct Child {
    /// Its pid, and the id of the group it leads.
    pub pid: Pid,
    /// Its standard input, if that is a pipe.
    pub stdin: Option<OwnedFd>,
    /// Its standard output, if that is a pipe.
    pub stdout: Option<OwnedFd>,
    /// Its standard error, if that is a pipe.
    pub stderr: Option<OwnedFd>,
    status: watch::Receiver<Status>,
}

impl Reaper {
    /// Starts to reap, in a task of the current runtime.
    ///
    /// # Errors
    /// When the SIGCHLD handler cannot be installed.
    pub fn start() -> io::Result<Self> {
        child::become_subreaper();
        let mut sigchld = signal(SignalKind::child())?;
        let reaper = Self { table: Arc::default(), reaped: Arc::new(watch::Sender::new(0)) };
        let task = reaper.clone();
        tokio::spawn(async move {
            // The first look is for children that were there before us: an exec'd parent may leave some.
            loop {
                task.reap_all();
                if sigchld.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(reaper)
    }

    /// Starts a process and takes charge of its exit status.
    ///
    /// # Errors
    /// See [`SpawnError`].
    pub fn spawn(&self, spec: &Spec) -> Result<Child, SpawnError> {
        // Held over fork and registration, so that the exit of the child is never taken for an orphan's.
        let mut table = self.lock();
        let Spawned { pid, stdin, stdout, stderr } = child::spawn(spec)?;
        let (sender, status) = watch::channel(Status::Running);
        table.insert(pid, sender);
        Ok(Child { pid, stdin, stdout, stderr, status })
    }

    /// A receiver that changes whenever a process has been reaped.
    #[must_use]
    pub fn reaped(&self) -> watch::Receiver<u64> {
        self.reaped.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Pid, watch::Sender<Status>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reap_all(&self) {
        let mut table = self.lock();
        while let Some((pid, status)) = child::wait_any() {
            match (status, table.get(&pid)) {
                (_, Some(holder)) => {
                    holder.send_replace(status);
                }
                (Status::Exited(exit), None) => tracing::debug!(pid = pid.as_raw(), "reaped an orphan: {exit}"),
                (_, None) => {}
            }
            if matches!(status, Status::Exited(_)) {
                table.remove(&pid);
                self.reaped.send_modify(|count| *count += 1);
            }
        }
    }
}

impl Child {
    /// Waits until the child has ended.
    pub async fn exited(&mut self) -> Exit {
        loop {
            if let Status::Exited(exit) = *self.status.borrow_and_update() {
                return exit;
            }
            // The sender lives in the reaper's table until the exit is known.
            if self.status.changed().await.is_err() && !matches!(*self.status.borrow(), Status::Exited(_)) {
                return Exit::Signal(nix::libc::SIGKILL);
            }
        }
    }

    /// Waits for the next change: stopped or ended.
    pub async fn changed(&mut self) -> Status {
        let _ = self.status.changed().await;
        *self.status.borrow_and_update()
    }
}
