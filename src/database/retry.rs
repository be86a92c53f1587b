//! Retry of connections with a backoff while the server is unreachable, and timeouts for a server that does not respond.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use super::connect::{ConnectMode, connect};
use super::query::Connection;
use super::{DatabaseConfig, Error};
use crate::model::Backoff;

/// The pauses between two attempts. They stay short, so that a server that has started is soon noticed.
const BACKOFF: Backoff = Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(2) };

/// Limit of one exchange with a server. When the network has dropped a connection no answer ever comes, and the kernel
/// reports that after a quarter of an hour.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// The result of a query, with a timeout. After a timeout the connection is unusable: the response may still arrive.
/// SQLite has a busy timeout instead.
///
/// # Errors
/// That of the query, or [`Error::Unavailable`] after the timeout.
pub async fn with_timeout<T>(
    settings: &DatabaseConfig,
    exchange: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    if settings.is_sqlite() {
        return exchange.await;
    }
    timeout(QUERY_TIMEOUT, exchange).await.unwrap_or_else(|_| {
        let (database, limit) = (settings.describe(), QUERY_TIMEOUT.as_secs());
        Err(Error::Unavailable(format!("the {database} did not respond within {limit} s")))
    })
}

/// Opens the database. While a server cannot be reached it tries again, for as long as `retry_window` lasts.
///
/// # Errors
/// As [`connect`]; an error that waiting cannot fix is returned at once.
pub async fn connect_with_retry(
    settings: &DatabaseConfig,
    mode: ConnectMode,
    retry_window: Duration,
) -> Result<Connection, Error> {
    let begin = Instant::now();
    let mut failures = 0_u32;
    loop {
        let error = match connect(settings, mode).await {
            Err(Error::Unavailable(text)) if !settings.is_sqlite() => text,
            opened => return opened,
        };
        let remaining = retry_window.saturating_sub(begin.elapsed());
        if remaining.is_zero() {
            let waited = if retry_window.is_zero() {
                String::new()
            } else {
                format!(" (retried for {} s)", retry_window.as_secs_f64())
            };
            return Err(Error::Unavailable(format!("{error}{waited}")));
        }
        if failures == 0 {
            info!("{error}; retrying for up to {} s", retry_window.as_secs_f64());
        }
        failures = failures.saturating_add(1);
        sleep(BACKOFF.pause(failures).min(remaining)).await;
    }
}
