//! Runs one service: performs the actions of [`super::state`] and feeds it what happens.

use std::time::Duration;

use nix::libc::SIGKILL;
use nix::unistd::Pid;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::narrate::narrate;
use super::output::carry;
use super::state::{Action, End, Event, Life, Next, Plan, State};
use crate::exit::Exit;
use crate::process::child::{SpawnError, Spec, group_exists, signal_group, signal_process};
use crate::process::reaper::{Child, Reaper};
use crate::telemetry::child_output::{LineSink, Stream};

/// How long the last lines of a service may take to arrive after its end: they are in a pipe already.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A service that is to be supervised.
#[derive(Clone)]
pub struct Service {
    /// Its name in the log.
    pub name: &'static str,
    /// How each of its processes is started.
    pub spec: Spec,
    /// How it is kept running and stopped.
    pub plan: Plan,
    /// Where its output goes.
    pub lines: LineSink,
    /// Whether its first sign of life will be told: signals that come before it are kept until then.
    pub is_watched: bool,
}

/// What a running service is told from outside.
pub enum Control {
    /// Stop in order; once more: stop now.
    Stop,
    /// Pass this signal on. Between two processes it is kept for the next one, and until a process that is watched has
    /// given a sign of life: before, the default action of most signals would end it.
    Forward(i32),
    /// This process has given its first sign of life.
    Answered(Pid),
    /// This process no longer answers and is to be replaced.
    Hung(Pid),
    /// The next process is to be this one, and its time has come. What only is waited for finishes first.
    Renew(Box<Service>),
}

/// How a service fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Where it is in its life.
    pub state: State,
    /// Its process, while there is one.
    pub pid: Option<Pid>,
    /// How often it was started again.
    pub restarts: u32,
    /// How its last process ended.
    pub last_exit: Option<Exit>,
    /// Whether it was asked to stop, in whatever state.
    pub was_asked: bool,
}

/// Supervises a service until nothing of it is left. `observe` is called at every change; `kept` are signals that came
/// before there was a process to pass them on to. When it is renewed, `service` becomes another one.
///
/// # Errors
/// When its program is not there or cannot be executed. Want of processes or memory is waited for.
pub async fn supervise(
    service: &mut Service,
    reaper: &Reaper,
    control: &mut mpsc::Receiver<Control>,
    kept: Vec<i32>,
    observe: impl FnMut(Snapshot),
) -> Result<End, SpawnError> {
    let mut driver = Driver::new(service, reaper, kept, observe);
    let (mut life, first) = Life::begin();
    let mut at_once = driver.perform(first)?;
    loop {
        driver.show(life.state);
        let event = match at_once.take() {
            Some(event) => event,
            None => driver.next_event(life.state, control).await,
        };
        let (next, actions) = life.step(event, &driver.service.plan);
        driver.narrate(life, next, event);
        for action in actions {
            at_once = driver.perform(action)?.or(at_once);
        }
        if event == Event::Answered {
            driver.deliver_kept();
        }
        life = next;
        if let State::Ended(end) = life.state {
            driver.show(life.state);
            driver.last_lines().await;
            driver.succeed();
            return Ok(end);
        }
    }
}

struct Driver<'a, F> {
    service: &'a mut Service,
    /// What the next process is to be.
    successor: Option<Box<Service>>,
    reaper: &'a Reaper,
    observe: F,
    reaped: watch::Receiver<u64>,
    child: Option<Child>,
    /// Groups of this and of earlier processes that may still have members.
    groups: Vec<Pid>,
    output: Vec<JoinHandle<()>>,
    timer: Option<Instant>,
    /// Signals that came while there was no process to tell.
    kept: Vec<i32>,
    /// Whether the present process has given its first sign of life.
    answered: bool,
    starts: u32,
    /// Starts that had no failure before them.
    renewals: u32,
    last_exit: Option<Exit>,
    was_asked: bool,
}

impl<'a, F: FnMut(Snapshot)> Driver<'a, F> {
    fn new(service: &'a mut Service, reaper: &'a Reaper, kept: Vec<i32>, observe: F) -> Self {
        Self {
            service,
            successor: None,
            reaper,
            observe,
            reaped: reaper.reaped(),
            child: None,
            groups: Vec::new(),
            output: Vec::new(),
            timer: None,
            kept,
            answered: false,
            starts: 0,
            renewals: 0,
            last_exit: None,
            was_asked: false,
        }
    }

    fn show(&mut self, state: State) {
        let pid = self.child.as_ref().map(|child| child.pid);
        let restarts = self.starts.saturating_sub(1 + self.renewals);
        let (last_exit, was_asked) = (self.last_exit, self.was_asked);
        (self.observe)(Snapshot { state, pid, restarts, last_exit, was_asked });
    }

