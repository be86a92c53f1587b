//! Runs a helper program until it exits, and collects its output.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::Exit;
use super::child::{ProcessSpec, SpawnError};
use super::reaper::Reaper;

/// More than any helper program prints. Further output is read and dropped, so that the helper never blocks.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// How long its pipes are read after the exit of a helper: a descendant may hold them open.
const OUTPUT_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The result of a helper.
#[derive(Debug)]
pub struct CapturedOutput {
    /// How it ended.
    pub exit: Exit,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a process with piped output, without a time limit.
///
/// # Errors
/// When it cannot be started. How it ends is in the result.
pub async fn capture(reaper: &Reaper, spec: &ProcessSpec) -> Result<CapturedOutput, SpawnError> {
    let mut child = reaper.spawn(spec)?;
    let (out, err) = (RefCell::default(), RefCell::default());
    let exit = {
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let reading = async { tokio::join!(read_all(stdout, &out), read_all(stderr, &err)) };
        tokio::pin!(reading);
        tokio::select! {
            _ = &mut reading => child.exited().await,
            exit = child.exited() => {
                let _ = timeout(OUTPUT_DRAIN_TIMEOUT, reading).await;
                exit
            }
        }
    };
    let stderr = String::from_utf8_lossy(&err.borrow()).into_owned();
    Ok(CapturedOutput { exit, stdout: out.into_inner(), stderr })
}

async fn read_all(fd: Option<OwnedFd>, into: &RefCell<Vec<u8>>) {
    let Some(mut source) = fd.and_then(|fd| pipe::Receiver::from_owned_fd(fd).ok()) else { return };
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = source.read(&mut chunk).await {
        let mut into = into.borrow_mut();
        if into.len() < MAX_BYTES {
            into.extend_from_slice(&chunk[..length]);
        }
    }
}
