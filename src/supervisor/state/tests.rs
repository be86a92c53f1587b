//! The table of the life cycle, and the rules that it follows.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SIGINT: i32 = 2;
const DRAIN: Duration = Duration::from_secs(5);
const RELOAD_DRAIN: Duration = Duration::from_secs(15);
const TIMEOUT: Duration = Duration::from_secs(20);
const SETTLE: Duration = Duration::from_secs(3);
const STEADY: Duration = Duration::from_secs(60);
const RESTART: RestartRules = RestartRules {
    policy: RestartPolicy::OnFailure,
    limit: 3,
    initial_delay: Duration::from_secs(1),
    max_delay: Duration::from_secs(3),
    reset_after: STEADY,
};
pub(in crate::supervisor) const POLICY: ServicePolicy = ServicePolicy {
    drain: DRAIN,
    reload_drain: RELOAD_DRAIN,
    timeout: TIMEOUT,
    stop_signal: Some(SIGINT),
    leftover_timeout: SETTLE,
    restart: RESTART,
    lets_runs_finish: false,
};
const CODE: Exit = Exit::Code(5);

fn life(state: ServiceState, failures: u32) -> Lifecycle {
    Lifecycle { state, failures }
}

/// Every state with every event: the next state and the actions; where a pair is missing, nothing happens.
fn table() -> Vec<(ServiceState, ServiceEvent, Lifecycle, Vec<ServiceAction>)> {
    use ServiceAction::{
        KillGroup, KillProcess, RestartStopTimer, Signal, Start, StartBackoff, StartStopTimer, StartTimer,
        TerminateLeftovers,
    };
    use ServiceEvent::{
        BecameAlive, CannotStart, Exited, GroupEmpty, PolicyChanged, PortTaken, RestartRequested, StartFailed,
        StopRequested, TimerElapsed, Unresponsive,
    };
    let term = Some(SIGTERM);
    let int = Some(SIGINT);
    let crash = Termination::Exited(CODE);
    let wait_for_group = vec![TerminateLeftovers, StartStopTimer];
    let ask = |signal| vec![Signal(signal), Signal(SIGCONT), StartStopTimer];
    let ask_to_replace = |signal| vec![Signal(signal), Signal(SIGCONT), StartTimer(TIMEOUT)];
    let again = vec![StartTimer(SETTLE)];
    let pause = vec![StartBackoff(Duration::from_secs(1))];
    let (end, replace, restart) = (StopReason::Shutdown, StopReason::Unresponsive, StopReason::Restart);
    let last = |state| life(state, 0);
    let failed = |state| life(state, 1);
    let to_restart = failed(WaitingForGroup(AfterExit::Restart));
    let restarting = last(WaitingForGroup(AfterExit::Restart));
    let stopped = last(WaitingForGroup(AfterExit::End(Termination::Stopped)));
    let crashed = last(WaitingForGroup(AfterExit::End(crash)));
    vec![
        (Starting, BecameAlive, last(Running), vec![StartTimer(STEADY)]),
        (Starting, Unresponsive, last(Stopping(term, replace)), ask_to_replace(SIGTERM)),
        (Starting, RestartRequested, last(Stopping(term, restart)), ask_to_replace(SIGTERM)),
        (Starting, StopRequested, last(Stopping(term, end)), ask(SIGTERM)),
        (Starting, Exited(CODE), to_restart, again.clone()),
        (Starting, StartFailed, failed(Backoff), pause),
        (Starting, CannotStart, last(WaitingForGroup(AfterExit::End(Termination::NotStarted))), wait_for_group.clone()),
        (Starting, PortTaken, last(Backoff), vec![StartTimer(PORT_RETRY_INTERVAL)]),
        (Running, Unresponsive, last(Stopping(int, replace)), ask_to_replace(SIGINT)),
        (Running, RestartRequested, last(Stopping(int, restart)), ask_to_replace(SIGINT)),
        (Running, StopRequested, last(Draining), vec![StartTimer(DRAIN)]),
        (Running, TimerElapsed, last(Running), vec![]),
        (Running, Exited(CODE), to_restart, again.clone()),
        (Draining, StopRequested, last(Stopping(int, end)), ask(SIGINT)),
        (Draining, PolicyChanged, last(Draining), vec![StartTimer(DRAIN)]),
        (Draining, TimerElapsed, last(Stopping(int, end)), ask(SIGINT)),
        (Draining, Exited(CODE), crashed, wait_for_group.clone()),
        (Stopping(int, end), StopRequested, last(Killing(end)), vec![KillGroup]),
        (Stopping(int, end), PolicyChanged, last(Stopping(int, end)), vec![RestartStopTimer]),
        (Stopping(int, end), TimerElapsed, last(Killing(end)), vec![KillGroup]),
        (Stopping(int, end), Exited(CODE), crashed, wait_for_group.clone()),
        (Stopping(int, end), Exited(Exit::Code(0)), stopped, wait_for_group.clone()),
        (Stopping(int, end), Exited(Exit::Code(130)), stopped, wait_for_group.clone()),
        (Stopping(int, end), Exited(Exit::Signal(SIGINT)), stopped, wait_for_group.clone()),
        (Stopping(int, replace), StopRequested, last(Stopping(int, end)), vec![StartStopTimer]),
        (Stopping(int, replace), TimerElapsed, last(Killing(replace)), vec![KillProcess]),
        (Stopping(int, replace), Exited(CODE), to_restart, again.clone()),
        (Stopping(int, replace), Exited(Exit::Code(0)), to_restart, again.clone()),
        (Stopping(int, restart), StopRequested, last(Stopping(int, end)), vec![StartStopTimer]),
        (Stopping(int, restart), TimerElapsed, last(Killing(restart)), vec![KillProcess]),
        (Stopping(int, restart), Exited(CODE), restarting, again.clone()),
        (Stopping(int, restart), Exited(Exit::Code(0)), restarting, again.clone()),
        (
            Killing(end),
            Exited(CODE),
            last(KillingGroup(Termination::Killed)),
            vec![KillGroup, StartTimer(GROUP_KILL_TIMEOUT)],
        ),
        (Killing(replace), StopRequested, last(Killing(end)), vec![]),
        (Killing(replace), Exited(CODE), to_restart, again.clone()),
        (Killing(restart), StopRequested, last(Killing(end)), vec![]),
        (Killing(restart), Exited(CODE), restarting, again),
        (WaitingForGroup(AfterExit::Restart), StopRequested, stopped, wait_for_group.clone()),
        (WaitingForGroup(AfterExit::Restart), TimerElapsed, last(Starting), vec![Start]),
        (WaitingForGroup(AfterExit::Restart), GroupEmpty, last(Starting), vec![Start]),
        (
            WaitingForGroup(AfterExit::End(crash)),
            StopRequested,
            last(KillingGroup(crash)),
            vec![KillGroup, StartTimer(GROUP_KILL_TIMEOUT)],
        ),
        (
            WaitingForGroup(AfterExit::End(crash)),
            TimerElapsed,
            last(KillingGroup(crash)),
            vec![KillGroup, StartTimer(GROUP_KILL_TIMEOUT)],
        ),
        (WaitingForGroup(AfterExit::End(crash)), PolicyChanged, crashed, vec![TerminateLeftovers, RestartStopTimer]),
        (WaitingForGroup(AfterExit::End(crash)), GroupEmpty, last(Ended(crash)), vec![]),
        (KillingGroup(crash), TimerElapsed, last(Ended(crash)), vec![]),
        (KillingGroup(crash), GroupEmpty, last(Ended(crash)), vec![]),
        (Backoff, RestartRequested, last(Starting), vec![Start]),
        (Backoff, StopRequested, stopped, wait_for_group),
        (Backoff, TimerElapsed, last(Starting), vec![Start]),
    ]
}

