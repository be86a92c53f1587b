//! What the services that bots-ctl does itself have in common: a place among the facts, and how they are told to stop.

use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, mpsc, watch};

use crate::health::state::{Facts, Service};
use crate::supervisor::task::Control;

/// A service's place among the facts.
pub(crate) struct Place {
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
pub(crate) async fn asked_to_stop(control: &mut mpsc::Receiver<Control>) {
    loop {
        match control.recv().await {
            Some(Control::Stop) => return,
            Some(Control::Forward(_) | Control::Answered(_) | Control::Hung(_) | Control::Renew(_)) => {}
            None => pending().await,
        }
    }
}

/// What is to take a service's place when it has finished what it does: the newest, if there were several.
pub(crate) struct Successor<T> {
    next: Arc<Mutex<Option<T>>>,
    news: Arc<Notify>,
}

impl<T> Clone for Successor<T> {
    fn clone(&self) -> Self {
        Self { next: Arc::clone(&self.next), news: Arc::clone(&self.news) }
    }
}

impl<T> Default for Successor<T> {
    fn default() -> Self {
        Self { next: Arc::default(), news: Arc::default() }
    }
}

impl<T> Successor<T> {
    /// Names one.
    pub fn name(&self, next: T) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
        self.news.notify_one();
    }

    /// Resolves while there is one.
    pub async fn is_named(&self) {
        while self.next.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            self.news.notified().await;
        }
    }

    /// It takes the place.
    pub fn take(&self) -> Option<T> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
