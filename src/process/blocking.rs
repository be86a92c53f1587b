//! Runs blocking work on a separate thread; returns an error if no thread can be started.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use tokio::task::{JoinHandle, spawn_blocking};

/// Whether the runtime's pool has a thread, which sessions keep alive.
static HAS_THREAD: AtomicBool = AtomicBool::new(false);

/// Runs work that may block, off the runtime's thread.
///
/// # Errors
/// When the work panics, or the limit on processes or memory is reached.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    spawn(work)?.await.map_err(io::Error::other)
}

/// Begins work that may block, off the runtime's thread.
///
/// The runtime's pool panics when it cannot start its first thread, so another thread is started and joined before that.
///
/// # Errors
/// When the limit on processes or memory is reached.
pub(super) fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    if !HAS_THREAD.load(Relaxed) {
        let thread = std::thread::Builder::new().spawn(|| {}).map_err(|error| {
            let text = format!("cannot start a thread: {error}; process limit reached (ulimit -u, pids.max)");
            io::Error::new(error.kind(), text)
        })?;
        let _ = thread.join();
    }
    let task = spawn_blocking(work);
    HAS_THREAD.store(true, Relaxed);
    Ok(task)
}
