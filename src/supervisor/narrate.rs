//! What the log says when a service goes from one state to another.

use tracing::{error, info, warn};

use super::state::{End, Event, Goal, Life, Next, Plan, State};
use super::task::seconds;
use crate::process::signals;

/// Says in words what a step means, where it means something to the reader of a log.
pub fn narrate(name: &'static str, from: Life, to: Life, event: Event, plan: &Plan) {
    let timeout = seconds(plan.timeout);
    match (from.state, to.state) {
        (State::Running, State::Draining(Goal::Renew)) => {
            info!(service = name, "draining for {} before it is restarted", seconds(plan.renewal_drain));
        }
        (State::Running | State::Draining(_), State::Draining(_)) if event == Event::StopRequested => {
            info!(service = name, "draining for {}", seconds(plan.drain));
        }
        (State::Starting | State::Running | State::Draining(_), State::Stopping(signal, goal)) => {
            stopping(name, signal, goal, &timeout);
        }
        (State::Stopping(..), State::Killing(_)) if event == Event::TimerElapsed => {
            warn!(service = name, "did not stop within {timeout}: killing it");
        }
        (State::Stopping(..), State::Killing(_)) => warn!(service = name, "asked to stop again: killing it"),
        (State::Starting | State::Running, State::Sweeping(Next::Restart)) => {
            let (failures, limit) = (to.failures, plan.restart.limit);
            warn!(service = name, "{name} ended by itself; restart {failures} of at most {limit} in a row");
        }
        (_, State::Sweeping(Next::End(End::Exited(_)))) if from.failures > 0 && from.failures >= plan.restart.limit => {
            error!(service = name, "{name} has failed {} times in a row: giving up", from.failures + 1);
        }
        (State::Sweeping(Next::Renewal), State::Starting) => info!(service = name, "starting it with the new settings"),
        (State::Paused, State::Starting) if event == Event::Renewed => {
            info!(service = name, "starting it at once with the new settings");
        }
        (State::Running, State::Running) if from.failures > to.failures => {
            info!(service = name, "{name} has run well for {}", seconds(plan.restart.reset_after));
        }
        (State::Sweeping(_), State::Clearing(_)) => warn!(service = name, "killing the processes it left behind"),
        _ => {}
    }
}

fn stopping(name: &'static str, signal: Option<i32>, goal: Goal, timeout: &str) {
    if goal == Goal::Replace {
        warn!(service = name, "{name} does not answer: it will be replaced");
    }
    match signal {
        Some(signal) => info!(service = name, "stopping with {}, for at most {timeout}", signals::name(signal)),
        None => info!(service = name, "waiting for its end, for at most {timeout}"),
    }
}
