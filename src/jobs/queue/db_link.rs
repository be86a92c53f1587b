//! The way from the queue to its rows: on its way, there, or to be tried again.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Activity, Setup, Status};
use crate::database::Error;
use crate::database::jobs::Jobs;

/// How long a queue may take to become the active one until it counts as one that stands by.
const MOMENT: Duration = Duration::from_millis(300);

/// The way to the database.
pub(super) enum Link {
    Opening(Pin<Box<dyn Future<Output = Result<Jobs, Error>> + Send>>),
    Up(Box<Jobs>),
    /// Tried again at this moment.
    Down(Instant),
}

impl Link {
    /// Sets out; whoever waits for another queue to end soon says so.
    pub fn open(setup: &Setup, status: &watch::Sender<Status>) -> Self {
        let (settings, owner, status) = (setup.database.clone(), setup.owner.clone(), status.clone());
        Self::Opening(Box::pin(async move {
            let (sender, connected) = oneshot::channel();
            let opening = Jobs::open(&settings, &owner, || {
                let _ = sender.send(());
            });
            let standing_by = async {
                if connected.await.is_ok() {
                    sleep(MOMENT).await;
                    status.send_modify(|status| status.activity = Activity::Standby);
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
    pub async fn changed(&mut self) -> Option<Result<Jobs, Error>> {
        match self {
            Self::Opening(opening) => Some(opening.as_mut().await),
            Self::Up(_) => std::future::pending().await,
            Self::Down(until) => {
                sleep_until(*until).await;
                None
            }
        }
    }
}
