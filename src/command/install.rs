//! `install`: Bots in a private virtual environment.

use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::bots::install::install;
use crate::cli::{self, Global};
use crate::exit::{Error, Outcome};
use crate::model::Driver;

use super::load_config;
use crate::runtime::session::{App, run_until_shutdown, with_app};

/// Installs Bots, or completes an installation.
///
/// # Errors
/// The error, with a hint.
pub fn run(global: &Global, flags: &cli::Install) -> Result<Outcome, Error> {
    with_app(load_config(global, Vec::new())?, async |mut session| {
        interruptible(&mut session, &flags.with).await.map(|end| end.unwrap_or(Outcome::Success))
    })
}

/// Installs unless a signal asks to stop first; then the outcome says which. The next attempt starts an incomplete installation
/// from the beginning.
pub(super) async fn interruptible(session: &mut App, drivers: &[Driver]) -> Result<Option<Outcome>, Error> {
    let (config, reaper) = (&session.config.bots, &session.reaper);
    let installing = install(&config.install_dir, &config.python, drivers, reaper);
    match run_until_shutdown(&mut session.signals, &TaskTracker::new(), installing).await {
        Ok(installed) => Ok(installed.map(|()| None)?),
        Err(exit) => {
            warn!("interrupted by {exit}: run install again to complete it");
            Ok(Some(Outcome::Child(exit.code())))
        }
    }
}
