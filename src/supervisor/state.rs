//! The life cycle of one service as a pure function: no clock, no process, no runtime.
//!
//! ```text
//!            .-------------------- restart, after a pause --------------------.
//!            v                                                                |
//! (start) Starting --answered--> Running --> Draining --> Stopping --> Killing|
//!            |                      |     stop   |   timer    |   timer    |  |
//!            '-------exited---------'------------'------------'------------'->Sweeping --group empty--> Paused | Ended
//! ```
//! A service that has not answered yet has nothing to drain and nothing to finish: it is stopped by SIGTERM at once.
//! Sweeping waits for what the service started and left behind, an engine for example. Before an end it is asked to end, and
//! killed at the deadline (Clearing); before a restart it is left to finish beside the next process. What even SIGKILL does not
//! end, a zombie that its own parent keeps for instance, is not waited for. Stopping and Sweeping share one deadline.
//!
//! A policy may let runs finish: then what the service has started, and a service that is only waited for, is never killed.

use std::time::Duration;

use State::{Backoff, Draining, Ended, Killing, KillingGroup, Running, Starting, Stopping, WaitingForGroup};

use crate::exit::Exit;
use crate::model::{self, RestartPolicy, RestartRules};

/// How a service is to be kept running, and to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServicePolicy {
    /// How long it stays up, no longer ready.
    pub drain: Duration,
    /// The same before bots-ctl is started again with another configuration.
    pub reload_drain: Duration,
    /// How long it and its leftovers may take together after the stop signal.
    pub timeout: Duration,
    /// Number of the signal that asks it to stop; without one it is only waited for.
    pub stop_signal: Option<i32>,
    /// How long what a process has left behind may delay the start of the next one.
    pub leftover_timeout: Duration,
    /// When it is started again.
    pub restart: RestartRules,
    /// Whether what it has started may take as long as it likes when it stops, and so may a service without a stop signal.
    pub lets_runs_finish: bool,
}

impl ServicePolicy {
    /// How it is stopped before bots-ctl is started again with another configuration.
    #[must_use]
    pub fn for_reload(self) -> Self {
        Self { drain: self.reload_drain, lets_runs_finish: true, ..self }
    }
}

/// How a service ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Termination {
    /// By itself.
    Exited(Exit),
    /// It could not be started for want of processes or memory.
    NotStarted,
    /// In order, after being asked to.
    Stopped,
    /// At the deadline, or because a second request to stop did not want to wait.
    Killed,
}

/// What comes after a process of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterExit {
    /// Another one, after a pause.
    Restart,
    /// Nothing.
    End(Termination),
}

/// What a process is stopped for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The service is to end.
    Shutdown,
    /// It does not answer, and another process is to take its place.
    Unresponsive,
}

/// Where a service is in its life. What exists only in a state lives in its variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// It was started and has given no sign of life yet.
    #[default]
    Starting,
    /// It runs.
    Running,
    /// It runs, is no longer ready, and will be asked to stop.
    Draining,
    /// It was sent this signal to stop, if there is one.
    Stopping(Option<i32>, StopReason),
    /// It was sent SIGKILL.
    Killing(StopReason),
    /// It is gone; its group may not be.
    WaitingForGroup(AfterExit),
    /// It is gone; what was left of its group was sent SIGKILL.
    KillingGroup(Termination),
    /// Nothing runs; it will be started again.
    Backoff,
    /// Nothing is left.
    Ended(Termination),
}

/// A state, and how many times in a row the service has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifecycle {
    /// Where it is.
    pub state: State,
    /// Failures since it last ran well.
    pub failures: u32,
}

/// An event in the life of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It has given its first sign of life.
    BecameAlive,
    /// It no longer answers, and is to be replaced.
    Unresponsive,
    /// A stop was asked for; a further one means "now".
    StopRequested,
    /// While it is being stopped, the policy has become another one, whose limits begin now.
    PolicyChanged,
    /// The timer that was started last has run out.
    TimerElapsed,
    /// The service's own process has ended.
    Exited(Exit),
    /// There was no room for another process.
    StartFailed,
    /// What an earlier process has left behind still holds the port.
    PortTaken,
    /// No process of the group is left.
    GroupEmpty,
}

/// A task of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a process. If that is not possible, [`Event::StartFailed`] or [`Event::PortTaken`] is the next event.
    Start,
    /// Send the service's own process this signal. Not its group: SIGINT would make an engine that the web UI has
    /// started lose the files it has taken.
    Signal(i32),
    /// Ask what the service has left behind to end.
    TerminateLeftovers,
    /// Kill the service's own process; what it has started goes on.
    KillProcess,
    /// Kill the whole group.
    KillGroup,
    /// Start the timer; it replaces an earlier one.
    StartTimer(Duration),
    /// Start the timer with what is left of the time for the whole stop, which begins with the first of these actions.
    StartStopTimer,
    /// Begin that time again.
    RestartStopTimer,
    /// Start the timer with about this span, so that services which failed together do not come back together.
    StartBackoff(Duration),
}

