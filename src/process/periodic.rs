//! Periodic work that shares wake-ups and a thread: work with the same interval is due at the same instant, and the parts of
//! it that may block run one after the other on one thread.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};

use super::blocking;

/// An interval ends at a multiple of the longest of these that makes it at most 3 % longer: tokio's timer wakes once for such
/// an instant, but twice for another, since it holds instants after the next multiple of 4096 ms, or 64 ms, in coarser slots.
const TIMER_SLOTS: [Duration; 2] = [Duration::from_millis(2048), Duration::from_millis(64)];

/// How long blocking work waits for other work on the same thread. A check takes microseconds, unless its volume hangs.
const MAX_WAIT: Duration = Duration::from_millis(250);

/// The instant of which all due times are multiples.
static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// Blocking work that is due now.
static DUE: Mutex<Vec<Work>> = Mutex::new(Vec::new());

/// Empty once the work has begun.
type Work = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// Sets the origin of all due times. Called right before the runtime is built, whose timer counts from then on.
pub fn start() {
    ORIGIN.get_or_init(Instant::now);
}

/// Waits until work with this interval is due again.
pub async fn due(interval: Duration) {
    let origin = *ORIGIN.get_or_init(Instant::now);
    sleep_until(origin + next_due(origin.elapsed(), interval)).await;
}

/// The time from the origin until the end of the current interval.
fn next_due(elapsed: Duration, interval: Duration) -> Duration {
    let interval = interval.as_millis().max(1);
    let due = (elapsed.as_millis() / interval + 1) * interval;
    let mut slots = TIMER_SLOTS.iter().map(Duration::as_millis);
    let slot = slots.find(|slot| interval.next_multiple_of(*slot) - interval <= interval / 32);
    let due = slot.map_or(due, |slot| due.next_multiple_of(slot));
    Duration::from_millis(u64::try_from(due).unwrap_or(u64::MAX))
}

/// Runs blocking work on one thread with other work that is due at the same instant. Work that hangs delays no other work:
/// that continues on another thread.
///
/// # Errors
/// When the work panics, or no thread can be started.
pub async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (result, mut done) = oneshot::channel();
    let work: Work = Arc::new(Mutex::new(Some(Box::new(move || drop(result.send(work()))))));
    lock(&DUE).push(Arc::clone(&work));
    // All other tasks that are due add their work before this one continues.
    yield_now().await;
    let all = std::mem::take(&mut *lock(&DUE));
    if !all.is_empty() {
        blocking::spawn(move || all.iter().for_each(begin))?;
    }
    let result = match timeout(MAX_WAIT, &mut done).await {
        Ok(result) => result,
        Err(_) => {
            if lock(&work).is_some() {
                blocking::spawn(move || begin(&work))?;
            }
            done.await
        }
    };
    result.map_err(io::Error::other)
}

fn begin(work: &Work) {
    let work = lock(work).take();
    if let Some(work) = work {
        work();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn due_times_are_common_to_all_tasks_and_later_than_now() {
        let ms = Duration::from_millis;
        for (elapsed, interval, due) in [
            (0, 2000, 2048),
            (1999, 2000, 2048),
            (2048, 2000, 4096),
            (4100, 2000, 6144),
            (0, 6000, 6144),
            (6144, 6000, 12_288),
            (0, 5000, 5056),
            (5056, 5000, 10_048),
            (0, 300, 300),
            (0, 50, 50),
            (50, 50, 100),
            (99, 50, 100),
        ] {
            assert_eq!(next_due(ms(elapsed), ms(interval)), ms(due), "{elapsed} ms, every {interval} ms");
        }
        assert_eq!(next_due(ms(3), Duration::from_micros(1)), ms(4), "the timer knows milliseconds");
        let century = Duration::from_hours(24 * 365 * 100);
        assert!([1, 2000].into_iter().all(|interval| next_due(century, ms(interval)) > century));
    }

    #[tokio::test]
    async fn work_that_is_due_together_shares_a_thread_unless_some_of_it_hangs() {
        let thread_id = || thread::current().id();
        let (first, second) = tokio::join!(run_blocking(thread_id), run_blocking(thread_id));
        assert_eq!(first.expect("it ran"), second.expect("it ran"));

        let (release, released) = mpsc::channel::<()>();
        let hung = move || {
            let _ = released.recv();
            thread::current().id()
        };
        let (hung, other) = tokio::join!(run_blocking(hung), async move {
            let other = run_blocking(thread_id).await;
            drop(release);
            other
        });
        assert_ne!(hung.expect("it ran"), other.expect("it ran while the first hung"));
        run_blocking(|| -> () { panic!("on purpose") }).await.expect_err("it has panicked");
    }
}
