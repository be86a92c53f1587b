//! One Python process: it replies with the settings, then waits for a request or the end of its input.
//!
//! A start costs most of a second on a busy machine, so loading the settings and a migration share one. All output of
//! Python other than replies goes to the log.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::libc::SIGKILL;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Split};
use tokio::net::unix::pipe;
use tokio::time::timeout;
use tracing::{debug, info};

use super::Error;
use super::context::BotsContext;
use super::django_settings::{DjangoSettings, without_fault};
use crate::process::child::{Input, Output, ProcessSpec};
use crate::process::reaper::Child;
use crate::process::signals::signal_group;

/// The scripts, in the order of their dependencies.
pub(super) const SCRIPT: &str = concat!(
    include_str!("python/facts.py"),
    include_str!("python/checks.py"),
    include_str!("python/completion.py"),
    include_str!("python/history.py"),
    include_str!("python/migrate.py"),
    include_str!("python/plugins.py"),
    include_str!("python/conversation.py"),
);

/// Longer than any Python start on a busy machine with a cold disk; hanging settings must not block bots-ctl.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// How long the pipes are read after Python has exited: a descendant may hold them open forever.
const OUTPUT_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

type Lines = Split<BufReader<pipe::Receiver>>;

/// A Python process that has loaded the settings. It exits when this is dropped.
pub struct PythonSession {
    child: Child,
    requests: pipe::Sender,
    replies: Lines,
    stderr: Lines,
    last_stderr_line: String,
}

impl PythonSession {
    /// Starts Python, which loads the settings of Bots and Django; the reply is cached for the next start.
    ///
    /// # Errors
    /// Invalid settings, with file and line; or a directory that Bots would import from elsewhere.
    pub async fn start(context: &BotsContext<'_>) -> Result<(Self, DjangoSettings), Error> {
        let before = DjangoSettings::fingerprint(context);
        let (python, reply) = Self::spawn_and_query(context, &[]).await?;
        let django = DjangoSettings::learn(context, reply)?;
        // If an input changed while Python ran, the reply may belong to neither state.
        if DjangoSettings::fingerprint(context) == before {
            django.write_cache(context);
        }
        Ok((python, django))
    }

    /// Loads the settings, and checks that the programs of Bots can work with them.
    ///
    /// # Errors
    /// All errors of the settings, with file and line.
    pub async fn check(context: &BotsContext<'_>) -> Result<DjangoSettings, Error> {
        let (_, reply) = Self::spawn_and_query(context, &["check"]).await?;
        DjangoSettings::learn(context, reply)
    }

    /// Imports only settings.py.
    ///
    /// # Errors
    /// The error of settings.py, with file and line.
    pub async fn import_settings_only(context: &BotsContext<'_>) -> Result<(), Error> {
        Self::spawn_and_query(context, &["settings"]).await.map(|_| ())
    }

    async fn spawn_and_query(context: &BotsContext<'_>, more: &[&str]) -> Result<(Self, Value), Error> {
        let mut python = Self::spawn(context, more)?;
        let settings = context.environment.config.join("settings.py");
        let Ok(received) = timeout(START_TIMEOUT, python.read_reply(false)).await else {
            signal_group(python.child.pid, SIGKILL);
            python.child.exited().await;
            let text = format!("{}: not loaded within {} s", settings.display(), START_TIMEOUT.as_secs());
            return Err(Error::fault(text));
        };
        let Some(reply) = received else {
            let reason = python.last_stderr_line;
            let interpreter = context.bots.python.display();
            return Err(Error::fault(format!("cannot read Bots's settings with {interpreter}: {reason}")));
        };
        Ok((python, without_fault(context.environment, reply)?))
    }

    fn spawn(context: &BotsContext<'_>, more: &[&str]) -> Result<Self, Error> {
        let mut spec = ProcessSpec::new(&context.bots.python).arg("-c").arg(SCRIPT);
        spec = spec.arg(&context.environment.config).args(more.iter().copied());
        spec.directory = Some(context.environment.root.clone());
        spec = context.variables.apply(ProcessSpec { input: Input::Pipe, output: Output::Pipe, ..spec });
        // In a copy, compiled files would be written next to the user's packages, and truncated on a full volume.
        spec.environment.push(("PYTHONDONTWRITEBYTECODE".to_owned(), "1".into()));
        let mut child = context.reaper.spawn(&spec).map_err(|error| Error::fault(error.to_string()))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(Error::Failed("cannot communicate with Python: it was started without pipes".to_owned()));
        };
        let failed = |error: io::Error| Error::Failed(format!("cannot communicate with Python: {error}"));
        Ok(Self {
            child,
            requests: pipe::Sender::from_owned_fd(stdin).map_err(failed)?,
            replies: lines(stdout).map_err(failed)?,
            stderr: lines(stderr).map_err(failed)?,
            last_stderr_line: "no output".to_owned(),
        })
    }

    /// Sends a request, and logs the output of Python if `log` is set. There is no time limit: an interrupted migration may leave a database that a plain `migrate`
    /// cannot complete.
    ///
    /// # Errors
    /// How Python exited without a reply.
    pub(super) async fn request(&mut self, request: &Value, log: bool) -> Result<Value, String> {
        // A Python that no longer reads does not reply either, which is reported below.
        let _ = self.requests.write_all(format!("{request}\n").as_bytes()).await;
        match self.read_reply(log).await {
            Some(reply) => Ok(reply),
            None => {
                let end = self.child.exited().await;
                Err(format!("Python ended with {end}: {}", self.last_stderr_line))
            }
        }
    }

    /// The next reply; `None` if Python exits without one.
    async fn read_reply(&mut self, log: bool) -> Option<Value> {
        let mut has_stderr = true;
        loop {
            tokio::select! {
                line = self.replies.next_segment() => {
                    if let Ok(Some(line)) = line {
                        return serde_json::from_slice(&line).ok();
                    }
                    let _ = timeout(OUTPUT_DRAIN_TIMEOUT, self.drain_stderr(log)).await;
                    return None;
                }
                line = self.stderr.next_segment(), if has_stderr => match line {
                    Ok(Some(line)) => self.log_stderr(&line, log),
                    _ => has_stderr = false,
                },
            }
        }
    }

    async fn drain_stderr(&mut self, log: bool) {
        while let Ok(Some(line)) = self.stderr.next_segment().await {
            self.log_stderr(&line, log);
        }
    }

    fn log_stderr(&mut self, line: &[u8], log: bool) {
        let text = String::from_utf8_lossy(line);
        match text.trim() {
            "" => return,
            line if log => info!("migrate: {line}"),
            line => debug!("python: {line}"),
        }
        text.trim().clone_into(&mut self.last_stderr_line);
    }
}

/// The lines of a pipe.
fn lines(pipe: OwnedFd) -> io::Result<Lines> {
    Ok(BufReader::new(pipe::Receiver::from_owned_fd(pipe)?).split(b'\n'))
}
