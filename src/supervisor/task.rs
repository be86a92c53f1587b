//! Runs one service: performs the actions of [`super::state`], feeds it what happens, and logs what that means.

use std::time::Duration;

use nix::libc::SIGKILL;
use nix::unistd::Pid;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::output::{drain, pump_child};
use super::state::{Action, AfterExit, Event, Lifecycle, ServicePolicy, State, StopReason, Termination};
use crate::exit::Exit;
use crate::process::child::{ProcessSpec, SpawnError, group_exists, signal_group, signal_process};
use crate::process::reaper::{Child, Reaper};
use crate::process::signals;
use crate::telemetry::child_output::ServiceOutput;

/// A service that is to be supervised.
#[derive(Clone)]
pub struct SupervisedService {
    /// Its name in the log.
    pub name: &'static str,
    /// How each of its processes is started.
    pub spec: ProcessSpec,
    /// How it is kept running and stopped.
    pub plan: ServicePolicy,
    /// Where its output goes.
    pub lines: ServiceOutput,
    /// Whether its first sign of life is reported: signals that come before it are kept until then.
    pub has_liveness_probe: bool,
}

/// A request to stop a service in order. After an earlier request it shortens the next wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopRequest {
    /// Runs may finish, since bots-ctl starts again. A later request without this sets the limits again.
    pub for_reload: bool,
}

/// What a process receives beside requests to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessMessage {
    /// Pass this signal on. Between two processes it is kept for the next one, and until a process that is watched has
    /// given a sign of life: before, the default action of most signals would end it.
    Forward(i32),
    /// This process has given its first sign of life.
    Alive(i32),
    /// This process no longer answers and is to be replaced.
    Unresponsive(i32),
}

/// How a supervised process is reached, and where it reports.
pub struct ServiceControl {
    /// Requests to stop.
    pub stop: mpsc::UnboundedReceiver<StopRequest>,
    /// Everything else.
    pub messages: mpsc::UnboundedReceiver<ProcessMessage>,
    /// Where the service is in its life.
    pub snapshot: watch::Sender<ServiceSnapshot>,
}

/// How a service fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServiceSnapshot {
    /// Where it is in its life.
    pub state: State,
    /// Its process, while there is one.
    pub pid: Option<i32>,
    /// How often it was started again.
    pub restarts: u32,
    /// How its last process ended.
    pub last_exit: Option<Exit>,
    /// Whether it was asked to stop, in whatever state.
    pub was_asked: bool,
}

/// How a service ended, unless its program is not there or cannot be executed.
pub type ServiceResult = Result<Termination, SpawnError>;

/// Supervises a service until nothing of it is left. It waits where processes or memory are exhausted.
///
/// # Errors
/// When its program is not there or cannot be executed.
pub async fn supervise(service: &SupervisedService, reaper: &Reaper, control: &mut ServiceControl) -> ServiceResult {
    let mut task = ServiceTask::new(service, reaper, control);
    let (mut life, first) = Lifecycle::begin();
    let mut at_once = task.perform(first)?;
    loop {
        task.publish(life.state);
        if let State::Ended(end) = life.state {
            drain(&task.output).await;
            return Ok(end);
        }
        let event = match at_once.take() {
            Some(event) => event,
            None => task.next_event(life.state).await,
        };
        let (next, actions) = life.step(event, &task.plan);
        task.log_transition(life, next, event);
        for action in actions {
            at_once = task.perform(action)?.or(at_once);
        }
        if event == Event::BecameAlive {
            task.deliver_held_signals();
        }
        life = next;
    }
}

struct ServiceTask<'a> {
    service: &'a SupervisedService,
    /// Its policy, or that for a reload.
    plan: ServicePolicy,
    reaper: &'a Reaper,
    control: &'a mut ServiceControl,
    reaped: watch::Receiver<u64>,
    child: Option<Child>,
    /// Groups of this and of earlier processes that may still have members.
    groups: Vec<Pid>,
    /// What reads the output of the present process.
    output: TaskTracker,
    timer: Option<Instant>,
    /// Signals for a process that is not there, or not alive yet.
    pending_signals: Vec<i32>,
    /// Whether the present process has given its first sign of life.
    is_alive: bool,
    starts: u32,
    last_exit: Option<Exit>,
    was_asked: bool,
}

