//! Reads the statistics of EDI files from the database, in the background.
//!
//! During an outage of the database, the last statistics are kept, with their age. Requests never wait for a reading.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;

use super::checks::publish;
use super::state::{CachedEdiStats, HealthState};
use crate::database::{DatabaseConfig, Error};
use crate::edi::stats::EdiStatsReader;
use crate::edi::stats::model::EdiStats;
use crate::process::{memory, periodic};

/// Time limit of a read, for example on a hung server.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// Pause after a SQLite database was found locked: an engine locks it repeatedly for short times.
const LOCKED_RETRY: Duration = Duration::from_secs(2);

/// Reads until the task is dropped. `time_zone` is Django's.
pub async fn run(
    database: DatabaseConfig,
    time_zone: Option<String>,
    interval: Duration,
    health: watch::Sender<HealthState>,
) {
    let mut reader = EdiStatsReader::new(database, time_zone.as_deref());
    loop {
        let begin = Instant::now();
        let read = timeout(READ_TIMEOUT, reader.read()).await.unwrap_or_else(|_| Err(late()));
        let is_locked = matches!(read, Ok(None));
        let error = read.as_ref().err().map(Error::to_string);
        publish(&health, |state| {
            store(&mut state.results, read, begin);
            state.results_error = error.filter(|_| state.results.is_none());
        });
        // A reading uses much more memory than its result.
        memory::return_free_memory();
        periodic::due(if is_locked { LOCKED_RETRY.min(interval) } else { interval }).await;
    }
}

fn late() -> Error {
    Error::Unavailable(format!("the query for the results of runs took longer than {} s", READ_TIMEOUT.as_secs()))
}

/// Stores the result of a reading.
fn store(results: &mut Option<Arc<CachedEdiStats>>, read: Result<Option<EdiStats>, Error>, begin: Instant) {
    match read {
        Ok(Some(figures)) => {
            let took = begin.elapsed();
            *results = Some(Arc::new(CachedEdiStats { stats: figures, read: begin, took, error: None }));
        }
        Ok(None) => {}
        Err(error) => {
            let error_text = Some(error.to_string());
            if let Some(last) = results.as_ref().filter(|last| last.error != error_text) {
                *results = Some(Arc::new(CachedEdiStats { error: error_text, ..CachedEdiStats::clone(last) }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_refresh_keeps_stats_and_records_error() {
        let away = || Err(Error::Unavailable("it is away".to_owned()));
        let mut results = None;
        store(&mut results, away(), Instant::now());
        assert_eq!(results, None);
        let first = Instant::now();
        store(&mut results, Ok(Some(EdiStats { counted_since: 5, ..EdiStats::default() })), first);
        store(&mut results, away(), Instant::now());
        let cached = results.clone().expect("it was read");
        assert_eq!((cached.stats.counted_since, cached.read), (5, first));
        assert_eq!(cached.error.as_deref(), Some("it is away"));
        store(&mut results, Ok(None), Instant::now());
        assert_eq!(results, Some(cached));
        store(&mut results, Ok(Some(EdiStats::default())), Instant::now());
        assert_eq!(results.expect("it was read").error, None);
    }
}