const SIGTERM: i32 = 15;
const SIGCONT: i32 = 18;

/// How long the kernel may take to end what was sent SIGKILL.
const GROUP_KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a port is tried that an earlier process still holds.
const PORT_RETRY_INTERVAL: Duration = Duration::from_millis(200);

impl Lifecycle {
    /// The beginning, with its first action.
    #[must_use]
    pub fn begin() -> (Self, Action) {
        (Self { state: Starting, failures: 0 }, Action::Start)
    }

    /// The next state, and what to do to get there. An event that is not for a state, such as a late timer, changes nothing.
    #[must_use]
    pub fn step(self, event: Event, plan: &ServicePolicy) -> (Self, Vec<Action>) {
        match (self.state, event) {
            (Starting, Event::BecameAlive) => {
                self.transition(Running, vec![Action::StartTimer(plan.restart.reset_after)])
            }
            (Starting, Event::Unresponsive) => {
                self.stop(plan.stop_signal.map(|_| SIGTERM), StopReason::Unresponsive, plan)
            }
            (Running, Event::Unresponsive) => self.stop(plan.stop_signal, StopReason::Unresponsive, plan),
            (_, Event::StopRequested) => self.stop_requested(plan),
            (Draining, Event::PolicyChanged) => self.transition(Draining, vec![Action::StartTimer(plan.drain)]),
            (Stopping(_, StopReason::Shutdown), Event::PolicyChanged) => {
                self.transition(self.state, vec![Action::RestartStopTimer])
            }
            (WaitingForGroup(AfterExit::End(_)), Event::PolicyChanged) => {
                self.transition(self.state, vec![Action::TerminateLeftovers, Action::RestartStopTimer])
            }
            (_, Event::TimerElapsed) => self.timer_elapsed(plan),
            (_, Event::Exited(exit)) => self.exited(exit, plan),
            (Starting, Event::StartFailed) if self.failures >= plan.restart.limit => {
                self.wait_for_group(Termination::NotStarted, plan)
            }
            (Starting, Event::PortTaken) => self.transition(Backoff, vec![Action::StartTimer(PORT_RETRY_INTERVAL)]),
            (Starting, Event::StartFailed) => Self { failures: self.failures + 1, ..self }.pause(plan),
            (WaitingForGroup(AfterExit::End(end)) | KillingGroup(end), Event::GroupEmpty) => {
                self.transition(Ended(end), Vec::new())
            }
            (WaitingForGroup(AfterExit::Restart), Event::GroupEmpty) => self.pause(plan),
            _ => self.ignore(),
        }
    }

    fn transition(self, state: State, actions: Vec<Action>) -> (Self, Vec<Action>) {
        (Self { state, ..self }, actions)
    }

    fn ignore(self) -> (Self, Vec<Action>) {
        (self, Vec::new())
    }

    fn stop_requested(self, plan: &ServicePolicy) -> (Self, Vec<Action>) {
        match self.state {
            Starting => self.stop(plan.stop_signal.map(|_| SIGTERM), StopReason::Shutdown, plan),
            Running if plan.drain.is_zero() => self.stop(plan.stop_signal, StopReason::Shutdown, plan),
            Running => self.transition(Draining, vec![Action::StartTimer(plan.drain)]),
            Draining => self.stop(plan.stop_signal, StopReason::Shutdown, plan),
            // It has been asked already; from now on its end is the end.
            Stopping(signal, StopReason::Unresponsive) => {
                self.transition(Stopping(signal, StopReason::Shutdown), vec![Action::StartStopTimer])
            }
            Stopping(_, StopReason::Shutdown) => {
                self.transition(Killing(StopReason::Shutdown), vec![Action::KillGroup])
            }
            Killing(_) => self.transition(Killing(StopReason::Shutdown), Vec::new()),
            WaitingForGroup(AfterExit::Restart) | Backoff => self.wait_for_group(Termination::Stopped, plan),
            WaitingForGroup(AfterExit::End(end)) => self.kill_group(end),
            KillingGroup(_) | Ended(_) => self.ignore(),
        }
    }

    fn stop(self, signal: Option<i32>, goal: StopReason, plan: &ServicePolicy) -> (Self, Vec<Action>) {
        let signal_action = signal.map(Action::Signal).into_iter();
        let actions = match goal {
            // A process that is stopped acts on nothing but SIGKILL until it is continued.
            StopReason::Shutdown => signal_action.chain([Action::Signal(SIGCONT), Action::StartStopTimer]).collect(),
            StopReason::Unresponsive => signal_action.chain([Action::StartTimer(plan.timeout)]).collect(),
        };
        self.transition(Stopping(signal, goal), actions)
    }