    async fn next_event(&mut self, state: State, control: &mut mpsc::Receiver<Control>) -> Event {
        let sweeping = matches!(state, State::Sweeping(_) | State::Clearing(_));
        loop {
            // A reaped process is a reason to look at the groups, not yet a proof that they are empty.
            if sweeping && self.is_swept() {
                return Event::GroupEmpty;
            }
            let timer = self.timer;
            let event = tokio::select! {
                exit = exited(&mut self.child) => Some(self.note_exit(exit)),
                told = control.recv() => self.told(told),
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {
                    self.timer = None;
                    Some(Event::TimerElapsed)
                }
                _ = self.reaped.changed(), if sweeping => None,
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    fn narrate(&mut self, from: Life, to: Life, event: Event) {
        let is_renewal =
            matches!((from.state, event), (State::Sweeping(Next::Renewal), _) | (State::Paused, Event::Renewed));
        self.renewals += u32::from(is_renewal && to.state == State::Starting);
        let plan = self.service.plan;
        narrate(self.service.name, from, to, event, &plan);
        let was_sweeping = matches!(from.state, State::Sweeping(_));
        if matches!(to.state, State::Sweeping(Next::End(_))) && !was_sweeping && !self.is_swept() {
            let limit = seconds(plan.timeout);
            info!(service = self.service.name, "waiting for the processes it left, for at most {limit}");
        }
    }

    fn note_exit(&mut self, exit: Exit) -> Event {
        let pid = self.child.take().map_or(0, |child| child.pid.as_raw());
        info!(service = self.service.name, pid, "{} ended: {exit}", self.service.name);
        self.last_exit = Some(exit);
        Event::Exited(exit)
    }

    fn told(&mut self, told: Option<Control>) -> Option<Event> {
        let current = self.child.as_ref().map(|child| child.pid);
        match told {
            Some(Control::Stop) | None => {
                self.was_asked = true;
                Some(Event::StopRequested)
            }
            Some(Control::Forward(number)) => {
                match current {
                    Some(pid) if self.answered || !self.service.is_watched => signal_group(pid, number),
                    _ => self.kept.push(number),
                }
                None
            }
            Some(Control::Answered(pid)) => (current == Some(pid)).then_some(Event::Answered),
            Some(Control::Hung(pid)) => (current == Some(pid)).then_some(Event::Hung),
            Some(Control::Renew(service)) => {
                self.successor = Some(service);
                Some(Event::Renewed)
            }
        }
    }

    fn is_swept(&mut self) -> bool {
        self.groups.retain(|group| group_exists(*group));
        self.groups.is_empty()
    }

    /// Does it; the answer is an event that follows at once.
    fn perform(&mut self, action: Action) -> Result<Option<Event>, SpawnError> {
        let pid = self.child.as_ref().map(|child| child.pid);
        match action {
            Action::Start => return self.start(),
            // Who watches learns it from the state.
            Action::Unready => {}
            Action::Signal(number) => pid.into_iter().for_each(|pid| signal_process(pid, number)),
            Action::KillOwn => pid.into_iter().for_each(|pid| signal_process(pid, SIGKILL)),
            Action::Kill => self.groups.iter().for_each(|group| signal_group(*group, SIGKILL)),
            Action::Timer(span) => self.timer = Some(Instant::now() + span),
            Action::Pause(span) => {
                let span = with_jitter(span);
                info!(service = self.service.name, "starting it again in {}", seconds(span));
                self.timer = Some(Instant::now() + span);
            }
        }
        Ok(None)
    }

    fn start(&mut self) -> Result<Option<Event>, SpawnError> {
        self.succeed();
        // A group's number may be given to others once it is empty.
        self.groups.retain(|group| group_exists(*group));
        let mut child = match self.reaper.spawn(&self.service.spec) {
            Ok(child) => child,
            Err(error @ SpawnError::NoResources(..)) => {
                warn!(service = self.service.name, "{error}");
                return Ok(Some(Event::StartFailed));
            }
            Err(error) => return Err(error),
        };
        let streams = [(child.stdout.take(), Stream::Stdout), (child.stderr.take(), Stream::Stderr)];
        let lines = self.service.lines.of_process();
        let carried = streams.into_iter().filter_map(|(fd, stream)| Some(carry(fd?, stream, lines.clone())));
        self.output = carried.collect();
        self.starts += 1;
        self.answered = false;
        self.groups.push(child.pid);
        self.child = Some(child);
        Ok(None)
    }

    fn succeed(&mut self) {
        if let Some(next) = self.successor.take() {
            *self.service = *next;
        }
    }

    fn deliver_kept(&mut self) {
        self.answered = true;
        if let Some(child) = &self.child {
            self.kept.drain(..).for_each(|number| signal_group(child.pid, number));
        }
    }

    async fn last_lines(&mut self) {
        for task in self.output.drain(..) {
            let _ = timeout(LAST_LINES, task).await;
        }
    }
}

/// Waits for the end of the process; for ever while there is none.
async fn exited(child: &mut Option<Child>) -> Exit {
    match child {
        Some(child) => child.exited().await,
        None => std::future::pending().await,
    }
}

/// About as long, between four and six fifths.
fn with_jitter(span: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    span.mul_f64(0.8 + 0.4 * f64::from(random) / f64::from(u32::MAX))
}

pub(super) fn seconds(span: Duration) -> String {
    format!("{:.3}", span.as_secs_f64()).trim_end_matches('0').trim_end_matches('.').to_owned() + " s"
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn jitter_stays_within_a_fifth(milliseconds in 0..1_000_000_000_u64) {
            let span = Duration::from_millis(milliseconds);
            let about = with_jitter(span);
            prop_assert!(span.mul_f64(0.799) <= about && about <= span.mul_f64(1.201));
        }
    }
}
