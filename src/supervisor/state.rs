//! The life cycle of one service as a pure function: start, drain, stop, and restart after a backoff.
//!
//! It has no clock, process or runtime.
//!
//! ```text
//!            .------------------------ restart after Backoff -------------------------.
//!            v                                                                        |
//! (start) Starting --answered--> Running --> Draining --> Stopping --> Killing        |
//!            |                      |     stop   |   timer    |   timer    |          |
//!            '-------exited---------'------------'------------'------------'-> WaitingForGroup --group empty--> Ended
//! ```
//! A service that has not responded yet has no requests to drain or finish: it is stopped by SIGTERM at once.
//! `WaitingForGroup` waits for leftover processes, such as an engine. Before an end they get SIGTERM, and SIGKILL at the deadline
//! (`KillingGroup`); before a restart they keep running next to the new process. Processes that survive SIGKILL, such as a zombie
//! that its own parent does not reap, are not waited for. `Stopping` and `WaitingForGroup` share one deadline.
//!
//! A policy may let runs finish: then a service without a stop signal is never killed, nor are leftover processes of the program
//! that the driver spares, and those below them. Other leftover processes have the stop timeout.

use std::time::Duration;

use ServiceState::{Backoff, Draining, Ended, Killing, KillingGroup, Running, Starting, Stopping, WaitingForGroup};

use crate::exit::Exit;
use crate::model::{self, RestartPolicy, RestartRules};

/// How a service is restarted and stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServicePolicy {
    /// Time between reporting not ready and the stop signal.
    pub drain: Duration,
    /// The same in a reload.
    pub reload_drain: Duration,
    /// Time limit for the service and its leftover processes after the stop signal.
    pub timeout: Duration,
    /// Number of the stop signal; `None` for a service that finishes its run.
    pub stop_signal: Option<i32>,
    /// Maximum delay of the next start by leftover processes.
    pub leftover_timeout: Duration,
    /// When it is started again.
    pub restart: RestartRules,
    /// Whether runs, and a service without a stop signal, have no time limit in a stop.
    pub lets_runs_finish: bool,
}

impl ServicePolicy {
    /// The stop policy before bots-ctl executes itself with another configuration.
    #[must_use]
    pub fn for_reload(self) -> Self {
        Self { drain: self.reload_drain, lets_runs_finish: true, ..self }
    }
}

/// How a service ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Termination {
    /// Without a request.
    Exited(Exit),
    /// It could not be started: processes or memory are exhausted, or its program cannot be run.
    NotStarted,
    /// In order, after being asked to.
    Stopped,
    /// At the deadline, or after a second stop request.
    Killed,
}

/// The next step after a process of the service has exited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterExit {
    /// Another one, after a pause.
    Restart,
    /// Nothing.
    End(Termination),
}

/// The reason for stopping a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The service is to end.
    Shutdown,
    /// It does not respond, and is restarted.
    Unresponsive,
    /// It is restarted at the request of a user.
    Restart,
}

/// The state of a service. Data that exists only in one state is in its variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServiceState {
    /// The process was started and has not responded yet.
    #[default]
    Starting,
    /// The process runs.
    Running,
    /// The process runs, is no longer ready, and will be stopped.
    Draining,
    /// The process was sent this stop signal, if there is one.
    Stopping(Option<i32>, StopReason),
    /// It was sent SIGKILL.
    Killing(StopReason),
    /// The process has exited; processes of its group may be left.
    WaitingForGroup(AfterExit),
    /// The process has exited; SIGKILL was sent to its group.
    KillingGroup(Termination),
    /// No process is left; the next one starts after the backoff.
    Backoff,
    /// No process is left, and none will be started.
    Ended(Termination),
}

/// A state, and how many times in a row the service has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifecycle {
    /// Where it is.
    pub state: ServiceState,
    /// Failures since it last ran well.
    pub failures: u32,
}

