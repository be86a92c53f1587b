//! Runs one service: executes the actions of [`super::state`], passes events to it, and logs the transitions.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use nix::libc::SIGKILL;
use nix::unistd::Pid;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::output::OutputPumps;
use super::state::{Lifecycle, ServiceAction, ServiceEvent, ServicePolicy, ServiceState, Termination};
use super::transition::{Transition, seconds};
use crate::exit::Exit;
use crate::process::child::{ProcessSpec, SpawnError};
use crate::process::proc_table::{self, Process};
use crate::process::reaper::{Child, Reaper};
use crate::process::signals::{group_exists, signal_group, signal_process};
use crate::process::terminate::{kill_leftovers, member_names, terminate_leftovers};
use crate::telemetry::child_output::ServiceOutput;

/// Interval of checks for killed groups: there is no event for a process that became a zombie of another parent.
const KILL_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// A service that is to be supervised.
#[derive(Clone)]
pub struct SupervisedService {
    /// Its name in the log.
    pub name: &'static str,
    /// How each of its processes is started.
    pub spec: ProcessSpec,
    /// How it is kept running and stopped.
    pub policy: ServicePolicy,
    /// The port that each of its processes listens on.
    pub port: Option<u16>,
    /// The program whose processes, with their descendants, get no signal and are waited for.
    pub spared: &'static str,
    /// Where its output goes.
    pub lines: ServiceOutput,
    /// Whether its first successful probe is reported: earlier signals are kept until then.
    pub has_liveness_probe: bool,
}

/// A request for an orderly stop. A second request shortens the next wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopRequest {
    /// Runs may finish, since bots-ctl executes itself again. A later request without this restores the limits.
    pub for_reload: bool,
}

/// Messages to a process other than stop requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessMessage {
    /// Forward this signal to the service's own process; its descendants, such as an engine, get none. Between two processes it
    /// is kept for the next one, until the first successful probe: before that, the default action of most signals would
    /// terminate the process. A service without a stop signal gets no other signal either.
    Forward(i32),
    /// The first probe of this process has succeeded.
    Alive(i32),
    /// This process no longer responds and has to be restarted.
    Unresponsive(i32),
    /// A user has asked for another process.
    Restart,
}

/// The channels to and from a supervised process.
pub struct ServiceControl {
    /// Requests to stop.
    pub stop: mpsc::UnboundedReceiver<StopRequest>,
    /// Everything else.
    pub messages: mpsc::UnboundedReceiver<ProcessMessage>,
    /// A process of the service that is already running.
    pub started: Option<Child>,
    /// Where the service is in its life.
    pub snapshot: watch::Sender<ServiceSnapshot>,
    /// The deadline of its stop, once that has begun.
    pub deadline: Option<Instant>,
}

/// The observable state of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServiceSnapshot {
    /// Where it is in its life.
    pub state: ServiceState,
    /// Its process, while there is one.
    pub pid: Option<i32>,
    /// How often it was started again.
    pub restarts: u32,
    /// How its last process ended.
    pub last_exit: Option<Exit>,
    /// Whether a stop was requested, in any state.
    pub was_asked: bool,
}

/// How a service ended, unless its program is missing or cannot be executed.
pub type ServiceResult = Result<Termination, SpawnError>;

/// Supervises a service until no process of it is left. It waits if processes or memory are exhausted.
///
/// # Errors
/// When its program is not there or cannot be executed.
pub async fn supervise(service: &SupervisedService, reaper: &Reaper, control: &mut ServiceControl) -> ServiceResult {
    let mut task = ServiceTask::new(service, reaper, control);
    let (mut life, first) = Lifecycle::begin();
    let mut at_once = task.perform(first);
    loop {
        task.publish(life.state);
        if let ServiceState::Ended(end) = life.state {
            task.output.drain().await;
            return task.error.take().map_or(Ok(end), Err);
        }
        let event = match at_once.take() {
            Some(event) => event,
            None => task.next_event(life.state).await,
        };
        let (next, actions) = life.step(event, &task.policy);
        task.log_transition(&Transition { from: life, to: next, event });
        for action in actions {
            at_once = task.perform(action).or(at_once);
        }
        if event == ServiceEvent::BecameAlive {
            task.deliver_held_signals();
        }
        life = next;
    }
}

