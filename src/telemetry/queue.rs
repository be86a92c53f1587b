//! Lines on their way out: bounded, written by a thread of their own, dropped when the reader is too slow.
//!
//! Nothing here ever blocks who logs, and the end waits for a reader only so long, then leaves it.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What waits for a slow reader before further lines are dropped: some thousand lines of a usual length.
const BUFFERED_BYTES: usize = 1024 * 1024;

/// How long the end waits for a reader.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Takes whole lines. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct LineQueue(Arc<Shared>);

/// Waits for what is queued when it is dropped.
#[must_use]
pub struct Flush(LineQueue);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Whole lines, one after the other.
    waiting: Vec<u8>,
    writing: bool,
}

impl LineQueue {
    /// Starts the thread that writes to `target`.
    pub fn to(mut target: impl Write + Send + 'static) -> (Self, Flush) {
        let queue = Self(Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() }));
        let source = queue.clone();
        // Without a thread the lines are dropped, as they are for a reader that is gone.
        let _ = std::thread::Builder::new().name("log".into()).spawn(move || {
            loop {
                let bytes = source.take();
                let _ = target.write_all(&bytes).and_then(|()| target.flush());
                source.lock().writing = false;
                source.0.changed.notify_all();
            }
        });
        (queue.clone(), Flush(queue))
    }

    /// Queues a line, line end included, unless too much waits already.
    pub fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.waiting.len() + line.len() <= BUFFERED_BYTES {
            state.waiting.extend_from_slice(line);
            self.0.changed.notify_all();
        }
    }

    fn take(&self) -> Vec<u8> {
        let waited = self.0.changed.wait_while(self.lock(), |state| state.waiting.is_empty());
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.writing = true;
        std::mem::take(&mut state.waiting)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for LineQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let busy = |state: &mut State| state.writing || !state.waiting.is_empty();
        let _ = self.0.0.changed.wait_timeout_while(self.0.lock(), LAST_LINES, busy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Writes only when it is allowed to.
    struct Gate(Receiver<()>, Sender<Vec<u8>>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            self.1.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_but_never_blocks() {
        let ((open, gate), (sender, written)) = (channel(), channel());
        let (queue, flush) = LineQueue::to(Gate(gate, sender));
        let line = vec![b'x'; BUFFERED_BYTES / 4];
        (0..100).for_each(|_| queue.push(&line));
        assert!(queue.lock().waiting.len() <= BUFFERED_BYTES);
        drop(flush);
        open.send(()).expect("the writer waits");
        assert!(!written.recv().expect("something was written").is_empty());
    }

    #[test]
    fn the_end_waits_for_what_is_queued() {
        let ((open, gate), (sender, written)) = (channel(), channel());
        let (queue, flush) = LineQueue::to(Gate(gate, sender));
        queue.push(b"last words\n");
        open.send(()).expect("the writer waits");
        drop(flush);
        assert_eq!(written.try_recv().as_deref(), Ok(b"last words\n".as_slice()));
    }
}
