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
//! Sweeping waits for what the service started and left behind, an engine for example. Before an end it is killed at
//! the deadline (Clearing); before a restart it is left to finish beside the next process. What even SIGKILL does not
//! end, a zombie that its own parent keeps for instance, is not waited for.
//!
//! A service is *renewed* when it is to run with other settings: it is stopped in order, drain included, and started at once.
//! That is no failure of its. What only is waited for, an engine, goes on: its next run has the other settings.

use std::time::Duration;

use State::{Clearing, Draining, Ended, Killing, Paused, Running, Starting, Stopping, Sweeping};

use crate::exit::Exit;

/// How a service is to be kept running, and to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// How long it stays up, no longer ready.
    pub drain: Duration,
    /// The same before it is renewed.
    pub renewal_drain: Duration,
    /// How long it may take after the stop signal, and its leftovers after its end.
    pub timeout: Duration,
    /// Number of the signal that asks it to stop; without one it is only waited for.
    pub stop_signal: Option<i32>,
    /// How long what a process has left behind may delay the start of the next one.
    pub settle: Duration,
    /// When it is started again.
    pub restart: Restart,
}

/// When a service that has ended by itself is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// After which ends.
    pub policy: Policy,
    /// How many times in a row, before its end is the end.
    pub limit: u32,
    /// The pause before the first restart; each further one takes twice as long.
    pub delay: Duration,
    /// The longest pause.
    pub longest_delay: Duration,
    /// How long it has to run well until the count begins anew.
    pub reset_after: Duration,
}

/// After which ends a service is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// None.
    Never,
    /// All but exit code 0.
    OnFailure,
    /// All.
    Always,
}

/// How the whole thing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
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
pub enum Next {
    /// Another one, after a pause.
    Restart,
    /// Another one at once, with other settings.
    Renewal,
    /// Nothing.
    End(End),
}

/// What a process is stopped for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The service is to end.
    End,
    /// It does not answer, and another process is to take its place.
    Replace,
    /// Another process with other settings is to take its place.
    Renew,
}

/// Where a service is in its life. What exists only in a state lives in its variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was started and has given no sign of life yet.
    Starting,
    /// It runs.
    Running,
    /// It runs, is no longer ready, and will be asked to stop.
    Draining(Goal),
    /// It was sent this signal to stop, if there is one.
    Stopping(Option<i32>, Goal),
    /// It was sent SIGKILL.
    Killing(Goal),
    /// It is gone; its group may not be.
    Sweeping(Next),
    /// It is gone; what was left of its group was sent SIGKILL.
    Clearing(End),
    /// Nothing runs; it will be started again.
    Paused,
    /// Nothing is left.
    Ended(End),
}

/// A state, and how many times in a row the service has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Where it is.
    pub state: State,
    /// Failures since it last ran well.
    pub failures: u32,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It has given its first sign of life.
    Answered,
    /// It no longer answers, and is to be replaced.
    Hung,
    /// A stop was asked for; a further one means "now".
    StopRequested,
    /// There are other settings for it, with which the next process is started.
    Renewed,
    /// The timer that was started last has run out.
    TimerElapsed,
    /// The service's own process has ended.
    Exited(Exit),
    /// There was no room for another process.
    StartFailed,
    /// No process of the group is left.
    GroupEmpty,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a process. If that is not possible, [`Event::StartFailed`] is the next event.
    Start,
    /// Be no longer ready.
    Unready,
    /// Send the service's own process this signal. Not its group: SIGINT would make an engine that the web UI has
    /// started lose the files it has taken.
    Signal(i32),
    /// Kill the service's own process; what it has started goes on.
    KillOwn,
    /// Kill the whole group.
    Kill,
    /// Start the timer; it replaces an earlier one.
    Timer(Duration),
    /// Start the timer with about this span, so that services which failed together do not come back together.
    Pause(Duration),
}

const SIGTERM: i32 = 15;

/// How long the kernel may take to end what was sent SIGKILL.
const CLEARING: Duration = Duration::from_secs(5);

impl Life {
    /// The beginning, with its first action.
    #[must_use]
    pub fn begin() -> (Self, Action) {
        (Self { state: Starting, failures: 0 }, Action::Start)
    }

