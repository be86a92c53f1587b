//! The job queue's port in a container where the queue is not: what Bots's programs ask here is passed on to it.
//!
//! They only ever ask `localhost`, and know one way of being told that nobody is there: a connection that is refused
//! or closed. So a queue that cannot be reached closes it at once, and the log says why.

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
use crate::telemetry::counters::{Counters, Event};

/// What Bots's own programs use.
const ALLOWED: [&str; 3] = [ADD, LIST, CLEAR];

/// Passes calls on until the task is dropped.
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
    server::serve(listener, "job queue relay", service).await;
}

/// The way to the queue.
pub struct Relay {
    target: Endpoint,
    /// Whether the last call found no queue: the log says it once each way.
    is_lost: AtomicBool,
    counters: Arc<Counters>,
}

impl Relay {
    /// A relay to a queue, which counts what becomes of calls.
    #[must_use]
    pub fn new(target: Endpoint, counters: Arc<Counters>) -> Self {
        Self { target, is_lost: AtomicBool::new(false), counters }
    }

    fn reject(&self, reason: String) -> Response<Body> {
        self.counters.count(Event::RelayRefused);
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
                self.counters.count(Event::RelayForwarded);
                debug!(%request_id, "{} was passed on", call.method);
                if self.is_lost.swap(false, Relaxed) {
                    info!("the job queue on {} answers again", self.target.authority);
                }
                Ok(xml_response(response))
            }
            Err(error) => {
                self.counters.count(Event::RelayUnreachable);
                self.is_lost.store(true, Relaxed);
                // Each of these is something that did not happen: a run that was asked for, a file that came.
                error!(%request_id, "{} was not passed on: {error}", call.method);
                Err(DropConnection)
            }
        }
    }
}
