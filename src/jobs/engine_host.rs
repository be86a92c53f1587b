//! The engine host: a Python process that has imported the modules of an engine run, and forks for each run.
//!
//! An import takes most of the time of a short run. A run that cannot be forked at once starts as without the host.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nix::libc::SIGKILL;
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Split};
use tokio::net::unix::pipe;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use crate::config::WarmStart;
use crate::process::child::{Input, ProcessSpec, SpawnError};
use crate::process::forked::{ForkedProcess, NO_REPLY, REPLY_TIMEOUT, WaitingProcess, path_of, pipe};
use crate::process::reaper::{Child, Reaper};
use crate::process::signals::signal_group;
use crate::supervisor::output::pump_child;
use crate::telemetry::child_output::ServiceOutput;

/// Its name in the log.
const NAME: &str = "engine-host";

/// Longer than Python's imports take on a busy machine with a cold disk.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// After this time without a run the host exits, to free its memory.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// After so many runs in a row that could not be forked the host is given up: something on this machine prevents it.
const MAX_FAILURES: u32 = 5;

/// Starts engines, from the host if it is available. All clones share one host.
#[derive(Clone)]
pub struct EngineHost(Arc<Host>);

struct Host {
    mode: WarmStart,
    spec: ProcessSpec,
    reaper: Reaper,
    lines: ServiceOutput,
    process: Mutex<Option<HostProcess>>,
    is_starting: AtomicBool,
    /// Notified by a run that has waited for [`REPLY_TIMEOUT`], so that the host is replaced.
    overdue: Notify,
    /// Runs in a row that could not be forked, or [`MAX_FAILURES`] when the host could not be started.
    failures: AtomicU32,
}

/// The host while it runs. It is killed when this is dropped: the engines that it has forked are children of bots-ctl.
struct HostProcess {
    child: Child,
    requests: pipe::Sender,
    replies: Split<BufReader<pipe::Receiver>>,
    /// Forked for the next run.
    next: Option<WaitingProcess>,
    idle_at: Instant,
}

impl EngineHost {
    /// `spec` starts the host.
    pub fn new(mode: WarmStart, spec: ProcessSpec, reaper: Reaper, lines: &ServiceOutput) -> Self {
        let (process, overdue) = (Mutex::default(), Notify::new());
        let (is_starting, failures) = (AtomicBool::default(), AtomicU32::default());
        let lines = lines.for_service(NAME);
        let spec = ProcessSpec { input: Input::Pipe, ..spec };
        let host = Self(Arc::new(Host { mode, spec, reaper, lines, process, is_starting, overdue, failures }));
        if mode == WarmStart::On {
            host.prepare();
        }
        host
    }

    /// Starts an engine.
    ///
    /// # Errors
    /// As [`Reaper::spawn`].
    pub async fn spawn(&self, spec: &ProcessSpec) -> Result<Child, SpawnError> {
        let Ok(mut process) = timeout(REPLY_TIMEOUT, self.0.process.lock()).await else {
            self.0.overdue.notify_waiters();
            return self.0.reaper.spawn(spec);
        };
        if let Some(host) = process.as_mut() {
            match host.spawn(&self.0.reaper, spec).await {
                Ok(child) => {
                    self.0.failures.store(0, Relaxed);
                    return Ok(child);
                }
                Err(reason) => {
                    *process = None;
                    self.0.on_failure(&reason);
                }
            }
        }
        self.0.reaper.spawn(spec)
    }

    /// Starts the host for the next run, unless it is there, or forks the process of that run.
    pub fn prepare(&self) {
        let host = &self.0;
        let is_wanted = host.mode != WarmStart::Off && host.failures.load(Relaxed) < MAX_FAILURES;
        if is_wanted && !host.is_starting.swap(true, Relaxed) {
            let host = Arc::clone(host);
            tokio::spawn(async move {
                host.start_if_needed().await;
                host.is_starting.store(false, Relaxed);
            });
        }
    }
}

impl Host {
    fn on_failure(&self, reason: &str) {
        if self.failures.fetch_add(1, Relaxed) + 1 < MAX_FAILURES {
            info!(
                "the engine host is replaced: {reason}; runs import their modules themselves until the new one is ready"
            );
        } else {
            warn!(
                "the engine host failed {MAX_FAILURES} times in a row: {reason}; each run of the engine imports its modules itself"
            );
        }
    }