    /// The next state, and what to do to get there.
    #[must_use]
    pub fn step(self, event: Event, plan: &Plan) -> (Self, Vec<Action>) {
        match event {
            Event::Answered => self.answered(plan),
            Event::Hung => self.hung(plan),
            Event::StopRequested => self.stop_requested(plan),
            Event::Renewed => self.renewed(plan),
            Event::TimerElapsed => self.timer_elapsed(plan),
            Event::Exited(exit) => self.exited(exit, plan),
            Event::StartFailed => self.start_failed(plan),
            Event::GroupEmpty => self.group_empty(plan),
        }
    }

    fn to(self, state: State, actions: Vec<Action>) -> (Self, Vec<Action>) {
        (Self { state, ..self }, actions)
    }

    fn stays(self) -> (Self, Vec<Action>) {
        (self, Vec::new())
    }

    fn answered(self, plan: &Plan) -> (Self, Vec<Action>) {
        match self.state {
            Starting => self.to(Running, vec![Action::Timer(plan.restart.reset_after)]),
            Running | Draining(_) | Stopping(..) | Killing(_) | Sweeping(_) | Clearing(_) | Paused | Ended(_) => {
                self.stays()
            }
        }
    }

    fn hung(self, plan: &Plan) -> (Self, Vec<Action>) {
        match self.state {
            Starting => self.stop(plan.stop_signal.map(|_| SIGTERM), Goal::Replace, plan),
            Running => self.stop(plan.stop_signal, Goal::Replace, plan),
            Draining(_) | Stopping(..) | Killing(_) | Sweeping(_) | Clearing(_) | Paused | Ended(_) => self.stays(),
        }
    }

    fn stop_requested(self, plan: &Plan) -> (Self, Vec<Action>) {
        match self.state {
            Starting => self.stop(plan.stop_signal.map(|_| SIGTERM), Goal::End, plan),
            Running if plan.drain.is_zero() => self.stop(plan.stop_signal, Goal::End, plan),
            Running => self.to(Draining(Goal::End), vec![Action::Unready, Action::Timer(plan.drain)]),
            Draining(Goal::End) => self.stop(plan.stop_signal, Goal::End, plan),
            // From here on this is an end, with the drain of one.
            Draining(_) => self.to(Draining(Goal::End), vec![Action::Timer(plan.drain)]),
            // It has been asked already; from now on its end is the end.
            Stopping(signal, Goal::Replace | Goal::Renew) => self.to(Stopping(signal, Goal::End), Vec::new()),
            Stopping(_, Goal::End) => self.to(Killing(Goal::End), vec![Action::Kill]),
            Killing(_) => self.to(Killing(Goal::End), Vec::new()),
            Sweeping(Next::Restart | Next::Renewal) | Paused => {
                self.to(Sweeping(Next::End(End::Stopped)), vec![Action::Unready, Action::Timer(plan.timeout)])
            }
            Sweeping(Next::End(end)) => self.clear(end),
            Clearing(_) | Ended(_) => self.stays(),
        }
    }

    /// A failure before was one of the old settings.
    fn renewed(self, plan: &Plan) -> (Self, Vec<Action>) {
        let anew = Self { failures: 0, ..self };
        match self.state {
            Starting | Running if plan.stop_signal.is_none() => self.stays(),
            Starting => anew.stop(Some(SIGTERM), Goal::Renew, plan),
            Running if plan.renewal_drain.is_zero() => anew.stop(plan.stop_signal, Goal::Renew, plan),
            Running => anew.to(Draining(Goal::Renew), vec![Action::Unready, Action::Timer(plan.renewal_drain)]),
            Stopping(signal, Goal::Replace) => anew.to(Stopping(signal, Goal::Renew), Vec::new()),
            Killing(Goal::Replace) => anew.to(Killing(Goal::Renew), Vec::new()),
            Sweeping(Next::Restart) => anew.to(Sweeping(Next::Renewal), Vec::new()),
            Paused => anew.to(Starting, vec![Action::Start]),
            Draining(_) | Stopping(..) | Killing(_) | Sweeping(_) | Clearing(_) | Ended(_) => self.stays(),
        }
    }

    fn stop(self, signal: Option<i32>, goal: Goal, plan: &Plan) -> (Self, Vec<Action>) {
        let signalled = signal.map(Action::Signal);
        let actions = [Some(Action::Unready), signalled, Some(Action::Timer(plan.timeout))];
        self.to(Stopping(signal, goal), actions.into_iter().flatten().collect())
    }

