//! Requests of a user to the running services: the restart of a service, and the response to a reload.

use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::Config;
use crate::exit::Kind;
use crate::health::rules::DATABASE;
use crate::health::state::{CheckResult, HealthState, Phase, ServiceHealth};
use crate::model::ServiceName;
use crate::supervisor::task::ProcessMessage;

use super::control_socket::{ControlRequest, Requester};
use super::reload_trial::{MAX_TRIAL, are_up, is_up};

/// Follows the reason why a reload has failed, if the previous files were kept.
pub(crate) const RESTORING: &str = "; restoring the previous configuration";

/// The services available to a request: how a message reaches the process of each, if it has one.
pub(crate) struct RunningServices {
    pub names: Vec<ServiceName>,
    pub messages: Vec<Option<UnboundedSender<ProcessMessage>>>,
    pub health: watch::Sender<HealthState>,
    /// Maximum time for a service to stop and become ready again.
    pub restart_timeout: Duration,
}

impl RunningServices {
    /// Executes the requests. Those for bots-ctl as a whole are forwarded.
    pub async fn obey(
        self,
        mut requests: UnboundedReceiver<(ControlRequest, Requester)>,
        reloads: UnboundedSender<Requester>,
    ) {
        while let Some((request, requester)) = requests.recv().await {
            match request {
                ControlRequest::Reload => {
                    let _ = reloads.send(requester);
                }
                ControlRequest::Restart(name) => self.restart(name, requester, &reloads),
            }
        }
    }

    fn restart(&self, name: ServiceName, requester: Requester, reloads: &UnboundedSender<Requester>) {
        let (word, running) = (name.as_str(), self.names.iter().map(|name| name.as_str()).collect::<Vec<_>>());
        let Some(index) = self.names.iter().position(|running| *running == name) else {
            let text = format!("{word} is not running here; running services: {}", running.join(", "));
            return requester.failed(Kind::Usage, &text);
        };
        match &self.messages[index] {
            Some(messages) => {
                let before = self.health.borrow().services[index].pid;
                let _ = messages.send(ProcessMessage::Restart);
                tokio::spawn(report_restart(index, before, self.health.subscribe(), self.restart_timeout, requester));
            }
            // It is bots-ctl itself.
            None if self.names.len() == 1 => {
                let _ = reloads.send(requester);
            }
            None => {
                let text = format!(
                    "{word} is part of the running bots-ctl, not a separate process; bots-ctl reload restarts it"
                );
                requester.failed(Kind::Usage, &text);
            }
        }
    }
}

/// Answers once another process is up.
async fn report_restart(
    index: usize,
    before: Option<i32>,
    mut health: watch::Receiver<HealthState>,
    limit: Duration,
    requester: Requester,
) {
    let is_over = |health: &HealthState| {
        let service = &health.services[index];
        service.phase == Phase::Ended || (service.alive && service.pid.is_some() && service.pid != before)
    };
    let waited = timeout(limit, health.wait_for(is_over)).await.is_ok();
    let health = health.borrow();
    let service = &health.services[index];
    match service.pid {
        Some(pid) if waited && service.phase != Phase::Ended => {
            requester.done(&format!("{} was restarted as process {pid}", service.name));
        }
        _ => requester.failed(Kind::Failed, &not_up(service, limit)),
    }
}

/// Responds to a reload once its services are ready, or have failed.
pub(crate) async fn report_reload(mut health: watch::Receiver<HealthState>, is_trial: bool, requester: Requester) {
    let has_ended = |health: &HealthState| health.services.iter().any(|service| service.phase == Phase::Ended);
    let is_over = |health: &HealthState| !health.services.is_empty() && (are_up(health) || has_ended(health));
    let waited = timeout(MAX_TRIAL, health.wait_for(is_over)).await.is_ok();
    let health = health.borrow();
    if waited && are_up(&health) {
        return requester.done("the services are ready with the current configuration");
    }
    let mut services = health.services.iter();
    let ended = services.clone().find(|service| service.phase == Phase::Ended);
    let late = services.find(|service| service.counts_for_ready && !is_up(service));
    // Without a database the services cannot become ready, and the files stay.
    let restores = is_trial && (ended.is_some() || *health.checks.get(DATABASE) == CheckResult::Ok);
    let reason = ended.or(late).map_or_else(String::new, |service| not_up(service, MAX_TRIAL));
    requester.failed(Kind::Failed, &format!("{reason}{}", if restores { RESTORING } else { "" }));
}

/// Why a service is not ready at the end of the limit, or before it has passed.
fn not_up(service: &ServiceHealth, limit: Duration) -> String {
    let name = service.name;
    let exit = service.last_exit.map(|exit| format!(" with {exit}")).unwrap_or_default();
    match service.phase {
        Phase::Ended => format!("{name} has ended{exit}; see its log lines"),
        _ => {
            let last = if exit.is_empty() { exit } else { format!("; its last process ended{exit}") };
            format!("{name} was not ready within {} s{last}; see its log lines", limit.as_secs())
        }
    }
}

/// The time limit of a restart with this configuration.
pub(crate) fn restart_timeout(config: &Config) -> Duration {
    ServiceName::ALL.map(|name| config.stop.of(name).timeout).into_iter().max().unwrap_or_default() + MAX_TRIAL
}
