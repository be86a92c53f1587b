//! What a run leaves in the database for whoever exports metrics. None of it is worth a run: what cannot be written is told
//! in one line.

use std::time::Duration;

use tracing::warn;

use crate::database::connect::{ConnectMode, connect};
use crate::database::lease::Lease;
use crate::database::retry::with_timeout;
use crate::database::run_metrics;
use crate::database::run_metrics::{RunOutcome, RunRow};
use crate::database::{DatabaseConfig, Error};
use crate::exit;
use crate::exit::Exit;
use crate::supervisor::state::Termination;

use super::run::{BUSY, ERRORS, RunResult};

/// A run begins; says whether that was written.
pub(crate) async fn begin(lease: &mut Lease, holder: &str, waited: Duration, recovers: bool) -> bool {
    let id = lease.id().to_owned();
    let run = RunRow { id: &id, holder, waited, recovers };
    log_error(lease.query_with_retry(async |connection, _| run_metrics::begin(connection, &run).await).await)
}

/// A run has ended.
pub(crate) async fn end(lease: &mut Lease, ended: &Result<RunResult, exit::Error>, took: Duration) {
    let (id, how) = (lease.id().to_owned(), outcome(ended));
    let _ = log_error(
        lease.query_with_retry(async |connection, _| run_metrics::end(connection, &id, how, took).await).await,
    );
}

/// Another engine had the lease.
pub(crate) async fn add_busy(settings: &DatabaseConfig, waited: Duration) {
    let added = async {
        let mut connection = connect(settings, ConnectMode::ReadWrite).await?;
        with_timeout(settings, async {
            run_metrics::add_busy(&mut connection, waited).await?;
            connection.close().await;
            Ok(())
        })
        .await
    };
    let _ = log_error(added.await);
}

fn log_error(written: Result<(), Error>) -> bool {
    if let Err(error) = &written {
        warn!("metrics will not tell of this run: {error}");
    }
    written.is_ok()
}

fn outcome(ended: &Result<RunResult, exit::Error>) -> (RunOutcome, Option<u8>) {
    let Ok(ended) = ended else { return (RunOutcome::Failed, None) };
    if ended.lost.is_some() {
        return (RunOutcome::LeaseLost, None);
    }
    match &ended.end {
        Termination::Exited(Exit::Code(code @ 0)) => (RunOutcome::Success, Some(*code)),
        Termination::Exited(Exit::Code(code @ ERRORS)) => (RunOutcome::FileErrors, Some(*code)),
        Termination::Exited(Exit::Code(code @ BUSY)) => (RunOutcome::Busy, Some(*code)),
        Termination::Exited(exit @ Exit::Code(_)) => (RunOutcome::Failed, Some(exit.code())),
        Termination::Exited(exit @ Exit::Signal(_)) => (RunOutcome::Killed, Some(exit.code())),
        Termination::Stopped => (RunOutcome::Success, Some(0)),
        Termination::Killed => (RunOutcome::Killed, None),
        Termination::NotStarted => (RunOutcome::Failed, None),
    }
}
