//! `install`: Bots in a private virtual environment.

use crate::bots::install::install;
use crate::cli::{self, Global};
use crate::exit::{Error, Outcome};
use crate::model::Driver;
use crate::process::signals;

use super::load_config;
use crate::runtime::session::{App, with_app};

/// Installs Bots, or completes what is there.
///
/// # Errors
/// What went wrong, and what helps.
pub fn run(global: &Global, flags: &cli::Install) -> Result<Outcome, Error> {
    with_app(load_config(global, Vec::new())?, async |mut session| {
        interruptible(&mut session, &flags.with).await.map(|end| end.unwrap_or(Outcome::Success))
    })
}

/// Installs unless a signal asks to stop first; then the outcome says which. What is half done is begun anew by
/// the next attempt.
pub(super) async fn interruptible(session: &mut App, drivers: &[Driver]) -> Result<Option<Outcome>, Error> {
    let (config, reaper) = (&session.config.bots, &session.reaper);
    let installing = install(&config.install_dir, &config.python, drivers, reaper);
    tokio::pin!(installing);
    loop {
        tokio::select! {
            installed = &mut installing => return Ok(installed.map(|()| None)?),
            number = session.signals.next() => {
                if signals::is_stop_signal(number) {
                    tracing::warn!("interrupted by {}: run install again to complete it", signals::name(number));
                    return Ok(Some(Outcome::Child(crate::exit::Exit::Signal(number).code())));
                }
            }
        }
    }
}
