//! One request and its response, then the connection is closed. Its two steps are separate: only before the second one is it
//! certain that the server has not received the request.

use std::io;

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use axum::http::{HeaderName, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret;
use tokio::net::TcpStream;

use crate::model::Endpoint;

/// Connects to a server. The caller sets the time limit.
///
/// # Errors
/// When nothing listens there.
pub async fn connect(target: &Endpoint) -> io::Result<TcpStream> {
    // Tries every address of the host: `localhost` has two.
    let stream = TcpStream::connect(&target.authority).await?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Posts a body, with one more header, and reads at most `longest` bytes of the response. The caller sets the time limit.
///
/// # Errors
/// When the response is incomplete.
pub async fn post(
    stream: TcpStream,
    target: &Endpoint,
    body: Vec<u8>,
    header: (HeaderName, HeaderValue),
    longest: usize,
) -> io::Result<(StatusCode, Vec<u8>)> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // The task ends with the sender, which this function owns.
    let connection = tokio::spawn(connection);
    let exchange = async {
        let response = sender.send_request(request(target, body, header)?).await.map_err(broken_off)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), longest).collect().await.map_err(io::Error::other)?;
        Ok((status, body.to_bytes().to_vec()))
    };
    let answer = exchange.await;
    connection.abort();
    answer
}

fn request(target: &Endpoint, body: Vec<u8>, (name, value): (HeaderName, HeaderValue)) -> io::Result<Request<Body>> {
    let mut request = Request::post(&target.path)
        .header(HOST, &target.authority)
        .header(USER_AGENT, "bots-ctl")
        .header(CONTENT_TYPE, "text/xml")
        .header(CONNECTION, "close")
        .header(name, value);
    if let Some(token) = &target.token {
        let mut value =
            HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())).map_err(io::Error::other)?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    request.body(Body::from(body)).map_err(io::Error::other)
}

fn broken_off(error: hyper::Error) -> io::Error {
    if error.is_incomplete_message() {
        return io::Error::new(
            io::ErrorKind::ConnectionReset,
            "connection closed without a response; see the log of the server",
        );
    }
    io::Error::other(error)
}
