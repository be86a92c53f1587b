//! Runs a helper program to its end and collects what it prints.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::libc::SIGKILL;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::{sleep, timeout};

use super::Exit;
use super::child::{Input, Output, ProcessSpec, SpawnError, signal_group};
use super::reaper::Reaper;

/// More than any helper of ours prints; what is beyond is read and dropped, so that the helper never blocks.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// How long after a helper's end its pipes are still read: something it has started may hold them open for ever.
const OUTPUT_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// What a helper did.
#[derive(Debug)]
pub struct CapturedOutput {
    /// How it ended; `None` when it was killed at the time limit.
    pub exit: Option<Exit>,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

/// Runs `spec` with `input` on its standard input, for as long as it takes.
///
/// # Errors
/// When it cannot be started. How it ends is in the answer.
pub async fn capture(reaper: &Reaper, spec: &ProcessSpec, input: &[u8]) -> Result<CapturedOutput, SpawnError> {
    capture_within(reaper, spec, input, None).await
}

/// As [`capture`]; the helper and what it has started are killed at the limit.
///
/// # Errors
/// As [`capture`].
pub async fn capture_within(
    reaper: &Reaper,
    spec: &ProcessSpec,
    input: &[u8],
    limit: Option<Duration>,
) -> Result<CapturedOutput, SpawnError> {
    let spec = ProcessSpec { input: Input::Pipe, output: Output::Pipe, ..spec.clone() };
    let mut child = reaper.spawn(&spec)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (out, err) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
    let talk = async { tokio::join!(write_stdin(stdin, input), read_all(stdout, &out), read_all(stderr, &err)) };
    let end = async {
        let exit = match limit {
            None => Some(child.exited().await),
            Some(limit) => timeout(limit, child.exited()).await.ok(),
        };
        if exit.is_none() {
            signal_group(child.pid, SIGKILL);
            child.exited().await;
        }
        exit
    };
    let exit = {
        tokio::pin!(talk, end);
        tokio::select! {
            _ = &mut talk => end.await,
            exit = &mut end => {
                tokio::select! { _ = talk => {}, () = sleep(OUTPUT_DRAIN_TIMEOUT) => {} }
                exit
            }
        }
    };
    let stderr = String::from_utf8_lossy(&err.borrow()).into_owned();
    Ok(CapturedOutput { exit, stdout: out.into_inner(), stderr })
}

/// A pipe's reading end for the runtime.
///
/// # Errors
/// When the descriptor cannot be registered.
pub fn pipe_reader(fd: OwnedFd) -> io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(fd)
}

/// A helper that does not read its input to the end is judged by its exit, so a broken pipe is no error here.
async fn write_stdin(stdin: Option<OwnedFd>, input: &[u8]) {
    if let Some(mut sender) = stdin.and_then(|fd| pipe::Sender::from_owned_fd(fd).ok()) {
        let _ = sender.write_all(input).await;
    }
}

async fn read_all(fd: Option<OwnedFd>, into: &RefCell<Vec<u8>>) {
    let Some(mut source) = fd.and_then(|fd| pipe_reader(fd).ok()) else { return };
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = source.read(&mut chunk).await {
        let mut into = into.borrow_mut();
        if into.len() < MAX_BYTES {
            into.extend_from_slice(&chunk[..length]);
        }
    }
}
