//! Retries while a server cannot be reached, and timeouts for one that does not answer.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use super::connect::{ConnectMode, connect};
use super::query::Connection;
use super::{DatabaseConfig, Error};

/// Pause before the second try; each further one is half as long again.
const INITIAL_RETRY_DELAY: Duration = Duration::from_millis(100);

/// No longer than this, so that a server that has come up is soon noticed.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(2);

/// How long one exchange with a server may take. When the network has forgotten a connection no answer ever comes, and the
/// system would find out after a quarter of an hour.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// The outcome of an exchange, if it comes in time. When it does not, the connection is of no more use: the answer may still
/// be on its way. A SQLite file is no server: it waits for locks by rules of its own.
///
/// # Errors
/// What the exchange says, or [`Error::Unavailable`] when it took too long.
pub async fn with_timeout<T>(
    settings: &DatabaseConfig,
    exchange: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    if matches!(settings, DatabaseConfig::Sqlite(_)) {
        return exchange.await;
    }
    timeout(QUERY_TIMEOUT, exchange).await.unwrap_or_else(|_| {
        let (database, limit) = (settings.describe(), QUERY_TIMEOUT.as_secs());
        Err(Error::Unavailable(format!("the {database} did not answer within {limit} s")))
    })
}

/// Opens the database, and tries again for as long as `retry_window` lasts while it cannot be reached.
///
/// # Errors
/// As [`connect`]; what no wait would mend, at once.
pub async fn connect_with_retry(settings: &DatabaseConfig, retry_window: Duration) -> Result<Connection, Error> {
    retry_while_unavailable(settings, retry_window, async || connect(settings, ConnectMode::Create).await).await
}

/// Opens something on the database, and tries again in the same way.
///
/// # Errors
/// As [`connect_with_retry`].
pub async fn retry_while_unavailable<T>(
    settings: &DatabaseConfig,
    retry_window: Duration,
    open: impl AsyncFn() -> Result<T, Error>,
) -> Result<T, Error> {
    let begin = Instant::now();
    let mut pause = INITIAL_RETRY_DELAY;
    let mut logged = false;
    loop {
        let error = match open().await {
            Err(Error::Unavailable(text)) if !matches!(settings, DatabaseConfig::Sqlite(_)) => text,
            opened => return opened,
        };
        let remaining = retry_window.saturating_sub(begin.elapsed());
        if remaining.is_zero() {
            let waited =
                if retry_window.is_zero() { String::new() } else { format!(", for {} s", retry_window.as_secs_f64()) };
            return Err(Error::Unavailable(format!("{error}{waited}")));
        }
        if !std::mem::replace(&mut logged, true) {
            info!("{error}; trying again for {} s", retry_window.as_secs_f64());
        }
        sleep(pause.min(remaining)).await;
        pause = (pause * 3 / 2).min(MAX_RETRY_DELAY);
    }
}
