//! Records runs in the database for metrics. A failure to do so is one log line and stops no run.

use std::time::Duration;

use tracing::warn;

use crate::database::connect::{ConnectMode, connect};
use crate::database::lease::Lease;
use crate::database::retry::with_timeout;
use crate::database::run_metrics::{self, RunEnd, RunOutcome, RunRow};
use crate::database::{DatabaseConfig, Error};
use crate::exit::{self, Exit};
use crate::supervisor::state::Termination;
use crate::telemetry::escape::escape_control;

use super::result::{BUSY, ERRORS, RunResult};

/// The facts of a run that begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunBegin {
    /// The time that it waited for the lease.
    pub waited: Duration,
    /// Whether Bots recovers an earlier run first.
    pub recovers: bool,
}

/// Records the begin of a run; returns whether that succeeded.
pub(super) async fn begin(lease: &mut Lease, RunBegin { waited, recovers }: RunBegin) -> bool {
    let (id, holder) = (lease.id().to_owned(), holder_name());
    let run = RunRow { id: &id, holder: &holder, waited, recovers };
    let written = lease.query_with_retry(async |connection| run_metrics::begin(connection, &run).await).await;
    log_error(&written);
    written.is_ok()
}

/// Records the end of a run and releases its lease; returns whether that succeeded.
pub(super) async fn end(lease: &mut Lease, end: RunEnd) -> bool {
    let id = lease.id().to_owned();
    let written = lease.query_with_retry(async |connection| run_metrics::end(connection, &id, end).await).await;
    log_error(&written);
    written.is_ok()
}

/// Counts a run that did not get the lease.
pub(super) async fn add_busy(settings: &DatabaseConfig, waited: Duration) {
    let added = async {
        let mut connection = connect(settings, ConnectMode::ReadWrite).await?;
        with_timeout(settings, run_metrics::add_busy(&mut connection, waited)).await?;
        connection.close().await;
        Ok(())
    };
    log_error(&added.await);
}

/// Pod and process of this run, by which others that wait for it name it.
pub(in crate::runtime) fn holder_name() -> String {
    let host = nix::unistd::gethostname().unwrap_or_default();
    format!("{} (process {})", escape_control(&host.to_string_lossy()), std::process::id())
}

fn log_error(written: &Result<(), Error>) {
    if let Err(error) = written {
        warn!("cannot record metrics of this run: {error}");
    }
}

/// The outcome of a run, and the exit code of its engine.
pub(super) fn outcome(result: &Result<RunResult, exit::Error>) -> (RunOutcome, Option<u8>) {
    let Ok(result) = result else { return (RunOutcome::Failed, None) };
    if result.lost.is_some() {
        return (RunOutcome::LeaseLost, None);
    }
    match &result.end {
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
