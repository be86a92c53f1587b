//! What a service prints, into our log: never blocks the service, bounded per line, any encoding.

pub mod line_splitter;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use line_splitter::Splitter;

use crate::process::capture::reader;
use crate::telemetry::child_output::{LineSink, Records, Stream};

/// What a pipe holds while we are busy elsewhere: four times the usual. A wish: the system has limits of its own.
const PIPE_SIZE: i32 = 256 * 1024;

/// Buffers are given back after so long without output.
const REST: Duration = Duration::from_secs(1);

/// Reads one stream of a service to its end, in a task of its own.
#[must_use]
pub fn carry(fd: OwnedFd, stream: Stream, sink: LineSink) -> JoinHandle<()> {
    tokio::spawn(async move {
        let _ = fcntl(&fd, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
        match reader(fd) {
            Ok(source) => {
                let raw = sink.is_raw();
                Pump { source, raw, lines: Splitter::default(), records: sink.records(stream) }.run().await;
            }
            Err(error) => tracing::error!("cannot read the output of a service: {error}"),
        }
    })
}

/// One stream of a service on its way.
struct Pump {
    source: Receiver,
    raw: bool,
    lines: Splitter,
    records: Records,
}

impl Pump {
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
            self.records.bytes(self.lines.whole());
        } else {
            self.records.now();
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
            self.records.bytes(self.lines.rest());
        } else {
            self.lines.end();
            self.forward().await;
            self.records.flush();
        }
        self.records.send().await;
    }

    /// Waits for more output. What is held because more may belong to it is given out when nothing comes for a while.
    async fn wait(&mut self) -> io::Result<()> {
        // Within a line more is sure to come.
        let least = if self.lines.is_empty() { Duration::ZERO } else { REST };
        let patience = self.records.patience().map(|patience| patience.max(least));
        let roomy = self.records.is_roomy() || self.lines.is_roomy();
        let Some(limit) = patience.or(roomy.then_some(REST)) else { return self.source.readable().await };
        if let Ok(ready) = timeout(limit, self.source.readable()).await {
            return ready;
        }
        self.records.flush();
        self.records.send().await;
        self.records.rest();
        self.lines.shrink();
        self.source.readable().await
    }
}
