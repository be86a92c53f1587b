//! A listener that no client can hold up: connections, headers and time are limited.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections served at once; a handful are usual, and more than this is somebody's mistake.
const CONNECTIONS: usize = 256;

/// How long a client may take to send its request headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of request headers that are read at most.
const HEADER_BYTES: usize = 8 * 1024;

/// How long a connection may stay open altogether: requests are short, and slots are limited.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);

/// Serves until the task is dropped. A request that the service answers with an error ends its connection without an
/// answer.
pub async fn serve<S, E>(listener: TcpListener, name: &'static str, service: S)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = E> + Clone + Send + 'static,
    S::Future: Send,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The slot comes first: while all are taken, further clients wait in the kernel's queue.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = connection(stream, service.clone());
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(CONNECTION_LIFE, connection).await;
                    drop(slot);
                });
            }
            // Out of descriptors, most likely: the next attempt must not spin.
            Err(error) => {
                tracing::warn!("cannot accept a connection on the {name} listener: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection<S, E>(stream: TcpStream, service: S)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = E>,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    // Answers are small: waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    // A client that breaks off or sends rubbish is no event of ours.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