#[test]
fn every_state_handles_every_event() {
    let crash = Termination::Exited(CODE);
    let int = Some(SIGINT);
    let states = [
        Starting,
        Running,
        Draining,
        Stopping(int, StopReason::Shutdown),
        Stopping(int, StopReason::Unresponsive),
        Killing(StopReason::Shutdown),
        Killing(StopReason::Unresponsive),
        Stopping(int, StopReason::Restart),
        Killing(StopReason::Restart),
        WaitingForGroup(AfterExit::Restart),
        WaitingForGroup(AfterExit::End(crash)),
        KillingGroup(crash),
        Backoff,
        Ended(crash),
    ];
    let mut events = vec![
        ServiceEvent::BecameAlive,
        ServiceEvent::Unresponsive,
        ServiceEvent::RestartRequested,
        ServiceEvent::StopRequested,
        ServiceEvent::PolicyChanged,
        ServiceEvent::TimerElapsed,
    ];
    events.extend([
        ServiceEvent::StartFailed,
        ServiceEvent::CannotStart,
        ServiceEvent::PortTaken,
        ServiceEvent::GroupEmpty,
    ]);
    events.extend([CODE, Exit::Code(0), Exit::Code(130), Exit::Signal(SIGINT)].map(ServiceEvent::Exited));
    let table = table();
    for state in states {
        for event in &events {
            let exact = table.iter().find(|row| (row.0, row.1) == (state, *event));
            let expected = exact.map_or((life(state, 0), vec![]), |row| (row.2, row.3.clone()));
            let is_exit = matches!(event, ServiceEvent::Exited(exit) if *exit != CODE);
            // Only the state after a stop request distinguishes between ways to end; the table lists those.
            if is_exit && exact.is_none() {
                continue;
            }
            assert_eq!(life(state, 0).step(*event, &POLICY), expected, "{state:?} on {event:?}");
        }
    }
}

