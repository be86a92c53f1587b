//! What the services that bots-ctl does itself have in common: a place among the facts, and how they are told to stop.

use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, mpsc, watch};

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

/// Resolves when the service is asked to stop. Everything else it may be told is for processes.
pub(crate) async fn stop_requested(control: &mut mpsc::Receiver<ServiceCommand>) {
    loop {
        match control.recv().await {
            Some(ServiceCommand::Stop) => return,
            Some(
                ServiceCommand::Forward(_)
                | ServiceCommand::MarkAlive(_)
                | ServiceCommand::MarkUnresponsive(_)
                | ServiceCommand::Reconfigure(_),
            ) => {}
            None => pending().await,
        }
    }
}

/// What is to take a service's place when it has finished what it does: the newest, if there were several.
pub(crate) struct Handover<T> {
    next: Arc<Mutex<Option<T>>>,
    value: Arc<Notify>,
}

impl<T> Clone for Handover<T> {
    fn clone(&self) -> Self {
        Self { next: Arc::clone(&self.next), value: Arc::clone(&self.value) }
    }
}

impl<T> Default for Handover<T> {
    fn default() -> Self {
        Self { next: Arc::default(), value: Arc::default() }
    }
}

impl<T> Handover<T> {
    /// Names one.
    pub fn set(&self, next: T) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
        self.value.notify_one();
    }

    /// Resolves while there is one.
    pub async fn wait(&self) {
        while self.next.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            self.value.notified().await;
        }
    }

    /// It takes the place.
    pub fn take(&self) -> Option<T> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
