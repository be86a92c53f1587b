//! Whether files are at rest, for one who is about to take them: a run of the engine, which takes whatever its channels find.
//!
//! What was seen is kept from one look to the next, so that a file has to be observed once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::events::Events;
use super::observation::Clock;
use super::scan::{Directories, Extent};
use super::stability::Unfinished;
use super::target::Entry;
use crate::process::blocking;

/// Pause between two looks while a file is not at rest.
const PAUSE: Duration = Duration::from_millis(250);

/// Looks take at most one part in so many of the time.
const SHARE: u32 = 10;

/// A look that takes longer is left alone.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// A file that is not known to be complete.
#[derive(Debug, Clone)]
pub struct Restless {
    /// The file.
    pub path: PathBuf,
    /// Why it is not, and since when.
    pub unfinished: Unfinished,
    /// Whether it is still waited for.
    pub is_awaited: bool,
}

/// The files of some entries.
pub struct Rest {
    places: Vec<(Arc<Entry>, Directories)>,
    events: Arc<Events>,
    took: Duration,
}

impl Default for Rest {
    fn default() -> Self {
        Self { places: Vec::new(), events: Arc::new(Events::none()), took: Duration::ZERO }
    }
}

impl Rest {
    /// Looks at the files of these entries from now on. What is known of one that stays is kept.
    pub fn aim(&mut self, entries: Vec<Entry>) {
        let mut before = std::mem::take(&mut self.places);
        let place = |entry: Entry| {
            let known = before.iter().position(|(known, _)| **known == entry);
            known.map(|known| before.swap_remove(known)).unwrap_or_else(|| {
                let entry = Arc::new(entry);
                (Arc::clone(&entry), Directories::new(entry, 0, Arc::clone(&self.events), Clock::Probed))
            })
        };
        self.places = entries.into_iter().map(place).collect();
    }

    /// Looks at all files; the answer is which are not known to be complete, and why.
    ///
    /// # Errors
    /// When a file system does not answer, or there is no thread to wait for it.
    pub async fn look(&mut self) -> Result<Vec<Restless>, String> {
        if self.places.is_empty() {
            return Ok(Vec::new());
        }
        let (mut places, began) = (std::mem::take(&mut self.places), Instant::now());
        let look = move || {
            let mut restless = Vec::new();
            for (_, directories) in &mut places {
                directories.look(Vec::new(), Extent::All);
                let found = directories.unfinished();
                restless.extend(found.map(|(path, unfinished, is_awaited)| Restless { path, unfinished, is_awaited }));
            }
            // A file that two channels take is one file.
            restless.sort_by(|one: &Restless, other| one.path.cmp(&other.path));
            restless.dedup_by(|one, other| one.path == other.path);
            (places, restless)
        };
        let late = |_| Err(std::io::Error::other(format!("no answer within {} s", LOOK_TIMEOUT.as_secs())));
        let looked = timeout(LOOK_TIMEOUT, blocking::run(look)).await.unwrap_or_else(late);
        let (places, restless) = looked.map_err(|error| error.to_string())?;
        (self.places, self.took) = (places, began.elapsed());
        Ok(restless)
    }

    /// Waits until no file has to be waited for, at most for so long.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    pub async fn wait(&mut self, limit: Duration) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            let left = limit.saturating_sub(begin.elapsed());
            sleep(PAUSE.max(self.took * SHARE).min(left)).await;
            let is_over = self.look().await?.iter().all(|file| !file.is_awaited);
            if is_over || begin.elapsed() >= limit {
                return Ok(());
            }
        }
    }
}
