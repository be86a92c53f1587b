//! Pauses before jobs whose engine could not do its work are retried.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::Backoff;

/// The pauses between two attempts.
const BACKOFF: Backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(15) };

/// The state of the retries.
#[derive(Debug, Default)]
pub struct Retries {
    until: Option<Instant>,
    in_a_row: u32,
}

impl Retries {
    /// The end of the pause.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Whether the pause is over.
    pub fn may_start(&mut self) -> bool {
        self.until = self.until.filter(|until| *until > Instant::now());
        self.until.is_none()
    }

    /// Begins a pause; returns its length.
    pub fn pause(&mut self) -> Duration {
        self.in_a_row = self.in_a_row.saturating_add(1);
        let pause = BACKOFF.pause(self.in_a_row);
        self.until = Some(Instant::now() + pause);
        pause
    }

    /// After a job that ran: the next pause is short.
    pub fn reset(&mut self) {
        self.in_a_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn retry_pause_grows_until_reset() {
        let mut retries = Retries::default();
        let seconds = [1, 2, 4, 8, 15, 15].map(|wanted| (wanted, retries.pause().as_secs()));
        assert!(seconds.iter().all(|(wanted, found)| wanted == found) && !retries.may_start(), "{seconds:?}");
        tokio::time::advance(BACKOFF.max).await;
        retries.reset();
        assert!(retries.may_start() && retries.pause() == BACKOFF.initial);
    }
}