struct ServiceTask<'a> {
    service: &'a SupervisedService,
    /// Its policy, or that for a reload.
    policy: ServicePolicy,
    reaper: &'a Reaper,
    control: &'a mut ServiceControl,
    reaped: watch::Receiver<u64>,
    child: Option<Child>,
    /// Groups of this and of earlier processes that may still have members.
    groups: Vec<Pid>,
    /// The readers of the output of this and of earlier processes.
    output: OutputPumps,
    timer: Option<Instant>,
    /// The time since which the next start waits for the port.
    port_wait: Option<Instant>,
    /// Signals for a process that does not exist or is not alive yet.
    pending_signals: Vec<i32>,
    /// Whether a probe of the current process has succeeded, or it has none.
    is_alive: bool,
    starts: u32,
    last_exit: Option<Exit>,
    /// Why its program cannot be started.
    error: Option<SpawnError>,
    was_asked: bool,
    /// Whether a final stop was requested, not one for a reload.
    is_shutdown: bool,
}

impl<'a> ServiceTask<'a> {
    fn new(service: &'a SupervisedService, reaper: &'a Reaper, control: &'a mut ServiceControl) -> Self {
        control.deadline = None;
        Self {
            service,
            policy: service.policy,
            reaper,
            control,
            reaped: reaper.reaped(),
            child: None,
            groups: Vec::new(),
            output: OutputPumps::default(),
            timer: None,
            port_wait: None,
            pending_signals: Vec::new(),
            is_alive: false,
            starts: 0,
            last_exit: None,
            error: None,
            was_asked: false,
            is_shutdown: false,
        }
    }

    fn pid(&self) -> Option<Pid> {
        self.child.as_ref().map(|child| child.pid)
    }

    fn publish(&self, state: ServiceState) {
        let (pid, restarts) = (self.pid().map(Pid::as_raw), self.starts.saturating_sub(1));
        let (last_exit, was_asked) = (self.last_exit, self.was_asked);
        self.control.snapshot.send_replace(ServiceSnapshot { state, pid, restarts, last_exit, was_asked });
    }

