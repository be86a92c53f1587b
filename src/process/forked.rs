//! A process forked by another program for bots-ctl, which waits for the description of the program to run.
//!
//! It is a child of bots-ctl: its first parent has exited, or was this process before it executed bots-ctl. It reads a
//! description, sets itself up, replies that it is ready, and begins after a confirmation. Until then the run has not
//! begun, so the caller may start the program itself.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::SIGKILL;
use nix::unistd::{Pid, getpid, pipe2};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::child::{Input, Output, ProcessGroup, ProcessSpec, environment};
use super::reaper::{Child, Reaper};
use super::signals::signal_process;
use super::sys;

/// The variable by which a program finds the process that was forked for it, as `PID,REQUESTS,REPLIES`.
const VARIABLE: &str = "_BOTS_CTL_FORKED";

/// Maximum time for a reply.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// The error when it passes.
pub const NO_REPLY: &str = "it does not reply";

/// A process that waits and is not yet known to the reaper.
pub struct ForkedProcess {
    /// Its pid.
    pub pid: Pid,
    /// Our end of the pipe that it reads.
    pub requests: OwnedFd,
    /// Our end of the pipe that it writes.
    pub replies: OwnedFd,
}

/// A process that waits. It ends when this is dropped.
pub struct WaitingProcess {
    child: Child,
    requests: OwnedFd,
    replies: OwnedFd,
}

impl ForkedProcess {
    /// The process that was forked for this one. Must be called before there is another thread.
    pub fn take() -> Option<Self> {
        let value = sys::take_variable(VARIABLE)?;
        let mut numbers = value.to_str()?.split(',').map(str::parse);
        let mut next = || numbers.next()?.ok();
        let (pid, requests, replies) = (Pid::from_raw(next()?), next()?, next()?);
        let (requests, replies) = (sys::adopt_descriptor(requests)?, sys::adopt_descriptor(replies)?);
        Some(Self { pid, requests, replies })
    }

    /// Waits for its exit status from now on. `None` when it has ended.
    #[must_use]
    pub fn adopt(self, reaper: &Reaper) -> Option<WaitingProcess> {
        Some(WaitingProcess { child: reaper.adopt(self.pid)?, requests: self.requests, replies: self.replies })
    }
}

impl WaitingProcess {
    /// Whether it has ended.
    #[must_use]
    pub fn has_exited(&self) -> bool {
        self.child.has_exited()
    }

    /// Runs `spec` in the process.
    ///
    /// # Errors
    /// The reason; the process has ended without running anything.
    pub async fn start(self, spec: &ProcessSpec) -> Result<Child, String> {
        let Self { mut child, requests, replies } = self;
        let prepared =
            async { timeout(REPLY_TIMEOUT, begin(requests, replies, spec)).await.map_err(|_| NO_REPLY.to_owned())? };
        tokio::select! {
            biased;
            begun = prepared => match begun {
                Ok((stdout, stderr)) => {
                    (child.stdout, child.stderr) = (Some(stdout), Some(stderr));
                    Ok(child)
                }
                Err(reason) => {
                    if !child.has_exited() {
                        signal_process(child.pid, SIGKILL);
                    }
                    child.exited().await;
                    Err(reason)
                }
            },
            exit = child.exited() => Err(format!("it has ended: {exit}")),
        }
    }
}

async fn begin(requests: OwnedFd, replies: OwnedFd, spec: &ProcessSpec) -> Result<(OwnedFd, OwnedFd), String> {
    if spec.input != Input::Null || spec.output != Output::Pipe || spec.group != ProcessGroup::New {
        return Err("a forked process supports only null input, piped output and a new group".to_owned());
    }
    let failed = |error: io::Error| error.to_string();
    let ((stdout, its_stdout), (stderr, its_stderr)) = (pipe().map_err(failed)?, pipe().map_err(failed)?);
    let standard = [(1, &its_stdout), (2, &its_stderr)];
    let inherited = spec.inherited.iter().map(|descriptor| (descriptor.as_raw_fd(), &**descriptor));
    let mut descriptors: BTreeMap<String, Value> = BTreeMap::from([("0".to_owned(), json!(["/dev/null", 0]))]);
    for (number, descriptor) in standard.into_iter().chain(inherited) {
        descriptors.insert(number.to_string(), opened_again(descriptor).map_err(failed)?);
    }
    let mut requests = pipe::Sender::from_owned_fd(requests).map_err(failed)?;
    let replies = BufReader::new(pipe::Receiver::from_owned_fd(replies).map_err(failed)?);
    let mut replies = replies.split(b'\n');
    requests.write_all(describe(spec, descriptors).as_bytes()).await.map_err(failed)?;
    let reply = replies.next_segment().await.map_err(failed)?.ok_or("it has ended")?;
    let reply: Value = serde_json::from_slice(&reply).unwrap_or_default();
    if let Some(error) = reply["error"].as_str() {
        return Err(error.to_owned());
    }
    requests.write_all(b"\n").await.map_err(failed)?;
    Ok((stdout, stderr))
}

/// A pipe: the end that is read, and the one that is written.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe2(OFlag::O_CLOEXEC)?)
}

/// The path by which a process that does not inherit this pipe opens it.
#[must_use]
pub fn path_of(descriptor: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", getpid(), descriptor.as_raw_fd())
}

/// The path and the flags by which a process opens a pipe of ours.
fn opened_again(descriptor: &OwnedFd) -> io::Result<Value> {
    let mode = fcntl(descriptor, FcntlArg::F_GETFL)? & OFlag::O_ACCMODE.bits();
    Ok(json!([path_of(descriptor), mode]))
}

fn describe(spec: &ProcessSpec, descriptors: BTreeMap<String, Value>) -> String {
    let argv: Vec<String> = std::iter::once(&spec.program).chain(&spec.args).map(in_characters).collect();
    let environment: BTreeMap<String, String> =
        environment(spec).iter().map(|(name, value)| (in_characters(name), in_characters(value))).collect();
    let directory = spec.directory.as_ref().map(|directory| in_characters(&directory.into()));
    let parent = getpid().as_raw();
    let start = json!({
        "argv": argv, "environment": environment, "directory": directory, "descriptors": descriptors, "parent": parent,
    });
    format!("{start}\n")
}

/// Each byte as the character of its number, since JSON holds no bytes.
fn in_characters(text: &OsString) -> String {
    text.as_bytes().iter().map(|byte| char::from(*byte)).collect()
}
