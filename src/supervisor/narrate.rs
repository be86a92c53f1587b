//! What the log says when a service goes from one state to another.

use tracing::{error, info, warn};

use super::state::{AfterExit, Event, Lifecycle, ServicePolicy, State, StopReason, Termination};
use super::task::seconds;
use crate::process::signals;

/// Says in words what a step means, where it means something to the reader of a log.
pub fn log_transition(name: &'static str, from: Lifecycle, to: Lifecycle, event: Event, plan: &ServicePolicy) {
    let timeout = seconds(plan.timeout);
    match (from.state, to.state) {
        (State::Running | State::Draining, State::Draining)
            if matches!(event, Event::StopRequested | Event::PolicyChanged) =>
        {
            info!(service = name, "draining for {}", seconds(plan.drain));
        }
        (State::Starting | State::Running | State::Draining, State::Stopping(signal, goal)) => {
            stopping(name, signal, goal, plan);
        }
        (State::Stopping(..), State::Killing(_)) if event == Event::TimerElapsed => {
            warn!(service = name, "did not stop within {timeout}: killing it");
        }
        (State::Stopping(..), State::Killing(_)) => warn!(service = name, "asked to stop again: killing it"),
        (State::Starting | State::Running, State::WaitingForGroup(AfterExit::Restart)) => {
            let (failures, limit) = (to.failures, plan.restart.limit);
            warn!(service = name, "{name} ended by itself; restart {failures} of at most {limit} in a row");
        }
        (_, State::WaitingForGroup(AfterExit::End(Termination::Exited(_))))
            if from.failures > 0 && from.failures >= plan.restart.limit =>
        {
            error!(service = name, "{name} has failed {} times in a row: giving up", from.failures + 1);
        }
        (State::Running, State::Running) if from.failures > to.failures => {
            info!(service = name, "{name} has run well for {}", seconds(plan.restart.reset_after));
        }
        (State::WaitingForGroup(_), State::KillingGroup(_)) => {
            warn!(service = name, "killing the processes it left behind")
        }
        _ => {}
    }
}

fn stopping(name: &'static str, signal: Option<i32>, goal: StopReason, plan: &ServicePolicy) {
    let timeout = seconds(plan.timeout);
    if goal == StopReason::Unresponsive {
        warn!(service = name, "{name} does not answer: it will be replaced");
    }
    match signal {
        Some(signal) => info!(service = name, "stopping with {}, for at most {timeout}", signals::name(signal)),
        None if plan.lets_runs_finish => info!(service = name, "waiting for its end, however long it takes"),
        None => info!(service = name, "waiting for its end, for at most {timeout}"),
    }
}
