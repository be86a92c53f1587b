//! `install`: Bots in a private virtual environment.

use std::path::Path;

use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::bots;
use crate::bots::install::install;
use crate::cli::{self, Global};
use crate::exit::{Error, Outcome};
use crate::model::Driver;
use crate::process::terminate::terminate_all;

use super::{for_one_shot, load_config};
use crate::runtime::bots_environment::find_bots;
use crate::runtime::session::{Session, run_until_shutdown, with_session};

/// Installs Bots, or completes an installation.
///
/// # Errors
/// The error, with a hint.
pub fn run(global: &Global, flags: &cli::Install) -> Result<Outcome, Error> {
    with_session(for_one_shot(load_config(global, Vec::new())?), async |mut session| {
        interruptible(&mut session, &flags.with, flags.from.as_deref()).await.map(|end| end.unwrap_or(Outcome::Success))
    })
}

/// Installs Bots. Returns the exit code if a signal interrupts the installation. The next attempt starts an incomplete
/// installation over.
async fn interruptible(
    session: &mut Session,
    drivers: &[Driver],
    from: Option<&Path>,
) -> Result<Option<Outcome>, Error> {
    let Session { config, reaper, signals, .. } = session;
    let installing = install(&config.bots.install_dir, &config.bots.python, drivers, from, reaper);
    match run_until_shutdown(signals, &TaskTracker::new(), installing).await {
        Ok(installed) => Ok(installed.map(|()| None)?),
        Err(exit) => {
            // Compilers of drivers would write to the directory of the next attempt.
            terminate_all(reaper, signals, &[], config.stop.timeout).await;
            warn!("interrupted by {exit}: run install again to complete it");
            Ok(Some(Outcome::Child(exit.code())))
        }
    }
}

/// Installs Bots when none is found; returns the command's outcome if that was interrupted.
pub(super) async fn install_if_missing(session: &mut Session) -> Result<Option<Outcome>, Error> {
    match find_bots(&session.config, &session.reaper).await {
        Err(bots::Error::NotInstalled(_)) => interruptible(session, &[], None).await,
        found => Ok(found.map(|_| None)?),
    }
}
