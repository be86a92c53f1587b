//! Runs one service: performs the actions of [`super::state`] and feeds it what happens.

use std::time::Duration;

use nix::libc::SIGKILL;
use nix::unistd::Pid;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::narrate::log_transition;
use super::output::spawn_output_pump;
use super::state::{Action, AfterExit, Event, Lifecycle, ServicePolicy, State, Termination};
use crate::exit::Exit;
use crate::process::child::{ProcessSpec, SpawnError, group_exists, signal_group, signal_process};
use crate::process::reaper::{Child, Reaper};
use crate::telemetry::child_output::{ServiceOutput, Stream};

/// How long the last lines of a service may take to arrive after its end: they are in a pipe already.
const OUTPUT_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// Whether its first sign of life will be told: signals that come before it are kept until then.
    pub has_liveness_probe: bool,
}

/// What a running service is told from outside.
pub enum ServiceCommand {
    /// Stop in order; once more: stop now.
    Stop,
    /// Stop in order, and let finish what has been started, since bots-ctl starts again. [`ServiceCommand::Stop`] sets the limits again.
    StopForReload,
    /// Pass this signal on. Between two processes it is kept for the next one, and until a process that is watched has
    /// given a sign of life: before, the default action of most signals would end it.
    Forward(i32),
    /// This process has given its first sign of life.
    MarkAlive(Pid),
    /// This process no longer answers and is to be replaced.
    MarkUnresponsive(Pid),
}

/// How a service fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceSnapshot {
    /// Where it is in its life.
    pub state: State,
    /// Its process, while there is one.
    pub pid: Option<Pid>,
    /// How often it was started again.
    pub restarts: u32,
    /// How its last process ended.
    pub last_exit: Option<Exit>,
    /// Whether it was asked to stop, in whatever state.
    pub was_asked: bool,
}

/// Supervises a service until nothing of it is left. `observe` is called at every change; `kept` are signals that came
/// before there was a process to pass them on to.
///
/// # Errors
/// When its program is not there or cannot be executed. Want of processes or memory is waited for.
pub async fn supervise(
    service: &SupervisedService,
    reaper: &Reaper,
    control: &mut mpsc::Receiver<ServiceCommand>,
    pending_signals: Vec<i32>,
    observe: impl FnMut(ServiceSnapshot),
) -> Result<Termination, SpawnError> {
    let mut driver = ServiceTask::new(service, reaper, pending_signals, observe);
    let (mut life, first) = Lifecycle::begin();
    let mut at_once = driver.perform(first)?;
    loop {
        driver.publish(life.state);
        let event = match at_once.take() {
            Some(event) => event,
            None => driver.next_event(life.state, control).await,
        };
        let (next, actions) = life.step(event, &driver.plan);
        driver.log_transition(life, next, event);
        for action in actions {
            at_once = driver.perform(action)?.or(at_once);
        }
        if event == Event::BecameAlive {
            driver.deliver_held_signals();
        }
        life = next;
        if let State::Ended(end) = life.state {
            driver.publish(life.state);
            driver.drain_output().await;
            return Ok(end);
        }
    }
}

struct ServiceTask<'a, F> {
    service: &'a SupervisedService,
    /// Its policy, or that for a reload.
    plan: ServicePolicy,
    reaper: &'a Reaper,
    observe: F,
    reaped: watch::Receiver<u64>,
    child: Option<Child>,
    /// Groups of this and of earlier processes that may still have members.
    groups: Vec<Pid>,
    output: Vec<JoinHandle<()>>,
    timer: Option<Instant>,
    /// Signals that came while there was no process to tell.
    pending_signals: Vec<i32>,
    /// Whether the present process has given its first sign of life.
    is_alive: bool,
    starts: u32,
    last_exit: Option<Exit>,
    was_asked: bool,
}

impl<'a, F: FnMut(ServiceSnapshot)> ServiceTask<'a, F> {
    fn new(service: &'a SupervisedService, reaper: &'a Reaper, pending_signals: Vec<i32>, observe: F) -> Self {
        Self {
            service,
            plan: service.plan,
            reaper,
            observe,
            reaped: reaper.reaped(),
            child: None,
            groups: Vec::new(),
            output: Vec::new(),
            timer: None,
            pending_signals,
            is_alive: false,
            starts: 0,
            last_exit: None,
            was_asked: false,
        }
    }

