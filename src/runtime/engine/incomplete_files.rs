//! The files that a run would take, and the wait for incomplete ones.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::bots::Installation;
use crate::bots::engine_args::EngineArgs;
use crate::bots::environment::Environment;
use crate::config::Config;
use crate::database::lease::Lease;
use crate::edi::monitored_routes;
use crate::exit::Error;
use crate::watch::run_check::{ChannelFiles, IncompleteFile};
use crate::watch::stability::Reason;

use super::channels::Channels;

/// Files that one log line names.
const MAX_LISTED_FILES: usize = 20;

/// The files of a run.
pub(crate) struct RunFiles<'a> {
    config: &'a Config,
    bots: Installation,
    environment: Environment,
    arguments: &'a EngineArgs,
    rest: ChannelFiles,
    /// The channels of the last scan; none while files are not judged.
    channels: Option<Channels>,
    /// Incomplete files that the run takes as they are.
    given_up: HashSet<PathBuf>,
    begin: Instant,
    is_logged: bool,
}

impl<'a> RunFiles<'a> {
    /// Scans nothing yet.
    pub fn new(config: &'a Config, bots: Installation, environment: Environment, arguments: &'a EngineArgs) -> Self {
        let (rest, channels, given_up, begin) = (ChannelFiles::default(), None, HashSet::new(), Instant::now());
        Self { config, bots, environment, arguments, rest, channels, given_up, begin, is_logged: false }
    }

    /// Whether the run may begin now. Logs each file that the run no longer waits for. The lease is held, so no other
    /// run processes files at the same time.
    ///
    /// # Errors
    /// When the channels cannot be read from the database.
    pub async fn may_begin(&mut self, lease: &mut Lease) -> Result<bool, Error> {
        if !self.arguments.receives() || self.config.engine.file_wait.is_zero() {
            return Ok(true);
        }
        let began = Instant::now();
        let channels = lease.query_with_retry(monitored_routes::in_channels).await?;
        let channels = Channels::new(self.config, &self.environment, &self.bots, channels);
        self.rest.set_targets(channels.targets(&self.arguments.routes));
        let scanned = self.rest.scan().await;
        debug!(
            "checking the files of {} channels took {:.1} ms",
            channels.count(),
            began.elapsed().as_secs_f64() * 1000.0
        );
        Ok(match scanned {
            Ok(files) if files.iter().any(|file| file.is_awaited) && !self.remaining().is_zero() => {
                self.log_wait(&files);
                false
            }
            Ok(mut files) => {
                // Bots is not to take those at all.
                files.retain(|file| file.unfinished.reason != Reason::NotText);
                files.iter().for_each(|file| self.log_abandoned(file));
                self.given_up = files.into_iter().map(|file| file.path).collect();
                self.channels = Some(channels);
                true
            }
            Err(reason) => {
                log_unknown(&reason);
                true
            }
        })
    }

    /// Waits until all files are complete, up to the configured limit. The lease is not held during the wait.
    pub async fn wait(&mut self) {
        let remaining = self.remaining();
        if let Err(reason) = self.rest.wait(remaining).await {
            log_unknown(&reason);
        }
    }

    /// How long the run waits at most from now on.
    fn remaining(&self) -> Duration {
        self.config.engine.file_wait.saturating_sub(self.begin.elapsed())
    }

    /// Whether Bots asks before it takes files.
    pub fn are_judged(&self) -> bool {
        self.channels.is_some()
    }

    /// Judges files that the pattern of a channel matches, at the moment in which Bots has listed them: each that is complete, or no
    /// longer waited for, may be taken. The log names the others.
    ///
    /// # Errors
    /// When the files cannot be judged.
    pub async fn may_be_taken(&mut self, pattern: &Path, files: Vec<PathBuf>) -> Result<Vec<bool>, String> {
        let Some(channels) = &self.channels else { return Ok(vec![true; files.len()]) };
        let judged = self.rest.judge(channels.target_of(pattern), files).await?;
        let incomplete = judged.iter().flatten().filter(|file| !self.given_up.contains(&file.path));
        let (left, given_up): (Vec<&IncompleteFile>, Vec<&IncompleteFile>) =
            incomplete.partition(|file| file.is_awaited);
        given_up.into_iter().for_each(|file| self.log_abandoned(file));
        if !left.is_empty() {
            let named = named(&left);
            info!(files = left.len(), "leaving incomplete files for the next run: {named}");
        }
        let is_left = |file: &IncompleteFile| file.is_awaited && !self.given_up.contains(&file.path);
        Ok(judged.iter().map(|file| !file.as_ref().is_some_and(is_left)).collect())
    }

    fn log_wait(&mut self, files: &[IncompleteFile]) {
        if std::mem::replace(&mut self.is_logged, true) {
            return;
        }
        let awaited: Vec<&IncompleteFile> = files.iter().filter(|file| file.is_awaited).collect();
        let (limit, named) = (self.config.engine.file_wait.as_secs_f64(), named(&awaited));
        info!(files = awaited.len(), "waiting up to {limit} s for incomplete files: {named}");
    }

    fn log_abandoned(&self, file: &IncompleteFile) {
        let seconds = self.config.engine.file_wait.as_secs_f64();
        let (file, reason) = (file.path.display(), file.unfinished.reason.as_str());
        warn!(%file, "no longer waiting for {file} after {seconds} s: {reason}; the run processes it as it is");
    }
}

/// The first of the files, each with the reason.
fn named(files: &[&IncompleteFile]) -> String {
    let one = |file: &&IncompleteFile| format!("{} ({})", file.path.display(), file.unfinished.reason.as_str());
    let named = files.iter().take(MAX_LISTED_FILES).map(one).collect::<Vec<_>>().join(", ");
    let more = files.len().saturating_sub(MAX_LISTED_FILES);
    if more > 0 { format!("{named}, and {more} more") } else { named }
}

pub(super) fn log_unknown(why: &str) {
    warn!("cannot check whether files are complete: {why}; the run processes them unchecked");
}
