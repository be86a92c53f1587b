//! What a run leaves in the database for whoever exports metrics. None of it is worth a run: what cannot be written is told
//! in one line.

use std::time::Duration;

use tracing::warn;

use crate::database::connect::{Purpose, connect};
use crate::database::lease::Lease;
use crate::database::retry::for_answer;
use crate::database::run_metrics;
use crate::database::run_metrics::{Outcome, Run};
use crate::database::{Error, Settings};
use crate::exit;
use crate::exit::Exit;
use crate::supervisor::state::End;

use super::run::{BUSY, ERRORS, Ended};

/// A run begins; says whether that was written.
pub(crate) async fn begin(lease: &mut Lease, holder: &str, waited: Duration, recovers: bool) -> bool {
    let id = lease.id().to_owned();
    let run = Run { id: &id, holder, waited, recovers };
    tell(lease.ask(async |connection, settings| run_metrics::begin(connection, settings, &run).await).await)
}

/// A run has ended.
pub(crate) async fn end(lease: &mut Lease, ended: &Result<Ended, exit::Error>, took: Duration) {
    let (id, how) = (lease.id().to_owned(), outcome(ended));
    let _ = tell(
        lease.ask(async |connection, settings| run_metrics::end(connection, settings, &id, how, took).await).await,
    );
}

/// Another engine had the lease.
pub(crate) async fn add_busy(settings: &Settings, waited: Duration) {
    let added = async {
        let mut connection = connect(settings, Purpose::Work).await?;
        for_answer(settings, async {
            run_metrics::add_busy(&mut connection, settings, waited).await?;
            connection.close().await;
            Ok(())
        })
        .await
    };
    let _ = tell(added.await);
}

fn tell(written: Result<(), Error>) -> bool {
    if let Err(error) = &written {
        warn!("metrics will not tell of this run: {error}");
    }
    written.is_ok()
}

fn outcome(ended: &Result<Ended, exit::Error>) -> (Outcome, Option<u8>) {
    let Ok(ended) = ended else { return (Outcome::Failed, None) };
    if ended.lost.is_some() {
        return (Outcome::Lost, None);
    }
    match &ended.end {
        End::Exited(Exit::Code(code @ 0)) => (Outcome::Success, Some(*code)),
        End::Exited(Exit::Code(code @ ERRORS)) => (Outcome::Errors, Some(*code)),
        End::Exited(Exit::Code(code @ BUSY)) => (Outcome::Busy, Some(*code)),
        End::Exited(exit @ Exit::Code(_)) => (Outcome::Failed, Some(exit.code())),
        End::Exited(exit @ Exit::Signal(_)) => (Outcome::Killed, Some(exit.code())),
        End::Stopped => (Outcome::Success, Some(0)),
        End::Killed => (Outcome::Killed, None),
        End::NotStarted => (Outcome::Failed, None),
    }
}
