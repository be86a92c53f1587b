//! `reload` and `restart`: requests to the bots-ctl that runs here.

use crate::cli::Global;
use crate::exit::{Error, Outcome};
use crate::model::ServiceName;
use crate::runtime::control_socket::{ControlRequest, connect, request};

use super::{HealthListener, write_line};

/// Requests a restart of one service, or a reload, and waits for the result.
///
/// # Errors
/// As the running bots-ctl answers; 69 when none runs here, and 78 if that is due to an error of the configuration.
pub fn run(global: &Global, service: Option<ServiceName>) -> Result<Outcome, Error> {
    let listener = HealthListener::find(global)?;
    let connection = listener.query(|addr| connect(addr.port())).map_err(|error| listener.explain(error))?;
    let wanted = service.map_or(ControlRequest::Reload, ControlRequest::Restart);
    write_line(&request(connection, wanted, write_line)?);
    Ok(Outcome::Success)
}
