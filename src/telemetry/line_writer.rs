//! A bounded queue of lines, written by a separate thread; lines are dropped and counted if the reader is too slow.
//!
//! There are two entry points. [`LineWriter::push`] never blocks: it is for the log of bots-ctl, which may be written
//! from anywhere. [`LineWriter::send`] is for the output of services: it waits for space if the buffer is briefly full,
//! as with a file at full speed. After a timeout, lines are dropped, and no sender waits again until the reader has
//! caught up. Then one line reports the number of missing lines, at their position.
//!
//! The thread starts with the first line, sleeps while the queue is empty, and survives every write error. If it cannot be
//! started, the lines wait for the next attempt.

use std::io::{self, Write};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Bytes that are kept for a slow reader before further lines are dropped: some thousand lines of a usual length.
const BUFFERED_BYTES: usize = 1024 * 1024;

/// How long a full buffer may delay a service: too short for a user to notice.
pub const PIPE_SEND_TIMEOUT: Duration = Duration::from_millis(100);

/// As [`PIPE_SEND_TIMEOUT`], for a file: the kernel delays writers to a slow disk by some tenths of a second.
pub const FILE_SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the end waits for a reader.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Buffers above this size are freed once nothing was written for [`BUFFER_IDLE_TIMEOUT`].
const IDLE_BUFFER_BYTES: usize = 16 * 1024;

/// Short compared with the life of a service, long compared with the pauses of a busy one.
const BUFFER_IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Creates the line that replaces dropped lines.
pub type DropNotice = fn(u64) -> String;

/// The queue of lines. Clones share one queue.
#[derive(Clone)]
pub struct LineWriter(Arc<Shared>);

/// Waits for the queued lines when it is dropped.
#[must_use]
pub struct FlushGuard(LineWriter);

struct Shared {
    /// Lines dropped so far.
    total_dropped: AtomicU64,
    /// How long [`LineWriter::send`] waits for room.
    send_timeout: Duration,
    state: Mutex<State>,
    /// There is something to write, or something was written.
    changed: Condvar,
    /// There is room for senders that wait in [`LineWriter::send`].
    capacity: Notify,
}

struct State {
    /// The part of the thread, until the thread takes it.
    writer: Option<WriterThread>,
    /// Whether the thread was started.
    has_thread: bool,
    /// Whole lines, one after the other.
    waiting: Vec<u8>,
    writing: bool,
    /// Lines dropped since the last notice. While there are any, all further lines are dropped, so that one notice
    /// covers one gap.
    since_notice: u64,
    /// Lines were dropped since the reader was last up to date.
    is_behind: bool,
}

/// The thread's part.
struct WriterThread {
    target: Box<dyn Write + Send>,
    notice: DropNotice,
    /// Lines that could not be written since the last notice.
    unwritten: u64,
    /// The last write ended in the middle of a line.
    torn: bool,
}

impl LineWriter {
    /// A queue in front of `target`.
    pub fn new(target: impl Write + Send + 'static, send_timeout: Duration, notice: DropNotice) -> (Self, FlushGuard) {
        let writer = WriterThread { target: Box::new(target), notice, unwritten: 0, torn: false };
        let state = State {
            writer: Some(writer),
            has_thread: false,
            waiting: Vec::new(),
            writing: false,
            since_notice: 0,
            is_behind: false,
        };
        let queue = Self(Arc::new(Shared {
            total_dropped: AtomicU64::new(0),
            send_timeout,
            state: Mutex::new(state),
            changed: Condvar::new(),
            capacity: Notify::new(),
        }));
        (queue.clone(), FlushGuard(queue))
    }

