//! What a fleet of services is told: by signals, and by the signs of life that come in or stay away.

use std::time::Instant;

use nix::unistd::Pid;
use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::health::state::{Facts, Phase, Service};
use crate::process::child::stop_own_group;
use crate::process::signals;
use crate::process::signals::Signals;
use crate::supervisor::group::Request;
use crate::supervisor::state::{Goal, Next, State};
use crate::supervisor::task;
use crate::supervisor::task::{Control, Snapshot};

/// Another process that is to take a service's place.
pub(crate) struct Renewal {
    /// Which service.
    pub place: usize,
    /// What runs from now on.
    pub service: Box<task::Service>,
    /// What is said when it answers.
    pub answer: String,
}

/// The source of requests.
pub(crate) struct Requests<'a> {
    signals: &'a mut Signals,
    facts: watch::Receiver<Facts>,
    renewals: mpsc::Receiver<Renewal>,
    /// For each service: what is said when it answers next, and since when that is waited for.
    answers: Vec<Option<(String, Instant)>>,
    /// For each service: the process whose first answer was told, and the one whose silence was.
    told: Vec<(Option<i32>, Option<i32>)>,
    restart_hung: bool,
}

impl<'a> Requests<'a> {
    pub fn new(
        signals: &'a mut Signals,
        facts: watch::Receiver<Facts>,
        renewals: mpsc::Receiver<Renewal>,
        answers: Vec<String>,
        restart_hung: bool,
        started: Instant,
    ) -> Self {
        let told = vec![(None, None); answers.len()];
        let answers = answers.into_iter().map(|answer| Some((answer, started))).collect();
        Self { signals, facts, renewals, answers, told, restart_hung }
    }

    /// The next request. Nothing is lost when the wait for it is given up.
    pub async fn next(&mut self) -> Request {
        loop {
            if let Some(request) = self.take_news() {
                return request;
            }
            tokio::select! {
                number = self.signals.next() => match number {
                    // Ctrl-Z gives the prompt back; the services go on.
                    nix::libc::SIGTSTP => stop_own_group(),
                    number if signals::asks_to_stop(number) => {
                        info!("asked to stop by {}", signals::name(number));
                        return Request::Stop;
                    }
                    number => return Request::Forward(number),
                },
                Ok(()) = self.facts.changed() => {}
                Some(Renewal { place, service, answer }) = self.renewals.recv() => {
                    self.answers[place] = Some((answer, Instant::now()));
                    return Request::Tell(place, Control::Renew(service));
                }
            }
        }
    }

    fn take_news(&mut self) -> Option<Request> {
        let facts = self.facts.borrow_and_update();
        for (place, (service, told)) in facts.services.iter().zip(&mut self.told).enumerate() {
            let Some(pid) = service.pid else { continue };
            if service.answered && told.0 != Some(pid) {
                told.0 = Some(pid);
                let answer = self.answers[place].take().filter(|(answer, _)| !answer.is_empty());
                if let Some((answer, since)) = answer {
                    info!("{answer} after {:.2} s", since.elapsed().as_secs_f64());
                }
                return Some(Request::Tell(place, Control::Answered(Pid::from_raw(pid))));
            }
            let is_hung = service.unexcused_misses >= facts.misses_allowed.max(1);
            if self.restart_hung && is_hung && told.1 != Some(pid) {
                told.1 = Some(pid);
                return Some(Request::Tell(place, Control::Hung(Pid::from_raw(pid))));
            }
        }
        None
    }
}

/// Takes down how a service fares. One that is not watched counts as answering from its start.
pub(crate) fn note(service: &mut Service, snapshot: Snapshot, is_watched: bool, is_scheduled: bool) {
    let pid = snapshot.pid.map(Pid::as_raw);
    if pid != service.pid {
        service.started = pid.map(|_| Instant::now());
        service.answered = !is_watched && pid.is_some();
        service.misses = 0;
        service.unexcused_misses = 0;
    }
    service.pid = pid;
    service.restarts = snapshot.restarts;
    service.last_exit = snapshot.last_exit.or(service.last_exit);
    service.phase = match snapshot.state {
        State::Starting => Phase::Starting,
        State::Running => Phase::Running,
        State::Draining(Goal::Replace | Goal::Renew) | State::Stopping(_, Goal::Replace | Goal::Renew) => {
            Phase::Restarting
        }
        State::Killing(Goal::Replace | Goal::Renew) => Phase::Restarting,
        State::Sweeping(Next::Restart | Next::Renewal) | State::Paused => Phase::Restarting,
        State::Draining(Goal::End) | State::Stopping(_, Goal::End) | State::Killing(Goal::End) => Phase::Draining,
        State::Sweeping(Next::End(_)) | State::Clearing(_) => Phase::Draining,
        State::Ended(_) if is_scheduled => Phase::Waiting,
        State::Ended(_) => Phase::Ended,
    };
}
