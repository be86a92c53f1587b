//! When a job is tried again whose engine could not do its work: not at once, and not for ever.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// How long to wait at first; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest of those pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// How often the engine of a job may be cut off until the job counts as failed: one that is killed whenever it gets to some
/// file must not keep all other jobs waiting for ever.
const MOST_TRIES: u32 = 4;

/// What is known of those that could not do their work.
#[derive(Debug, Default)]
pub struct Retries {
    until: Option<Instant>,
    in_a_row: u32,
    cut_off: BTreeMap<i64, u32>,
}

impl Retries {
    /// No job is started before.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Whether jobs may be started again.
    pub fn is_over(&mut self) -> bool {
        self.until = self.until.filter(|until| *until > Instant::now());
        self.until.is_none()
    }

    /// Nothing is started for a while; how long.
    pub fn pause(&mut self) -> Duration {
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.in_a_row)).min(LONGEST_PAUSE);
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.until = Some(Instant::now() + pause);
        pause
    }

    /// The engine of this job was cut off; says whether the job may be tried again.
    pub fn may_try_again(&mut self, number: i64) -> bool {
        let times = self.cut_off.entry(number).or_default();
        *times += 1;
        *times < MOST_TRIES
    }

    /// A job has run.
    pub fn has_run(&mut self) {
        self.in_a_row = 0;
    }

    /// A job is not tried again.
    pub fn forget(&mut self, number: i64) {
        self.cut_off.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_become_longer_until_a_job_has_run() {
        let mut retries = Retries::default();
        let seconds = [1, 2, 4, 8, 15, 15].map(|wanted| (wanted, retries.pause().as_secs()));
        assert!(seconds.iter().all(|(wanted, found)| wanted == found) && !retries.is_over(), "{seconds:?}");
        tokio::time::advance(LONGEST_PAUSE).await;
        retries.has_run();
        assert!(retries.is_over() && retries.pause() == FIRST_PAUSE);
    }

    #[test]
    fn each_job_is_tried_so_often_and_no_more() {
        let mut retries = Retries::default();
        assert_eq!([1, 1, 2, 1, 1].map(|job| retries.may_try_again(job)), [true, true, true, true, false]);
        retries.forget(1);
        assert!(retries.may_try_again(1));
    }
}
