//! Who is connected: at most so many, of whom those make room for others who have nothing to ask.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// Everybody who is connected.
pub(super) struct ConnectionLimiter(Arc<Inner>);

struct Inner {
    limit: usize,
    present: Mutex<State>,
    /// Somebody has left, or has been answered.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// By number: who came first has the lowest.
    guests: BTreeMap<u64, Entry>,
    last: u64,
}

struct Entry {
    task: AbortHandle,
    requested: Arc<AtomicUsize>,
}

/// One who is connected; gone when this is dropped.
pub(super) struct ConnectionGuard {
    inner: Arc<Inner>,
    number: u64,
    requested: Arc<AtomicUsize>,
}

/// Held while an answer is made.
pub(super) struct RequestGuard {
    inner: Arc<Inner>,
    requested: Arc<AtomicUsize>,
}

impl ConnectionLimiter {
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Inner { limit, present: Mutex::default(), changed: Notify::new() }))
    }

    /// Waits until there is room for one more. Of those who ask nothing the one that came first has to go.
    pub async fn reserve(&self) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.has_capacity() {
                return;
            }
            changed.await;
        }
    }

    fn has_capacity(&self) -> bool {
        let mut present = self.0.lock();
        if present.guests.len() < self.0.limit {
            return true;
        }
        let is_idle = |connection: &Entry| connection.requested.load(Relaxed) == 0;
        let first = present.guests.iter().find(|(_, guard)| is_idle(guard)).map(|(number, _)| *number);
        let Some(guest) = first.and_then(|number| present.guests.remove(&number)) else { return false };
        guest.task.abort();
        true
    }

    /// Lets somebody in, to be served by a task of its own.
    pub fn admit<F: Future<Output = ()> + Send + 'static>(&self, serve: impl FnOnce(ConnectionGuard) -> F) {
        let mut present = self.0.lock();
        present.last += 1;
        let (number, last_request) = (present.last, Arc::<AtomicUsize>::default());
        let connection = ConnectionGuard { inner: Arc::clone(&self.0), number, requested: Arc::clone(&last_request) };
        let task = tokio::spawn(serve(connection)).abort_handle();
        present.guests.insert(number, Entry { task, requested: last_request });
    }
}

impl ConnectionGuard {
    /// It has asked something.
    pub fn begin(&self) -> RequestGuard {
        self.requested.fetch_add(1, Relaxed);
        RequestGuard { inner: Arc::clone(&self.inner), requested: Arc::clone(&self.requested) }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.inner.lock().guests.remove(&self.number);
        self.inner.changed.notify_waiters();
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.requested.fetch_sub(1, Relaxed);
        self.inner.changed.notify_waiters();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    /// Lets somebody in who says its name when it is gone.
    fn admit(limiter: &ConnectionLimiter, name: u8, is_busy: bool, gone: &mpsc::UnboundedSender<u8>) {
        struct Leaving(u8, mpsc::UnboundedSender<u8>);
        impl Drop for Leaving {
            fn drop(&mut self) {
                let _ = self.1.send(self.0);
            }
        }
        let leaving = Leaving(name, gone.clone());
        limiter.admit(|connection| async move {
            let _leaving = leaving;
            let _busy = is_busy.then(|| connection.begin());
            std::future::pending().await
        });
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_makes_room_and_who_came_first_is_the_first() {
        let (limiter, (sender, mut gone)) = (ConnectionLimiter::new(3), mpsc::unbounded_channel());
        for (name, is_busy) in [(1, true), (2, false), (3, false)] {
            limiter.reserve().await;
            admit(&limiter, name, is_busy, &sender);
        }
        tokio::task::yield_now().await;
        limiter.reserve().await;
        admit(&limiter, 4, true, &sender);
        assert_eq!(gone.recv().await, Some(2));
        limiter.reserve().await;
        admit(&limiter, 5, true, &sender);
        assert_eq!(gone.recv().await, Some(3));
        tokio::task::yield_now().await;
        let waited = timeout(Duration::from_secs(60), limiter.reserve()).await;
        assert!(waited.is_err() && gone.try_recv().is_err(), "who is being answered stays");
    }

    #[tokio::test]
    async fn who_leaves_makes_room() {
        let limiter = ConnectionLimiter::new(1);
        for _ in 0..3 {
            limiter.reserve().await;
            limiter.admit(|connection| async move {
                let _busy = connection.begin();
                tokio::task::yield_now().await;
            });
        }
        limiter.reserve().await;
    }
}
