//! Forwards the output of a service to the log: never blocks the service, limits lines, accepts any encoding.

pub mod line_splitter;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::net::unix::pipe::Receiver;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use line_splitter::LineSplitter;

use crate::process::reaper::Child;
use crate::telemetry::child_output::{OutputStream, RecordWriter, ServiceOutput};
use crate::telemetry::line_writer::FILE_SEND_TIMEOUT;

/// Requested pipe size, four times the default; best effort, see fs.pipe-max-size.
const PIPE_SIZE: i32 = 256 * 1024;

/// Buffers are freed after this time without output.
const BUFFER_IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum time for the last lines of a process that has ended to be read from its pipes and queued: longer than the queue
/// may delay them.
const DRAIN_TIMEOUT: Duration = FILE_SEND_TIMEOUT.saturating_add(Duration::from_secs(1));

/// The tasks that read the output of a process, or of several, one after the other.
#[derive(Default)]
pub struct OutputPumps {
    /// Holds a token for each pipe that may have lines of the processes.
    unread: TaskTracker,
    has_ended: CancellationToken,
}

/// Reads the output of a child, in separate tasks, until its pipes are closed.
pub fn pump_child(child: &mut Child, sink: &ServiceOutput) -> OutputPumps {
    let pumps = OutputPumps::default();
    pumps.add_child(child, sink);
    pumps
}

impl OutputPumps {
    /// As [`pump_child`], for another child.
    pub fn add_child(&self, child: &mut Child, sink: &ServiceOutput) {
        let pipes = [(child.stdout.take(), OutputStream::Stdout), (child.stderr.take(), OutputStream::Stderr)];
        for (pipe, stream) in pipes {
            if let Some(pipe) = pipe {
                tokio::spawn(pump(pipe, stream, sink.clone(), self));
            }
        }
    }

    /// Waits for the last lines of the processes, which have exited. Their descendants may hold the pipes open, and are read
    /// further.
    pub async fn drain(&self) {
        self.has_ended.cancel();
        self.unread.close();
        let _ = timeout(DRAIN_TIMEOUT, self.unread.wait()).await;
    }
}

/// Reads one stream of a process and forwards its lines.
pub fn pump(
    pipe: OwnedFd,
    stream: OutputStream,
    sink: ServiceOutput,
    pumps: &OutputPumps,
) -> impl Future<Output = ()> + use<> {
    let (unread, has_ended) = (Some(pumps.unread.token()), pumps.has_ended.clone());
    async move {
        let _ = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
        match Receiver::from_owned_fd(pipe) {
            Ok(source) => {
                let (raw, lines, records) = (sink.is_raw(), LineSplitter::default(), sink.records(stream));
                OutputPump { source, raw, lines, records, unread, has_ended }.run().await;
            }
            Err(error) => tracing::error!("cannot read the output of a service: {error}"),
        }
    }
}

/// Whether the kernel has something to read, or the end.
fn is_readable(pipe: &Receiver) -> bool {
    poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// One stream of a service on its way.
struct OutputPump {
    source: Receiver,
    raw: bool,
    lines: LineSplitter,
    records: RecordWriter,
    /// Dropped when the processes have ended and the pipe is empty.
    unread: Option<TaskTrackerToken>,
    has_ended: CancellationToken,
}

impl OutputPump {
    async fn run(mut self) {
        loop {
            match self.source.try_read_buf(self.lines.space()) {
                Ok(1..) => {
                    self.forward().await;
                    // A service that writes without pause must not block signals and probes.
                    tokio::task::yield_now().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.unread.is_some() && self.has_ended.is_cancelled() {
                        if is_readable(&self.source) {
                            // The runtime has learnt of the exit before it asked for the state of the pipe.
                            tokio::task::yield_now().await;
                            continue;
                        }
                        self.flush().await;
                        self.unread = None;
                    }
                    if self.wait().await.is_err() {
                        break;
                    }
                }
                Ok(0) | Err(_) => break,
            }
        }
        self.flush().await;
    }

    async fn forward(&mut self) {
        if self.raw {
            self.records.bytes(self.lines.complete_lines());
        } else {
            self.records.stamp_time();
            while let Some(line) = self.lines.next_line() {
                self.records.line(line.bytes, line.continues);
                if self.records.is_full() {
                    self.records.send().await;
                }
            }
        }
        self.lines.compact();
        self.records.send().await;
    }

    /// Forwards all lines, the last one even without a newline.
    async fn flush(&mut self) {
        if self.raw {
            self.records.bytes(self.lines.remainder());
            self.lines.compact();
        } else {
            self.lines.finish();
            self.forward().await;
            self.records.flush();
        }
        self.records.send().await;
    }

    /// Waits for more output. A record that is held because more lines may belong to it is sent after a time without output.
    async fn wait(&mut self) -> io::Result<()> {
        // Within a line more is sure to come.
        let least = if self.lines.is_empty() { Duration::ZERO } else { BUFFER_IDLE_TIMEOUT };
        let flush_delay = self.records.flush_delay().map(|delay| delay.max(least));
        let roomy = self.records.has_spare_capacity() || self.lines.has_spare_capacity();
        let Some(limit) = flush_delay.or(roomy.then_some(BUFFER_IDLE_TIMEOUT)) else {
            return self.readable().await;
        };
        if let Ok(ready) = timeout(limit, self.readable()).await {
            return ready;
        }
        self.records.flush();
        self.records.send().await;
        self.records.release_buffer();
        self.lines.shrink();
        self.readable().await
    }

    /// Waits until there is something to read, or the process has ended.
    async fn readable(&self) -> io::Result<()> {
        tokio::select! {
            ready = self.source.readable() => ready,
            () = self.has_ended.cancelled(), if self.unread.is_some() => Ok(()),
        }
    }
}
