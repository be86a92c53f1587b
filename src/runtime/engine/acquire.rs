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
    Acquired(Acquired),
    /// A description of the engine that was still running at the limit.
    Busy(String),
}

/// The lease, when no engine runs.
pub(in crate::runtime) struct Acquired {
    pub lease: Box<Lease>,
    /// Whether an earlier run did not finish.
    pub has_open_run: bool,
}

/// Acquires the lease, and waits for running engines up to the configured limit.
///
/// # Errors
/// When the database cannot be used.
pub(in crate::runtime) async fn acquire(
    settings: &DatabaseConfig,
    config: &Config,
    name: &str,
) -> Result<RunAttempt, Error> {
    let deadline = Instant::now() + config.engine.lease_wait;
    let mut logged = None;
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let mut lease = match lease::acquire(settings, name, remaining, config.database.retry_window()).await? {
            LeaseAttempt::Acquired(lease) => lease,
            LeaseAttempt::Held(holder) => return Ok(RunAttempt::Busy(holder.to_string())),
        };
        let observed = match lease.query_with_retry(open_run::observe).await {
            Ok(observed) => observed,
            Err(error) => {
                lease.release().await;
                return Err(error);
            }
        };
        let Some(run) = unfinished(observed, config) else {
            return Ok(RunAttempt::Acquired(Acquired { lease, has_open_run: observed.is_some() }));
        };
        // The wait holds no lease that a stop could leave behind, and other replicas observe the same run.
        lease.release().await;
        if let Some(run) = wait(settings, run, config, deadline, &mut logged).await? {
            return Ok(RunAttempt::Busy(run.to_string()));
        }
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