/// An event in the life of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceEvent {
    /// The service has responded for the first time.
    BecameAlive,
    /// The service no longer responds, and has to be restarted.
    Unresponsive,
    /// A user has asked for a restart.
    RestartRequested,
    /// A stop was requested; a second request means "now".
    StopRequested,
    /// The stop policy has changed during a stop; the new limits count from now.
    PolicyChanged,
    /// The last timer has elapsed.
    TimerElapsed,
    /// The service's own process has ended.
    Exited(Exit),
    /// The process could not be started: a resource limit is reached.
    StartFailed,
    /// The program is missing or cannot be executed.
    CannotStart,
    /// A leftover process still uses the port.
    PortTaken,
    /// No process of the group is left.
    GroupEmpty,
}

/// A task of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceAction {
    /// Start a process. If that is not possible, the next event is [`ServiceEvent::StartFailed`],
    /// [`ServiceEvent::CannotStart`] or [`ServiceEvent::PortTaken`].
    Start,
    /// Send the service's own process this signal. Not its group: SIGINT would make an engine that the web UI has
    /// started lose the files it has taken.
    Signal(i32),
    /// Send SIGTERM to leftover processes of the service.
    TerminateLeftovers,
    /// Kill only the service's own process; its descendants continue.
    KillProcess,
    /// Kill the whole group.
    KillGroup,
    /// Kill leftover processes of the service that are no runs.
    KillLeftovers,
    /// Start the timer; it replaces an earlier one.
    StartTimer(Duration),
    /// Start the timer for the rest of the stop timeout, which begins with the first of these actions.
    StartStopTimer,
    /// Begin that time again.
    RestartStopTimer,
    /// Start the timer with about this duration, with jitter, so that services which failed together do not restart together.
    StartBackoff(Duration),
}

const SIGTERM: i32 = 15;
const SIGCONT: i32 = 18;

/// Maximum time for the kernel to end processes after SIGKILL.
const GROUP_KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval of retries for a port that an earlier process still uses.
const PORT_RETRY_INTERVAL: Duration = Duration::from_millis(200);

impl Lifecycle {
    /// The beginning, with its first action.
    #[must_use]
    pub fn begin() -> (Self, ServiceAction) {
        (Self { state: Starting, failures: 0 }, ServiceAction::Start)
    }

    /// The next state, and the actions to get there. An event that does not apply to a state, such as a late timer, has
    /// no effect.
    #[must_use]
    pub fn step(self, event: ServiceEvent, policy: &ServicePolicy) -> (Self, Vec<ServiceAction>) {
        match (self.state, event) {
            (Starting, ServiceEvent::BecameAlive) => {
                self.transition(Running, vec![ServiceAction::StartTimer(policy.restart.reset_after)])
            }
            (Starting, ServiceEvent::Unresponsive) => {
                self.stop(policy.stop_signal.map(|_| SIGTERM), StopReason::Unresponsive, policy)
            }
            (Running, ServiceEvent::Unresponsive) => self.stop(policy.stop_signal, StopReason::Unresponsive, policy),
            (Starting, ServiceEvent::RestartRequested) => {
                self.stop(policy.stop_signal.map(|_| SIGTERM), StopReason::Restart, policy)
            }
            (Running, ServiceEvent::RestartRequested) => self.stop(policy.stop_signal, StopReason::Restart, policy),
            (Backoff, ServiceEvent::RestartRequested) => self.transition(Starting, vec![ServiceAction::Start]),
            (_, ServiceEvent::StopRequested) => self.stop_requested(policy),
            (Draining, ServiceEvent::PolicyChanged) => {
                self.transition(Draining, vec![ServiceAction::StartTimer(policy.drain)])
            }
            (Stopping(_, StopReason::Shutdown), ServiceEvent::PolicyChanged) => {
                self.transition(self.state, vec![ServiceAction::RestartStopTimer])
            }
            (WaitingForGroup(AfterExit::End(_)), ServiceEvent::PolicyChanged) => {
                self.transition(self.state, vec![ServiceAction::TerminateLeftovers, ServiceAction::RestartStopTimer])
            }
            (_, ServiceEvent::TimerElapsed) => self.timer_elapsed(policy),
            (_, ServiceEvent::Exited(exit)) => self.exited(exit, policy),
            (Starting, ServiceEvent::StartFailed) if self.failures >= policy.restart.limit => {
                self.wait_for_group(Termination::NotStarted)
            }
            (Starting, ServiceEvent::CannotStart) => self.wait_for_group(Termination::NotStarted),
            (Starting, ServiceEvent::PortTaken) => {
                self.transition(Backoff, vec![ServiceAction::StartTimer(PORT_RETRY_INTERVAL)])
            }
            (Starting, ServiceEvent::StartFailed) => Self { failures: self.failures + 1, ..self }.pause(policy),
            (WaitingForGroup(AfterExit::End(end)) | KillingGroup(end), ServiceEvent::GroupEmpty) => {
                self.transition(Ended(end), Vec::new())
            }
            (WaitingForGroup(AfterExit::Restart), ServiceEvent::GroupEmpty) => self.pause(policy),
            _ => self.ignore(),
        }
    }

