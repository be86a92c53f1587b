//! The files that a run is about to take, and the wait for those that are being written.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::bots::Installation;
use crate::bots::dirmonitor_config::{Files, Monitored, Way};
use crate::bots::engine_args::EngineArguments;
use crate::bots::environment::Environment;
use crate::config::{Config, WatchBy};
use crate::database::lease::Lease;
use crate::edi::monitored_routes;
use crate::edi::monitored_routes::InChannel;
use crate::exit::Error;
use crate::watch::run_check::{Rest, Restless};
use crate::watch::target::Entry;

use crate::runtime::watch_targets::entry;

/// Files that one log line names.
const NAMED: usize = 20;

/// The files of a run.
pub(crate) struct FilesOfRun<'a> {
    config: &'a Config,
    bots: &'a Installation,
    environment: &'a Environment,
    arguments: &'a EngineArguments,
    rest: Rest,
    begin: Instant,
    is_told: bool,
}

impl<'a> FilesOfRun<'a> {
    /// Nothing is looked at yet.
    pub fn new(
        config: &'a Config,
        bots: &'a Installation,
        environment: &'a Environment,
        arguments: &'a EngineArguments,
    ) -> Self {
        Self { config, bots, environment, arguments, rest: Rest::default(), begin: Instant::now(), is_told: false }
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
        let channels = lease.ask(monitored_routes::in_channels).await?;
        self.rest.aim(self.entries(&channels));
        let looked = self.rest.look().await;
        debug!(
            "a look at the files of {} channels took {:.1} ms",
            channels.len(),
            began.elapsed().as_secs_f64() * 1000.0
        );
        Ok(match looked {
            Ok(files) if files.iter().any(|file| file.is_awaited) && !self.left().is_zero() => {
                self.tell_wait(&files);
                false
            }
            Ok(files) => {
                files.iter().for_each(|file| self.tell_given_up(file));
                true
            }
            Err(why) => {
                tell_unknown(&why);
                true
            }
        })
    }

    /// Waits until all files are at rest, or for as long as is configured. The lease is not held meanwhile.
    pub async fn wait(&mut self) {
        let left = self.left();
        if let Err(why) = self.rest.wait(left).await {
            tell_unknown(&why);
        }
    }

    /// How long the run waits at most from now on.
    fn left(&self) -> Duration {
        self.config.engine.file_wait.saturating_sub(self.begin.elapsed())
    }

    /// What the channels of the routes find, and what bots.ini watches for them.
    fn entries(&self, channels: &[InChannel]) -> Vec<Entry> {
        let monitored = Monitored::read(self.environment, self.bots).unwrap_or_else(|error| {
            debug!("{error}; the files of channels are looked at alone");
            Monitored::without_sections(self.environment, self.bots)
        });
        let routes = &self.arguments.routes;
        let runs = |channel: &&InChannel| match routes.is_empty() {
            true => channel.is_in_default_run,
            false => routes.contains(&channel.route),
        };
        let running: Vec<&InChannel> = channels.iter().filter(runs).collect();
        let locks = || channels.iter().map(|channel| (channel.path.as_str(), channel.lock.as_str()));
        let entry = |origin: &str, files: &Files, way: Way| {
            let name = (origin.to_owned(), String::new());
            let entry = entry(self.config, &monitored, name, files, way, locks());
            Entry { watch_by: WatchBy::Poll, ..entry }
        };
        let directories = running.iter().filter(|channel| channel.is_directory);
        let files = directories.filter_map(|channel| monitored.files(&channel.path, &channel.filename));
        // Two routes may have one channel.
        let (mut entries, mut known) = (Vec::new(), HashSet::new());
        for files in files.filter(|files| known.insert((files.directory.clone(), files.mask.clone()))) {
            entries.push(Entry { is_channel: true, ..entry("a channel", &files, monitored.way_in(&files.directory)) });
        }
        // Most sections watch the directory of a channel, and the mask of the channel decides which files Bots takes.
        for section in &monitored.directories {
            let is_other = known.iter().all(|(directory, _)| *directory != section.files.directory);
            if is_other && running.iter().any(|channel| channel.route == section.route) {
                let entry = entry(&section.origin, &section.files, section.way.or(monitored.way));
                entries.push(Entry { is_recursive: section.is_recursive, ..entry });
            }
        }
        entries
    }

    fn tell_wait(&mut self, files: &[Restless]) {
        if std::mem::replace(&mut self.is_told, true) {
            return;
        }
        let (awaited, limit): (Vec<&Restless>, _) =
            (files.iter().filter(|file| file.is_awaited).collect(), self.config.engine.file_wait.as_secs_f64());
        let one = |file: &&Restless| format!("{} ({})", file.path.display(), file.unfinished.reason.as_str());
        let named = awaited.iter().take(NAMED).map(one).collect::<Vec<_>>().join(", ");
        let more = awaited.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        info!(
            files = awaited.len(),
            "the run waits for at most {limit} s, since files are not complete: {named}{more}"
        );
    }

    fn tell_given_up(&self, file: &Restless) {
        let seconds = self.config.engine.file_wait.as_secs_f64();
        let (file, why) = (file.path.display(), file.unfinished.reason.as_str());
        warn!(%file, "no longer waiting for {file} after {seconds} s: {why}; the run takes it as it is");
    }
}

fn tell_unknown(why: &str) {
    warn!("cannot tell whether files are complete: {why}; the run takes them as they are");
}
