//! What a service prints, line by line, into our log: never blocks the service, bounded per line, any encoding.

use std::os::fd::OwnedFd;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinHandle;

use crate::process::capture::reader;
use crate::telemetry::lines::{LineSink, Stream};

/// Longer lines are split; the Linux pipe holds as much.
const LONGEST_LINE: usize = 64 * 1024;

/// Reads one stream of a service to its end, in a task of its own.
#[must_use]
pub fn carry(fd: OwnedFd, stream: Stream, sink: LineSink) -> JoinHandle<()> {
    tokio::spawn(async move {
        match reader(fd) {
            Ok(source) => {
                let mut level = stream.first_level();
                pump(source, |line| sink.write(stream, line, &mut level)).await;
            }
            Err(error) => tracing::error!("cannot read the output of a service: {error}"),
        }
    })
}

/// Splits a stream into lines. The last one is given even without its line end.
async fn pump(mut source: impl AsyncRead + Unpin, mut emit: impl FnMut(&[u8])) {
    let mut pending: Vec<u8> = Vec::with_capacity(4096);
    loop {
        match source.read_buf(&mut pending).await {
            Ok(0) | Err(_) => break,
            Ok(_) => split_lines(&mut pending, &mut emit),
        }
    }
    if !pending.is_empty() {
        emit(&pending);
    }
}

fn split_lines(pending: &mut Vec<u8>, emit: &mut impl FnMut(&[u8])) {
    let mut start = 0;
    while let Some(end) = pending[start..].iter().position(|byte| *byte == b'\n') {
        let line = &pending[start..start + end];
        emit(line.strip_suffix(b"\r").unwrap_or(line));
        start += end + 1;
    }
    while pending.len() - start >= LONGEST_LINE {
        emit(&pending[start..start + LONGEST_LINE]);
        start += LONGEST_LINE;
    }
    pending.drain(..start);
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(input: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        pump(input, |line| found.push(line.to_vec())).await;
        found
    }

    #[tokio::test]
    async fn lines_are_split_and_the_last_needs_no_end() {
        assert_eq!(lines(b"a\n\nb\r\nc").await, [b"a".to_vec(), b"".to_vec(), b"b".to_vec(), b"c".to_vec()]);
    }

    #[tokio::test]
    async fn a_line_without_end_is_bounded() {
        let long = vec![b'x'; LONGEST_LINE * 2 + 10];
        let lengths: Vec<usize> = lines(&long).await.iter().map(Vec::len).collect();
        assert_eq!(lengths, [LONGEST_LINE, LONGEST_LINE, 10]);
    }
}
