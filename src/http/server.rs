//! A listener that no client can block: connections, headers and time are limited.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONNECTION, HOST};
use axum::http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use super::connection_limit::{Connection, ConnectionLimiter};

/// Connections served at once. More mean a faulty client. Tokio accepts at most 128 connections before it polls them, so a
/// connection with a pending request is not evicted as idle.
const MAX_CONNECTIONS: usize = 256;

/// How long a client may take to send its request headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum size of the request headers in bytes.
const MAX_HEADER_BYTES: usize = 8 * 1024;

/// Maximum lifetime of a connection: requests are short, and connections are limited.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(60);

/// Socket buffers for data of a client and for data that it does not read: the kernel's default grows to megabytes.
const SOCKET_BUFFER: usize = 64 * 1024;

/// Serves until the task is dropped, each client with the service that is made for its address. A request that the service answers with an error ends its connection without a
/// response. At the limit, idle connections make room for new ones.
pub async fn serve<S, E>(listener: TcpListener, name: &'static str, service_for: impl Fn(SocketAddr) -> S)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = E> + Send + 'static,
    S::Future: Send,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let mut limiter = ConnectionLimiter::new(MAX_CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                // While all connections have a request, further clients wait in the kernel's queue.
                limiter.reserve().await;
                // Responses are small: Nagle's algorithm would only delay them.
                let _ = stream.set_nodelay(true);
                let _ = setsockopt(&stream, sockopt::SndBuf, &SOCKET_BUFFER);
                let _ = setsockopt(&stream, sockopt::RcvBuf, &SOCKET_BUFFER);
                let service = service_for(client);
                limiter.admit(|open| connection(stream, service, open));
            }
            // Most likely out of descriptors: a pause avoids a busy loop.
            Err(error) => {
                tracing::warn!("cannot accept a connection on the {name} listener: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one client until the maximum lifetime of its connection.
async fn connection<T, S, E>(stream: T, service: S, connection: Arc<Connection>)
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<Incoming>, Response = Response<Body>, Error = E>,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let service = service_fn(move |request| {
        let busy = connection.begin();
        let responded = has_host(&request).then(|| service.call(request));
        async move {
            let Some(responded) = responded else { return Ok(bad_request()) };
            let response = responded.await;
            drop(busy);
            response
        }
    });
    let _ = tokio::time::timeout(MAX_CONNECTION_AGE, serve_connection(stream, service)).await;
}

/// RFC 9112, section 3.2: one header, except for clients of HTTP/1.0.
fn has_host(request: &Request<Incoming>) -> bool {
    let hosts = request.headers().get_all(HOST).iter().count();
    hosts == 1 || hosts == 0 && request.version() < Version::HTTP_11
}

fn bad_request() -> Response<Body> {
    let mut response = Response::new(Body::from("Bad Request: exactly one Host header is required\n"));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Answers the requests of one client until it closes the connection; the time for the headers of a request and their size are
/// limited.
pub async fn serve_connection<T, S, E>(stream: T, service: S)
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<Incoming>, Response = Response<Body>, Error = E>,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    // An aborted connection or malformed request of a client is not logged.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::{Instant, sleep, timeout};

    const MINUTE: Duration = Duration::from_secs(60);

    /// A client's end of a connection that is served.
    fn connected<F>(response: fn() -> F) -> DuplexStream
    where
        F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
    {
        let (client, stream) = tokio::io::duplex(64 * 1024);
        let service = service_fn(move |_: Request<Incoming>| response());
        ConnectionLimiter::new(MAX_CONNECTIONS).admit(|open| connection(stream, service, open));
        client
    }

    async fn at_once() -> Result<Response<Body>, Infallible> {
        Ok(Response::new(Body::from("answer")))
    }

    /// Sends these bytes after each pause, until the server closes; returns how long that took, and the response.
    async fn stays(client: DuplexStream, first: &str, again: &'static str, pause: Duration) -> (Duration, String) {
        let begin = Instant::now();
        let (mut reader, mut writer) = tokio::io::split(client);
        writer.write_all(first.as_bytes()).await.expect("taken");
        let sending = tokio::spawn(async move {
            while writer.write_all(again.as_bytes()).await.is_ok() {
                sleep(pause).await;
            }
        });
        let mut responses = String::new();
        let _ = timeout(60 * MINUTE, reader.read_to_string(&mut responses)).await;
        sending.abort();
        (begin.elapsed(), responses)
    }

    #[tokio::test(start_paused = true)]
    async fn slow_headers_time_out_within_6_seconds() {
        let second = Duration::from_secs(1);
        for (first, again) in [("", ""), ("GET / HT", ""), ("GET / HTTP/1.1\r\n", "x: y\r\n")] {
            let (stayed, responses) = stays(connected(at_once), first, again, second).await;
            assert!((5..=6).contains(&stayed.as_secs()), "{first:?} {stayed:?}");
            assert!(!responses.contains(" 200 "), "{responses}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn host_header_is_required_as_in_http_standard() {
        for (request, expected) in [
            ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 "),
            ("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", "HTTP/1.1 400 "),
            ("GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", "HTTP/1.0 400 "),
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 "),
            ("GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 200 "),
        ] {
            let (_, responses) = stays(connected(at_once), request, "", MINUTE).await;
            assert!(responses.starts_with(expected), "{request:?}: {responses}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connections_close_after_one_minute() {
        let (request, pause) = ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", Duration::from_secs(4));
        let (stayed, responses) = stays(connected(at_once), "", request, pause).await;
        assert_eq!((stayed, responses.matches("answer").count()), (MINUTE, 15), "{responses}");
        let (stayed, answers) = stays(connected(std::future::pending), request, "", pause).await;
        assert_eq!((stayed, answers.as_str()), (MINUTE, ""), "one whose answer never comes");
    }
}
