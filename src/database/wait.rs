//! Patience with a server that is not there yet.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::info;

use super::connect::{Purpose, connect};
use super::connection::Connection;
use super::{Error, Settings};

/// Pause before the second try; each further one is half as long again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// No longer than this, so that a server that has come up is soon noticed.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

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
