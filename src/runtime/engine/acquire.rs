//! The way to the engine lease, past engines that hold it and past those that know nothing of it.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::info;

use crate::config::Config;
use crate::database::connect::{Purpose, connect};
use crate::database::lease;
use crate::database::lease::{Acquired, Lease};
use crate::database::lease_row::Holder;
use crate::database::retry::{for_answer, until_open};
use crate::database::{Error, Settings};
use crate::edi::open_run;
use crate::edi::open_run::OpenRun;

/// Time between two looks at the run of an engine that bots-ctl did not start.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The engine that was still running when the time was over.
pub(crate) enum Busy {
    /// One of bots-ctl.
    Holder(Holder),
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
        let Some(silent) = holder.silent else { return Ok(()) };
        write!(f, ", its last sign of life is {} s old", silent.as_secs())
    }
}

/// Takes the lease when no engine runs, and waits for that as long as the configuration says.
pub(crate) async fn acquire(
    settings: &Settings,
    config: &Config,
    name: &str,
) -> Result<Result<Box<Lease>, Busy>, Error> {
    let (timeout, patience) = (config.engine.progress_timeout, config.database.patience());
    let deadline = Instant::now() + config.engine.lease_wait;
    let mut told = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut lease = match lease::acquire(settings, name, left, patience).await? {
            Acquired::Taken(lease) => lease,
            Acquired::Busy(holder) => return Ok(Err(Busy::Holder(holder))),
        };
        let run = match lease.ask(open_run::observe).await {
            Ok(run) => run.filter(|run| !run.is_cut_off(timeout)),
            Err(error) => {
                lease.release().await;
                return Err(error);
            }
        };
        let Some(run) = run else { return Ok(Ok(lease)) };
        // A stop that comes during the wait leaves no lease behind, and others see the same run.
        lease.release().await;
        if let Some(run) = wait(settings, run, config, deadline, &mut told).await? {
            return Ok(Err(Busy::Other(run)));
        }
    }
}

/// Waits for the end of the run, without the lease. The answer is the run when the time is over.
async fn wait(
    settings: &Settings,
    mut run: OpenRun,
    config: &Config,
    deadline: Instant,
    told: &mut Option<bool>,
) -> Result<Option<OpenRun>, Error> {
    let (timeout, patience) = (config.engine.progress_timeout, config.database.patience());
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Some(run));
        }
        if told.replace(run.has_changed) != Some(run.has_changed) {
            let (left, timeout) = (left.as_secs(), timeout.as_secs());
            info!("{run}: waiting for at most {left} s; without a new row for {timeout} s it counts as cut off");
        }
        sleep(LOOK_INTERVAL.min(left)).await;
        let mut connection = until_open(settings, patience, async || connect(settings, Purpose::Work).await).await?;
        let observed = for_answer(settings, open_run::observe(&mut connection, settings)).await?;
        connection.close().await;
        match observed.filter(|run| !run.is_cut_off(timeout)) {
            Some(observed) => run = observed,
            None => return Ok(None),
        }
    }
}