impl<'a> ServiceTask<'a> {
    fn new(service: &'a SupervisedService, reaper: &'a Reaper, control: &'a mut ServiceControl) -> Self {
        let output = TaskTracker::new();
        output.close();
        Self {
            service,
            plan: service.plan,
            reaper,
            control,
            reaped: reaper.reaped(),
            child: None,
            groups: Vec::new(),
            output,
            timer: None,
            pending_signals: Vec::new(),
            is_alive: false,
            starts: 0,
            last_exit: None,
            was_asked: false,
        }
    }

    fn pid(&self) -> Option<Pid> {
        self.child.as_ref().map(|child| child.pid)
    }

    fn publish(&self, state: State) {
        let (pid, restarts) = (self.pid().map(Pid::as_raw), self.starts.saturating_sub(1));
        let (last_exit, was_asked) = (self.last_exit, self.was_asked);
        self.control.snapshot.send_replace(ServiceSnapshot { state, pid, restarts, last_exit, was_asked });
    }

    async fn next_event(&mut self, state: State) -> Event {
        let sweeping = matches!(state, State::WaitingForGroup(_) | State::KillingGroup(_));
        loop {
            // A reaped process is a reason to look at the groups, not yet a proof that they are empty.
            if sweeping && self.groups_empty() {
                return Event::GroupEmpty;
            }
            let timer = self.timer;
            let event = tokio::select! {
                exit = exited(&mut self.child) => Some(self.on_exit(exit)),
                Some(request) = self.control.stop.recv() => Some(self.on_stop(request)),
                Some(message) = self.control.messages.recv() => self.on_message(message),
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {
                    self.timer = None;
                    Some(Event::TimerElapsed)
                }
                _ = self.reaped.changed(), if sweeping => None,
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    fn on_exit(&mut self, exit: Exit) -> Event {
        let pid = self.child.take().map_or(0, |child| child.pid.as_raw());
        info!(service = self.service.name, pid, "{} ended: {exit}", self.service.name);
        self.last_exit = Some(exit);
        Event::Exited(exit)
    }

    fn on_stop(&mut self, request: StopRequest) -> Event {
        self.was_asked = true;
        if request.for_reload {
            self.plan = self.service.plan.for_reload();
            return Event::StopRequested;
        }
        let before = std::mem::replace(&mut self.plan, self.service.plan);
        if before == self.plan { Event::StopRequested } else { Event::PolicyChanged }
    }

    fn on_message(&mut self, message: ProcessMessage) -> Option<Event> {
        let current = self.pid();
        let is_current = |pid| current == Some(Pid::from_raw(pid));
        match (message, current) {
            (ProcessMessage::Forward(number), Some(pid)) if self.is_alive || !self.service.has_liveness_probe => {
                signal_group(pid, number);
                None
            }
            (ProcessMessage::Forward(number), _) => {
                self.pending_signals.push(number);
                None
            }
            (ProcessMessage::Alive(pid), _) => is_current(pid).then_some(Event::BecameAlive),
            (ProcessMessage::Unresponsive(pid), _) => is_current(pid).then_some(Event::Unresponsive),
        }
    }

    fn groups_empty(&mut self) -> bool {
        self.groups.retain(|group| group_exists(*group));
        self.groups.is_empty()
    }

    /// Does it; the answer is an event that follows at once.
    fn perform(&mut self, action: Action) -> Result<Option<Event>, SpawnError> {
        let pid = self.pid();
        match action {
            Action::Start => return self.start(),
            Action::Signal(number) => pid.into_iter().for_each(|pid| signal_process(pid, number)),
            Action::KillProcess => pid.into_iter().for_each(|pid| signal_process(pid, SIGKILL)),
            Action::KillGroup => self.groups.iter().for_each(|group| signal_group(*group, SIGKILL)),
            Action::StartTimer(span) => self.timer = Some(Instant::now() + span),
            Action::StartBackoff(span) => {
                let span = with_jitter(span);
                info!(service = self.service.name, "starting it again in {}", seconds(span));
                self.timer = Some(Instant::now() + span);
            }
        }
        Ok(None)
    }

    fn start(&mut self) -> Result<Option<Event>, SpawnError> {
        // A group's number may be given to others once it is empty.
        self.groups.retain(|group| group_exists(*group));
        let mut child = match self.reaper.spawn(&self.service.spec) {
            Ok(child) => child,
            Err(error @ SpawnError::NoResources(..)) => {
                warn!(service = self.service.name, "{error}");
                return Ok(Some(Event::StartFailed));
            }
            Err(error) => return Err(error),
        };
        self.output = pump_child(&mut child, &self.service.lines.for_process());
        self.starts += 1;
        self.is_alive = false;
        self.groups.push(child.pid);
        self.child = Some(child);
        Ok(None)
    }

    fn deliver_held_signals(&mut self) {
        self.is_alive = true;
        if let Some(pid) = self.pid() {
            self.pending_signals.drain(..).for_each(|number| signal_group(pid, number));
        }
    }

    fn log_transition(&mut self, from: Lifecycle, to: Lifecycle, event: Event) {
        let (name, plan) = (self.service.name, self.plan);
        match (from.state, to.state) {
            (State::Running | State::Draining, State::Draining)
                if matches!(event, Event::StopRequested | Event::PolicyChanged) =>
            {
                info!(service = name, "draining for {}", seconds(plan.drain));
            }
            (State::Starting | State::Running | State::Draining, State::Stopping(signal, reason)) => {
                log_stop(name, signal, reason, &plan);
            }
            (State::Stopping(..), State::Killing(_)) if event == Event::TimerElapsed => {
                warn!(service = name, "did not stop within {}: killing it", seconds(plan.timeout));
            }
            (State::Stopping(..), State::Killing(_)) => warn!(service = name, "asked to stop again: killing it"),
            (State::Running, State::Running) if from.failures > to.failures => {
                info!(service = name, "{name} has run well for {}", seconds(plan.restart.reset_after));
            }
            (State::WaitingForGroup(_), State::KillingGroup(_)) => {
                warn!(service = name, "killing the processes it left behind");
            }
            (_, State::WaitingForGroup(after)) => self.log_exit(from, to.failures, after),
            _ => {}
        }
    }

    /// What follows the end of a process.
    fn log_exit(&mut self, from: Lifecycle, failures: u32, after: AfterExit) {
        let (name, plan, limit) = (self.service.name, self.plan, self.plan.restart.limit);
        match (from.state, after) {
            (State::Starting | State::Running, AfterExit::Restart) => {
                warn!(service = name, "{name} ended by itself; restart {failures} of at most {limit} in a row");
            }
            (_, AfterExit::End(Termination::Exited(_))) if from.failures > 0 && from.failures >= limit => {
                error!(service = name, "{name} has failed {} times in a row: giving up", from.failures + 1);
            }
            _ => {}
        }
        let was_sweeping = matches!(from.state, State::WaitingForGroup(_));
        if matches!(after, AfterExit::End(_)) && !was_sweeping && !self.groups_empty() {
            let limit = time_limit(&plan);
            info!(service = name, "waiting for the processes it left, {limit}");
        }
    }
}

fn log_stop(name: &str, signal: Option<i32>, reason: StopReason, plan: &ServicePolicy) {
    if reason == StopReason::Unresponsive {
        warn!(service = name, "{name} does not answer: it will be replaced");
    }
    match signal {
        Some(signal) => {
            let timeout = seconds(plan.timeout);
            info!(service = name, "stopping with {}, for at most {timeout}", signals::name(signal));
        }
        None => info!(service = name, "waiting for its end, {}", time_limit(plan)),
    }
}

fn time_limit(plan: &ServicePolicy) -> String {
    match plan.lets_runs_finish {
        true => "however long it takes".to_owned(),
        false => format!("for at most {}", seconds(plan.timeout)),
    }
}

/// Waits for the end of the process; forever while there is none.
async fn exited(child: &mut Option<Child>) -> Exit {
    match child {
        Some(child) => child.exited().await,
        None => std::future::pending().await,
    }
}

/// About as long, between four and six fifths.
fn with_jitter(span: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    span.mul_f64(0.8 + 0.4 * f64::from(random) / f64::from(u32::MAX))
}

fn seconds(span: Duration) -> String {
    format!("{:.3}", span.as_secs_f64()).trim_end_matches('0').trim_end_matches('.').to_owned() + " s"
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn jitter_stays_within_a_fifth(milliseconds in 0..1_000_000_000_u64) {
            let span = Duration::from_millis(milliseconds);
            let about = with_jitter(span);
            prop_assert!(span.mul_f64(0.799) <= about && about <= span.mul_f64(1.201));
        }
    }
}
