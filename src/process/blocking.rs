//! Runs blocking work on a separate thread; returns an error if no thread can be started.

use std::io;

/// Runs work that may block, off the runtime's thread.
///
/// The runtime's pool panics when it cannot start its first thread, so a thread is started and joined before. Later the pool
/// always has one, since sessions keep it alive.
///
/// # Errors
/// When the limit on processes or memory is reached.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let thread = std::thread::Builder::new().spawn(|| {}).map_err(|error| {
        let text = format!("cannot start a thread: {error}; process limit reached (ulimit -u, pids.max)");
        io::Error::new(error.kind(), text)
    })?;
    let _ = thread.join();
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}
