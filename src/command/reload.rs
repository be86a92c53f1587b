//! `reload` and `restart`: requests to the bots-ctl that runs here.

use crate::cli::Global;
use crate::exit::{Error, Outcome};
use crate::model::ServiceName;
use crate::runtime::control_socket::{ControlRequest, request};

use super::{health_addr, write_line};

/// Requests a restart of one service, or a reload, and waits for the result.
///
/// # Errors
/// As the running bots-ctl answers; 69 when none runs here.
pub fn run(global: &Global, service: Option<ServiceName>) -> Result<Outcome, Error> {
    let (addr, _) = health_addr(global)?;
    let wanted = service.map_or(ControlRequest::Reload, ControlRequest::Restart);
    write_line(&request(addr.port(), wanted, write_line)?);
    Ok(Outcome::Success)
}
