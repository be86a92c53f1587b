//! Log messages for the transitions of a service.

use std::time::Duration;

use tracing::{error, info, warn};

use super::state::{AfterExit, Event, Lifecycle, ServicePolicy, State, StopReason, Termination};
use crate::process::signals;

/// A step in the life of a service.
pub(super) struct Transition {
    pub from: Lifecycle,
    pub to: Lifecycle,
    pub event: Event,
}

impl Transition {
    /// Logs a step that is news.
    pub fn log(&self, name: &str, plan: &ServicePolicy) {
        match (self.from.state, self.to.state) {
            (State::Running | State::Draining, State::Draining)
                if matches!(self.event, Event::StopRequested | Event::PolicyChanged) =>
            {
                info!(service = name, "draining for {}", seconds(plan.drain));
            }
            (State::Starting | State::Running | State::Draining, State::Stopping(signal, reason)) => {
                log_stop(name, signal, reason, plan);
            }
            (State::Stopping(..), State::Killing(_)) if self.event == Event::TimerElapsed => {
                warn!(service = name, "{name} did not stop within {}; sending SIGKILL", seconds(plan.timeout));
            }
            (State::Stopping(..), State::Killing(_)) => {
                warn!(service = name, "{name} received a second stop request; sending SIGKILL")
            }
            (State::Running, State::Running) if self.from.failures > self.to.failures => {
                info!(
                    service = name,
                    "{name} ran for {}; resetting its restart count",
                    seconds(plan.restart.reset_after)
                );
            }
            (State::WaitingForGroup(_), State::KillingGroup(_)) => {
                warn!(service = name, "sending SIGKILL to leftover processes of {name}");
            }
            (_, State::WaitingForGroup(after)) => self.log_exit(name, plan, after),
            _ => {}
        }
    }

    /// Logs the consequence of an exit.
    fn log_exit(&self, name: &str, plan: &ServicePolicy, after: AfterExit) {
        let (from, limit) = (self.from, plan.restart.limit);
        match (from.state, after) {
            (State::Starting | State::Running, AfterExit::Restart) => {
                let failures = self.to.failures;
                warn!(service = name, "{name} exited unexpectedly; restart {failures}/{limit}");
            }
            (_, AfterExit::End(Termination::Exited(_))) if from.failures > 0 && from.failures >= limit => {
                error!(service = name, "{name} failed {} times in a row; giving up", from.failures + 1);
            }
            _ => {}
        }
    }

    /// Whether only leftover processes are left to wait for.
    pub fn begins_wait_for_leftovers(&self) -> bool {
        let was_waiting = matches!(self.from.state, State::WaitingForGroup(_));
        matches!(self.to.state, State::WaitingForGroup(AfterExit::End(_))) && !was_waiting
    }

    /// Logs that wait, with the names of the processes.
    pub fn log_wait(&self, name: &str, plan: &ServicePolicy, limit: Duration, processes: &str) {
        let (limit, runs) = (seconds(limit), if plan.lets_runs_finish { ", for runs without a limit," } else { "" });
        info!(service = name, "waiting up to {limit}{runs} for leftover processes of {name} to exit: {processes}");
    }
}

fn log_stop(name: &str, signal: Option<i32>, reason: StopReason, plan: &ServicePolicy) {
    match reason {
        StopReason::Unresponsive => warn!(service = name, "{name} is unresponsive; restarting it"),
        StopReason::Restart => info!(service = name, "restart of {name} requested"),
        StopReason::Shutdown => {}
    }
    match signal {
        Some(signal) => {
            let timeout = seconds(plan.timeout);
            info!(service = name, "stopping {name} with {}; timeout {timeout}", signals::name(signal));
        }
        None if plan.lets_runs_finish => info!(service = name, "waiting without a limit for {name} to exit"),
        None => info!(service = name, "waiting up to {} for {name} to exit", seconds(plan.timeout)),
    }
}

/// `1.5 s`.
pub(super) fn seconds(span: Duration) -> String {
    format!("{:.3}", span.as_secs_f64()).trim_end_matches('0').trim_end_matches('.').to_owned() + " s"
}
