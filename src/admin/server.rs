//! The listener: `/health/{ping,live,ready,startup}`, `/status`, the status page and `/metrics` for GET and HEAD, with limits on
//! what a client may cost.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::health::rules::{ProbeResponse, evaluate};
use crate::health::state::HealthState;
use crate::http;
use crate::metrics::Exporter;
use crate::model::Check;
use crate::status::model::{Status, status};
use crate::status::page;
use crate::telemetry::counters::{Counters, path_index};

/// The pages of the listener, besides probe responses.
pub struct AdminPages {
    /// Writes the page of metrics.
    pub metrics: Arc<Exporter>,
    /// Whether there is a status page.
    pub has_status: bool,
}

/// Binds the listener, unless there is one for this address already.
///
/// # Errors
/// When the address is in use or is not one of this machine.
pub async fn bind(addr: SocketAddr, inherited: Option<OwnedFd>) -> io::Result<TcpListener> {
    let inherited =
        inherited.map(StdListener::from).filter(|listener| listener.local_addr().is_ok_and(|at| at == addr));
    match inherited {
        Some(listener) => {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        }
        None => TcpListener::bind(addr).await,
    }
}

/// Serves until the task is dropped, and counts the responses.
pub async fn serve(
    listener: TcpListener,
    health: watch::Receiver<HealthState>,
    counters: Arc<Counters>,
    pages: AdminPages,
) {
    let service = service(health, counters, pages);
    http::server::serve(listener, "health", |_| service.clone()).await;
}

/// The service behind the listener, for any stream.
pub fn service(
    health: watch::Receiver<HealthState>,
    counters: Arc<Counters>,
    pages: AdminPages,
) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static {
    let router = TowerToHyperService::new(router(health, pages));
    service_fn(move |request: Request<Incoming>| {
        let (path, counters) = (path_index(request.uri().path()), Arc::clone(&counters));
        let responded = router.call(request);
        async move {
            let response = responded.await?;
            counters.count_response(path, response.status().as_u16());
            Ok(response)
        }
    })
}

fn router(health: watch::Receiver<HealthState>, AdminPages { metrics: exporter, has_status }: AdminPages) -> Router {
    let metrics = |State(health): State<watch::Receiver<HealthState>>, headers: HeaderMap| async move {
        let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        let health = health.borrow().clone();
        match exporter.page(health, accept).await {
            Ok((content_type, body)) => uncached(content_type, body),
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
        }
    };
    let response = |check: Check| {
        get(move |State(health): State<watch::Receiver<HealthState>>| async move {
            json(&evaluate(check, &health.borrow()))
        })
    };
    let page = get(|State(health): State<watch::Receiver<HealthState>>| async move {
        let status = status_now(&health.borrow());
        page::answer(&status)
    });
    let router = if has_status { Router::new().route("/", page) } else { Router::new() };
    router
        .route("/health/ping", get(|| async { ([(CACHE_CONTROL, "no-store")], "ok") }))
        .route("/health/live", response(Check::Live))
        .route("/health/ready", response(Check::Ready))
        .route("/health/startup", response(Check::Startup))
        .route(
            "/status",
            get(|State(health): State<watch::Receiver<HealthState>>| async move { status_json(&health.borrow()) }),
        )
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(health)
}

fn json(report: &ProbeResponse) -> Response {
    let status = if report.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, uncached("application/json", report.to_json())).into_response()
}

fn uncached(content_type: &'static str, body: String) -> Response {
    ([(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-store")], body).into_response()
}

fn status_json(health: &HealthState) -> Response {
    uncached("application/json", serde_json::to_string(&status_now(health)).unwrap_or_default())
}

fn status_now(health: &HealthState) -> Status {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    status(health, Instant::now(), unix)
}

async fn not_found() -> Response {
    const TEXT: &str =
        "not found; try /health/ping, /health/live, /health/ready, /health/startup, /status or /metrics\n";
    (StatusCode::NOT_FOUND, TEXT).into_response()
}

async fn method_not_allowed() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed\n").into_response()
}
