//! The listener: `/health/{ping,live,ready,startup}`, `/status`, the status page and `/metrics` for GET and HEAD, with limits on
//! what a client may cost.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::health::state::{Check, Facts, Report, report};
use crate::http::{self, Page};
use crate::status::model::{Status, status};
use crate::status::page;
use crate::telemetry::counters::{Counters, place_of};

/// Makes the page of metrics from the facts, in a format that an `Accept` header is satisfied with.
pub type Scrape = Arc<dyn Fn(Facts, String) -> Pin<Box<dyn Future<Output = io::Result<Page>> + Send>> + Send + Sync>;

/// What the listener has beside its answers to probes.
pub struct Pages {
    /// Who makes the page of metrics.
    pub metrics: Scrape,
    /// Whether there is a status page.
    pub has_status: bool,
}

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

/// Serves until the task is dropped, and counts what is answered.
pub async fn serve(listener: TcpListener, facts: watch::Receiver<Facts>, counters: Arc<Counters>, pages: Pages) {
    http::server::serve(listener, "health", service(facts, counters, pages)).await;
}

/// What answers the requests, whatever they come in by.
pub fn service(
    facts: watch::Receiver<Facts>,
    counters: Arc<Counters>,
    pages: Pages,
) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static {
    let router = TowerToHyperService::new(router(facts, pages));
    service_fn(move |request: Request<Incoming>| {
        let (path, counters) = (place_of(request.uri().path()), Arc::clone(&counters));
        let answered = router.call(request);
        async move {
            let answer = answered.await?;
            counters.count_answer(path, answer.status().as_u16());
            Ok(answer)
        }
    })
}

fn router(facts: watch::Receiver<Facts>, Pages { metrics: scrape, has_status }: Pages) -> Router {
    let metrics = |State(facts): State<watch::Receiver<Facts>>, headers: HeaderMap| async move {
        let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default().to_owned();
        let facts = facts.borrow().clone();
        made(scrape(facts, accept).await)
    };
    let answer = |check: Check| {
        get(move |State(facts): State<watch::Receiver<Facts>>| async move { json(&report(check, &facts.borrow())) })
    };
    let page = get(|State(facts): State<watch::Receiver<Facts>>| async move {
        let status = status_now(&facts.borrow());
        page::answer(&status)
    });
    let router = if has_status { Router::new().route("/", page) } else { Router::new() };
    router
        .route("/health/ping", get(|| async { ([(CACHE_CONTROL, "no-store")], "ok") }))
        .route("/health/live", answer(Check::Live))
        .route("/health/ready", answer(Check::Ready))
        .route("/health/startup", answer(Check::Startup))
        .route(
            "/status",
            get(|State(facts): State<watch::Receiver<Facts>>| async move { status_json(&facts.borrow()) }),
        )
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(facts)
}

fn json(report: &Report) -> Response {
    let status = if report.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], to_json(report)).into_response()
}

fn made(page: io::Result<Page>) -> Response {
    match page {
        Ok(Page { content_type, body }) => {
            ([(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-store")], body).into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
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
    const TEXT: &str =
        "not found; try /health/ping, /health/live, /health/ready, /health/startup, /status or /metrics\n";
    Ok((StatusCode::NOT_FOUND, TEXT).into_response())
}

async fn method_not_allowed() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed\n").into_response()
}
