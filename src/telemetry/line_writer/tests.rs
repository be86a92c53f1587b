//! The queue before readers that are slow, gone, full, or fine again.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

/// A reader controlled by a test: each write waits for its result, and reports its content.
struct Gate {
    answers: Receiver<io::Result<usize>>,
    written: Sender<Vec<u8>>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = self.answers.recv().map_err(io::Error::other)??;
        let length = bytes.len().min(most);
        self.written.send(bytes[..length].to_vec()).map_err(io::Error::other)?;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Reader {
    answer: Sender<io::Result<usize>>,
    written: Receiver<Vec<u8>>,
}

impl Reader {
    /// Lets one write pass.
    fn read(&self) -> Vec<u8> {
        self.answer.send(Ok(usize::MAX)).expect("the writer lives");
        self.written.recv().expect("the writer writes")
    }

    fn fail(&self, error: io::ErrorKind) {
        self.answer.send(Err(error.into())).expect("the writer lives");
    }
}

fn queue() -> (LineWriter, FlushGuard, Reader) {
    let ((answer, answers), (sender, written)) = (channel(), channel());
    let gate = Gate { answers, written: sender };
    let (queue, flush) = LineWriter::new(gate, PIPE_SEND_TIMEOUT, |lost| format!("lost {lost}\n"));
    (queue, flush, Reader { answer, written })
}

/// Waits until the thread has taken the pushed lines and is blocked in writing them.
fn wait_taken(queue: &LineWriter) {
    wait_until(|| queue.lock().waiting.is_empty());
}

fn wait_until(done: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "gave up waiting for the thread");
        std::thread::yield_now();
    }
}

/// As many lines as given, of a quarter of the buffer each.
fn push_quarters(queue: &LineWriter, lines: usize) {
    let mut line = vec![b'x'; BUFFERED_BYTES / 4 - 1];
    line.push(b'\n');
    (0..lines).for_each(|_| queue.push(&line));
}

#[test]
fn blocked_reader_loses_lines_without_blocking_writer() {
    let (queue, flush, reader) = queue();
    queue.push(b"first\n");
    wait_taken(&queue);
    push_quarters(&queue, 104);
    assert_eq!(queue.lock().waiting.len(), BUFFERED_BYTES);
    drop(flush);
    assert_eq!(reader.read(), b"first\n");
    let rest = String::from_utf8(reader.read()).expect("text");
    assert_eq!((rest.len(), &rest[BUFFERED_BYTES..]), (BUFFERED_BYTES + 9, "lost 100\n"));
    queue.push(b"heard again\n");
    assert_eq!(reader.read(), b"heard again\n");
}

#[test]
fn lines_are_dropped_after_loss_until_buffer_has_room() {
    let (queue, _flush, reader) = queue();
    queue.push(b"first\n");
    wait_taken(&queue);
    push_quarters(&queue, 5);
    queue.push(b"short enough to fit, but it would stand before the notice\n");
    reader.read();
    assert!(reader.read().ends_with(b"x\nlost 2\n"));
}

#[test]
fn flush_waits_for_queued_lines() {
    let (queue, flush, reader) = queue();
    queue.push(b"last words\n");
    reader.answer.send(Ok(usize::MAX)).expect("the writer lives");
    drop(flush);
    assert_eq!(reader.written.try_recv().as_deref(), Ok(b"last words\n".as_slice()));
}

#[test]
fn writer_thread_starts_only_with_first_line() {
    let (queue, flush, _reader) = queue();
    drop(flush);
    assert!(!queue.lock().has_thread);
}

#[test]
fn lines_wait_for_thread_that_could_not_be_started() {
    let (queue, _flush, reader) = queue();
    queue.push_with(b"first\n", |_| Err(io::ErrorKind::WouldBlock.into()));
    queue.push(b"second\n");
    assert_eq!(reader.read(), b"first\nsecond\n");
    assert_eq!(queue.dropped(), 0);
}

#[test]
fn failed_writes_are_counted_and_reported() {
    let (queue, _flush, reader) = queue();
    queue.push(b"a\nb\n");
    wait_taken(&queue);
    reader.fail(io::ErrorKind::BrokenPipe);
    queue.push(b"c\n");
    wait_taken(&queue);
    reader.fail(io::ErrorKind::StorageFull);
    queue.push(b"d\n");
    assert_eq!(reader.read(), b"lost 3\n");
    assert_eq!(reader.read(), b"d\n");
}

#[test]
fn line_cut_by_full_disk_is_terminated_before_next() {
    let (queue, _flush, reader) = queue();
    queue.push(b"whole\ncut off\n");
    reader.answer.send(Ok(9)).expect("the writer lives");
    assert_eq!(reader.written.recv().expect("written"), b"whole\ncut");
    reader.fail(io::ErrorKind::StorageFull);
    queue.push(b"next\n");
    assert_eq!(reader.read(), b"\nlost 1\n");
    assert_eq!(reader.read(), b"next\n");
}

#[tokio::test(start_paused = true)]
async fn send_waits_once_for_full_buffer_until_reader_catches_up() {
    let (queue, _flush, reader) = queue();
    queue.push(b"first\n");
    wait_taken(&queue);
    push_quarters(&queue, 4);
    let waited = async |queue: &LineWriter| {
        let started = tokio::time::Instant::now();
        queue.send(b"line\n").await;
        started.elapsed()
    };
    assert_eq!(waited(&queue).await, PIPE_SEND_TIMEOUT);
    assert_eq!(waited(&queue).await, Duration::ZERO);
    reader.read();
    wait_taken(&queue);
    push_quarters(&queue, 4);
    assert_eq!(waited(&queue).await, Duration::ZERO, "it has not caught up yet");
    reader.read();
    reader.read();
    wait_until(|| !queue.lock().is_behind);
    queue.push(b"first\n");
    wait_taken(&queue);
    push_quarters(&queue, 4);
    assert_eq!(waited(&queue).await, PIPE_SEND_TIMEOUT);
}

#[tokio::test]
async fn waiting_send_succeeds_once_buffer_has_room() {
    let (queue, _flush, reader) = queue();
    queue.push(b"first\n");
    wait_taken(&queue);
    push_quarters(&queue, 4);
    tokio::join!(queue.send(b"waits\n"), async { reader.read() });
    reader.read();
    assert_eq!(reader.read(), b"waits\n");
}

#[test]
fn dropped_part_of_line_is_counted_and_reported() {
    let (queue, _flush, reader) = queue();
    queue.push(b"first\n");
    wait_taken(&queue);
    push_quarters(&queue, 4);
    queue.push(b"whole\na part of raw output");
    assert_eq!(queue.dropped(), 2);
    reader.read();
    assert!(reader.read().ends_with(b"x\nlost 2\n"));
}