    fn transition(self, state: ServiceState, actions: Vec<ServiceAction>) -> (Self, Vec<ServiceAction>) {
        (Self { state, ..self }, actions)
    }

    fn ignore(self) -> (Self, Vec<ServiceAction>) {
        (self, Vec::new())
    }

    fn stop_requested(self, policy: &ServicePolicy) -> (Self, Vec<ServiceAction>) {
        match self.state {
            Starting => self.stop(policy.stop_signal.map(|_| SIGTERM), StopReason::Shutdown, policy),
            Running if policy.drain.is_zero() => self.stop(policy.stop_signal, StopReason::Shutdown, policy),
            Running => self.transition(Draining, vec![ServiceAction::StartTimer(policy.drain)]),
            Draining => self.stop(policy.stop_signal, StopReason::Shutdown, policy),
            // The stop signal was sent already; the next exit is final.
            Stopping(signal, StopReason::Unresponsive | StopReason::Restart) => {
                self.transition(Stopping(signal, StopReason::Shutdown), vec![ServiceAction::StartStopTimer])
            }
            Stopping(_, StopReason::Shutdown) => {
                self.transition(Killing(StopReason::Shutdown), vec![ServiceAction::KillGroup])
            }
            Killing(_) => self.transition(Killing(StopReason::Shutdown), Vec::new()),
            WaitingForGroup(AfterExit::Restart) | Backoff => self.wait_for_group(Termination::Stopped),
            WaitingForGroup(AfterExit::End(end)) => self.kill_group(end),
            KillingGroup(_) | Ended(_) => self.ignore(),
        }
    }

    fn stop(self, signal: Option<i32>, reason: StopReason, policy: &ServicePolicy) -> (Self, Vec<ServiceAction>) {
        let timer = match reason {
            StopReason::Shutdown => ServiceAction::StartStopTimer,
            StopReason::Unresponsive | StopReason::Restart => ServiceAction::StartTimer(policy.timeout),
        };
        // A stopped process (SIGSTOP) handles only SIGKILL until it is continued.
        let actions =
            signal.map(ServiceAction::Signal).into_iter().chain([ServiceAction::Signal(SIGCONT), timer]).collect();
        self.transition(Stopping(signal, reason), actions)
    }

    /// A timer that elapses in another state than the one that started it is late, which is normal.
    fn timer_elapsed(self, policy: &ServicePolicy) -> (Self, Vec<ServiceAction>) {
        match self.state {
            Running => (Self { failures: 0, ..self }, Vec::new()),
            Draining => self.stop(policy.stop_signal, StopReason::Shutdown, policy),
            Stopping(None, StopReason::Shutdown) if policy.lets_runs_finish => self.ignore(),
            Stopping(_, StopReason::Shutdown) if !policy.lets_runs_finish => {
                self.transition(Killing(StopReason::Shutdown), vec![ServiceAction::KillGroup])
            }
            Stopping(_, reason) => self.transition(Killing(reason), vec![ServiceAction::KillProcess]),
            // The next timer is for processes that were being forked.
            WaitingForGroup(AfterExit::End(_)) if policy.lets_runs_finish => self.transition(
                self.state,
                vec![ServiceAction::KillLeftovers, ServiceAction::StartTimer(GROUP_KILL_TIMEOUT)],
            ),
            WaitingForGroup(AfterExit::End(end)) => self.kill_group(end),
            WaitingForGroup(AfterExit::Restart) => self.pause(policy),
            KillingGroup(end) => self.transition(Ended(end), Vec::new()),
            Backoff => self.transition(Starting, vec![ServiceAction::Start]),
            Starting | Killing(_) | Ended(_) => self.ignore(),
        }
    }

