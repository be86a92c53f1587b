//! The queue's connection to its rows: being opened, open, or to be opened again.

use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, error};

use super::{QueueStatus, REQUEST_TIMEOUT, Role, Unavailable};
use crate::database::jobs::JobStore;
use crate::database::{DatabaseConfig, Error};

/// A queue that has not become active within this time counts as a standby.
const STANDBY_GRACE: Duration = Duration::from_millis(300);

/// Pause before the database is tried again.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

pub(super) struct DbLink {
    settings: DatabaseConfig,
    owner: String,
    status: watch::Sender<QueueStatus>,
    state: LinkState,
}

enum LinkState {
    Connecting(Pin<Box<dyn Future<Output = Result<JobStore, Error>> + Send>>),
    Connected(Box<JobStore>),
    /// Tried again at this time.
    Backoff(Instant),
}

impl DbLink {
    pub fn new(settings: DatabaseConfig, owner: String, status: watch::Sender<QueueStatus>) -> Self {
        Self { settings, owner, status, state: LinkState::Backoff(Instant::now()) }
    }

    /// Waits until a new connection is open, and this queue the active one. Cancel safe.
    pub async fn connected(&mut self) {
        loop {
            match &mut self.state {
                LinkState::Connected(_) => pending().await,
                LinkState::Connecting(opening) => match opening.as_mut().await {
                    Ok(jobs) => {
                        self.state = LinkState::Connected(Box::new(jobs));
                        return;
                    }
                    Err(error) => self.disconnect(&error),
                },
                LinkState::Backoff(until) => {
                    sleep_until(*until).await;
                    let opening = open(self.settings.clone(), self.owner.clone(), self.status.clone());
                    self.state = LinkState::Connecting(Box::pin(opening));
                }
            }
        }
    }

    /// Works with the rows. After an error the connection is given up, and with it the right to change them.
    pub async fn with<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut JobStore) -> Result<T, Error>,
    ) -> Result<T, Unavailable> {
        let LinkState::Connected(jobs) = &mut self.state else { return Err(Unavailable) };
        let late = || Error::Unavailable(format!("the database did not answer within {} s", REQUEST_TIMEOUT.as_secs()));
        let result = timeout(REQUEST_TIMEOUT, work(jobs)).await.unwrap_or_else(|_| Err(late()));
        result.map_err(|error| {
            self.disconnect(&error);
            Unavailable
        })
    }

    fn disconnect(&mut self, error: &Error) {
        self.state = LinkState::Backoff(Instant::now() + RECONNECT_DELAY);
        if self.status.borrow().role == Role::Unavailable {
            debug!("{error}");
        } else {
            error!("the job queue lost its database connection: {error}; reconnecting");
        }
        self.status.send_modify(|status| status.role = Role::Unavailable);
    }
}

/// Opens the job store; a queue that waits for another one is a standby.
async fn open(settings: DatabaseConfig, owner: String, status: watch::Sender<QueueStatus>) -> Result<JobStore, Error> {
    let connected = Notify::new();
    let standing_by = async {
        connected.notified().await;
        sleep(STANDBY_GRACE).await;
        status.send_modify(|status| status.role = Role::Standby);
        pending::<Infallible>().await
    };
    tokio::select! {
        opened = JobStore::open(&settings, &owner, &connected) => opened,
        never = standing_by => match never {},
    }
}
