//! What a fleet of services is told: by signals, and by the signs of life that come in or stay away.

use std::time::Instant;

use nix::unistd::Pid;
use tokio::sync::watch;
use tracing::info;

use crate::health::state::{HealthState, Phase, ServiceHealth};
use crate::process::child::stop_own_group;
use crate::process::signals;
use crate::process::signals::Signals;
use crate::supervisor::group::GroupCommand;
use crate::supervisor::state::{AfterExit, State, StopReason};
use crate::supervisor::task::{ServiceCommand, ServiceSnapshot};

/// The source of requests.
pub(crate) struct SupervisorEvents<'a> {
    signals: &'a mut Signals,
    health: watch::Receiver<HealthState>,
    is_reload_passed_on: bool,
    /// For each service: what is said when it answers for the first time.
    replies: Vec<Option<String>>,
    started: Instant,
    /// For each service: the process whose first answer was told, and the one whose silence was.
    logged: Vec<(Option<i32>, Option<i32>)>,
    restart_hung: bool,
}

impl<'a> SupervisorEvents<'a> {
    pub fn new(
        signals: &'a mut Signals,
        health: watch::Receiver<HealthState>,
        replies: Vec<String>,
        restart_hung: bool,
        started: Instant,
    ) -> Self {
        let told = vec![(None, None); replies.len()];
        let replies = replies.into_iter().map(|reply| Some(reply).filter(|reply| !reply.is_empty())).collect();
        Self { signals, health, is_reload_passed_on: false, replies, started, logged: told, restart_hung }
    }

    /// The next request. Nothing is lost when the wait for it is given up.
    pub async fn next(&mut self) -> GroupCommand {
        loop {
            if let Some(request) = self.poll_health() {
                return request;
            }
            tokio::select! {
                number = self.signals.next() => match number {
                    // Ctrl-Z gives the prompt back; the services go on.
                    nix::libc::SIGTSTP => stop_own_group(),
                    number if signals::is_stop_signal(number) => {
                        info!("asked to stop by {}", signals::name(number));
                        return GroupCommand::Stop;
                    }
                    number => return GroupCommand::Forward(number),
                },
                Ok(()) = self.health.changed() => {}
            }
        }
    }

    fn poll_health(&mut self) -> Option<GroupCommand> {
        let health = self.health.borrow_and_update();
        if health.reloading && !std::mem::replace(&mut self.is_reload_passed_on, true) {
            return Some(GroupCommand::StopForReload);
        }
        for (index, (service, logged)) in health.services.iter().zip(&mut self.logged).enumerate() {
            let Some(pid) = service.pid else { continue };
            if service.alive && logged.0 != Some(pid) {
                logged.0 = Some(pid);
                if let Some(answer) = self.replies[index].take() {
                    info!("{answer} after {:.2} s", self.started.elapsed().as_secs_f64());
                }
                return Some(GroupCommand::ToService(index, ServiceCommand::MarkAlive(Pid::from_raw(pid))));
            }
            let is_hung = service.countable_failures >= health.misses_allowed.max(1);
            if self.restart_hung && is_hung && logged.1 != Some(pid) {
                logged.1 = Some(pid);
                return Some(GroupCommand::ToService(index, ServiceCommand::MarkUnresponsive(Pid::from_raw(pid))));
            }
        }
        None
    }
}

/// Takes down how a service fares. One that is not watched counts as answering from its start.
pub(crate) fn update_service_health(
    service: &mut ServiceHealth,
    snapshot: ServiceSnapshot,
    is_watched: bool,
    is_scheduled: bool,
) {
    let pid = snapshot.pid.map(Pid::as_raw);
    if pid != service.pid {
        service.started = pid.map(|_| Instant::now());
        service.alive = !is_watched && pid.is_some();
        service.failures = 0;
        service.countable_failures = 0;
    }
    service.pid = pid;
    service.restarts = snapshot.restarts;
    service.last_exit = snapshot.last_exit.or(service.last_exit);
    service.phase = match snapshot.state {
        State::Starting => Phase::Starting,
        State::Running => Phase::Running,
        State::Stopping(_, StopReason::Unresponsive) | State::Killing(StopReason::Unresponsive) => Phase::Restarting,
        State::WaitingForGroup(AfterExit::Restart) | State::Backoff => Phase::Restarting,
        State::Draining | State::Stopping(_, StopReason::Shutdown) | State::Killing(StopReason::Shutdown) => {
            Phase::Draining
        }
        State::WaitingForGroup(AfterExit::End(_)) | State::KillingGroup(_) => Phase::Draining,
        State::Ended(_) if is_scheduled => Phase::Waiting,
        State::Ended(_) => Phase::Ended,
    };
}
