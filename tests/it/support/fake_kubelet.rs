//! Pods of Bots on one volume, managed as by a kubelet: each in a separate PID and network namespace.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::clock::Clock;
use crate::support::cluster::get;
use crate::support::needs::as_pid_1;
use crate::support::network::Node;
use crate::support::sandbox::{Running, Sandbox, binary};

/// The port of every pod's health listener.
const HEALTH_PORT: u16 = 9180;

/// A pod that ended sooner is not started again at once.
const SHORT: Duration = Duration::from_secs(1);

/// How long a service may take to answer again.
const PATIENCE: Duration = Duration::from_secs(20);

/// A pod, whether it runs at the moment or not.
pub struct Pod {
    pub name: &'static str,
    pub node: Node,
    args: Vec<&'static str>,
    clock: Clock,
    running: Mutex<Option<(Running, Instant)>>,
    is_ready: AtomicBool,
    is_live: AtomicBool,
    /// Until then it may be not live, since something was done to it.
    excused: Mutex<Instant>,
}

impl Pod {
    pub fn new(sandbox: &Sandbox, name: &'static str, args: &[&'static str]) -> Self {
        let clock = Clock::new(sandbox.home.path().join(format!("clock-{name}")));
        Self {
            name,
            node: Node::new(),
            args: args.to_vec(),
            clock,
            running: Mutex::default(),
            is_ready: AtomicBool::new(false),
            is_live: AtomicBool::new(false),
            excused: Mutex::new(Instant::now() + PATIENCE),
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<(Running, Instant)>> {
        self.running.lock().expect("not poisoned")
    }

    /// Starts the pod, replacing its predecessor.
    pub fn start(&self, sandbox: &Sandbox) {
        let mut command = sandbox.command(&self.args);
        command.env("BOTS_CTL_HEALTH_ADDR", format!("0.0.0.0:{HEALTH_PORT}")).env("PORT", "8080");
        command.env("HOSTNAME", self.name).env("BOTS_CTL_JOBQUEUE_URL", self.queue_url());
        if sandbox_has_server(sandbox) {
            command.env("DB_HOST", self.node.gateway());
        }
        command.envs(self.clock.variables());
        let inside = as_pid_1(&command);
        let started = Running::start(self.node.command(&inside), sandbox.home.path(), HEALTH_PORT);
        *self.running() = Some((started, Instant::now()));
    }

    fn queue_url(&self) -> String {
        match self.args.first() {
            Some(&"jobqueue") => String::new(),
            _ => format!("http://{}:28083", self.node.gateway()),
        }
    }

    /// Its exit code if it has ended since it was asked last.
    pub fn ended(&self) -> Option<i32> {
        let mut running = self.running();
        let (started, since) = running.as_mut()?;
        if since.elapsed() < SHORT {
            return None;
        }
        let code = started.try_code()?;
        *running = None;
        Some(code)
    }

    /// Ends it at once.
    pub fn end(&self) {
        *self.running() = None;
    }

    pub fn is_there(&self) -> bool {
        self.running().is_some()
    }

    /// bots-ctl, which is PID 1 inside.
    pub fn init(&self) -> Option<Pid> {
        let ours = fs::canonicalize(binary()).expect("it is built");
        let is_ours = |pid: &Pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == ours);
        self.processes().into_iter().map(|(pid, _)| pid).find(is_ours)
    }

    /// All processes of the pod, the wrappers of the namespaces included.
    pub fn processes(&self) -> Vec<(Pid, String)> {
        self.running().as_ref().map(|(running, _)| running.descendants()).unwrap_or_default()
    }

    /// What bots-ctl has started, and what that has.
    pub fn services(&self) -> Vec<(Pid, String)> {
        self.init().map(crate::support::sandbox::descendants).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(init) = self.init() {
            let _ = kill(init, signal);
        }
    }

    /// One question to its health listener.
    pub fn ask(&self, path: &str) -> Result<u16, String> {
        let answer = get((self.node.address(), HEALTH_PORT), "localhost", path, Duration::from_secs(2));
        let last = if path == "/health/ready" { &self.is_ready } else { &self.is_live };
        last.store(answer == Ok(200), Ordering::Relaxed);
        answer
    }

    /// The result of the last probe.
    pub fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    /// The result of the last probe.
    pub fn is_live(&self) -> bool {
        self.is_live.load(Ordering::Relaxed)
    }

    /// A fault with its duration.
    pub fn excuse(&self, time: Duration) {
        let mut excused = self.excused.lock().expect("not poisoned");
        *excused = (*excused).max(Instant::now() + time + PATIENCE);
    }

    /// Whether it may be not live, since something was done to it.
    pub fn is_excused(&self) -> bool {
        *self.excused.lock().expect("not poisoned") > Instant::now()
    }

    /// Shifts its clock.
    pub fn set_clock(&self, seconds: i64) {
        self.clock.set(seconds);
    }

    pub fn report(&self) -> String {
        let running = self.running();
        let report = running.as_ref().map(|(running, _)| running.report());
        format!("=== {}\n{}", self.name, report.unwrap_or_else(|| "has ended".to_owned()))
    }
}

/// With SQLite there is none.
fn sandbox_has_server(sandbox: &Sandbox) -> bool {
    sandbox.command(&[]).get_envs().any(|(name, _)| name == "DB_HOST")
}
