//! Completes or reverts an interrupted change of the configuration.

use tracing::warn;

use crate::database::applied_plugin;
use crate::database::lease::Lease;
use crate::exit::Error;
use crate::plugin::journal::Journal;
use crate::runtime::bots_environment::blocking;

/// Settles the pending change, under the lease: its files are put in their places when its rows are in the database, and it is
/// removed when they are not. Returns whether it was completed; `None` without such a change.
///
/// # Errors
/// When the database is away, or a file cannot be written.
pub(crate) async fn settle_pending(lease: &mut Lease, journal: &Journal) -> Result<Option<bool>, Error> {
    let reader = journal.clone();
    let Some(change) = blocking(move || reader.pending()).await?? else { return Ok(None) };
    let is_committed =
        lease.query_with_retry(async |connection| applied_plugin::settle(connection, &change.id).await).await?;
    let journal = journal.clone();
    let settle = move || if is_committed { journal.complete(&change) } else { journal.take_back() };
    blocking(settle).await??;
    Ok(Some(is_committed))
}

/// As [`settle_pending`], for a change of another process that has exited.
///
/// # Errors
/// As [`settle_pending`].
pub(crate) async fn recover(lease: &mut Lease, journal: &Journal) -> Result<(), Error> {
    match settle_pending(lease, journal).await? {
        None => {}
        Some(true) => warn!("an earlier change of the configuration was interrupted: completing it"),
        Some(false) => warn!("an earlier change of the configuration was interrupted before it changed anything"),
    }
    Ok(())
}
