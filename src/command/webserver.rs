//! `webserver`: everything from an empty machine to a web UI that answers, and its orderly end.

use crate::bots;
use crate::cli::{self, Global};
use crate::config::{Override, ServiceName};
use crate::exit::{Error, Outcome};

use super::services::{Choice, Launch, check_web_port, serve};
use super::{Session, find_bots, install, load_config, with_session};

/// Runs the command.
///
/// # Errors
/// Whatever keeps the web UI from starting.
pub fn run(global: &Global, flags: &cli::Webserver) -> Result<Outcome, Error> {
    let given = [("webserver.port", "--port", &flags.port), ("health.addr", "--health-addr", &flags.health_addr)];
    let given =
        given.into_iter().filter_map(|(path, flag, value)| Some(Override { path, flag, value: value.clone()? }));
    with_session(load_config(global, given.collect())?, async |mut session| {
        if flags.install
            && let Some(interrupted) = install_if_missing(&mut session).await?
        {
            return Ok(interrupted);
        }
        let choice = Choice { expected: vec![ServiceName::Webserver], initialise: true, restart_hung: false };
        serve(session, choice, |config, ground, django| {
            check_web_port(config, ground, django)?;
            Ok(vec![Launch::new(ground.webserver(django, &flags.args), config)])
        })
        .await
    })
}

/// Installs Bots when none is found; the answer is how the command ends if that was interrupted.
pub(super) async fn install_if_missing(session: &mut Session) -> Result<Option<Outcome>, Error> {
    match find_bots(&session.config, &session.reaper).await {
        Err(bots::Error::NotInstalled(_)) => install::interruptible(session, &[]).await,
        found => Ok(found.map(|_| None)?),
    }
}
