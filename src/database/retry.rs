//! Patience with a server that is not there yet, or does not answer.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use super::connect::{Purpose, connect};
use super::connection::Connection;
use super::{Error, Settings};

/// Pause before the second try; each further one is half as long again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// No longer than this, so that a server that has come up is soon noticed.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long one exchange with a server may take. When the network has forgotten a connection no answer ever comes, and the
/// system would find out after a quarter of an hour.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The outcome of an exchange, if it comes in time. When it does not, the connection is of no more use: the answer may still
/// be on its way. A SQLite file is no server: it waits for locks by rules of its own.
///
/// # Errors
/// What the exchange says, or [`Error::Unavailable`] when it took too long.
pub async fn for_answer<T>(settings: &Settings, exchange: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    if matches!(settings, Settings::Sqlite(_)) {
        return exchange.await;
    }
    timeout(PATIENCE, exchange).await.unwrap_or_else(|_| {
        let (database, limit) = (settings.describe(), PATIENCE.as_secs());
        Err(Error::Unavailable(format!("the {database} did not answer within {limit} s")))
    })
}

/// Opens the database, and tries again for as long as `patience` lasts while it cannot be reached.
///
/// # Errors
/// As [`connect`]; what no wait would mend, at once.
pub async fn for_connection(settings: &Settings, patience: Duration) -> Result<Connection, Error> {
    until_open(settings, patience, async || connect(settings, Purpose::Initialise).await).await
}

/// Opens something on the database, and tries again in the same way.
///
/// # Errors
/// As [`for_connection`].
pub async fn until_open<T>(
    settings: &Settings,
    patience: Duration,
    open: impl AsyncFn() -> Result<T, Error>,
) -> Result<T, Error> {
    let begin = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    loop {
        let error = match open().await {
            Err(Error::Unavailable(text)) if !matches!(settings, Settings::Sqlite(_)) => text,
            opened => return opened,
        };
        let left = patience.saturating_sub(begin.elapsed());
        if left.is_zero() {
            let waited = if patience.is_zero() { String::new() } else { format!(", for {} s", patience.as_secs_f64()) };
            return Err(Error::Unavailable(format!("{error}{waited}")));
        }
        if !std::mem::replace(&mut told, true) {
            info!("{error}; trying again for {} s", patience.as_secs_f64());
        }
        sleep(pause.min(left)).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}
