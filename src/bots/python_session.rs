//! One start of Python, and the conversation with it: it tells the facts, then waits for work or for the end.
//!
//! A start costs most of a second on a busy machine, so what is asked before a migration and the migration itself
//! share one. What Python prints beside its answers goes to our log.

use std::time::Duration;

use nix::libc::SIGKILL;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::time::timeout;
use tracing::{debug, info};

use super::Error;
use super::django_settings::{DjangoSettings, without_fault};
use super::services::BotsContext;
use crate::process::capture::pipe_reader;
use crate::process::child::{Input, Output, ProcessSpec, signal_group};
use crate::process::reaper::Child;

/// The scripts, in the order in which one needs the other.
pub(super) const SCRIPT: &str = concat!(
    include_str!("python/facts.py"),
    include_str!("python/completion.py"),
    include_str!("python/history.py"),
    include_str!("python/migrate.py"),
    include_str!("python/conversation.py"),
);

/// Longer than any Python start on a busy machine with a cold disk; settings that hang must not hang us.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// How long after Python's end its pipes are still read: something it has started may hold them open for ever.
const OUTPUT_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A Python that has told its facts. Dropped, it ends by itself.
pub struct PythonSession {
    child: Child,
    requests: pipe::Sender,
    replies: LineReader,
    noise: LineReader,
    last_noise: String,
}

impl PythonSession {
    /// Starts Python and hears what Bots and Django are configured with; the answer is kept for the next start.
    ///
    /// # Errors
    /// What is wrong with the settings, with file and line; or a directory that Bots would take from elsewhere.
    pub async fn start(context: &BotsContext<'_>) -> Result<(Self, DjangoSettings), Error> {
        let before = DjangoSettings::fingerprint(context);
        let (python, reply) = Self::spawn_and_query(context, &[]).await?;
        Ok((python, DjangoSettings::learn(context, reply, &before)?))
    }

    /// Imports settings.py alone.
    ///
    /// # Errors
    /// What is wrong with it, with file and line.
    pub(super) async fn import_settings_only(context: &BotsContext<'_>) -> Result<(), Error> {
        let (_, reply) = Self::spawn_and_query(context, &["settings"]).await?;
        without_fault(reply).map(|_| ())
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
            let reason = python.last_stderr_line();
            let interpreter = context.bots.python.display();
            return Err(Error::fault(format!("cannot ask Bots for its settings with {interpreter}: {reason}")));
        };
        Ok((python, reply))
    }

    fn spawn(context: &BotsContext<'_>, more: &[&str]) -> Result<Self, Error> {
        let mut spec = ProcessSpec::new(&context.bots.python).arg("-c").arg(SCRIPT);
        spec = spec.arg(&context.environment.config).args(more.iter().copied());
        spec.directory = Some(context.environment.root.clone());
        spec = context.variables.apply(ProcessSpec { input: Input::Pipe, output: Output::Pipe, ..spec });
        let mut child = context.reaper.spawn(&spec).map_err(|error| Error::fault(error.to_string()))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(Error::Failed("cannot talk to Python: it was started without pipes".to_owned()));
        };
        let failed = |error: std::io::Error| Error::Failed(format!("cannot talk to Python: {error}"));
        Ok(Self {
            child,
            requests: pipe::Sender::from_owned_fd(stdin).map_err(failed)?,
            replies: LineReader::new(pipe_reader(stdout).map_err(failed)?),
            noise: LineReader::new(pipe_reader(stderr).map_err(failed)?),
            last_noise: String::new(),
        })
    }

    /// Has work done. There is no time limit: a migration that is cut in the middle may leave a database that a
    /// plain `migrate` cannot complete.
    ///
    /// # Errors
    /// How Python ended without an answer.
    pub(super) async fn request(&mut self, request: &Value) -> Result<Value, String> {
        // If it does not listen any more, it does not answer either.
        let _ = self.requests.write_all(format!("{request}\n").as_bytes()).await;
        match self.read_reply(true).await {
            Some(reply) => Ok(reply),
            None => {
                let end = self.child.exited().await;
                Err(format!("Python ended with {end}: {}", self.last_stderr_line()))
            }
        }
    }

    /// The next answer; `None` when Python ended without one.
    async fn read_reply(&mut self, tell_noise: bool) -> Option<Value> {
        let mut has_noise = true;
        loop {
            tokio::select! {
                line = self.replies.next() => match line {
                    Some(line) => return serde_json::from_str(&line).ok(),
                    None => {
                        let _ = timeout(OUTPUT_DRAIN_TIMEOUT, self.drain(tell_noise)).await;
                        return None;
                    }
                },
                line = self.noise.next(), if has_noise => match line {
                    Some(line) => self.log_stderr(&line, tell_noise),
                    None => has_noise = false,
                },
            }
        }
    }

    async fn drain(&mut self, log: bool) {
        while let Some(line) = self.noise.next().await {
            self.log_stderr(&line, log);
        }
    }

    fn log_stderr(&mut self, line: &str, log: bool) {
        let line = line.trim();
        if line.is_empty() {
            return;
        }
        if log {
            info!("migrate: {line}");
        } else {
            debug!("python: {line}");
        }
        line.clone_into(&mut self.last_noise);
    }

    fn last_stderr_line(&self) -> &str {
        if self.last_noise.is_empty() { "it said nothing" } else { &self.last_noise }
    }
}

/// Lines of a pipe; a wait for one may be given up and taken up again.
struct LineReader {
    source: BufReader<pipe::Receiver>,
    begun: Vec<u8>,
}

impl LineReader {
    fn new(source: pipe::Receiver) -> Self {
        Self { source: BufReader::new(source), begun: Vec::new() }
    }

    async fn next(&mut self) -> Option<String> {
        let _ = self.source.read_until(b'\n', &mut self.begun).await;
        let line = std::mem::take(&mut self.begun);
        (!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned())
    }
}
