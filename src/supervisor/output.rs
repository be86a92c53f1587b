//! Carries the output of a service into our log: never blocks the service, bounded per line, any encoding.

pub mod line_splitter;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use tokio::net::unix::pipe::Receiver;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use line_splitter::LineSplitter;

use crate::process::capture::pipe_reader;
use crate::process::reaper::Child;
use crate::telemetry::child_output::{RecordWriter, ServiceOutput, Stream};

/// What a pipe holds while we are busy elsewhere: four times the usual. A wish: the system has limits of its own.
const PIPE_SIZE: i32 = 256 * 1024;

/// Buffers are given back after so long without output.
const BUFFER_IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the last lines may take to arrive after the end of a process: they are in a pipe already, unless something
/// that it has started holds that open.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads what a child prints, in tasks of their own, until its pipes are closed.
pub fn pump_child(child: &mut Child, sink: &ServiceOutput) -> TaskTracker {
    let tasks = TaskTracker::new();
    for (pipe, stream) in [(child.stdout.take(), Stream::Stdout), (child.stderr.take(), Stream::Stderr)] {
        if let Some(pipe) = pipe {
            tasks.spawn(pump(pipe, stream, sink.clone()));
        }
    }
    tasks.close();
    tasks
}

/// Waits for the last lines of a process that has ended.
pub async fn drain(pumps: &TaskTracker) {
    let _ = timeout(DRAIN_TIMEOUT, pumps.wait()).await;
}

/// Reads one stream of a service to its end.
pub async fn pump(pipe: OwnedFd, stream: Stream, sink: ServiceOutput) {
    let _ = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
    match pipe_reader(pipe) {
        Ok(source) => {
            let raw = sink.is_raw();
            OutputPump { source, raw, lines: LineSplitter::default(), records: sink.records(stream) }.run().await;
        }
        Err(error) => tracing::error!("cannot read the output of a service: {error}"),
    }
}

/// One stream of a service on its way.
struct OutputPump {
    source: Receiver,
    raw: bool,
    lines: LineSplitter,
    records: RecordWriter,
}

impl OutputPump {
    async fn run(mut self) {
        loop {
            match self.source.try_read_buf(self.lines.space()) {
                Ok(1..) => {
                    self.forward().await;
                    // A service that never pauses must not keep signals and probes from being answered.
                    tokio::task::yield_now().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.wait().await.is_err() {
                        break;
                    }
                }
                Ok(0) | Err(_) => break,
            }
        }
        self.finish().await;
    }

    async fn forward(&mut self) {
        if self.raw {
            self.records.bytes(self.lines.complete_lines());
        } else {
            self.records.stamp_time();
            while let Some((line, continues)) = self.lines.next_line() {
                self.records.line(line, continues);
                if self.records.is_full() {
                    self.records.send().await;
                }
            }
        }
        self.lines.compact();
        self.records.send().await;
    }

    /// The last line is given even without its end.
    async fn finish(mut self) {
        if self.raw {
            self.records.bytes(self.lines.remainder());
        } else {
            self.lines.finish();
            self.forward().await;
            self.records.flush();
        }
        self.records.send().await;
    }

    /// Waits for more output. A record that is held because more may belong to it is sent when nothing comes for a while.
    async fn wait(&mut self) -> io::Result<()> {
        // Within a line more is sure to come.
        let least = if self.lines.is_empty() { Duration::ZERO } else { BUFFER_IDLE_TIMEOUT };
        let flush_delay = self.records.flush_delay().map(|delay| delay.max(least));
        let roomy = self.records.has_spare_capacity() || self.lines.has_spare_capacity();
        let Some(limit) = flush_delay.or(roomy.then_some(BUFFER_IDLE_TIMEOUT)) else {
            return self.source.readable().await;
        };
        if let Ok(ready) = timeout(limit, self.source.readable()).await {
            return ready;
        }
        self.records.flush();
        self.records.send().await;
        self.records.release_buffer();
        self.lines.shrink();
        self.source.readable().await
    }
}
