//! The table of the life cycle, and the rules that it follows.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SIGINT: i32 = 2;
const DRAIN: Duration = Duration::from_secs(5);
const RENEWAL_DRAIN: Duration = Duration::from_secs(15);
const TIMEOUT: Duration = Duration::from_secs(20);
const SETTLE: Duration = Duration::from_secs(3);
const STEADY: Duration = Duration::from_secs(60);
const RESTART: Restart = Restart {
    policy: Policy::OnFailure,
    limit: 3,
    delay: Duration::from_secs(1),
    longest_delay: Duration::from_secs(3),
    reset_after: STEADY,
};
const PLAN: Plan = Plan {
    drain: DRAIN,
    renewal_drain: RENEWAL_DRAIN,
    timeout: TIMEOUT,
    stop_signal: Some(SIGINT),
    settle: SETTLE,
    restart: RESTART,
};
const CODE: Exit = Exit::Code(5);

fn life(state: State, failures: u32) -> Life {
    Life { state, failures }
}

/// Every state with every event: the next state and the actions; where a pair is missing, nothing happens.
fn table() -> Vec<(State, Event, Life, Vec<Action>)> {
    use Action::{Kill, KillOwn, Pause, Signal, Start, Timer, Unready};
    use Event::{Answered, Exited, GroupEmpty, Hung, Renewed, StartFailed, StopRequested, TimerElapsed};
    let term = Some(SIGTERM);
    let int = Some(SIGINT);
    let crash = End::Exited(CODE);
    let sweep = vec![Unready, Timer(TIMEOUT)];
    let ask = |signal| vec![Unready, Signal(signal), Timer(TIMEOUT)];
    let again = vec![Unready, Timer(SETTLE)];
    let pause = vec![Pause(Duration::from_secs(1))];
    let (end, replace, renew) = (Goal::End, Goal::Replace, Goal::Renew);
    let last = |state| life(state, 0);
    let failed = |state| life(state, 1);
    let to_restart = failed(Sweeping(Next::Restart));
    let to_renewal = last(Sweeping(Next::Renewal));
    let stopped = last(Sweeping(Next::End(End::Stopped)));
    let crashed = last(Sweeping(Next::End(crash)));
    vec![
        (Starting, Answered, last(Running), vec![Timer(STEADY)]),
        (Starting, Hung, last(Stopping(term, replace)), ask(SIGTERM)),
        (Starting, StopRequested, last(Stopping(term, end)), ask(SIGTERM)),
        (Starting, Renewed, last(Stopping(term, renew)), ask(SIGTERM)),
        (Starting, Exited(CODE), to_restart, again.clone()),
        (Starting, StartFailed, failed(Paused), pause.clone()),
        (Running, Hung, last(Stopping(int, replace)), ask(SIGINT)),
        (Running, StopRequested, last(Draining(end)), vec![Unready, Timer(DRAIN)]),
        (Running, Renewed, last(Draining(renew)), vec![Unready, Timer(RENEWAL_DRAIN)]),
        (Running, TimerElapsed, last(Running), vec![]),
        (Running, Exited(CODE), to_restart, again.clone()),
        (Draining(end), StopRequested, last(Stopping(int, end)), ask(SIGINT)),
        (Draining(end), TimerElapsed, last(Stopping(int, end)), ask(SIGINT)),
        (Draining(end), Exited(CODE), crashed, sweep.clone()),
        (Draining(renew), StopRequested, last(Draining(end)), vec![Timer(DRAIN)]),
        (Draining(renew), TimerElapsed, last(Stopping(int, renew)), ask(SIGINT)),
        (Draining(renew), Exited(CODE), to_renewal, again.clone()),
        (Stopping(int, end), StopRequested, last(Killing(end)), vec![Kill]),
        (Stopping(int, end), TimerElapsed, last(Killing(end)), vec![Kill]),
        (Stopping(int, end), Exited(CODE), crashed, sweep.clone()),
        (Stopping(int, end), Exited(Exit::Code(0)), stopped, sweep.clone()),
        (Stopping(int, end), Exited(Exit::Code(130)), stopped, sweep.clone()),
        (Stopping(int, end), Exited(Exit::Signal(SIGINT)), stopped, sweep.clone()),
        (Stopping(int, replace), StopRequested, last(Stopping(int, end)), vec![]),
        (Stopping(int, replace), Renewed, last(Stopping(int, renew)), vec![]),
        (Stopping(int, replace), TimerElapsed, last(Killing(replace)), vec![KillOwn]),
        (Stopping(int, replace), Exited(CODE), to_restart, again.clone()),
        (Stopping(int, replace), Exited(Exit::Code(0)), to_restart, again.clone()),
        (Stopping(int, renew), StopRequested, last(Stopping(int, end)), vec![]),
        (Stopping(int, renew), TimerElapsed, last(Killing(renew)), vec![KillOwn]),
        (Stopping(int, renew), Exited(CODE), to_renewal, again.clone()),
        (Stopping(int, renew), Exited(Exit::Code(0)), to_renewal, again.clone()),
        (Killing(end), Exited(CODE), last(Sweeping(Next::End(End::Killed))), sweep.clone()),
        (Killing(replace), StopRequested, last(Killing(end)), vec![]),
        (Killing(replace), Renewed, last(Killing(renew)), vec![]),
        (Killing(replace), Exited(CODE), to_restart, again.clone()),
        (Killing(renew), StopRequested, last(Killing(end)), vec![]),
        (Killing(renew), Exited(CODE), to_renewal, again),
        (Sweeping(Next::Restart), StopRequested, stopped, sweep.clone()),
        (Sweeping(Next::Restart), Renewed, to_renewal, vec![]),
        (Sweeping(Next::Restart), TimerElapsed, last(Paused), pause.clone()),
        (Sweeping(Next::Restart), GroupEmpty, last(Paused), pause),
        (Sweeping(Next::Renewal), StopRequested, stopped, sweep.clone()),
        (Sweeping(Next::Renewal), TimerElapsed, last(Starting), vec![Start]),
        (Sweeping(Next::Renewal), GroupEmpty, last(Starting), vec![Start]),
        (Sweeping(Next::End(crash)), StopRequested, last(Clearing(crash)), vec![Kill, Timer(CLEARING)]),
        (Sweeping(Next::End(crash)), TimerElapsed, last(Clearing(crash)), vec![Kill, Timer(CLEARING)]),
        (Sweeping(Next::End(crash)), GroupEmpty, last(Ended(crash)), vec![]),
        (Clearing(crash), TimerElapsed, last(Ended(crash)), vec![]),
        (Clearing(crash), GroupEmpty, last(Ended(crash)), vec![]),
        (Paused, StopRequested, stopped, sweep),
        (Paused, Renewed, last(Starting), vec![Start]),
        (Paused, TimerElapsed, last(Starting), vec![Start]),
    ]
}

