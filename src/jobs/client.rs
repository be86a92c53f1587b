//! A client of a job queue, that of bots-ctl or Bots's own.

use std::io;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use super::request_id::{self, RequestId};
use super::xmlrpc::{MAX_RESPONSE, Response, Value, read_answer, write_call};
use crate::http::client::{connect, post};
use crate::model::Endpoint;

/// Longer than the five seconds within which a queue answers.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// Reasons for a call without a result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server is unreachable, or is not a job queue.
    #[error("cannot reach the job queue on {0}: {1}")]
    Unreachable(String, String),
    /// The call was sent, and no response came: the queue may have performed it.
    #[error("cannot reach the job queue on {0}: {1}")]
    NoResponse(String, String),
    /// The queue has another token.
    #[error("the job queue on {0} rejected the token: BOTS_CTL_JOBQUEUE_TOKEN must be the same on both sides")]
    WrongToken(String),
    /// The queue does not understand the call.
    #[error("the job queue on {0} returned a fault: {1}")]
    Fault(String, String),
}

/// Calls a method.
///
/// # Errors
/// See [`Error`].
pub async fn call(target: &Endpoint, method: &str, arguments: Vec<Value>) -> Result<Value, Error> {
    let body = forward_call(target, write_call(method, arguments).into_bytes(), &RequestId::generate()).await?;
    let unreadable = |text: String| Error::Unreachable(target.authority.clone(), text);
    match read_answer(&body).map_err(unreadable)? {
        Response::Value(value) => Ok(value),
        Response::Fault(fault) => Err(Error::Fault(target.authority.clone(), fault)),
    }
}

/// Forwards a call and returns the answer, both unchanged.
///
/// # Errors
/// See [`Error`]; a fault is an answer here.
pub async fn forward_call(target: &Endpoint, call: Vec<u8>, name: &RequestId) -> Result<Vec<u8>, Error> {
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    let unreachable = |text: String| Error::Unreachable(target.authority.clone(), text);
    let connected = timeout_at(deadline, connect(target)).await.unwrap_or_else(late);
    let stream = connected.map_err(|error| unreachable(error.to_string()))?;
    let header = (request_id::HEADER, name.to_header());
    let posted = timeout_at(deadline, post(stream, target, call, header, MAX_RESPONSE)).await.unwrap_or_else(late);
    match posted.map_err(|error| Error::NoResponse(target.authority.clone(), error.to_string()))? {
        (StatusCode::OK, body) => Ok(body),
        (StatusCode::UNAUTHORIZED, _) => Err(Error::WrongToken(target.authority.clone())),
        (status, _) => Err(unreachable(format!("HTTP {status}, which is not a response of a job queue"))),
    }
}

fn late<T>(_: Elapsed) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("no response within {} s", REQUEST_TIMEOUT.as_secs())))
}
