//! The life cycle of one service as a pure function: no clock, no process, no runtime.
//!
//! ```text
//!    .---------------stop---------------.
//!    |                                  v
//! Starting --answered--> Running --> Draining --> Stopping --> Killing
//!    |                      |     stop   |   timer    |   timer    |
//!    '-------exited---------'------------'------------'------------'--> Sweeping --group empty--> Ended
//! ```
//! A service that has not answered yet has nothing to drain and nothing to finish: it is stopped by SIGTERM at once.
//! Sweeping waits for what the service started and left behind, an engine for example, and kills it at the deadline
//! (Clearing). What even that does not end, a zombie that its own parent keeps for instance, is not waited for.

use std::time::Duration;

use State::{Clearing, Draining, Ended, Killing, Running, Starting, Stopping, Sweeping};

use crate::exit::Exit;

/// How a service is to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// How long it stays up, no longer ready.
    pub drain: Duration,
    /// How long it may take after the stop signal, and its leftovers after theirs.
    pub timeout: Duration,
    /// Number of the signal that asks it to stop.
    pub stop_signal: i32,
}

/// How the whole thing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself.
    Exited(Exit),
    /// In order, after being asked to.
    Stopped,
    /// At the deadline, or because a second request to stop did not want to wait.
    Killed,
}

/// Where a service is in its life. What exists only in a state lives in its variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was started and has given no sign of life yet.
    Starting,
    /// It runs.
    Running,
    /// It runs, is no longer ready, and will be asked to stop.
    Draining,
    /// It was sent this signal to stop.
    Stopping(i32),
    /// It was sent SIGKILL.
    Killing,
    /// It is gone; its group may not be.
    Sweeping(End),
    /// It is gone; what was left of its group was sent SIGKILL.
    Clearing(End),
    /// Nothing is left.
    Ended(End),
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It has given its first sign of life.
    Answered,
    /// A stop was asked for; a further one means "now".
    StopRequested,
    /// The timer that was started last has run out.
    TimerElapsed,
    /// The service's own process has ended.
    Exited(Exit),
    /// No process of the group is left.
    GroupEmpty,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Be no longer ready.
    Unready,
    /// Send the service's own process this signal. Not its group: SIGINT would make an engine that the web UI has
    /// started lose the files it has taken.
    Signal(i32),
    /// Kill the whole group.
    Kill,
    /// Start the timer; it replaces an earlier one.
    Timer(Duration),
}

const SIGTERM: i32 = 15;

/// How long the kernel may take to end what was sent SIGKILL.
const CLEARING: Duration = Duration::from_secs(5);

/// The next state, and what to do to get there.
#[must_use]
pub fn step(state: State, event: Event, plan: &Plan) -> (State, Vec<Action>) {
    match event {
        Event::Answered => (if state == Starting { Running } else { state }, Vec::new()),
        Event::StopRequested => stop_requested(state, plan),
        Event::TimerElapsed => timer_elapsed(state, plan),
        Event::Exited(exit) => exited(state, exit, plan),
        Event::GroupEmpty => group_empty(state),
    }
}

fn stop_requested(state: State, plan: &Plan) -> (State, Vec<Action>) {
    match state {
        Starting => stop(SIGTERM, plan),
        Running if plan.drain.is_zero() => stop(plan.stop_signal, plan),
        Running => (Draining, vec![Action::Unready, Action::Timer(plan.drain)]),
        Draining => stop(plan.stop_signal, plan),
        Stopping(_) => (Killing, vec![Action::Kill]),
        Sweeping(end) => clear(end),
        Killing | Clearing(_) | Ended(_) => (state, Vec::new()),
    }
}

fn stop(signal: i32, plan: &Plan) -> (State, Vec<Action>) {
    (Stopping(signal), vec![Action::Unready, Action::Signal(signal), Action::Timer(plan.timeout)])
}

/// A timer that runs out in another state than the one that started it is late, which is normal.
fn timer_elapsed(state: State, plan: &Plan) -> (State, Vec<Action>) {
    match state {
        Draining => stop(plan.stop_signal, plan),
        Stopping(_) => (Killing, vec![Action::Kill]),
        Sweeping(end) => clear(end),
        Clearing(end) => (Ended(end), Vec::new()),
        Starting | Running | Killing | Ended(_) => (state, Vec::new()),
    }
}

fn clear(end: End) -> (State, Vec<Action>) {
    (Clearing(end), vec![Action::Kill, Action::Timer(CLEARING)])
}

fn exited(state: State, exit: Exit, plan: &Plan) -> (State, Vec<Action>) {
    let end = match state {
        Starting | Running | Draining => End::Exited(exit),
        Stopping(signal) if in_order(exit, signal) => End::Stopped,
        Stopping(_) => End::Exited(exit),
        Killing => End::Killed,
        Sweeping(_) | Clearing(_) | Ended(_) => return (state, Vec::new()),
    };
    (Sweeping(end), vec![Action::Unready, Action::Timer(plan.timeout)])
}

/// A service that ends by the very signal it was sent has done what it was asked; so has one that says so in a
/// shell's way (128 + n). Any other code is news and is passed on.
fn in_order(exit: Exit, sent: i32) -> bool {
    match exit {
        Exit::Code(code) => code == 0 || i32::from(code) == 128 + sent,
        Exit::Signal(signal) => signal == sent,
    }
}

