//! What the services that bots-ctl does itself have in common: a place among the facts, and how they are told to stop.

use std::future::pending;

use tokio::sync::{mpsc, watch};

use crate::health::report::{Facts, Service};
use crate::supervisor::task::Control;

/// A service's place among the facts.
pub(super) struct Place {
    pub facts: watch::Sender<Facts>,
    pub index: usize,
}

impl Place {
    /// Takes down how the service fares.
    pub fn change(&self, change: impl FnOnce(&mut Service)) {
        self.facts.send_modify(|facts| change(&mut facts.services[self.index]));
    }
}

/// Resolves when the service is asked to stop. Everything else it may be told is for processes.
pub(super) async fn asked_to_stop(control: &mut mpsc::Receiver<Control>) {
    loop {
        match control.recv().await {
            Some(Control::Stop) => return,
            Some(Control::Forward(_) | Control::Answered(_) | Control::Hung(_)) => {}
            None => pending().await,
        }
    }
}
