//! What came of the EDI files, read from the database in the background, now and then.
//!
//! A database that is away leaves what was read last, with its age. Nobody waits for a reading: a request takes the last.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::checks::publish;
use super::state::Facts;
use crate::database::{Error, Settings};
use crate::edi::stats::{Figures, Reader};

/// How long one reading may take, on a server that hangs for instance.
const LIMIT: Duration = Duration::from_secs(20);

/// Pause after a SQLite database was found locked: an engine has it so for moments, one after the other.
const MOMENT: Duration = Duration::from_secs(2);

/// What was read, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Results {
    /// What the tables said.
    pub figures: Figures,
    /// When they were asked.
    pub read: Instant,
    /// How long the answer took.
    pub took: Duration,
    /// Why there is nothing newer; `None` when the last attempt succeeded.
    pub trouble: Option<String>,
}

/// Reads until the task is dropped. `time_zone` is Django's.
pub async fn watch(database: Settings, time_zone: Option<String>, interval: Duration, facts: watch::Sender<Facts>) {
    let mut reader = Reader::new(database, time_zone.as_deref());
    loop {
        let begin = Instant::now();
        let read = timeout(LIMIT, reader.read()).await.unwrap_or_else(|_| Err(late()));
        let is_locked = matches!(read, Ok(None));
        publish(&facts, |facts| note(&mut facts.results, read, begin));
        sleep(if is_locked { MOMENT.min(interval) } else { interval }).await;
    }
}

fn late() -> Error {
    Error::Unavailable(format!("the results of runs could not be read within {} s", LIMIT.as_secs()))
}

/// Takes down how a reading went.
fn note(results: &mut Option<Arc<Results>>, read: Result<Option<Figures>, Error>, begin: Instant) {
    match read {
        Ok(Some(figures)) => {
            let took = begin.elapsed();
            *results = Some(Arc::new(Results { figures, read: begin, took, trouble: None }));
        }
        Ok(None) => {}
        Err(error) => {
            let trouble = Some(error.to_string());
            // Before the first success there is nothing to keep, and the check of the database says what is wrong.
            if let Some(last) = results.as_ref().filter(|last| last.trouble != trouble) {
                *results = Some(Arc::new(Results { trouble, ..Results::clone(last) }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_what_was_read_and_says_why_there_is_nothing_newer() {
        let away = || Err(Error::Unavailable("it is away".to_owned()));
        let mut results = None;
        note(&mut results, away(), Instant::now());
        assert_eq!(results, None);
        let first = Instant::now();
        note(&mut results, Ok(Some(Figures { counted_since: 5, ..Figures::default() })), first);
        note(&mut results, away(), Instant::now());
        let kept = results.clone().expect("it was read");
        assert_eq!((kept.figures.counted_since, kept.read), (5, first));
        assert_eq!(kept.trouble.as_deref(), Some("it is away"));
        note(&mut results, Ok(None), Instant::now());
        assert_eq!(results, Some(kept));
        note(&mut results, Ok(Some(Figures::default())), Instant::now());
        assert_eq!(results.expect("it was read").trouble, None);
    }
}