#[test]
fn every_state_knows_every_event() {
    let crash = End::Exited(CODE);
    let int = Some(SIGINT);
    let states = [
        Starting,
        Running,
        Draining(Goal::End),
        Draining(Goal::Renew),
        Stopping(int, Goal::End),
        Stopping(int, Goal::Replace),
        Stopping(int, Goal::Renew),
        Killing(Goal::End),
        Killing(Goal::Replace),
        Killing(Goal::Renew),
        Sweeping(Next::Restart),
        Sweeping(Next::Renewal),
        Sweeping(Next::End(crash)),
        Clearing(crash),
        Paused,
        Ended(crash),
    ];
    let mut events = vec![Event::Answered, Event::Hung, Event::StopRequested, Event::Renewed, Event::TimerElapsed];
    events.extend([Event::StartFailed, Event::GroupEmpty]);
    events.extend([CODE, Exit::Code(0), Exit::Code(130), Exit::Signal(SIGINT)].map(Event::Exited));
    let table = table();
    for state in states {
        for event in &events {
            let exact = table.iter().find(|row| (row.0, row.1) == (state, *event));
            let expected = exact.map_or((life(state, 0), vec![]), |row| (row.2, row.3.clone()));
            let is_exit = matches!(event, Event::Exited(exit) if *exit != CODE);
            // Only the state that was told to stop distinguishes between ways to end; the table shows those.
            if is_exit && exact.is_none() {
                continue;
            }
            assert_eq!(life(state, 0).step(*event, &PLAN), expected, "{state:?} on {event:?}");
        }
    }
}

#[test]
fn without_a_drain_the_stop_signal_goes_out_at_once() {
    let plan = Plan { drain: Duration::ZERO, renewal_drain: Duration::ZERO, ..PLAN };
    for (event, goal) in [(Event::StopRequested, Goal::End), (Event::Renewed, Goal::Renew)] {
        let (next, actions) = life(Running, 0).step(event, &plan);
        assert_eq!(next.state, Stopping(Some(SIGINT), goal));
        assert_eq!(actions[1], Action::Signal(SIGINT));
    }
}

#[test]
fn what_must_not_be_signalled_is_only_waited_for() {
    let plan = Plan { drain: Duration::ZERO, stop_signal: None, ..PLAN };
    for state in [Starting, Running] {
        let (next, actions) = life(state, 0).step(Event::StopRequested, &plan);
        assert_eq!(next.state, Stopping(None, Goal::End));
        assert_eq!(actions, [Action::Unready, Action::Timer(TIMEOUT)]);
        let (next, _) = next.step(Event::Exited(Exit::Code(2)), &plan);
        assert_eq!(next.state, Sweeping(Next::End(End::Exited(Exit::Code(2)))));
        assert_eq!(life(state, 0).step(Event::Renewed, &plan), (life(state, 0), vec![]), "it finishes its run");
    }
}

#[test]
fn failures_of_the_old_settings_are_forgotten() {
    for state in [Starting, Running, Paused, Sweeping(Next::Restart)] {
        assert_eq!(life(state, 3).step(Event::Renewed, &PLAN).0.failures, 0, "{state:?}");
    }
}

