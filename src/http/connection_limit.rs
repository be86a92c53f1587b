//! Limits the open connections of a listener; idle ones are evicted for new ones.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// The open connections, in the order in which they were admitted.
pub(super) struct ConnectionLimiter {
    limit: usize,
    open: Vec<(AbortHandle, Weak<Connection>)>,
    /// A connection was closed, or a request was answered.
    changed: Arc<Notify>,
}

/// An open connection; it is closed when this is dropped.
pub(super) struct Connection {
    requests: AtomicUsize,
    changed: Arc<Notify>,
}

/// Held while a response is made.
pub(super) struct RequestGuard(Arc<Connection>);

impl ConnectionLimiter {
    pub fn new(limit: usize) -> Self {
        Self { limit, open: Vec::new(), changed: Arc::default() }
    }

    /// Waits until one more connection is permitted, and closes the oldest idle one if that helps.
    pub async fn reserve(&mut self) {
        loop {
            self.open.retain(|(_, connection)| connection.strong_count() > 0);
            if self.open.len() < self.limit {
                return;
            }
            let is_idle = |connection: Arc<Connection>| connection.requests.load(Relaxed) == 0;
            let idle = self.open.iter().position(|(_, connection)| connection.upgrade().is_some_and(is_idle));
            if let Some(index) = idle {
                return self.open.remove(index).0.abort();
            }
            self.changed.notified().await;
        }
    }

    /// Serves a connection in a separate task.
    pub fn admit<F: Future<Output = ()> + Send + 'static>(&mut self, serve: impl FnOnce(Arc<Connection>) -> F) {
        let connection = Arc::new(Connection { requests: AtomicUsize::new(0), changed: Arc::clone(&self.changed) });
        let open = Arc::downgrade(&connection);
        self.open.push((tokio::spawn(serve(connection)).abort_handle(), open));
    }
}

impl Connection {
    /// A request has come.
    pub fn begin(self: &Arc<Self>) -> RequestGuard {
        self.requests.fetch_add(1, Relaxed);
        RequestGuard(Arc::clone(self))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Relaxed);
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    /// Admits a connection that sends its name when it is closed.
    fn admit(limiter: &mut ConnectionLimiter, name: u8, is_busy: bool, gone: &mpsc::UnboundedSender<u8>) {
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
    async fn oldest_idle_connection_is_evicted_first() {
        let (mut limiter, (sender, mut gone)) = (ConnectionLimiter::new(3), mpsc::unbounded_channel());
        for (name, is_busy) in [(1, true), (2, false), (3, false)] {
            limiter.reserve().await;
            admit(&mut limiter, name, is_busy, &sender);
        }
        tokio::task::yield_now().await;
        limiter.reserve().await;
        admit(&mut limiter, 4, true, &sender);
        assert_eq!(gone.recv().await, Some(2));
        limiter.reserve().await;
        admit(&mut limiter, 5, true, &sender);
        assert_eq!(gone.recv().await, Some(3));
        tokio::task::yield_now().await;
        let waited = timeout(Duration::from_secs(60), limiter.reserve()).await;
        assert!(waited.is_err() && gone.try_recv().is_err(), "a connection with a request stays");
    }

    #[tokio::test]
    async fn closed_connection_frees_its_slot() {
        let mut limiter = ConnectionLimiter::new(1);
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