    /// A timer that runs out in another state than the one that started it is late, which is normal.
    fn timer_elapsed(self, plan: &ServicePolicy) -> (Self, Vec<Action>) {
        match self.state {
            Running => (Self { failures: 0, ..self }, Vec::new()),
            Draining => self.stop(plan.stop_signal, StopReason::Shutdown, plan),
            Stopping(None, StopReason::Shutdown) if plan.lets_runs_finish => self.ignore(),
            Stopping(_, StopReason::Shutdown) if !plan.lets_runs_finish => {
                self.transition(Killing(StopReason::Shutdown), vec![Action::KillGroup])
            }
            Stopping(_, goal) => self.transition(Killing(goal), vec![Action::KillProcess]),
            WaitingForGroup(AfterExit::End(_)) if plan.lets_runs_finish => self.ignore(),
            WaitingForGroup(AfterExit::End(end)) => self.kill_group(end),
            WaitingForGroup(AfterExit::Restart) => self.pause(plan),
            KillingGroup(end) => self.transition(Ended(end), Vec::new()),
            Backoff => self.transition(Starting, vec![Action::Start]),
            Starting | Killing(_) | Ended(_) => self.ignore(),
        }
    }

    fn kill_group(self, end: Termination) -> (Self, Vec<Action>) {
        self.transition(KillingGroup(end), vec![Action::KillGroup, Action::StartTimer(GROUP_KILL_TIMEOUT)])
    }

    fn exited(self, exit: Exit, plan: &ServicePolicy) -> (Self, Vec<Action>) {
        match self.state {
            Starting | Running | Stopping(_, StopReason::Unresponsive) | Killing(StopReason::Unresponsive) => {
                self.failed(exit, plan)
            }
            Draining => self.wait_for_group(Termination::Exited(exit), plan),
            Stopping(signal, StopReason::Shutdown) if is_clean_exit(exit, signal) => {
                self.wait_for_group(Termination::Stopped, plan)
            }
            Stopping(_, StopReason::Shutdown) => self.wait_for_group(Termination::Exited(exit), plan),
            Killing(StopReason::Shutdown) if plan.lets_runs_finish => self.wait_for_group(Termination::Killed, plan),
            Killing(StopReason::Shutdown) => self.kill_group(Termination::Killed),
            WaitingForGroup(_) | KillingGroup(_) | Backoff | Ended(_) => self.ignore(),
        }
    }

    /// It has ended without being asked to end.
    fn failed(self, exit: Exit, plan: &ServicePolicy) -> (Self, Vec<Action>) {
        let replaced = matches!(self.state, Stopping(..) | Killing(_));
        let wanted = match plan.restart.policy {
            RestartPolicy::Never => replaced,
            RestartPolicy::OnFailure => replaced || exit != Exit::Code(0),
            RestartPolicy::Always => true,
        };
        if !wanted || self.failures >= plan.restart.limit {
            return self.wait_for_group(Termination::Exited(exit), plan);
        }
        let failed = Self { failures: self.failures + 1, ..self };
        failed.transition(WaitingForGroup(AfterExit::Restart), vec![Action::StartTimer(plan.leftover_timeout)])
    }

    fn wait_for_group(self, end: Termination, plan: &ServicePolicy) -> (Self, Vec<Action>) {
        let leftovers = (!plan.lets_runs_finish).then_some(Action::TerminateLeftovers);
        let actions = leftovers.into_iter().chain([Action::StartStopTimer]).collect();
        self.transition(WaitingForGroup(AfterExit::End(end)), actions)
    }

    fn pause(self, plan: &ServicePolicy) -> (Self, Vec<Action>) {
        self.transition(Backoff, vec![Action::StartBackoff(plan.restart.pause(self.failures))])
    }
}

impl RestartRules {
    /// The pause after so many failures in a row.
    fn pause(&self, failures: u32) -> Duration {
        model::Backoff { initial: self.initial_delay, max: self.max_delay }.pause(failures)
    }
}

/// A service that ends by the very signal it was sent has done what it was asked; so has one that says so in a
/// shell's way (128 + n). Any other code is news and is passed on.
fn is_clean_exit(exit: Exit, sent: Option<i32>) -> bool {
    match exit {
        Exit::Code(code) => code == 0 || sent.is_some_and(|sent| i32::from(code) == 128 + sent),
        Exit::Signal(signal) => sent == Some(signal),
    }
}

#[cfg(test)]
mod tests;
