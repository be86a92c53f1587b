//! Log messages for the transitions of a service.

use std::time::Duration;

use tracing::{error, info, warn};

use super::state::{AfterExit, Lifecycle, ServiceEvent, ServicePolicy, ServiceState, StopReason};
use crate::process::signals;

/// A step in the life of a service.
pub(super) struct Transition {
    pub from: Lifecycle,
    pub to: Lifecycle,
    pub event: ServiceEvent,
}

impl Transition {
    /// Logs a step that is news.
    pub fn log(&self, name: &str, policy: &ServicePolicy) {
        match (self.from.state, self.to.state) {
            (ServiceState::Running | ServiceState::Draining, ServiceState::Draining)
                if matches!(self.event, ServiceEvent::StopRequested | ServiceEvent::PolicyChanged) =>
            {
                info!(service = name, "draining for {}", seconds(policy.drain));
            }
            (
                ServiceState::Starting | ServiceState::Running | ServiceState::Draining,
                ServiceState::Stopping(signal, reason),
            ) => {
                log_stop(name, signal, reason, policy);
            }
            (ServiceState::Stopping(..), ServiceState::Killing(_)) if self.event == ServiceEvent::TimerElapsed => {
                warn!(service = name, "{name} did not stop within {}; sending SIGKILL", seconds(policy.timeout));
            }
            (ServiceState::Stopping(..), ServiceState::Killing(_)) => {
                warn!(service = name, "{name} received a second stop request; sending SIGKILL")
            }
            (ServiceState::Running, ServiceState::Running) if self.from.failures > self.to.failures => {
                info!(
                    service = name,
                    "{name} ran for {}; resetting its restart count",
                    seconds(policy.restart.reset_after)
                );
            }
            (ServiceState::WaitingForGroup(_), ServiceState::KillingGroup(_)) => {
                warn!(service = name, "sending SIGKILL to leftover processes of {name}");
            }
            (_, ServiceState::WaitingForGroup(after)) => self.log_exit(name, policy, after),
            _ => {}
        }
    }

    /// Logs the consequence of an exit.
    fn log_exit(&self, name: &str, policy: &ServicePolicy, after: AfterExit) {
        match (self.from.state, after) {
            (ServiceState::Starting | ServiceState::Running, AfterExit::Restart) => {
                let (failures, limit) = (self.to.failures, policy.restart.limit);
                warn!(service = name, "{name} exited unexpectedly; restart {failures}/{limit}");
            }
            (_, AfterExit::End(_)) if self.gives_up(policy) => {
                error!(service = name, "{name} failed {} times in a row; giving up", self.from.failures + 1);
            }
            _ => {}
        }
    }

    /// Whether the process failed once more than it may be restarted.
    fn gives_up(&self, policy: &ServicePolicy) -> bool {
        let is_failure = matches!(self.event, ServiceEvent::Exited(exit) if self.from.is_failure(exit, policy));
        is_failure && self.from.failures > 0 && self.from.failures >= policy.restart.limit
    }

    /// Whether only leftover processes are left to wait for.
    pub fn begins_wait_for_leftovers(&self) -> bool {
        let was_waiting = matches!(self.from.state, ServiceState::WaitingForGroup(_));
        matches!(self.to.state, ServiceState::WaitingForGroup(AfterExit::End(_))) && !was_waiting
    }

    /// Logs that wait, with the names of the processes.
    pub fn log_wait(&self, name: &str, policy: &ServicePolicy, limit: Duration, processes: &str) {
        let (limit, runs) = (seconds(limit), if policy.lets_runs_finish { ", for runs without a limit," } else { "" });
        info!(service = name, "waiting up to {limit}{runs} for leftover processes of {name} to exit: {processes}");
    }
}

fn log_stop(name: &str, signal: Option<i32>, reason: StopReason, policy: &ServicePolicy) {
    match reason {
        StopReason::Unresponsive => warn!(service = name, "{name} is unresponsive; restarting it"),
        StopReason::Restart => info!(service = name, "restart of {name} requested"),
        StopReason::Shutdown => {}
    }
    match signal {
        Some(signal) => {
            let timeout = seconds(policy.timeout);
            info!(service = name, "stopping {name} with {}; timeout {timeout}", signals::name(signal));
        }
        None if policy.lets_runs_finish => info!(service = name, "waiting without a limit for {name} to exit"),
        None => info!(service = name, "waiting up to {} for {name} to exit", seconds(policy.timeout)),
    }
}

/// `1.5 s`.
pub(super) fn seconds(span: Duration) -> String {
    format!("{:.3}", span.as_secs_f64()).trim_end_matches('0').trim_end_matches('.').to_owned() + " s"
}

#[cfg(test)]
mod tests {
    use super::super::state::Termination;
    use super::super::state::tests::POLICY;
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn only_failure_at_restart_limit_gives_up() {
        let failures = POLICY.restart.limit;
        let gives_up = |state, exit| {
            let from = Lifecycle { state, failures };
            let to =
                Lifecycle { state: ServiceState::WaitingForGroup(AfterExit::End(Termination::Exited(exit))), failures };
            Transition { from, to, event: ServiceEvent::Exited(exit) }.gives_up(&POLICY)
        };
        let stopping = |reason| ServiceState::Stopping(Some(15), reason);
        assert!(gives_up(ServiceState::Running, Exit::Code(1)) && gives_up(ServiceState::Starting, Exit::Code(1)));
        assert!(gives_up(stopping(StopReason::Unresponsive), Exit::Code(0)));
        assert!(!gives_up(ServiceState::Running, Exit::Code(0)), "the policy restarts failures alone");
        assert!(!gives_up(ServiceState::Draining, Exit::Code(1)));
        assert!(!gives_up(stopping(StopReason::Shutdown), Exit::Code(1)));
        assert!(!gives_up(stopping(StopReason::Restart), Exit::Code(1)));
    }
}