#[test]
fn pauses_double_up_to_the_longest() {
    let seconds: Vec<u64> = (1..=5).map(|failures| RESTART.pause(failures).as_secs()).collect();
    assert_eq!(seconds, [1, 2, 3, 3, 3]);
    assert_eq!(RESTART.pause(u32::MAX), RESTART.longest_delay);
}

#[test]
fn a_crash_loop_ends_in_the_last_exit() {
    let (mut life, _) = Life::begin();
    for code in 1..=3 {
        (life, _) = life.step(Event::Exited(Exit::Code(code)), &PLAN);
        assert_eq!(life.state, Sweeping(Next::Restart));
        (life, _) = life.step(Event::GroupEmpty, &PLAN);
        (life, _) = life.step(Event::TimerElapsed, &PLAN);
        assert_eq!(life.state, Starting);
    }
    (life, _) = life.step(Event::Exited(Exit::Code(4)), &PLAN);
    assert_eq!(life.state, Sweeping(Next::End(End::Exited(Exit::Code(4)))));
}

#[test]
fn running_well_for_a_while_resets_the_count() {
    let (next, _) = life(Running, 3).step(Event::TimerElapsed, &PLAN);
    assert_eq!(next, life(Running, 0));
    let (next, _) = life(Starting, 3).step(Event::TimerElapsed, &PLAN);
    assert_eq!(next, life(Starting, 3));
}

#[test]
fn the_policy_decides_which_ends_are_failures() {
    let table = [
        (Policy::Never, Exit::Code(1), false),
        (Policy::OnFailure, Exit::Code(0), false),
        (Policy::OnFailure, Exit::Code(1), true),
        (Policy::OnFailure, Exit::Signal(9), true),
        (Policy::Always, Exit::Code(0), true),
    ];
    for (policy, exit, restarts) in table {
        let plan = Plan { restart: Restart { policy, ..RESTART }, ..PLAN };
        let (next, _) = life(Running, 0).step(Event::Exited(exit), &plan);
        assert_eq!(next.state == Sweeping(Next::Restart), restarts, "{policy:?} {exit:?}");
    }
}

#[test]
fn too_few_processes_are_waited_for_up_to_the_limit() {
    let (next, _) = life(Starting, RESTART.limit).step(Event::StartFailed, &PLAN);
    assert_eq!(next.state, Sweeping(Next::End(End::NotStarted)));
}

fn event() -> impl Strategy<Value = Event> {
    let exit = prop_oneof![Just(Exit::Code(0)), Just(CODE), Just(Exit::Signal(SIGTERM))];
    prop_oneof![
        1 => Just(Event::Answered),
        1 => Just(Event::Hung),
        1 => Just(Event::StopRequested),
        1 => Just(Event::Renewed),
        4 => Just(Event::TimerElapsed),
        4 => exit.prop_map(Event::Exited),
        1 => Just(Event::StartFailed),
        2 => Just(Event::GroupEmpty),
    ]
}

proptest! {
    #[test]
    fn pauses_never_shrink_and_never_exceed_the_longest(delay in 1..100_000_u64, longest in 1..1_000_000_u64, failures in 1..=u32::MAX) {
        let restart =
            Restart { delay: Duration::from_millis(delay), longest_delay: Duration::from_millis(longest), ..RESTART };
        let (first, pause, next) = (restart.pause(1), restart.pause(failures), restart.pause(failures.saturating_add(1)));
        prop_assert_eq!(first, restart.delay.min(restart.longest_delay));
        prop_assert!(first <= pause && pause <= next && next <= restart.longest_delay);
        prop_assert!(next == (pause * 2).min(restart.longest_delay) || failures == u32::MAX);
    }

    /// Whatever happens in whatever order.
    #[test]
    fn no_life_has_more_failures_in_a_row_than_allowed(events in vec(event(), 0..60), limit in 0..5_u32) {
        let plan = Plan { restart: Restart { limit, ..RESTART }, ..PLAN };
        let (mut life, _) = Life::begin();
        for event in events {
            let before = life;
            let actions;
            (life, actions) = life.step(event, &plan);
            prop_assert!(life.failures <= limit);
            for action in &actions {
                prop_assert!(!matches!(action, Action::Pause(span) if *span > plan.restart.longest_delay || limit == 0));
            }
            prop_assert!(!matches!(before.state, Ended(_)) || (life == before && actions.is_empty()));
            let starts = actions.contains(&Action::Start);
            prop_assert_eq!(starts, life.state == Starting && before.state != Starting);
        }
    }

    /// Two stops and the end of its process end it, wherever it is.
    #[test]
    fn who_is_asked_to_stop_comes_to_an_end(events in vec(event(), 0..60)) {
        let (mut life, _) = Life::begin();
        let stop = [Event::StopRequested, Event::StopRequested, Event::StopRequested, Event::Exited(CODE), Event::GroupEmpty];
        for event in events.into_iter().chain(stop) {
            life = life.step(event, &PLAN).0;
        }
        prop_assert!(matches!(life.state, Ended(_)), "{:?}", life);
    }
}
