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
use super::django_settings::DjangoSettings;
use super::loaded_files::LoadBegin;
use super::python_fault::PythonFault;
use crate::process::Exit;
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

/// How long the pipes are read after Python has exited, and the exit is awaited after it has closed them: a descendant
/// may hold them open forever.
const END_TIMEOUT: Duration = Duration::from_secs(1);

type Lines = Split<BufReader<pipe::Receiver>>;

/// A line that Python has written for this process.
enum Received {
    Reply(Value),
    Invalid(serde_json::Error),
    /// It has closed its output.
    End,
}

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("{0}")]
    Fault(PythonFault),
    #[error("cannot parse the reply of Python: {0}")]
    Invalid(String),
    /// With the last line that it wrote.
    #[error("Python ended with {0}: {1}")]
    Ended(Exit, String),
}

impl RequestError {
    /// The error of an action, with its text.
    pub fn to_error(&self, text: String) -> Error {
        match self {
            Self::Fault(fault) if fault.is_unavailable => Error::Unavailable(text),
            _ => Error::Failed(text),
        }
    }
}

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
        let begin = LoadBegin::now(context.environment);
        let (python, reply) = Self::spawn_and_query(context, &[]).await?;
        let django = DjangoSettings::from_reply(context, &begin, reply)?;
        django.write_cache(context);
        Ok((python, django))
    }

    /// Loads the settings, and checks that the programs of Bots can work with them.
    ///
    /// # Errors
    /// All errors of the settings, with file and line.
    pub async fn check(context: &BotsContext<'_>) -> Result<DjangoSettings, Error> {
        let begin = LoadBegin::now(context.environment);
        let (_, reply) = Self::spawn_and_query(context, &["check"]).await?;
        DjangoSettings::from_reply(context, &begin, reply)
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
        let Ok(received) = timeout(START_TIMEOUT, python.receive(false)).await else {
            python.kill().await;
            let text = format!("{}: not loaded within {} s", settings.display(), START_TIMEOUT.as_secs());
            return Err(Error::fault(text));
        };
        let reply = received.map_err(|error| {
            let text = format!("cannot read Bots's settings with {}: {error}", context.bots.python.display());
            match error {
                RequestError::Fault(fault) => Error::fault(fault.describe(context.environment)),
                // By the kernel if memory is short, for example.
                RequestError::Ended(Exit::Signal(_), _) => Error::Failed(text),
                RequestError::Invalid(_) | RequestError::Ended(..) => Error::fault(text),
            }
        })?;
        Ok((python, reply))
    }

    fn spawn(context: &BotsContext<'_>, more: &[&str]) -> Result<Self, Error> {
        let mut spec = ProcessSpec::new(&context.bots.python).arg("-c").arg(SCRIPT);
        spec = spec.arg(&context.environment.config).args(more.iter().copied());
        spec.directory = Some(context.environment.root.clone());
        spec = context.variables.apply(ProcessSpec { input: Input::Pipe, output: Output::Pipe, ..spec });
        // In a copy, compiled files would be written next to the user's packages, and truncated on a full volume.
        spec.environment.push(("PYTHONDONTWRITEBYTECODE".to_owned(), "1".into()));
        let mut child = context.reaper.spawn(&spec)?;
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

    /// Sends a request and waits for its reply, without a time limit: an interrupted migration may leave a database that a
    /// plain `migrate` cannot complete.
    ///
    /// # Errors
    /// A fault, or how Python ended without a reply.
    pub(super) async fn request(&mut self, request: &Value) -> Result<Value, RequestError> {
        self.send(request).await;
        self.receive(false).await
    }

    /// As [`request`](Self::request), and logs the output of Django's `migrate`.
    pub(super) async fn request_logged(&mut self, request: &Value) -> Result<Value, RequestError> {
        self.send(request).await;
        self.receive(true).await
    }

    async fn send(&mut self, request: &Value) {
        // A Python that no longer reads does not reply either, which is reported then.
        let _ = self.requests.write_all(format!("{request}\n").as_bytes()).await;
    }

    async fn receive(&mut self, is_migration: bool) -> Result<Value, RequestError> {
        match self.read_reply(is_migration).await {
            Received::Reply(mut reply) => {
                let fault: Option<PythonFault> =
                    PythonFault::take(&mut reply, "fault").map_err(|error| RequestError::Invalid(error.to_string()))?;
                let Some(fault) = fault else { return Ok(reply) };
                debug!("{}", fault.traceback);
                Err(RequestError::Fault(fault))
            }
            Received::Invalid(error) => {
                // It waits for the next request.
                self.kill().await;
                Err(RequestError::Invalid(error.to_string()))
            }
            Received::End => {
                let exit = match timeout(END_TIMEOUT, self.child.exited()).await {
                    Ok(exit) => exit,
                    Err(_) => self.kill().await,
                };
                Err(RequestError::Ended(exit, self.last_stderr_line.clone()))
            }
        }
    }

    async fn kill(&mut self) -> Exit {
        signal_group(self.child.pid, SIGKILL);
        self.child.exited().await
    }

    /// The next reply, after all output before it.
    async fn read_reply(&mut self, is_migration: bool) -> Received {
        let mut has_stderr = true;
        loop {
            tokio::select! {
                biased;
                line = self.stderr.next_segment(), if has_stderr => match line {
                    Ok(Some(line)) => self.log_stderr(&line, is_migration),
                    _ => has_stderr = false,
                },
                line = self.replies.next_segment() => {
                    if let Ok(Some(line)) = line {
                        return serde_json::from_slice(&line).map_or_else(Received::Invalid, Received::Reply);
                    }
                    let _ = timeout(END_TIMEOUT, self.drain_stderr(is_migration)).await;
                    return Received::End;
                }
            }
        }
    }

    async fn drain_stderr(&mut self, is_migration: bool) {
        while let Ok(Some(line)) = self.stderr.next_segment().await {
            self.log_stderr(&line, is_migration);
        }
    }

    fn log_stderr(&mut self, line: &[u8], is_migration: bool) {
        let text = String::from_utf8_lossy(line);
        match text.trim() {
            "" => return,
            line if is_migration => info!("migrate: {line}"),
            line => debug!("python: {line}"),
        }
        text.trim().clone_into(&mut self.last_stderr_line);
    }
}

/// The lines of a pipe.
fn lines(pipe: OwnedFd) -> io::Result<Lines> {
    Ok(BufReader::new(pipe::Receiver::from_owned_fd(pipe)?).split(b'\n'))
}
