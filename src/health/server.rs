//! The listener: `/health/{ping,live,ready,startup}`, `/status` and the status page for GET and HEAD, with limits on what a
//! client may cost.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::report::{Check, Facts, Report, report};
use super::status::{Status, status};
use super::status_page;
use crate::http;

#[derive(Serialize)]
struct Answer<'a> {
    status: &'a str,
    check: &'a str,
    checks: serde_json::Map<String, serde_json::Value>,
    errors: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'a str>,
}

/// Binds the listener.
///
/// # Errors
/// When the address is in use or is not ours.
pub async fn bind(addr: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(addr).await
}

/// Serves until the task is dropped; the status page only where it is wanted.
pub async fn serve(listener: TcpListener, facts: watch::Receiver<Facts>, has_page: bool) {
    http::server::serve(listener, "health", TowerToHyperService::new(router(facts, has_page))).await;
}

fn router(facts: watch::Receiver<Facts>, has_page: bool) -> Router {
    let answer = |check: Check| {
        get(move |State(facts): State<watch::Receiver<Facts>>| async move { json(&report(check, &facts.borrow())) })
    };
    let page = get(|State(facts): State<watch::Receiver<Facts>>| async move {
        let status = status_now(&facts.borrow());
        status_page::answer(&status)
    });
    let router = if has_page { Router::new().route("/", page) } else { Router::new() };
    router
        .route("/health/ping", get(|| async { ([(CACHE_CONTROL, "no-store")], "ok") }))
        .route("/health/live", answer(Check::Live))
        .route("/health/ready", answer(Check::Ready))
        .route("/health/startup", answer(Check::Startup))
        .route(
            "/status",
            get(|State(facts): State<watch::Receiver<Facts>>| async move { status_json(&facts.borrow()) }),
        )
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(facts)
}

fn json(report: &Report) -> Response {
    let status = if report.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], to_json(report)).into_response()
}

fn status_json(facts: &Facts) -> Response {
    let body = serde_json::to_string(&status_now(facts)).unwrap_or_default();
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], body).into_response()
}

fn status_now(facts: &Facts) -> Status {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    status(facts, Instant::now(), unix)
}

/// The answer's body, with the checks in the order they were made.
#[must_use]
pub fn to_json(report: &Report) -> String {
    let checks = report.checks.iter().map(|(name, good)| ((*name).to_owned(), (*good).into())).collect();
    let Report { status, check, errors, mode, .. } = report;
    let answer = Answer { status, check, checks, errors, mode: *mode };
    serde_json::to_string(&answer).unwrap_or_default()
}

async fn not_found(_request: Request<Body>) -> Result<Response, Infallible> {
    const TEXT: &str = "not found; try /health/ping, /health/live, /health/ready, /health/startup or /status\n";
    Ok((StatusCode::NOT_FOUND, TEXT).into_response())
}

async fn method_not_allowed() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed\n").into_response()
}