#[test]
fn stop_without_drain_signals_at_once() {
    let (next, actions) =
        life(Running, 0).step(ServiceEvent::StopRequested, &ServicePolicy { drain: Duration::ZERO, ..POLICY });
    assert_eq!(next.state, Stopping(Some(SIGINT), StopReason::Shutdown));
    assert_eq!(actions[0], ServiceAction::Signal(SIGINT));
}

#[test]
fn reload_waits_for_runs_until_stop_restores_limits() {
    let policy = POLICY.for_reload();
    let (draining, actions) = life(Running, 0).step(ServiceEvent::StopRequested, &policy);
    assert_eq!(actions, [ServiceAction::StartTimer(RELOAD_DRAIN)]);
    let (stopping, _) = draining.step(ServiceEvent::TimerElapsed, &policy);
    let (killing, actions) = stopping.step(ServiceEvent::TimerElapsed, &policy);
    assert_eq!((killing.state, actions), (Killing(StopReason::Shutdown), vec![ServiceAction::KillProcess]));
    let (left, _) = killing.step(ServiceEvent::Exited(CODE), &policy);
    let only_waited_for = life(Stopping(None, StopReason::Shutdown), 0);
    let kill_others = vec![ServiceAction::KillLeftovers, ServiceAction::StartTimer(GROUP_KILL_TIMEOUT)];
    for (waiting, at_deadline) in [(left, kill_others), (only_waited_for, vec![])] {
        assert_eq!(waiting.step(ServiceEvent::TimerElapsed, &policy), (waiting, at_deadline));
        let (next, actions) = waiting.step(ServiceEvent::PolicyChanged, &POLICY);
        assert_eq!((next, actions.last()), (waiting, Some(&ServiceAction::RestartStopTimer)));
        assert!(waiting.step(ServiceEvent::TimerElapsed, &POLICY).1.contains(&ServiceAction::KillGroup));
    }
}

#[test]
fn service_without_stop_signal_is_only_waited_for() {
    let policy = ServicePolicy { drain: Duration::ZERO, stop_signal: None, ..POLICY };
    for state in [Starting, Running] {
        let (next, actions) = life(state, 0).step(ServiceEvent::StopRequested, &policy);
        assert_eq!(next.state, Stopping(None, StopReason::Shutdown));
        assert_eq!(actions, [ServiceAction::Signal(SIGCONT), ServiceAction::StartStopTimer]);
        let (next, _) = next.step(ServiceEvent::Exited(Exit::Code(2)), &policy);
        assert_eq!(next.state, WaitingForGroup(AfterExit::End(Termination::Exited(Exit::Code(2)))));
    }
}

#[test]
fn backoff_doubles_up_to_maximum() {
    let seconds: Vec<u64> = (1..=5).map(|failures| RESTART.pause(failures).as_secs()).collect();
    assert_eq!(seconds, [1, 2, 3, 3, 3]);
    assert_eq!(RESTART.pause(u32::MAX), RESTART.max_delay);
}

#[test]
fn crash_loop_ends_with_last_exit() {
    let (mut life, _) = Lifecycle::begin();
    for code in 1..=3 {
        (life, _) = life.step(ServiceEvent::Exited(Exit::Code(code)), &POLICY);
        assert_eq!(life.state, WaitingForGroup(AfterExit::Restart));
        (life, _) = life.step(ServiceEvent::GroupEmpty, &POLICY);
        (life, _) = life.step(ServiceEvent::TimerElapsed, &POLICY);
        assert_eq!(life.state, Starting);
    }
    (life, _) = life.step(ServiceEvent::Exited(Exit::Code(4)), &POLICY);
    assert_eq!(life.state, WaitingForGroup(AfterExit::End(Termination::Exited(Exit::Code(4)))));
}

#[test]
fn requested_restart_is_no_failure_and_has_no_delay() {
    let never = ServicePolicy { restart: RestartRules { policy: RestartPolicy::Never, limit: 0, ..RESTART }, ..POLICY };
    let (stopping, _) = life(Running, 3).step(ServiceEvent::RestartRequested, &never);
    let (gone, _) = stopping.step(ServiceEvent::Exited(Exit::Code(0)), &never);
    assert_eq!(gone.step(ServiceEvent::GroupEmpty, &never), (life(Starting, 0), vec![ServiceAction::Start]));
}

