//! The files that a run is about to take, and the wait for those that are being written.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::bots::Installation;
use crate::bots::dirmonitor_config::{DirmonitorConfig, FilePattern, WatchOptions};
use crate::bots::engine_args::EngineArgs;
use crate::bots::environment::Environment;
use crate::config::{Config, WatchMethod};
use crate::database::lease::Lease;
use crate::edi::monitored_routes;
use crate::edi::monitored_routes::InChannel;
use crate::exit::Error;
use crate::watch::run_check::{ChannelFiles, IncompleteFile};
use crate::watch::target::WatchTarget;

use crate::runtime::watch_targets::target;

/// Files that one log line names.
const MAX_LISTED_FILES: usize = 20;

/// The files of a run.
pub(crate) struct RunFiles<'a> {
    config: &'a Config,
    bots: &'a Installation,
    environment: &'a Environment,
    arguments: &'a EngineArgs,
    rest: ChannelFiles,
    begin: Instant,
    is_logged: bool,
}

impl<'a> RunFiles<'a> {
    /// Nothing is looked at yet.
    pub fn new(
        config: &'a Config,
        bots: &'a Installation,
        environment: &'a Environment,
        arguments: &'a EngineArgs,
    ) -> Self {
        Self {
            config,
            bots,
            environment,
            arguments,
            rest: ChannelFiles::default(),
            begin: Instant::now(),
            is_logged: false,
        }
    }

    /// Whether the run may begin now. The log names each file that the run no longer waits for. The lease is held, so no
    /// other run takes files meanwhile.
    ///
    /// # Errors
    /// When the database cannot be asked for the channels.
    pub async fn may_begin(&mut self, lease: &mut Lease) -> Result<bool, Error> {
        if !self.arguments.receives() || self.config.engine.file_wait.is_zero() {
            return Ok(true);
        }
        let began = Instant::now();
        let channels = lease.query_with_retry(monitored_routes::in_channels).await?;
        self.rest.set_targets(self.targets(&channels));
        let scanned = self.rest.scan().await;
        debug!(
            "a look at the files of {} channels took {:.1} ms",
            channels.len(),
            began.elapsed().as_secs_f64() * 1000.0
        );
        Ok(match scanned {
            Ok(files) if files.iter().any(|file| file.is_awaited) && !self.remaining().is_zero() => {
                self.log_wait(&files);
                false
            }
            Ok(files) => {
                files.iter().for_each(|file| self.log_abandoned(file));
                true
            }
            Err(reason) => {
                log_unknown(&reason);
                true
            }
        })
    }

    /// Waits until all files are at rest, or for as long as is configured. The lease is not held meanwhile.
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

    /// What the channels of the routes find, and what bots.ini watches for them.
    fn targets(&self, channels: &[InChannel]) -> Vec<WatchTarget> {
        let monitored = DirmonitorConfig::read(self.environment, self.bots).unwrap_or_else(|error| {
            debug!("{error}; the files of channels are looked at alone");
            DirmonitorConfig::without_sections(self.environment, self.bots)
        });
        let routes = &self.arguments.routes;
        let runs = |channel: &&InChannel| match routes.is_empty() {
            true => channel.is_in_default_run,
            false => routes.contains(&channel.route),
        };
        let running: Vec<&InChannel> = channels.iter().filter(runs).collect();
        let locks = || channels.iter().map(|channel| (channel.path.as_str(), channel.lock.as_str()));
        let target = |origin: &str, files: &FilePattern, way: WatchOptions| {
            let name = (origin.to_owned(), String::new());
            let target = target(self.config, &monitored, name, files, way, locks());
            WatchTarget { watch_by: WatchMethod::Poll, ..target }
        };
        let directories = running.iter().filter(|channel| channel.is_directory);
        let files = directories.filter_map(|channel| monitored.files(&channel.path, &channel.filename));
        // Two routes may have one channel.
        let (mut targets, mut known) = (Vec::new(), HashSet::new());
        for files in files.filter(|files| known.insert((files.directory.clone(), files.mask.clone()))) {
            targets.push(WatchTarget {
                is_channel: true,
                ..target("a channel", &files, monitored.watch_options_for(&files.directory))
            });
        }
        // Most sections watch the directory of a channel, and the mask of the channel decides which files Bots takes.
        for section in &monitored.directories {
            let is_other = known.iter().all(|(directory, _)| *directory != section.files.directory);
            if is_other && running.iter().any(|channel| channel.route == section.route) {
                let target = target(&section.origin, &section.files, section.way.or(monitored.way));
                targets.push(WatchTarget { is_recursive: section.is_recursive, ..target });
            }
        }
        targets
    }

    fn log_wait(&mut self, files: &[IncompleteFile]) {
        if std::mem::replace(&mut self.is_logged, true) {
            return;
        }
        let (awaited, limit): (Vec<&IncompleteFile>, _) =
            (files.iter().filter(|file| file.is_awaited).collect(), self.config.engine.file_wait.as_secs_f64());
        let one = |file: &&IncompleteFile| format!("{} ({})", file.path.display(), file.unfinished.reason.as_str());
        let named = awaited.iter().take(MAX_LISTED_FILES).map(one).collect::<Vec<_>>().join(", ");
        let more = awaited.len().saturating_sub(MAX_LISTED_FILES);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        info!(
            files = awaited.len(),
            "the run waits for at most {limit} s, since files are not complete: {named}{more}"
        );
    }

    fn log_abandoned(&self, file: &IncompleteFile) {
        let seconds = self.config.engine.file_wait.as_secs_f64();
        let (file, reason) = (file.path.display(), file.unfinished.reason.as_str());
        warn!(%file, "no longer waiting for {file} after {seconds} s: {reason}; the run takes it as it is");
    }
}

fn log_unknown(reason: &str) {
    warn!("cannot tell whether files are complete: {reason}; the run takes them as they are");
}
