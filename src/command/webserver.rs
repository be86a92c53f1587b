//! `webserver`: everything from an empty machine to a web UI that answers, and its orderly end.

use crate::bots;
use crate::cli::{self, Global};
use crate::exit::{Error, Outcome};
use crate::model::ServiceName;

use super::{config_inputs, install, load_config, overrides};
use crate::runtime::bots_environment::find_bots;
use crate::runtime::serve::serve;
use crate::runtime::service_spec::ServePlan;
use crate::runtime::session::{Session, with_session};

/// Runs the command.
///
/// # Errors
/// Whatever keeps the web UI from starting.
pub fn run(global: &Global, flags: &cli::Webserver) -> Result<Outcome, Error> {
    let given = overrides([
        ("webserver.port", "--port", flags.port.clone()),
        ("health.addr", "--health-addr", flags.health_addr.clone()),
    ]);
    with_session(load_config(global, given.clone())?, async |mut session| {
        if flags.install
            && let Some(interrupted) = install_if_missing(&mut session).await?
        {
            return Ok(interrupted);
        }
        let inputs = config_inputs(global, given);
        serve(session, ServePlan { only: Some(ServiceName::Webserver), args: flags.args.clone(), inputs }).await
    })
}

/// Installs Bots when none is found; returns the command's outcome if that was interrupted.
pub(super) async fn install_if_missing(session: &mut Session) -> Result<Option<Outcome>, Error> {
    match find_bots(&session.config, &session.reaper).await {
        Err(bots::Error::NotInstalled(_)) => install::interruptible(session, &[], None).await,
        found => Ok(found.map(|_| None)?),
    }
}