#[test]
fn restart_count_resets_after_stable_run() {
    let (next, _) = life(Running, 3).step(ServiceEvent::TimerElapsed, &POLICY);
    assert_eq!(next, life(Running, 0));
    let (next, _) = life(Starting, 3).step(ServiceEvent::TimerElapsed, &POLICY);
    assert_eq!(next, life(Starting, 3));
}

#[test]
fn restart_policy_decides_which_exits_are_failures() {
    let table = [
        (RestartPolicy::Never, Exit::Code(1), false),
        (RestartPolicy::OnFailure, Exit::Code(0), false),
        (RestartPolicy::OnFailure, Exit::Code(1), true),
        (RestartPolicy::OnFailure, Exit::Signal(9), true),
        (RestartPolicy::Always, Exit::Code(0), true),
    ];
    for (policy, exit, restarts) in table {
        let policy = ServicePolicy { restart: RestartRules { policy, ..RESTART }, ..POLICY };
        let (next, _) = life(Running, 0).step(ServiceEvent::Exited(exit), &policy);
        assert_eq!(next.state == WaitingForGroup(AfterExit::Restart), restarts, "{policy:?} {exit:?}");
    }
}

#[test]
fn failed_start_at_restart_limit_ends_service() {
    let (next, _) = life(Starting, RESTART.limit).step(ServiceEvent::StartFailed, &POLICY);
    assert_eq!(next.state, WaitingForGroup(AfterExit::End(Termination::NotStarted)));
}

fn event() -> impl Strategy<Value = ServiceEvent> {
    let exit = prop_oneof![Just(Exit::Code(0)), Just(CODE), Just(Exit::Signal(SIGTERM))];
    prop_oneof![
        1 => Just(ServiceEvent::BecameAlive),
        1 => Just(ServiceEvent::Unresponsive),
        1 => Just(ServiceEvent::RestartRequested),
        1 => Just(ServiceEvent::StopRequested),
        1 => Just(ServiceEvent::PolicyChanged),
        4 => Just(ServiceEvent::TimerElapsed),
        4 => exit.prop_map(ServiceEvent::Exited),
        1 => Just(ServiceEvent::StartFailed),
        1 => Just(ServiceEvent::CannotStart),
        1 => Just(ServiceEvent::PortTaken),
        2 => Just(ServiceEvent::GroupEmpty),
    ]
}

proptest! {
    #[test]
    fn backoff_never_shrinks_or_exceeds_maximum(delay in 1..100_000_u64, longest in 1..1_000_000_u64, failures in 1..=u32::MAX) {
        let restart =
            RestartRules { initial_delay: Duration::from_millis(delay), max_delay: Duration::from_millis(longest), ..RESTART };
        let (first, pause, next) = (restart.pause(1), restart.pause(failures), restart.pause(failures.saturating_add(1)));
        prop_assert_eq!(first, restart.initial_delay.min(restart.max_delay));
        prop_assert!(first <= pause && pause <= next && next <= restart.max_delay);
        prop_assert!(next == (pause * 2).min(restart.max_delay) || failures == u32::MAX);
    }

    /// Whatever happens in whatever order.
    #[test]
    fn failures_in_a_row_never_exceed_limit(events in vec(event(), 0..60), limit in 0..5_u32) {
        let policy = ServicePolicy { restart: RestartRules { limit, ..RESTART }, ..POLICY };
        let (mut life, _) = Lifecycle::begin();
        for event in events {
            let before = life;
            let actions;
            (life, actions) = life.step(event, &policy);
            prop_assert!(life.failures <= limit);
            for action in &actions {
                prop_assert!(!matches!(action, ServiceAction::StartBackoff(span) if *span > policy.restart.max_delay || limit == 0));
            }
            prop_assert!(!matches!(before.state, Ended(_)) || (life == before && actions.is_empty()));
            let starts = actions.contains(&ServiceAction::Start);
            prop_assert_eq!(starts, life.state == Starting && before.state != Starting);
        }
    }

    /// Two stops and the end of its process end it, wherever it is.
    #[test]
    fn stopped_service_always_ends(events in vec(event(), 0..60)) {
        let (mut life, _) = Lifecycle::begin();
        let stop = [ServiceEvent::StopRequested, ServiceEvent::StopRequested, ServiceEvent::StopRequested, ServiceEvent::Exited(CODE), ServiceEvent::GroupEmpty];
        for event in events.into_iter().chain(stop) {
            life = life.step(event, &POLICY).0;
        }
        prop_assert!(matches!(life.state, Ended(_)), "{:?}", life);
    }
}
