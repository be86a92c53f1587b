//! The longest time of a run by bots.ini. Bots itself leaves it to its job queue, so nothing held for other starts.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::sleep;
use tracing::{error, info};

use crate::bots::Error;
use crate::bots::environment::Environment;
use crate::bots::jobqueue_config::BotsJobQueueIni;
use crate::supervisor::task::StopRequest;

/// What bots.ini says: `[settings] maxruntime` and `[jobqueue] killjobsintimeout`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MaxRuntime {
    minutes: u64,
    /// Whether the engine is stopped then.
    stops: bool,
}

impl MaxRuntime {
    /// Reads the effective bots.ini.
    pub fn read(environment: &Environment) -> Result<Self, Error> {
        let queue = BotsJobQueueIni::read(environment)?;
        Ok(Self { minutes: queue.longest_minutes, stops: queue.kills_overdue })
    }

    /// Tells when a run that begins now exceeds it, and has the engine stopped where that is configured.
    pub async fn watch(self, stop: UnboundedSender<StopRequest>) -> Infallible {
        sleep(Duration::from_secs(self.minutes.saturating_mul(60))).await;
        error!("the engine exceeded maxruntime of {} minutes", self.minutes);
        if self.stops {
            info!("stopping the engine, as [jobqueue] killjobsintimeout says");
            let _ = stop.send(StopRequest { for_reload: false });
        }
        pending().await
    }
}
