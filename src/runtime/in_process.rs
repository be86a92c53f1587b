//! What the services that bots-ctl does itself have in common: a place among the facts, and how they are told to stop.

use std::future::pending;

use tokio::sync::{mpsc, watch};

use crate::health::state::{HealthState, ServiceHealth};
use crate::supervisor::task::ServiceCommand;

/// A service's place among the facts.
pub(crate) struct StateSlot {
    pub health: watch::Sender<HealthState>,
    pub index: usize,
}

impl StateSlot {
    /// Takes down how the service fares.
    pub fn update(&self, change: impl FnOnce(&mut ServiceHealth)) {
        self.health.send_modify(|health| change(&mut health.services[self.index]));
    }
}

/// Resolves when the service is asked to stop, with whether that is for a reload. Everything else it may be told is for processes.
pub(crate) async fn stop_requested(control: &mut mpsc::Receiver<ServiceCommand>) -> bool {
    loop {
        match control.recv().await {
            Some(ServiceCommand::Stop) => return false,
            Some(ServiceCommand::StopForReload) => return true,
            Some(ServiceCommand::Forward(_) | ServiceCommand::MarkAlive(_) | ServiceCommand::MarkUnresponsive(_)) => {}
            None => pending().await,
        }
    }
}
