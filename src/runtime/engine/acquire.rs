//! The way to the engine lease, past engines that hold it and past those that know nothing of it.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::info;

use crate::config::Config;
use crate::database::connect::ConnectMode;
use crate::database::lease::{self, Lease, LeaseHolder};
use crate::database::retry::{connect_with_retry, with_timeout};
use crate::database::{DatabaseConfig, Error};
use crate::edi::open_run;
use crate::edi::open_run::OpenRun;

/// Time between two looks at the run of an engine that bots-ctl did not start.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(1);

/// The engine that was still running when the time was over.
pub(crate) enum Busy {
    /// One of bots-ctl.
    Holder(LeaseHolder),
    /// Another one.
    Other(OpenRun),
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holder = match self {
            Self::Holder(holder) => holder,
            Self::Other(run) => return run.fmt(f),
        };
        write!(f, "{} has run an engine for {} s", holder.name, holder.since.as_secs())?;
        let Some(since_heartbeat) = holder.since_heartbeat else { return Ok(()) };
        write!(f, ", its last sign of life is {} s old", since_heartbeat.as_secs())
    }
}

/// Takes the lease when no engine runs, and waits for that as long as the configuration says.
pub(crate) async fn acquire(
    settings: &DatabaseConfig,
    config: &Config,
    name: &str,
) -> Result<Result<Box<Lease>, Busy>, Error> {
    let (timeout, retry_window) = (config.engine.progress_timeout, config.database.retry_window());
    let deadline = Instant::now() + config.engine.lease_wait;
    let mut logged = None;
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let mut lease = match lease::acquire(settings, name, remaining, retry_window).await? {
            Ok(lease) => lease,
            Err(holder) => return Ok(Err(Busy::Holder(holder))),
        };
        let run = match lease.query_with_retry(open_run::observe).await {
            Ok(run) => run.filter(|run| !run.is_cut_off(timeout)),
            Err(error) => {
                lease.release().await;
                return Err(error);
            }
        };
        let Some(run) = run else { return Ok(Ok(lease)) };
        // A stop that comes during the wait leaves no lease behind, and others see the same run.
        lease.release().await;
        if let Some(run) = wait(settings, run, config, deadline, &mut logged).await? {
            return Ok(Err(Busy::Other(run)));
        }
    }
}

/// Waits for the end of the run, without the lease. The answer is the run when the time is over.
async fn wait(
    settings: &DatabaseConfig,
    mut run: OpenRun,
    config: &Config,
    deadline: Instant,
    logged: &mut Option<bool>,
) -> Result<Option<OpenRun>, Error> {
    let (timeout, retry_window) = (config.engine.progress_timeout, config.database.retry_window());
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Ok(Some(run));
        }
        if logged.replace(run.has_changed) != Some(run.has_changed) {
            let (left, timeout) = (remaining.as_secs(), timeout.as_secs());
            info!("{run}: waiting for at most {left} s; without a new row for {timeout} s it counts as cut off");
        }
        sleep(OBSERVE_INTERVAL.min(remaining)).await;
        let mut connection = connect_with_retry(settings, ConnectMode::ReadWrite, retry_window).await?;
        let observed = with_timeout(settings, open_run::observe(&mut connection, settings)).await?;
        connection.close().await;
        match observed.filter(|run| !run.is_cut_off(timeout)) {
            Some(observed) => run = observed,
            None => return Ok(None),
        }
    }
}
