//! Listeners for calls: on loopback for the programs of this container, on a network address for clients with the token.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, ORIGIN};
use axum::http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tracing::warn;

use super::queue::Queue;
use super::request_id::RequestId;
use super::rpc::{RpcError, perform};
use super::xmlrpc::{MAX_CALL, read_call, write_answer, write_fault};
use crate::http::server;
use crate::telemetry::counters::{CountedEvent, Counters};

/// How long a client may take to send its call.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between two log lines about refused calls.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// RFC 6750; schemes are written in any case.
const SCHEME: &[u8] = b"Bearer ";

/// The paths of Python's server.
const PATHS: [&str; 2] = ["/", "/RPC2"];

/// The connection is closed without an answer.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("no answer")]
pub struct DropConnection;

/// Binds a port on loopback for IPv4, and for IPv6 if the machine supports it.
///
/// # Errors
/// When the port is in use.
pub async fn bind_loopback(port: u16) -> io::Result<Vec<TcpListener>> {
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let second = match TcpListener::bind((Ipv6Addr::LOCALHOST, first.local_addr()?.port())).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        bound => bound.ok(),
    };
    Ok(std::iter::once(first).chain(second).collect())
}

/// Answers calls until the task is dropped; with a token, only clients that send it.
pub async fn serve(listener: TcpListener, queue: Queue, token: Option<SecretString>, counters: Arc<Counters>) {
    let (token, refusals) = (token.map(Arc::new), Arc::new(Refusals { counters, logged: Mutex::default() }));
    let service_for = |client: SocketAddr| {
        let (queue, token, refusals) = (queue.clone(), token.clone(), Arc::clone(&refusals));
        service_fn(move |request: Request<Incoming>| {
            let (queue, is_authorised) = (queue.clone(), is_authorised(&request, token.as_deref()));
            if !is_authorised {
                refusals.record(client.ip());
            }
            async move {
                if !is_authorised {
                    return Ok(error_response(StatusCode::UNAUTHORIZED));
                }
                let request_id = RequestId::of(&request);
                match read_body(request).await {
                    Ok(body) => handle(&queue, &body, &request_id).await,
                    Err(status) => Ok(error_response(status)),
                }
            }
        })
    };
    server::serve(listener, "job queue", service_for).await;
}

/// Calls without the token.
struct Refusals {
    counters: Arc<Counters>,
    logged: Mutex<Option<Instant>>,
}

impl Refusals {
    /// Counts a call, and logs the first one of each interval.
    fn record(&self, client: IpAddr) {
        self.counters.count(CountedEvent::JobCallRefused);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_none_or(|logged| logged.elapsed() >= REFUSAL_LOG_INTERVAL) {
            *logged = Some(Instant::now());
            let count = self.counters.of(CountedEvent::JobCallRefused);
            warn!(
                "rejected a job queue call from {client} ({count} since the start): token missing \
                 or wrong; compare BOTS_CTL_JOBQUEUE_TOKEN on both sides"
            );
        }
    }
}

async fn handle(queue: &Queue, body: &[u8], request_id: &RequestId) -> Result<Response<Body>, DropConnection> {
    let responded = match read_call(body) {
        Ok(call) => perform(queue, &call, request_id).await,
        Err(text) => Err(RpcError::Fault(text)),
    };
    match responded {
        Ok(value) => Ok(xml_response(write_answer(value))),
        Err(RpcError::Fault(text)) => Ok(xml_response(write_fault(text))),
        Err(RpcError::Unavailable) => Err(DropConnection),
    }
}

/// The body of a call.
///
/// # Errors
/// The HTTP status for a request that is not a call, or is too long.
pub(super) async fn read_body(request: Request<Incoming>) -> Result<Vec<u8>, StatusCode> {
    // Browsers send the origin of a page that posts a request. No page may call the queue.
    if request.headers().contains_key(ORIGIN) {
        return Err(StatusCode::FORBIDDEN);
    }
    if request.method() != Method::POST {
        return Err(StatusCode::NOT_IMPLEMENTED);
    }
    if !PATHS.contains(&request.uri().path()) {
        return Err(StatusCode::NOT_FOUND);
    }
    if request.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(StatusCode::NOT_IMPLEMENTED);
    }
    let body = Limited::new(request.into_body(), MAX_CALL).collect();
    match timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes().to_vec()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Ok(Err(_)) => Err(StatusCode::BAD_REQUEST),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}

fn is_authorised(request: &Request<Incoming>, token: Option<&SecretString>) -> bool {
    let Some(token) = token else { return true };
    let shown = request.headers().get(AUTHORIZATION).and_then(|value| {
        let (scheme, shown) = value.as_bytes().split_at_checked(SCHEME.len())?;
        scheme.eq_ignore_ascii_case(SCHEME).then_some(shown)
    });
    // In constant time, which does not depend on the number of equal bytes.
    shown.is_some_and(|shown| shown.ct_eq(token.expose_secret().as_bytes()).into())
}

pub(super) fn xml_response(text: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(text.into());
    response.headers_mut().insert(CONTENT_TYPE, axum::http::HeaderValue::from_static("text/xml"));
    response
}

/// The rest of the request is not read, so the connection cannot be used again.
pub(super) fn error_response(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{}\n", status.canonical_reason().unwrap_or_default())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONNECTION, axum::http::HeaderValue::from_static("close"));
    response
}
