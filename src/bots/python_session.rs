//! One start of Python, and the conversation with it: it replies with the settings, then waits for work or for the end.
//!
//! A start costs most of a second on a busy machine, so the settings and a migration share one. Output of Python beside its
//! replies goes to our log.

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
use crate::process::capture::pipe_reader;
use crate::process::child::{Input, Output, ProcessSpec, signal_group};
use crate::process::reaper::Child;

/// The scripts, in the order in which one needs the other.
pub(super) const SCRIPT: &str = concat!(
    include_str!("python/facts.py"),
    include_str!("python/checks.py"),
    include_str!("python/completion.py"),
    include_str!("python/history.py"),
    include_str!("python/migrate.py"),
    include_str!("python/conversation.py"),
);

/// Longer than any Python start on a busy machine with a cold disk; settings that hang must not hang us.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// How long after Python's end its pipes are still read: something it has started may hold them open for ever.
const OUTPUT_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

type Lines = Split<BufReader<pipe::Receiver>>;

/// A Python that has read the settings. Dropped, it ends by itself.
pub struct PythonSession {
    child: Child,
    requests: pipe::Sender,
    replies: Lines,
    stderr: Lines,
    last_stderr_line: String,
}

impl PythonSession {
    /// Starts Python, which reads the settings of Bots and Django; the reply is kept for the next start.
    ///
    /// # Errors
    /// What is wrong with the settings, with file and line; or a directory that Bots would take from elsewhere.
    pub async fn start(context: &BotsContext<'_>) -> Result<(Self, DjangoSettings), Error> {
        let before = DjangoSettings::fingerprint(context);
        let (python, reply) = Self::spawn_and_query(context, &[]).await?;
        let django = DjangoSettings::learn(context, reply)?;
        // Something may have changed while Python ran; then the reply is of neither state for certain.
        if DjangoSettings::fingerprint(context) == before {
            django.write_cache(context);
        }
        Ok((python, django))
    }

    /// Reads the settings, and checks whether the programs of Bots can work with them.
    ///
    /// # Errors
    /// Everything that is wrong with them, with file and line.
    pub async fn check(context: &BotsContext<'_>) -> Result<DjangoSettings, Error> {
        let (_, reply) = Self::spawn_and_query(context, &["check"]).await?;
        DjangoSettings::learn(context, reply)
    }

    /// Imports settings.py alone.
    ///
    /// # Errors
    /// What is wrong with it, with file and line.
    pub async fn import_settings_only(context: &BotsContext<'_>) -> Result<(), Error> {
        Self::spawn_and_query(context, &["settings"]).await.map(|_| ())
    }

    async fn spawn_and_query(context: &BotsContext<'_>, more: &[&str]) -> Result<(Self, Value), Error> {
        let mut python = Self::spawn(context, more)?;
        let settings = context.environment.config.join("settings.py");
        let Ok(received) = timeout(START_TIMEOUT, python.read_reply(false)).await else {
            signal_group(python.child.pid, SIGKILL);
            python.child.exited().await;
            let text = format!("{}: was not loaded within {} s", settings.display(), START_TIMEOUT.as_secs());
            return Err(Error::fault(text));
        };
        let Some(reply) = received else {
            let reason = python.last_stderr_line;
            let interpreter = context.bots.python.display();
            return Err(Error::fault(format!("cannot ask Bots for its settings with {interpreter}: {reason}")));
        };
        Ok((python, without_fault(context.environment, reply)?))
    }

    fn spawn(context: &BotsContext<'_>, more: &[&str]) -> Result<Self, Error> {
        let mut spec = ProcessSpec::new(&context.bots.python).arg("-c").arg(SCRIPT);
        spec = spec.arg(&context.environment.config).args(more.iter().copied());
        spec.directory = Some(context.environment.root.clone());
        spec = context.variables.apply(ProcessSpec { input: Input::Pipe, output: Output::Pipe, ..spec });
        // In a copy it would end up beside the user's own packages, and on a full volume Python leaves a file that is cut off.
        spec.environment.push(("PYTHONDONTWRITEBYTECODE".to_owned(), "1".into()));
        let mut child = context.reaper.spawn(&spec).map_err(|error| Error::fault(error.to_string()))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(Error::Failed("cannot talk to Python: it was started without pipes".to_owned()));
        };
        let failed = |error: io::Error| Error::Failed(format!("cannot talk to Python: {error}"));
        Ok(Self {
            child,
            requests: pipe::Sender::from_owned_fd(stdin).map_err(failed)?,
            replies: lines(stdout).map_err(failed)?,
            stderr: lines(stderr).map_err(failed)?,
            last_stderr_line: "it said nothing".to_owned(),
        })
    }

    /// Sends a request. There is no time limit: a migration that is cut in the middle may leave a database that a
    /// plain `migrate` cannot complete.
    ///
    /// # Errors
    /// How Python ended without a reply.
    pub(super) async fn request(&mut self, request: &Value) -> Result<Value, String> {
        // Python that no longer reads does not reply either.
        let _ = self.requests.write_all(format!("{request}\n").as_bytes()).await;
        match self.read_reply(true).await {
            Some(reply) => Ok(reply),
            None => {
                let end = self.child.exited().await;
                Err(format!("Python ended with {end}: {}", self.last_stderr_line))
            }
        }
    }

    /// The next reply; `None` when Python ended without one.
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
    Ok(BufReader::new(pipe_reader(pipe)?).split(b'\n'))
}