    async fn start_if_needed(self: &Arc<Self>) {
        let idle_at = Instant::now() + IDLE_TIMEOUT;
        let mut current = self.process.lock().await;
        if let Some(process) = current.as_mut() {
            process.idle_at = idle_at;
            // It may take long on a busy machine, as long as there is no run that waits for it.
            let prepared = tokio::select! {
                prepared = process.prepare(&self.reaper) => prepared,
                () = self.overdue.notified() => Err(NO_REPLY.to_owned()),
            };
            let Err(reason) = prepared else { return };
            *current = None;
            self.on_failure(&reason);
            if self.failures.load(Relaxed) >= MAX_FAILURES {
                return;
            }
        }
        drop(current);
        let started = timeout(START_TIMEOUT, HostProcess::start(self, idle_at)).await;
        match started.unwrap_or_else(|_| Err(format!("it was not ready within {} s", START_TIMEOUT.as_secs()))) {
            Ok(process) => {
                info!(pid = process.child.pid.as_raw(), "the engine host is ready: runs are forked from it");
                *self.process.lock().await = Some(process);
                if self.mode == WarmStart::Auto {
                    tokio::spawn(end_when_idle(Arc::downgrade(self)));
                }
            }
            // The queue has ended, and its processes with it.
            Err(_) if Arc::strong_count(self) == 1 => {}
            Err(reason) => {
                self.failures.store(MAX_FAILURES, Relaxed);
                warn!("cannot start the engine host: {reason}; each run of the engine imports its modules itself");
            }
        }
    }
}

/// Ends the host when it has not been used for a while.
async fn end_when_idle(host: Weak<Host>) {
    loop {
        let Some(host) = host.upgrade() else { return };
        let mut process = host.process.lock().await;
        match process.as_ref().map(|process| process.idle_at) {
            Some(idle_at) if idle_at > Instant::now() => {
                drop(process);
                drop(host);
                sleep_until(idle_at).await;
            }
            idle_at => {
                if idle_at.is_some() {
                    info!("the engine host ends: there was no run for {} s", IDLE_TIMEOUT.as_secs());
                }
                *process = None;
                return;
            }
        }
    }
}

impl HostProcess {
    async fn start(host: &Host, idle_at: Instant) -> Result<Self, String> {
        let mut child = host.reaper.spawn(&host.spec).map_err(|error| error.to_string())?;
        let pipes = (child.stdin.take(), child.stdout.take());
        pump_child(&mut child, &host.lines);
        let (Some(stdin), Some(stdout)) = pipes else { return Err("it has no pipes".to_owned()) };
        let requests = pipe::Sender::from_owned_fd(stdin).map_err(describe)?;
        let replies = BufReader::new(pipe::Receiver::from_owned_fd(stdout).map_err(describe)?).split(b'\n');
        let mut process = Self { child, requests, replies, next: None, idle_at };
        process.reply().await?;
        // The next run notices a host that has ended, and replaces it.
        let _ = process.prepare(&host.reaper).await;
        Ok(process)
    }

    /// Starts an engine in the process that was forked for it, or in a new one.
    async fn spawn(&mut self, reaper: &Reaper, spec: &ProcessSpec) -> Result<Child, String> {
        let waiting = match self.next.take().filter(|waiting| !waiting.has_exited()) {
            Some(waiting) => waiting,
            None => {
                let forked = timeout(REPLY_TIMEOUT, self.fork(reaper, false)).await;
                forked.map_err(|_| NO_REPLY.to_owned())??.ok_or("it names no process")?
            }
        };
        waiting.start(spec).await
    }

    /// Forks the process of the next run.
    async fn prepare(&mut self, reaper: &Reaper) -> Result<(), String> {
        if self.next.is_none() {
            self.next = self.fork(reaper, true).await?;
        }
        Ok(())
    }

    /// Has the host fork a process, or none `in_advance` while it imports modules.
    async fn fork(&mut self, reaper: &Reaper, in_advance: bool) -> Result<Option<WaitingProcess>, String> {
        // Ours until the host has replied.
        let ((its_requests, requests), (replies, its_replies)) = (pipe().map_err(describe)?, pipe().map_err(describe)?);
        let paths = (path_of(&its_requests), path_of(&its_replies));
        let request = json!({"requests": paths.0, "replies": paths.1, "in_advance": in_advance});
        self.requests.write_all(format!("{request}\n").as_bytes()).await.map_err(describe)?;
        let reply = self.reply().await?;
        let pid = reply["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).ok_or("it names no process")?;
        if pid == 0 {
            return Ok(None);
        }
        let forked = ForkedProcess { pid: Pid::from_raw(pid), requests, replies };
        forked.adopt(reaper).map(Some).ok_or_else(|| "the forked process has ended".to_owned())
    }

    async fn reply(&mut self) -> Result<Value, String> {
        let line = self.replies.next_segment().await.map_err(describe)?.ok_or("it has ended")?;
        let reply: Value = serde_json::from_slice(&line).unwrap_or_default();
        match reply["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(reply),
        }
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        if !self.child.has_exited() {
            signal_group(self.child.pid, SIGKILL);
        }
    }
}

fn describe(error: io::Error) -> String {
    error.to_string()
}