    fn publish(&mut self, state: State) {
        let pid = self.child.as_ref().map(|child| child.pid);
        let restarts = self.starts.saturating_sub(1);
        let (last_exit, was_asked) = (self.last_exit, self.was_asked);
        (self.observe)(ServiceSnapshot { state, pid, restarts, last_exit, was_asked });
    }

    async fn next_event(&mut self, state: State, control: &mut mpsc::Receiver<ServiceCommand>) -> Event {
        let sweeping = matches!(state, State::WaitingForGroup(_) | State::KillingGroup(_));
        loop {
            // A reaped process is a reason to look at the groups, not yet a proof that they are empty.
            if sweeping && self.groups_empty() {
                return Event::GroupEmpty;
            }
            let timer = self.timer;
            let event = tokio::select! {
                exit = exited(&mut self.child) => Some(self.on_exit(exit)),
                command = control.recv() => self.on_command(command),
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

    fn log_transition(&mut self, from: Lifecycle, to: Lifecycle, event: Event) {
        let plan = self.plan;
        log_transition(self.service.name, from, to, event, &plan);
        let was_sweeping = matches!(from.state, State::WaitingForGroup(_));
        if matches!(to.state, State::WaitingForGroup(AfterExit::End(_))) && !was_sweeping && !self.groups_empty() {
            let limit = seconds(plan.timeout);
            let limit = if plan.lets_runs_finish { "however long it takes" } else { &format!("for at most {limit}") };
            info!(service = self.service.name, "waiting for the processes it left, {limit}");
        }
    }

    fn on_exit(&mut self, exit: Exit) -> Event {
        let pid = self.child.take().map_or(0, |child| child.pid.as_raw());
        info!(service = self.service.name, pid, "{} ended: {exit}", self.service.name);
        self.last_exit = Some(exit);
        Event::Exited(exit)
    }

    fn on_command(&mut self, command: Option<ServiceCommand>) -> Option<Event> {
        let current = self.child.as_ref().map(|child| child.pid);
        match command {
            Some(ServiceCommand::StopForReload) => {
                self.was_asked = true;
                self.plan = self.service.plan.for_reload();
                Some(Event::StopRequested)
            }
            Some(ServiceCommand::Stop) | None => {
                self.was_asked = true;
                let before = std::mem::replace(&mut self.plan, self.service.plan);
                Some(if before == self.plan { Event::StopRequested } else { Event::PolicyChanged })
            }
            Some(ServiceCommand::Forward(number)) => {
                match current {
                    Some(pid) if self.is_alive || !self.service.has_liveness_probe => signal_group(pid, number),
                    _ => self.pending_signals.push(number),
                }
                None
            }
            Some(ServiceCommand::MarkAlive(pid)) => (current == Some(pid)).then_some(Event::BecameAlive),
            Some(ServiceCommand::MarkUnresponsive(pid)) => (current == Some(pid)).then_some(Event::Unresponsive),
        }
    }

    fn groups_empty(&mut self) -> bool {
        self.groups.retain(|group| group_exists(*group));
        self.groups.is_empty()
    }

    /// Does it; the answer is an event that follows at once.
    fn perform(&mut self, action: Action) -> Result<Option<Event>, SpawnError> {
        let pid = self.child.as_ref().map(|child| child.pid);
        match action {
            Action::Start => return self.start(),
            // Who watches learns it from the state.
            Action::MarkUnready => {}
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
        let streams = [(child.stdout.take(), Stream::Stdout), (child.stderr.take(), Stream::Stderr)];
        let lines = self.service.lines.for_process();
        let carried =
            streams.into_iter().filter_map(|(fd, stream)| Some(spawn_output_pump(fd?, stream, lines.clone())));
        self.output = carried.collect();
        self.starts += 1;
        self.is_alive = false;
        self.groups.push(child.pid);
        self.child = Some(child);
        Ok(None)
    }

    fn deliver_held_signals(&mut self) {
        self.is_alive = true;
        if let Some(child) = &self.child {
            self.pending_signals.drain(..).for_each(|number| signal_group(child.pid, number));
        }
    }

    async fn drain_output(&mut self) {
        for task in self.output.drain(..) {
            let _ = timeout(OUTPUT_DRAIN_TIMEOUT, task).await;
        }
    }
}

/// Waits for the end of the process; for ever while there is none.
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

pub(super) fn seconds(span: Duration) -> String {
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
