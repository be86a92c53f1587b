//! Runs a helper program to its end and collects what it prints.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

use super::Exit;
use super::child::{Input, Output, SpawnError, Spec};
use super::reaper::Reaper;

/// More than any helper of ours prints; what is beyond is read and dropped, so that the helper never blocks.
const MOST: usize = 4 * 1024 * 1024;

/// What a helper did.
#[derive(Debug)]
pub struct Captured {
    /// How it ended.
    pub exit: Exit,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

/// Runs `spec` with `input` on its standard input.
///
/// # Errors
/// When it cannot be started. How it ends is in the answer.
pub async fn capture(reaper: &Reaper, spec: &Spec, input: &[u8]) -> Result<Captured, SpawnError> {
    let spec = Spec { input: Input::Pipe, output: Output::Pipe, ..spec.clone() };
    let mut child = reaper.spawn(&spec)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let ((), stdout, stderr) = tokio::join!(feed(stdin, input), collect(stdout), collect(stderr));
    let exit = child.exited().await;
    Ok(Captured { exit, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() })
}

/// A pipe's reading end for the runtime.
///
/// # Errors
/// When the descriptor cannot be registered.
pub fn reader(fd: OwnedFd) -> io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(fd)
}

/// A helper that does not read its input to the end is judged by its exit, so a broken pipe is no error here.
async fn feed(stdin: Option<OwnedFd>, input: &[u8]) {
    if let Some(mut sender) = stdin.and_then(|fd| pipe::Sender::from_owned_fd(fd).ok()) {
        let _ = sender.write_all(input).await;
    }
}

async fn collect(fd: Option<OwnedFd>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut source) = fd.and_then(|fd| reader(fd).ok()) {
        let _ = (&mut source).take(MOST as u64).read_to_end(&mut bytes).await;
        drain(&mut source).await;
    }
    bytes
}

async fn drain(source: &mut (impl AsyncRead + Unpin)) {
    let mut rest = [0; 4096];
    while matches!(source.read(&mut rest).await, Ok(1..)) {}
}
