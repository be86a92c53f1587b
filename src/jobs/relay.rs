//! The job queue's port in a container without the queue: calls of Bots's programs are forwarded.
//!
//! These programs call `localhost` only, and only a connection that is refused or closed means to them that the queue is away.
//! So the relay closes it when the queue cannot be reached, and logs the reason.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::net::TcpListener;
use tracing::{debug, error, info};

use super::client::forward_call;
use super::listener::{DropConnection, error_response, read_body, xml_response};
use super::request_id::RequestId;
use super::rpc::{ADD, CLEAR, LIST};
use super::xmlrpc::{read_call, write_fault};
use crate::http::server;
use crate::model::Endpoint;
use crate::telemetry::counters::{CountedEvent, Counters};

/// The methods of Bots's own programs.
const ALLOWED: [&str; 3] = [ADD, LIST, CLEAR];

/// Forwards calls until the task is dropped.
pub async fn serve(listener: TcpListener, relay: Arc<Relay>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let relay = Arc::clone(&relay);
        async move {
            let request_id = RequestId::of(&request);
            match read_body(request).await {
                Ok(body) => relay.handle(body, &request_id).await,
                Err(status) => Ok(error_response(status)),
            }
        }
    });
    server::serve(listener, "job queue relay", |_| service.clone()).await;
}

/// Forwards calls to the queue.
pub struct Relay {
    target: Endpoint,
    /// Whether the last call found no queue, for one log line when it answers again.
    is_lost: AtomicBool,
    counters: Arc<Counters>,
}

impl Relay {
    /// A relay to a queue that counts its calls by outcome.
    #[must_use]
    pub fn new(target: Endpoint, counters: Arc<Counters>) -> Self {
        Self { target, is_lost: AtomicBool::new(false), counters }
    }

    fn reject(&self, reason: String) -> Response<Body> {
        self.counters.count(CountedEvent::RelayRefused);
        xml_response(write_fault(reason))
    }

    async fn handle(&self, body: Vec<u8>, request_id: &RequestId) -> Result<Response<Body>, DropConnection> {
        let call = match read_call(&body) {
            Ok(call) => call,
            Err(text) => return Ok(self.reject(text)),
        };
        if !ALLOWED.contains(&call.method.as_str()) {
            return Ok(self.reject(format!("method {:?} is not supported", call.method)));
        }
        match forward_call(&self.target, body, request_id).await {
            Ok(response) => {
                self.counters.count(CountedEvent::RelayForwarded);
                debug!(%request_id, "relayed {}", call.method);
                if self.is_lost.swap(false, Relaxed) {
                    info!("the job queue on {} responds again", self.target.authority);
                }
                Ok(xml_response(response))
            }
            Err(error) => {
                self.counters.count(CountedEvent::RelayUnreachable);
                self.is_lost.store(true, Relaxed);
                // Each of these is a run or a file that is not processed, so each is logged.
                error!(%request_id, "cannot relay {}: {error}", call.method);
                Err(DropConnection)
            }
        }
    }
}
