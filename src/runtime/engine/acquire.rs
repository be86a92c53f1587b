//! Acquires the engine lease when no engine runs: none that holds the lease, and none that bots-ctl did not start.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::info;

use crate::config::Config;
use crate::database::connect::ConnectMode;
use crate::database::lease::{self, Lease, LeaseAttempt};
use crate::database::retry::{connect_with_retry, with_timeout};
use crate::database::{DatabaseConfig, Error};
use crate::edi::open_run::{self, OpenRun};

/// Time between two observations of the run of an engine that bots-ctl did not start.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(1);

/// The result of an attempt to begin a run.
pub(in crate::runtime) enum RunAttempt {
    /// The lease is held, and no engine runs.
    Acquired {
        /// Whether an earlier run did not finish.
        has_open_run: bool,
    },
    /// A description of the engine that was still running at the limit.
    Busy(String),
}

/// Acquires the lease, and waits for running engines up to the configured limit. `held` has the lease whenever it is held, for a
/// caller that is interrupted.
///
/// # Errors
/// When the database cannot be used.
pub(in crate::runtime) async fn acquire(
    settings: &DatabaseConfig,
    config: &Config,
    name: &str,
    held: &mut Option<Box<Lease>>,
) -> Result<RunAttempt, Error> {
    let deadline = Instant::now() + config.engine.lease_wait;
    let mut logged = None;
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let lease = match lease::acquire(settings, name, remaining, config.database.retry_window()).await? {
            LeaseAttempt::Acquired(lease) => lease,
            LeaseAttempt::Held(holder) => return Ok(RunAttempt::Busy(holder.to_string())),
        };
        let observed = held.insert(lease).query_with_retry(open_run::observe).await;
        let running = match observed {
            Ok(observed) => match unfinished(observed, config) {
                None => return Ok(RunAttempt::Acquired { has_open_run: observed.is_some() }),
                Some(run) => Ok(run),
            },
            Err(error) => Err(error),
        };
        // The wait holds no lease, and other replicas observe the same run.
        release(held).await;
        let run = running?;
        if let Some(run) = wait(settings, run, config, deadline, &mut logged).await? {
            return Ok(RunAttempt::Busy(run.to_string()));
        }
    }
}

/// Releases the lease, if it is held.
pub(in crate::runtime) async fn release(held: &mut Option<Box<Lease>>) {
    if let Some(lease) = held.take() {
        lease.release().await;
    }
}

fn unfinished(observed: Option<OpenRun>, config: &Config) -> Option<OpenRun> {
    observed.filter(|run| !run.is_cut_off(config.engine.progress_timeout))
}

/// Waits for the end of the run, without the lease. Returns the run when it is too late.
async fn wait(
    settings: &DatabaseConfig,
    mut run: OpenRun,
    config: &Config,
    deadline: Instant,
    logged: &mut Option<bool>,
) -> Result<Option<OpenRun>, Error> {
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Ok(Some(run));
        }
        if logged.replace(run.has_changed) != Some(run.has_changed) {
            let (left, timeout) = (remaining.as_secs(), config.engine.progress_timeout.as_secs());
            info!("{run}; waiting up to {left} s; it counts as interrupted after {timeout} s without a new row");
        }
        sleep(OBSERVE_INTERVAL.min(remaining)).await;
        let mut connection =
            connect_with_retry(settings, ConnectMode::ReadWrite, config.database.retry_window()).await?;
        let observed = with_timeout(settings, open_run::observe(&mut connection)).await?;
        connection.close().await;
        match unfinished(observed, config) {
            Some(observed) => run = observed,
            None => return Ok(None),
        }
    }
}
