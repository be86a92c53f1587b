//! The way from the queue to its rows: on its way, there, or to be tried again.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::{QueueConfig, Role, Status};
use crate::database::Error;
use crate::database::jobs::JobStore;

/// How long a queue may take to become the active one until it counts as one that stands by.
const STANDBY_GRACE: Duration = Duration::from_millis(300);

/// The way to the database.
pub(super) enum DbLink {
    Connecting(Pin<Box<dyn Future<Output = Result<JobStore, Error>> + Send>>),
    Connected(Box<JobStore>),
    /// Tried again at this moment.
    Backoff(Instant),
}

impl DbLink {
    /// Sets out; whoever waits for another queue to end soon says so.
    pub fn open(setup: &QueueConfig, status: &watch::Sender<Status>) -> Self {
        let (settings, owner, status) = (setup.database.clone(), setup.owner.clone(), status.clone());
        Self::Connecting(Box::pin(async move {
            let (sender, connected) = oneshot::channel();
            let opening = JobStore::open(&settings, &owner, || {
                let _ = sender.send(());
            });
            let standing_by = async {
                if connected.await.is_ok() {
                    sleep(STANDBY_GRACE).await;
                    status.send_modify(|status| status.activity = Role::Standby);
                }
                std::future::pending::<Infallible>().await
            };
            tokio::select! {
                opened = opening => opened,
                never = standing_by => match never {},
            }
        }))
    }

    /// What came of setting out; nothing when it is time to set out again.
    pub async fn changed(&mut self) -> Option<Result<JobStore, Error>> {
        match self {
            Self::Connecting(opening) => Some(opening.as_mut().await),
            Self::Connected(_) => std::future::pending().await,
            Self::Backoff(until) => {
                sleep_until(*until).await;
                None
            }
        }
    }
}