fn group_empty(state: State) -> (State, Vec<Action>) {
    match state {
        Sweeping(end) | Clearing(end) => (Ended(end), Vec::new()),
        Starting | Running | Draining | Stopping(_) | Killing | Ended(_) => (state, Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::Event::{Answered, Exited, GroupEmpty, StopRequested, TimerElapsed};
    use super::*;

    const SIGINT: i32 = 2;
    const DRAIN: Duration = Duration::from_secs(5);
    const TIMEOUT: Duration = Duration::from_secs(20);
    const PLAN: Plan = Plan { drain: DRAIN, timeout: TIMEOUT, stop_signal: SIGINT };

    #[test]
    fn every_state_knows_every_event() {
        use Action::{Kill, Signal, Timer, Unready};
        let crash = End::Exited(Exit::Code(5));
        let sweep = vec![Unready, Timer(TIMEOUT)];
        let ask = vec![Unready, Signal(SIGINT), Timer(TIMEOUT)];
        let stopping = Stopping(SIGINT);
        let kill = vec![Kill];
        let clear = vec![Kill, Timer(CLEARING)];
        let table = [
            (Starting, Answered, Running, vec![]),
            (Starting, StopRequested, Stopping(SIGTERM), vec![Unready, Signal(SIGTERM), Timer(TIMEOUT)]),
            (Starting, TimerElapsed, Starting, vec![]),
            (Starting, Exited(Exit::Code(5)), Sweeping(crash), sweep.clone()),
            (Starting, GroupEmpty, Starting, vec![]),
            (Running, Answered, Running, vec![]),
            (Draining, Answered, Draining, vec![]),
            (stopping, Answered, stopping, vec![]),
            (Stopping(SIGTERM), Exited(Exit::Signal(SIGTERM)), Sweeping(End::Stopped), sweep.clone()),
            (Killing, Answered, Killing, vec![]),
            (Sweeping(crash), Answered, Sweeping(crash), vec![]),
            (Ended(crash), Answered, Ended(crash), vec![]),
            (Running, StopRequested, Draining, vec![Unready, Timer(DRAIN)]),
            (Running, TimerElapsed, Running, vec![]),
            (Running, Exited(Exit::Code(5)), Sweeping(crash), sweep.clone()),
            (Running, GroupEmpty, Running, vec![]),
            (Draining, StopRequested, stopping, ask.clone()),
            (Draining, TimerElapsed, stopping, ask),
            (Draining, Exited(Exit::Code(5)), Sweeping(crash), sweep.clone()),
            (Draining, GroupEmpty, Draining, vec![]),
            (stopping, StopRequested, Killing, kill.clone()),
            (stopping, TimerElapsed, Killing, kill.clone()),
            (stopping, Exited(Exit::Code(5)), Sweeping(crash), sweep.clone()),
            (stopping, Exited(Exit::Code(0)), Sweeping(End::Stopped), sweep.clone()),
            (stopping, Exited(Exit::Code(130)), Sweeping(End::Stopped), sweep.clone()),
            (stopping, Exited(Exit::Signal(SIGINT)), Sweeping(End::Stopped), sweep.clone()),
            (stopping, Exited(Exit::Signal(11)), Sweeping(End::Exited(Exit::Signal(11))), sweep.clone()),
            (stopping, GroupEmpty, stopping, vec![]),
            (Killing, StopRequested, Killing, vec![]),
            (Killing, TimerElapsed, Killing, vec![]),
            (Killing, Exited(Exit::Signal(9)), Sweeping(End::Killed), sweep),
            (Killing, GroupEmpty, Killing, vec![]),
            (Sweeping(crash), StopRequested, Clearing(crash), clear.clone()),
            (Sweeping(crash), TimerElapsed, Clearing(crash), clear),
            (Clearing(crash), Answered, Clearing(crash), vec![]),
            (Clearing(crash), StopRequested, Clearing(crash), vec![]),
            (Clearing(crash), TimerElapsed, Ended(crash), vec![]),
            (Clearing(crash), Exited(Exit::Code(0)), Clearing(crash), vec![]),
            (Clearing(crash), GroupEmpty, Ended(crash), vec![]),
            (Sweeping(crash), Exited(Exit::Code(0)), Sweeping(crash), vec![]),
            (Sweeping(crash), GroupEmpty, Ended(crash), vec![]),
            (Ended(crash), StopRequested, Ended(crash), vec![]),
            (Ended(crash), TimerElapsed, Ended(crash), vec![]),
            (Ended(crash), Exited(Exit::Code(0)), Ended(crash), vec![]),
            (Ended(crash), GroupEmpty, Ended(crash), vec![]),
        ];
        for (state, event, next, actions) in table {
            assert_eq!(step(state, event, &PLAN), (next, actions), "{state:?} on {event:?}");
        }
    }

    #[test]
    fn without_a_drain_the_stop_signal_goes_out_at_once() {
        let plan = Plan { drain: Duration::ZERO, ..PLAN };
        let (state, actions) = step(Running, StopRequested, &plan);
        assert_eq!(state, Stopping(SIGINT));
        assert_eq!(actions[1], Action::Signal(SIGINT));
    }
}
