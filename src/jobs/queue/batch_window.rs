//! The time in which the queue gathers requests that it handles together.

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::MAX_BATCH;

/// The requests that may follow a commit, and until when. A commit costs as much for one job as for those of all clients, so the
/// clients that it has just answered are waited for, if others have requests already.
pub(super) struct BatchWindow {
    expected: usize,
    until: Instant,
}

impl BatchWindow {
    /// After a commit that wrote `written` jobs and began at `begin`, while `waiting` further requests came. The window is half as
    /// long as the commit. It is of no use to a single client, which it does not delay.
    pub fn after_commit(written: usize, waiting: usize, begin: Instant) -> Self {
        Self { expected: (written + waiting).min(MAX_BATCH), until: Instant::now() + begin.elapsed() / 2 }
    }

    /// Adds requests to a batch until all expected ones are in it, or the window has ended.
    pub async fn fill<T>(&self, batch: &mut Vec<T>, requests: &mut mpsc::Receiver<T>) {
        while batch.len() < self.expected {
            let more = requests.recv_many(batch, self.expected - batch.len());
            if !timeout_at(self.until, more).await.is_ok_and(|count| count > 0) {
                return;
            }
        }
    }
}

impl Default for BatchWindow {
    /// Before the first commit.
    fn default() -> Self {
        Self { expected: 0, until: Instant::now() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    const COMMIT: Duration = Duration::from_millis(10);

    /// The size of a batch that begins with one request, while more arrive at these times, and how long it was waited for.
    async fn filled(written: usize, waiting: usize, arrivals: &'static [u64]) -> (usize, Duration) {
        let (sender, mut requests) = mpsc::channel(MAX_BATCH);
        let begin = Instant::now();
        tokio::time::advance(COMMIT).await;
        let window = BatchWindow::after_commit(written, waiting, begin);
        let (mut batch, begin) = (vec![0], Instant::now());
        let _sending = tokio::spawn(async move {
            for milliseconds in arrivals {
                sleep(Duration::from_millis(*milliseconds)).await;
                let _ = sender.send(*milliseconds).await;
            }
            sleep(COMMIT).await;
        });
        window.fill(&mut batch, &mut requests).await;
        (batch.len(), begin.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_have_been_answered_are_waited_for_and_a_single_one_is_not() {
        assert_eq!(filled(1, 0, &[1]).await, (1, Duration::ZERO));
        assert_eq!(filled(2, 2, &[1, 1, 1, 1]).await, (4, Duration::from_millis(3)));
        assert_eq!(filled(8, 0, &[1, 1, 9]).await, (3, COMMIT / 2));
    }
}
