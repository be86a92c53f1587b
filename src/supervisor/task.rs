//! Runs one service: performs the actions of [`super::state`] and feeds it what happens.

use std::time::Duration;

use nix::libc::SIGKILL;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::state::{self, Action, End, Event, Plan, State};
use crate::process::child::{group_exists, signal_group, signal_process};
use crate::process::reaper::{Child, Reaper};
use crate::process::signals;

/// What a running service is told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Stop in order; once more: stop now.
    Stop,
    /// Pass this signal on.
    Forward(i32),
}

/// Supervises `child` until nothing of its group is left.
///
/// `answered` resolves at the service's first sign of life; `unready` is called when it is to be sent no more work.
pub async fn supervise(
    name: &str,
    mut child: Child,
    plan: &Plan,
    reaper: &Reaper,
    control: &mut mpsc::Receiver<Control>,
    answered: impl Future<Output = ()>,
    mut unready: impl FnMut(),
) -> End {
    let mut reaped = reaper.reaped();
    tokio::pin!(answered);
    let mut state = State::Starting;
    let mut timer: Option<Instant> = None;
    loop {
        let sweeping = matches!(state, State::Sweeping(_) | State::Clearing(_));
        let event = tokio::select! {
            exit = child.exited(), if !sweeping => {
                info!(service = name, pid = child.pid.as_raw(), "{name} ended: {exit}");
                Event::Exited(exit)
            }
            () = &mut answered, if state == State::Starting => Event::Answered,
            told = control.recv() => match told {
                Some(Control::Stop) | None => Event::StopRequested,
                Some(Control::Forward(number)) => {
                    signal_group(child.pid, number);
                    continue;
                }
            },
            () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {
                timer = None;
                Event::TimerElapsed
            }
            _ = reaped.changed(), if sweeping => Event::GroupEmpty,
        };
        let late = event == Event::TimerElapsed;
        let Some(event) = only_if_true(event, &child) else { continue };
        let (next, actions) = state::step(state, event, plan);
        tell(name, state, next, late, plan);
        for action in actions {
            perform(action, &child, &mut timer, &mut unready);
        }
        state = settle(next, &child);
        match state {
            State::Ended(end) => return end,
            State::Sweeping(_) if !sweeping => {
                info!(service = name, "waiting for the processes it left, for at most {}", seconds(plan.timeout));
            }
            _ => {}
        }
    }
}

/// A reaped process is a reason to look at the group, not yet a proof that it is empty.
fn only_if_true(event: Event, child: &Child) -> Option<Event> {
    (event != Event::GroupEmpty || !group_exists(child.pid)).then_some(event)
}

/// Most services leave nothing behind: then there is nothing to wait for.
fn settle(state: State, child: &Child) -> State {
    match state {
        State::Sweeping(end) | State::Clearing(end) if !group_exists(child.pid) => State::Ended(end),
        other => other,
    }
}

fn perform(action: Action, child: &Child, timer: &mut Option<Instant>, unready: &mut impl FnMut()) {
    match action {
        Action::Unready => unready(),
        Action::Signal(number) => signal_process(child.pid, number),
        Action::Kill => signal_group(child.pid, SIGKILL),
        Action::Timer(span) => *timer = Some(Instant::now() + span),
    }
}

fn tell(name: &str, from: State, to: State, late: bool, plan: &Plan) {
    match (from, to) {
        (State::Running, State::Draining) => info!(service = name, "draining for {}", seconds(plan.drain)),
        (State::Starting | State::Running | State::Draining, State::Stopping(signal)) => {
            let signal = signals::name(signal);
            info!(service = name, "stopping with {signal}, for at most {}", seconds(plan.timeout));
        }
        (_, State::Killing) if late => {
            warn!(service = name, "did not stop within {}: killing it", seconds(plan.timeout));
        }
        (_, State::Killing) => warn!(service = name, "asked to stop again: killing it"),
        (State::Sweeping(_), State::Clearing(_)) => warn!(service = name, "killing the processes it left behind"),
        _ => {}
    }
}

fn seconds(span: Duration) -> String {
    format!("{} s", span.as_secs_f64())
}