    fn kill_group(self, end: Termination) -> (Self, Vec<ServiceAction>) {
        self.transition(
            KillingGroup(end),
            vec![ServiceAction::KillGroup, ServiceAction::StartTimer(GROUP_KILL_TIMEOUT)],
        )
    }

    fn exited(self, exit: Exit, policy: &ServicePolicy) -> (Self, Vec<ServiceAction>) {
        match self.state {
            Starting | Running | Stopping(_, StopReason::Unresponsive) | Killing(StopReason::Unresponsive) => {
                self.failed(exit, policy)
            }
            Stopping(_, StopReason::Restart) | Killing(StopReason::Restart) => {
                Self { failures: 0, ..self }.replace(policy)
            }
            Draining => self.wait_for_group(Termination::Exited(exit)),
            Stopping(signal, StopReason::Shutdown) if is_clean_exit(exit, signal) => {
                self.wait_for_group(Termination::Stopped)
            }
            Stopping(_, StopReason::Shutdown) => self.wait_for_group(Termination::Exited(exit)),
            Killing(StopReason::Shutdown) if policy.lets_runs_finish => self.wait_for_group(Termination::Killed),
            Killing(StopReason::Shutdown) => self.kill_group(Termination::Killed),
            WaitingForGroup(_) | KillingGroup(_) | Backoff | Ended(_) => self.ignore(),
        }
    }

    /// It has ended without being asked to end.
    fn failed(self, exit: Exit, policy: &ServicePolicy) -> (Self, Vec<ServiceAction>) {
        if !self.is_failure(exit, policy) || self.failures >= policy.restart.limit {
            return self.wait_for_group(Termination::Exited(exit));
        }
        Self { failures: self.failures + 1, ..self }.replace(policy)
    }

    /// Whether this exit in this state is a failure, after which the policy requires another process.
    pub(super) fn is_failure(self, exit: Exit, policy: &ServicePolicy) -> bool {
        match (self.state, policy.restart.policy) {
            (Stopping(_, StopReason::Unresponsive) | Killing(StopReason::Unresponsive), _) => true,
            (Starting | Running, RestartPolicy::OnFailure) => exit != Exit::Code(0),
            (Starting | Running, RestartPolicy::Always) => true,
            _ => false,
        }
    }

    fn replace(self, policy: &ServicePolicy) -> (Self, Vec<ServiceAction>) {
        self.transition(WaitingForGroup(AfterExit::Restart), vec![ServiceAction::StartTimer(policy.leftover_timeout)])
    }

    fn wait_for_group(self, end: Termination) -> (Self, Vec<ServiceAction>) {
        let actions = vec![ServiceAction::TerminateLeftovers, ServiceAction::StartStopTimer];
        self.transition(WaitingForGroup(AfterExit::End(end)), actions)
    }

    /// The delay before the next start; a requested restart is not a failure, and has none.
    fn pause(self, policy: &ServicePolicy) -> (Self, Vec<ServiceAction>) {
        if self.failures == 0 {
            return self.transition(Starting, vec![ServiceAction::Start]);
        }
        self.transition(Backoff, vec![ServiceAction::StartBackoff(policy.restart.pause(self.failures))])
    }
}

impl RestartRules {
    /// The backoff after this number of consecutive failures.
    fn pause(&self, failures: u32) -> Duration {
        model::Backoff { initial: self.initial_delay, max: self.max_delay }.pause(failures)
    }
}

/// A service that is terminated by the signal it was sent has stopped in order; so has one that exits with 128 + n, as
/// a shell does. Any other code is preserved.
fn is_clean_exit(exit: Exit, sent: Option<i32>) -> bool {
    match exit {
        Exit::Code(code) => code == 0 || sent.is_some_and(|sent| i32::from(code) == 128 + sent),
        Exit::Signal(signal) => sent == Some(signal),
    }
}

#[cfg(test)]
pub(super) mod tests;
