//! A listener that no client can hold up: connections, headers and time are limited.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use super::crowd::{Crowd, Guest};

/// Connections served at once; a handful are usual, and more than this is somebody's mistake. Tokio accepts half as many
/// before it serves those, so nobody is sent away who asks at once.
const CONNECTIONS: usize = 256;

/// How long a client may take to send its request headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of request headers that are read at most.
const HEADER_BYTES: usize = 8 * 1024;

/// How long a connection may stay open altogether: requests are short, and there is not room for everybody.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);

/// Serves until the task is dropped. A request that the service answers with an error ends its connection without an
/// answer. When there is no room left, who asks nothing makes room, so that nobody waits for those.
pub async fn serve<S, E>(listener: TcpListener, name: &'static str, service: S)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = E> + Clone + Send + 'static,
    S::Future: Send,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let crowd = Crowd::new(CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // While everybody's answer is being made, further clients wait in the kernel's queue.
                crowd.make_room().await;
                let service = service.clone();
                crowd.admit(|guest| async move {
                    let _ = tokio::time::timeout(CONNECTION_LIFE, connection(stream, service, guest)).await;
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

async fn connection<S, E>(stream: TcpStream, service: S, guest: Guest)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = E>,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    // Answers are small: waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let busy = guest.begin();
        let answered = service.call(request);
        async move {
            let answer = answered.await;
            drop(busy);
            answer
        }
    });
    answer(stream, service).await;
}

/// Answers the requests of one client until it leaves or must go; its own limits are those of time for a request's headers
/// and of their size.
pub async fn answer<T, S, E>(stream: T, service: S)
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<Incoming>, Response = Response<Body>, Error = E>,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    // A client that breaks off or sends rubbish is no event of ours.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
