//! Asking a job queue, ours or Bots's own.

use std::io;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::timeout;

use super::request_id::{self, RequestId};
use super::xmlrpc::{MAX_RESPONSE, Value, read_answer, write_call};
use crate::http::client::post;
use crate::model::Endpoint;

/// A queue answers within five seconds or not at all.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers there, or nobody who is a queue.
    #[error("cannot reach the job queue on {0}: {1}")]
    Unreachable(String, String),
    /// The token is not the queue's.
    #[error("the job queue on {0} does not accept the token: BOTS_CTL_JOBQUEUE_TOKEN must be the same on both sides")]
    WrongToken(String),
    /// The queue does not understand what was asked.
    #[error("the job queue on {0} says: {1}")]
    Fault(String, String),
}

/// Calls a method.
///
/// # Errors
/// See [`Error`].
pub async fn call(target: &Endpoint, method: &str, arguments: Vec<Value>) -> Result<Value, Error> {
    let body = forward_call(target, write_call(method, arguments).into_bytes(), &RequestId::generate()).await?;
    let unreadable = |text: String| Error::Unreachable(target.authority.clone(), text);
    read_answer(&body).map_err(unreadable)?.map_err(|fault| Error::Fault(target.authority.clone(), fault))
}

/// Passes a call on as it is; the answer is as it came.
///
/// # Errors
/// See [`Error`]; a fault is an answer here.
pub async fn forward_call(target: &Endpoint, call: Vec<u8>, name: &RequestId) -> Result<Vec<u8>, Error> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()));
    let unreachable = |text: String| Error::Unreachable(target.authority.clone(), text);
    let header = (request_id::HEADER, name.to_header());
    let response =
        timeout(REQUEST_TIMEOUT, post(target, call, header, MAX_RESPONSE)).await.unwrap_or_else(|_| Err(late()));
    match response.map_err(|error| unreachable(error.to_string()))? {
        (StatusCode::OK, body) => Ok(body),
        (StatusCode::UNAUTHORIZED, _) => Err(Error::WrongToken(target.authority.clone())),
        (status, _) => Err(unreachable(format!("it answers {status}, which no job queue does"))),
    }
}
