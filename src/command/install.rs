//! `install`: Bots in a private virtual environment.

use std::path::Path;

use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::bots::install::install;
use crate::cli::{self, Global};
use crate::exit::{Error, Outcome};
use crate::model::Driver;

use super::load_one_shot_config;
use crate::runtime::session::{Session, run_until_shutdown, with_session};

/// Installs Bots, or completes an installation.
///
/// # Errors
/// The error, with a hint.
pub fn run(global: &Global, flags: &cli::Install) -> Result<Outcome, Error> {
    with_session(load_one_shot_config(global, Vec::new())?, async |mut session| {
        interruptible(&mut session, &flags.with, flags.from.as_deref()).await.map(|end| end.unwrap_or(Outcome::Success))
    })
}

/// Installs Bots unless a signal interrupts it, which the outcome then names. The next attempt starts an incomplete
/// installation over.
pub(super) async fn interruptible(
    session: &mut Session,
    drivers: &[Driver],
    from: Option<&Path>,
) -> Result<Option<Outcome>, Error> {
    let (config, reaper) = (&session.config.bots, &session.reaper);
    let installing = install(&config.install_dir, &config.python, drivers, from, reaper);
    match run_until_shutdown(&mut session.signals, &TaskTracker::new(), installing).await {
        Ok(installed) => Ok(installed.map(|()| None)?),
        Err(exit) => {
            warn!("interrupted by {exit}: run install again to complete it");
            Ok(Some(Outcome::Child(exit.code())))
        }
    }
}
