//! Work that blocks, on a thread of its own, and an error where there is no room for one.

use std::io;

/// Runs work that may block, off the runtime's thread.
///
/// The runtime's pool panics when it cannot start its first thread, so it is made sure first that there is room. Later
/// there is always one, since sessions never let it go.
///
/// # Errors
/// When the limit on processes or memory is reached.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let thread = std::thread::Builder::new().spawn(|| {}).map_err(|error| {
        let text = format!("cannot start a thread: {error}; the limit on processes (ulimit -u, pids.max) is reached");
        io::Error::new(error.kind(), text)
    })?;
    let _ = thread.join();
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}