    async fn next_event(&mut self, state: ServiceState) -> ServiceEvent {
        let is_killing = matches!(state, ServiceState::KillingGroup(_));
        let sweeping = is_killing || matches!(state, ServiceState::WaitingForGroup(_));
        loop {
            // In every state, since the ID of an empty group may be reused. A reaped process does not prove that a group is empty.
            self.prune_groups();
            if sweeping && self.groups.is_empty() || is_killing && self.only_zombies_left() {
                return ServiceEvent::GroupEmpty;
            }
            let timer = self.timer;
            let event = tokio::select! {
                // The number of a process that was reaped may be reused: its end comes before anything that would send a signal.
                biased;
                exit = exited(&mut self.child) => Some(self.on_exit(exit)),
                _ = self.reaped.changed() => None,
                Some(request) = self.control.stop.recv() => Some(self.on_stop(request)),
                Some(message) = self.control.messages.recv() => self.on_message(message),
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {
                    self.timer = None;
                    Some(ServiceEvent::TimerElapsed)
                }
                () = sleep(KILL_CHECK_INTERVAL), if is_killing => None,
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    fn on_exit(&mut self, exit: Exit) -> ServiceEvent {
        let pid = self.child.take().map_or(0, |child| child.pid.as_raw());
        // A service without a stop signal is an engine, whose run logs its result.
        if self.policy.stop_signal.is_none() && exit == Exit::Code(0) {
            debug!(service = self.service.name, pid, "{} exited: {exit}", self.service.name);
        } else {
            info!(service = self.service.name, pid, "{} exited: {exit}", self.service.name);
        }
        self.last_exit = Some(exit);
        ServiceEvent::Exited(exit)
    }

    fn on_stop(&mut self, request: StopRequest) -> ServiceEvent {
        let ends_reload = self.was_asked && !self.is_shutdown && !request.for_reload;
        self.was_asked = true;
        self.is_shutdown |= !request.for_reload;
        self.policy = if request.for_reload { self.service.policy.for_reload() } else { self.service.policy };
        if ends_reload { ServiceEvent::PolicyChanged } else { ServiceEvent::StopRequested }
    }

    fn on_message(&mut self, message: ProcessMessage) -> Option<ServiceEvent> {
        let current = self.pid();
        let is_current = |pid| current == Some(Pid::from_raw(pid));
        match (message, current) {
            // No signal stops an engine in order, and most would end it.
            (ProcessMessage::Forward(_), _) if self.policy.stop_signal.is_none() => None,
            (ProcessMessage::Forward(number), Some(pid)) if self.is_alive => {
                signal_process(pid, number);
                None
            }
            (ProcessMessage::Forward(number), _) => {
                self.pending_signals.push(number);
                None
            }
            (ProcessMessage::Alive(pid), _) => is_current(pid).then_some(ServiceEvent::BecameAlive),
            (ProcessMessage::Unresponsive(pid), _) => is_current(pid).then_some(ServiceEvent::Unresponsive),
            (ProcessMessage::Restart, _) => Some(ServiceEvent::RestartRequested),
        }
    }

    /// Whether the groups contain only zombies that their own parents do not reap.
    fn only_zombies_left(&self) -> bool {
        let is_alive = |process: &Process| process.state != 'Z' && self.groups.contains(&process.group);
        proc_table::list().is_some_and(|all| !all.iter().any(is_alive))
    }

    fn prune_groups(&mut self) {
        self.groups.retain(|group| group_exists(*group));
    }

    /// Executes the action; returns an event that follows immediately.
    fn perform(&mut self, action: ServiceAction) -> Option<ServiceEvent> {
        let pid = self.pid();
        match action {
            ServiceAction::Start => return self.start(),
            ServiceAction::Signal(number) => pid.into_iter().for_each(|pid| signal_process(pid, number)),
            ServiceAction::KillProcess => pid.into_iter().for_each(|pid| signal_process(pid, SIGKILL)),
            ServiceAction::KillGroup => {
                self.prune_groups();
                self.groups.iter().for_each(|group| signal_group(*group, SIGKILL));
            }
            ServiceAction::KillLeftovers => kill_leftovers(&self.groups, self.service.spared),
            ServiceAction::TerminateLeftovers => {
                terminate_leftovers(self.reaper, &self.groups, self.is_shutdown, self.service.spared);
            }
            ServiceAction::StartTimer(span) => self.timer = Some(Instant::now() + span),
            ServiceAction::StartStopTimer => self.timer = Some(self.stop_deadline()),
            ServiceAction::RestartStopTimer => {
                self.control.deadline = None;
                self.timer = Some(self.stop_deadline());
            }
            ServiceAction::StartBackoff(span) => {
                let span = with_jitter(span);
                info!(service = self.service.name, "restarting in {}", seconds(span));
                self.timer = Some(Instant::now() + span);
            }
        }
        None
    }

    fn stop_deadline(&mut self) -> Instant {
        *self.control.deadline.get_or_insert(Instant::now() + self.policy.timeout)
    }

    fn log_transition(&mut self, transition: &Transition) {
        let limit =
            self.control.deadline.map_or(self.policy.timeout, |at| at.saturating_duration_since(Instant::now()));
        transition.log(self.service.name, &self.policy);
        self.prune_groups();
        if transition.begins_wait_for_leftovers() && !self.groups.is_empty() {
            transition.log_wait(self.service.name, &self.policy, limit, &member_names(&self.groups));
        }
    }

    fn start(&mut self) -> Option<ServiceEvent> {
        self.prune_groups();
        if self.has_to_wait_for_port() {
            return Some(ServiceEvent::PortTaken);
        }
        self.port_wait = None;
        let started = self.control.started.take().map_or_else(|| self.reaper.spawn(&self.service.spec), Ok);
        let mut child = match started {
            Ok(child) => child,
            Err(error @ SpawnError::NoResources(..)) => {
                warn!(service = self.service.name, "{error}");
                return Some(ServiceEvent::StartFailed);
            }
            Err(error) => {
                self.error = Some(error);
                return Some(ServiceEvent::CannotStart);
            }
        };
        self.output.add_child(&mut child, &self.service.lines.for_process());
        self.starts += 1;
        self.is_alive = false;
        self.groups.push(child.pid);
        self.child = Some(child);
        if !self.service.has_liveness_probe {
            self.deliver_held_signals();
        }
        None
    }

    /// Whether a leftover process may still use the port; for no longer than a stop may take.
    fn has_to_wait_for_port(&mut self) -> bool {
        let is_taken = |port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_err_and(is_in_use);
        let Some(port) = self.service.port.filter(|port| !self.groups.is_empty() && is_taken(*port)) else {
            return false;
        };
        if self.port_wait.is_none() {
            let (name, limit) = (self.service.name, seconds(self.policy.timeout));
            warn!(
                service = name,
                "a leftover process of {name} still uses port {port}; waiting up to {limit} for it to exit"
            );
        }
        self.port_wait.get_or_insert_with(Instant::now).elapsed() < self.policy.timeout
    }

    fn deliver_held_signals(&mut self) {
        self.is_alive = true;
        if let Some(pid) = self.pid() {
            self.pending_signals.drain(..).for_each(|number| signal_process(pid, number));
        }
    }
}

/// Waits until the process exits; forever if there is none.
async fn exited(child: &mut Option<Child>) -> Exit {
    match child {
        Some(child) => child.exited().await,
        None => std::future::pending().await,
    }
}

fn is_in_use(error: io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

/// About as long, between four and six fifths.
fn with_jitter(span: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    span.mul_f64(0.8 + 0.4 * f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn jitter_stays_within_20_percent(milliseconds in 0..1_000_000_000_u64) {
            let span = Duration::from_millis(milliseconds);
            let about = with_jitter(span);
            prop_assert!(span.mul_f64(0.799) <= about && about <= span.mul_f64(1.201));
        }
    }
}