    /// How many lines were dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.total_dropped.load(Relaxed)
    }

    /// Whether it is the same queue.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn drop_lines(&self, count: u64) -> u64 {
        self.0.total_dropped.fetch_add(count, Relaxed);
        count
    }

    /// Queues lines with their newlines, unless the queue is full. The last one may be a part without a newline.
    pub fn push(&self, lines: &[u8]) {
        self.push_with(lines, Self::start);
    }

    /// As [`Self::push`]; `start` starts the thread if there is none.
    fn push_with(&self, lines: &[u8], start: impl FnOnce(&Self) -> io::Result<()>) {
        if lines.is_empty() {
            return;
        }
        let mut state = self.lock();
        if !state.has_thread {
            // At the process limit no thread can be started; the next line tries again.
            state.has_thread = start(self).is_ok();
        }
        if !state.has_capacity(lines.len()) {
            state.since_notice += self.drop_lines(count(lines));
            state.is_behind = true;
            return;
        }
        state.waiting.extend_from_slice(lines);
        self.0.changed.notify_all();
    }

    /// As [`Self::push`], but first waits briefly for space.
    pub async fn send(&self, lines: &[u8]) {
        let _ = timeout(self.0.send_timeout, self.room_for(lines.len())).await;
        self.push(lines);
    }

    async fn room_for(&self, length: usize) {
        loop {
            let capacity = self.0.capacity.notified();
            tokio::pin!(capacity);
            capacity.as_mut().enable();
            {
                let state = self.lock();
                if state.is_behind || state.has_capacity(length) {
                    return;
                }
            }
            capacity.await;
        }
    }

    /// Signals are handled by the runtime's threads, so the new thread starts with all of them blocked.
    fn start(&self) -> io::Result<()> {
        let queue = self.clone();
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let started = std::thread::Builder::new().name("log".into()).spawn(move || {
            let Some(mut writer) = queue.lock().writer.take() else { return };
            let mut lines = Vec::new();
            loop {
                queue.wait_for_batch(&mut lines, writer.notice);
                queue.drop_lines(writer.write(&lines));
            }
        });
        mask.thread_set_mask()?;
        started.map(drop)
    }

    /// Waits for lines and takes all of them; `lines` holds the batch that was written last.
    fn wait_for_batch(&self, lines: &mut Vec<u8>, notice: DropNotice) {
        lines.clear();
        let mut state = self.lock();
        state.writing = false;
        self.0.changed.notify_all();
        if state.waiting.is_empty() {
            state.is_behind = false;
            state = self.wait_for_lines(state, lines);
        }
        std::mem::swap(&mut state.waiting, lines);
        state.writing = true;
        if state.since_notice > 0 {
            lines.extend_from_slice(notice(state.since_notice).as_bytes());
            state.since_notice = 0;
        }
        drop(state);
        self.0.capacity.notify_waiters();
    }

    fn wait_for_lines<'a>(&'a self, mut state: MutexGuard<'a, State>, spare: &mut Vec<u8>) -> MutexGuard<'a, State> {
        let nothing = |state: &mut State| state.waiting.is_empty();
        if spare.capacity().max(state.waiting.capacity()) > IDLE_BUFFER_BYTES {
            let waited = self.0.changed.wait_timeout_while(state, BUFFER_IDLE_TIMEOUT, nothing);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.waiting.is_empty() {
                (*spare, state.waiting) = (Vec::new(), Vec::new());
            }
        }
        self.0.changed.wait_while(state, nothing).unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whatever its length, a line fits into an empty buffer.
    fn has_capacity(&self, length: usize) -> bool {
        self.since_notice == 0 && (self.waiting.is_empty() || self.waiting.len() + length <= BUFFERED_BYTES)
    }
}

impl WriterThread {
    /// Writes lines, after the notice about dropped ones; returns how many could not be written.
    fn write(&mut self, lines: &[u8]) -> u64 {
        if self.unwritten > 0 {
            let line_end = if self.torn { "\n" } else { "" };
            let notice = format!("{line_end}{}", (self.notice)(self.unwritten));
            if self.write_all(notice.as_bytes()) < notice.len() {
                self.unwritten += count(lines);
                return count(lines);
            }
            self.unwritten = 0;
        }
        let written = self.write_all(lines);
        self.unwritten += count(&lines[written..]);
        self.unwritten
    }

    /// Writes as much as can be written: everything, unless the reader has gone or the disk is full.
    fn write_all(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.target.write(&bytes[written..]) {
                Ok(length @ 1..) => written += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
            }
        }
        if written > 0 {
            self.torn = bytes[written - 1] != b'\n';
        }
        written
    }
}

/// The number of lines, of which the last may be incomplete.
fn count(lines: &[u8]) -> u64 {
    let is_cut = lines.last().is_some_and(|byte| *byte != b'\n');
    memchr::memchr_iter(b'\n', lines).count() as u64 + u64::from(is_cut)
}

impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for FlushGuard {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if !state.has_thread && !state.waiting.is_empty() {
            state.has_thread = self.0.start().is_ok();
        }
        let busy = |state: &mut State| state.has_thread && (state.writing || !state.waiting.is_empty());
        let _ = self.0.0.changed.wait_timeout_while(state, FLUSH_TIMEOUT, busy);
    }
}

#[cfg(test)]
mod tests;
