//! `up`: all services in one process tree, for a laptop or a single host.

use crate::cli::{self, Global};
use crate::exit::{Error, Outcome};

use super::webserver::install_if_missing;
use super::{config_inputs, load_config, overrides};
use crate::runtime::serve::serve;
use crate::runtime::service_spec::ServePlan;
use crate::runtime::session::with_session;

/// Runs the command.
///
/// # Errors
/// Whatever keeps a service from starting.
pub fn run(global: &Global, flags: &cli::Up) -> Result<Outcome, Error> {
    let given = overrides([
        ("up.services", "--services", flags.services.clone()),
        ("webserver.port", "--port", flags.port.clone()),
        ("health.addr", "--health-addr", flags.health_addr.clone()),
    ]);
    let mut config = load_config(global, given.clone())?;
    config.enables_queue = config.up.services.is_none();
    with_session(config, async |mut session| {
        if flags.install
            && let Some(interrupted) = install_if_missing(&mut session).await?
        {
            return Ok(interrupted);
        }
        let plan = ServePlan { only: None, args: Vec::new(), inputs: config_inputs(global, given) };
        serve(session, plan).await
    })
}
