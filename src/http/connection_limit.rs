//! Who is connected: at most so many, of whom those make room for others who have nothing to ask.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// Everybody who is connected.
pub(super) struct Crowd(Arc<Room>);

struct Room {
    limit: usize,
    present: Mutex<Present>,
    /// Somebody has left, or has been answered.
    changed: Notify,
}

#[derive(Default)]
struct Present {
    /// By number: who came first has the lowest.
    guests: BTreeMap<u64, Connection>,
    last: u64,
}

struct Connection {
    task: AbortHandle,
    asked: Arc<AtomicUsize>,
}

/// One who is connected; gone when this is dropped.
pub(super) struct Guest {
    room: Arc<Room>,
    number: u64,
    asked: Arc<AtomicUsize>,
}

/// Held while an answer is made.
pub(super) struct Busy {
    room: Arc<Room>,
    asked: Arc<AtomicUsize>,
}

impl Crowd {
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Room { limit, present: Mutex::default(), changed: Notify::new() }))
    }

    /// Waits until there is room for one more. Of those who ask nothing the one that came first has to go.
    pub async fn make_room(&self) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.has_room() {
                return;
            }
            changed.await;
        }
    }

    fn has_room(&self) -> bool {
        let mut present = self.0.lock();
        if present.guests.len() < self.0.limit {
            return true;
        }
        let is_idle = |guest: &Connection| guest.asked.load(Relaxed) == 0;
        let first = present.guests.iter().find(|(_, guest)| is_idle(guest)).map(|(number, _)| *number);
        let Some(guest) = first.and_then(|number| present.guests.remove(&number)) else { return false };
        guest.task.abort();
        true
    }

    /// Lets somebody in, to be served by a task of its own.
    pub fn admit<F: Future<Output = ()> + Send + 'static>(&self, serve: impl FnOnce(Guest) -> F) {
        let mut present = self.0.lock();
        present.last += 1;
        let (number, asked) = (present.last, Arc::<AtomicUsize>::default());
        let guest = Guest { room: Arc::clone(&self.0), number, asked: Arc::clone(&asked) };
        let task = tokio::spawn(serve(guest)).abort_handle();
        present.guests.insert(number, Connection { task, asked });
    }
}

impl Guest {
    /// It has asked something.
    pub fn begin(&self) -> Busy {
        self.asked.fetch_add(1, Relaxed);
        Busy { room: Arc::clone(&self.room), asked: Arc::clone(&self.asked) }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.room.lock().guests.remove(&self.number);
        self.room.changed.notify_waiters();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.asked.fetch_sub(1, Relaxed);
        self.room.changed.notify_waiters();
    }
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, Present> {
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
    fn admit(crowd: &Crowd, name: u8, is_busy: bool, gone: &mpsc::UnboundedSender<u8>) {
        struct Leaving(u8, mpsc::UnboundedSender<u8>);
        impl Drop for Leaving {
            fn drop(&mut self) {
                let _ = self.1.send(self.0);
            }
        }
        let leaving = Leaving(name, gone.clone());
        crowd.admit(|guest| async move {
            let _leaving = leaving;
            let _busy = is_busy.then(|| guest.begin());
            std::future::pending().await
        });
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_makes_room_and_who_came_first_is_the_first() {
        let (crowd, (sender, mut gone)) = (Crowd::new(3), mpsc::unbounded_channel());
        for (name, is_busy) in [(1, true), (2, false), (3, false)] {
            crowd.make_room().await;
            admit(&crowd, name, is_busy, &sender);
        }
        tokio::task::yield_now().await;
        crowd.make_room().await;
        admit(&crowd, 4, true, &sender);
        assert_eq!(gone.recv().await, Some(2));
        crowd.make_room().await;
        admit(&crowd, 5, true, &sender);
        assert_eq!(gone.recv().await, Some(3));
        tokio::task::yield_now().await;
        let waited = timeout(Duration::from_secs(60), crowd.make_room()).await;
        assert!(waited.is_err() && gone.try_recv().is_err(), "who is being answered stays");
    }

    #[tokio::test]
    async fn who_leaves_makes_room() {
        let crowd = Crowd::new(1);
        for _ in 0..3 {
            crowd.make_room().await;
            crowd.admit(|guest| async move {
                let _busy = guest.begin();
                tokio::task::yield_now().await;
            });
        }
        crowd.make_room().await;
    }
}
