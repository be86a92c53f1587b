//! Tells the engine which files of a channel's listing it may take. The hook in Bots sends each listing through a pipe that
//! the engine inherits, and reads the response from another one.
//!
//! A request is its length, in four bytes with the highest first, then the pattern of the channel and the paths that match it, each with
//! a NUL after it. The response has one byte for each path: 1 for a file to take, 0 for one to leave. The hook
//! sends many files in parts. When bots-ctl cannot judge files it closes the pipes, and Bots matches them as they are.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::future::{Future, pending};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};

use crate::bots::engine_shim;
use crate::process::child::ProcessSpec;
use crate::process::forked::pipe;

use super::incomplete_files::{RunFiles, log_unknown};

/// Longer than a request of the hook: a path of at most 4 KiB ends it once it has 8 KiB.
const MAX_REQUEST: usize = 32 * 1024;

/// Passes the pipes to the engine, and answers its requests while the future is polled.
pub(super) fn answer<'f, 'r>(
    files: &'f mut RunFiles<'r>,
    spec: &mut ProcessSpec,
) -> impl Future<Output = Infallible> + use<'f, 'r> {
    let pipes = files.are_judged().then(|| pipes(spec));
    async move {
        if let Some(pipes) = pipes {
            let answered = async {
                let (requests, responses) = pipes?;
                answer_each(requests, responses, files).await
            };
            let why = answered.await.err().filter(|error: &io::Error| error.kind() != io::ErrorKind::UnexpectedEof);
            why.into_iter().for_each(|why| log_unknown(&why.to_string()));
        }
        pending().await
    }
}

/// Creates the pipes, and passes their other ends to the process.
fn pipes(spec: &mut ProcessSpec) -> io::Result<(Receiver, Sender)> {
    let ((requests, its_requests), (its_responses, responses)) = (pipe()?, pipe()?);
    let numbers = format!("{},{}", its_responses.as_raw_fd(), its_requests.as_raw_fd());
    spec.environment.push((engine_shim::FILES_PIPES.to_owned(), numbers.into()));
    spec.inherited = vec![Arc::new(its_responses), Arc::new(its_requests)];
    Ok((Receiver::from_owned_fd(requests)?, Sender::from_owned_fd(responses)?))
}

async fn answer_each(mut requests: Receiver, mut responses: Sender, files: &mut RunFiles<'_>) -> io::Result<()> {
    loop {
        let length = usize::try_from(requests.read_u32().await?).unwrap_or(usize::MAX);
        if length > MAX_REQUEST {
            return Err(io::Error::other(format!("the engine sent a request of {length} bytes")));
        }
        let mut request = vec![0; length];
        requests.read_exact(&mut request).await?;
        let (pattern, paths) = read(&request);
        let may_be_taken = files.may_be_taken(&pattern, paths).await.map_err(io::Error::other)?;
        responses.write_all(&may_be_taken.into_iter().map(u8::from).collect::<Vec<_>>()).await?;
    }
}

/// The pattern and the paths.
fn read(request: &[u8]) -> (PathBuf, Vec<PathBuf>) {
    let parts = request.strip_suffix(b"\0").unwrap_or(request).split(|byte| *byte == 0);
    let mut paths = parts.map(|path| PathBuf::from(OsStr::from_bytes(path)));
    (paths.next().unwrap_or_default(), paths.collect())
}