    /// A timer that runs out in another state than the one that started it is late, which is normal.
    fn timer_elapsed(self, plan: &Plan) -> (Self, Vec<Action>) {
        match self.state {
            Running => (Self { failures: 0, ..self }, Vec::new()),
            Draining(goal) => self.stop(plan.stop_signal, goal, plan),
            Stopping(_, Goal::End) => self.to(Killing(Goal::End), vec![Action::Kill]),
            Stopping(_, goal) => self.to(Killing(goal), vec![Action::KillOwn]),
            Sweeping(Next::End(end)) => self.clear(end),
            Sweeping(Next::Restart) => self.pause(plan),
            Sweeping(Next::Renewal) => self.to(Starting, vec![Action::Start]),
            Clearing(end) => self.to(Ended(end), Vec::new()),
            Paused => self.to(Starting, vec![Action::Start]),
            Starting | Killing(_) | Ended(_) => self.stays(),
        }
    }

    fn clear(self, end: End) -> (Self, Vec<Action>) {
        self.to(Clearing(end), vec![Action::Kill, Action::Timer(CLEARING)])
    }

    fn exited(self, exit: Exit, plan: &Plan) -> (Self, Vec<Action>) {
        match self.state {
            Starting | Running | Stopping(_, Goal::Replace) | Killing(Goal::Replace) => self.failed(exit, plan),
            Draining(Goal::Renew) | Stopping(_, Goal::Renew) | Killing(Goal::Renew) => {
                self.to(Sweeping(Next::Renewal), vec![Action::Unready, Action::Timer(plan.settle)])
            }
            Draining(_) => self.sweep(End::Exited(exit), plan),
            Stopping(signal, Goal::End) if in_order(exit, signal) => self.sweep(End::Stopped, plan),
            Stopping(_, Goal::End) => self.sweep(End::Exited(exit), plan),
            Killing(Goal::End) => self.sweep(End::Killed, plan),
            Sweeping(_) | Clearing(_) | Paused | Ended(_) => self.stays(),
        }
    }

    /// It has ended without being asked to end.
    fn failed(self, exit: Exit, plan: &Plan) -> (Self, Vec<Action>) {
        let replaced = matches!(self.state, Stopping(..) | Killing(_));
        let wanted = match plan.restart.policy {
            Policy::Never => replaced,
            Policy::OnFailure => replaced || exit != Exit::Code(0),
            Policy::Always => true,
        };
        if !wanted || self.failures >= plan.restart.limit {
            return self.sweep(End::Exited(exit), plan);
        }
        let failed = Self { failures: self.failures + 1, ..self };
        failed.to(Sweeping(Next::Restart), vec![Action::Unready, Action::Timer(plan.settle)])
    }

    fn start_failed(self, plan: &Plan) -> (Self, Vec<Action>) {
        match self.state {
            Starting if self.failures >= plan.restart.limit => self.sweep(End::NotStarted, plan),
            Starting => Self { failures: self.failures + 1, ..self }.pause(plan),
            Running | Draining(_) | Stopping(..) | Killing(_) | Sweeping(_) | Clearing(_) | Paused | Ended(_) => {
                self.stays()
            }
        }
    }

    fn sweep(self, end: End, plan: &Plan) -> (Self, Vec<Action>) {
        self.to(Sweeping(Next::End(end)), vec![Action::Unready, Action::Timer(plan.timeout)])
    }

    fn pause(self, plan: &Plan) -> (Self, Vec<Action>) {
        self.to(Paused, vec![Action::Pause(plan.restart.pause(self.failures))])
    }

    fn group_empty(self, plan: &Plan) -> (Self, Vec<Action>) {
        match self.state {
            Sweeping(Next::End(end)) | Clearing(end) => self.to(Ended(end), Vec::new()),
            Sweeping(Next::Restart) => self.pause(plan),
            Sweeping(Next::Renewal) => self.to(Starting, vec![Action::Start]),
            Starting | Running | Draining(_) | Stopping(..) | Killing(_) | Paused | Ended(_) => self.stays(),
        }
    }
}

impl Restart {
    /// The pause after so many failures in a row.
    fn pause(&self, failures: u32) -> Duration {
        let doubled = self.delay.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        doubled.min(self.longest_delay)
    }
}

/// A service that ends by the very signal it was sent has done what it was asked; so has one that says so in a
/// shell's way (128 + n). Any other code is news and is passed on.
fn in_order(exit: Exit, sent: Option<i32>) -> bool {
    match exit {
        Exit::Code(code) => code == 0 || sent.is_some_and(|sent| i32::from(code) == 128 + sent),
        Exit::Signal(signal) => sent == Some(signal),
    }
}

#[cfg(test)]
mod tests;
