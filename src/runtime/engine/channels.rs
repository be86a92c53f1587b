//! Where the channels of a run find files, and how those are judged.

use std::collections::HashSet;
use std::path::Path;

use tracing::debug;

use crate::bots::Installation;
use crate::bots::dirmonitor_config::{DirmonitorConfig, FilePattern, WatchOptions};
use crate::bots::environment::Environment;
use crate::config::{Config, WatchMethod};
use crate::edi::monitored_routes::InChannel;
use crate::watch::target::WatchTarget;

use super::super::watch_targets::target;

/// The channels according to the database and bots.ini.
pub(super) struct Channels {
    config: Config,
    monitored: DirmonitorConfig,
    channels: Vec<InChannel>,
}

impl Channels {
    /// With a bots.ini that is faulty, channels alone count.
    pub fn new(config: &Config, environment: &Environment, bots: &Installation, channels: Vec<InChannel>) -> Self {
        let monitored = DirmonitorConfig::read(environment, bots).unwrap_or_else(|error| {
            debug!("{error}; only the files of channels are checked");
            DirmonitorConfig::without_sections(environment, bots)
        });
        Self { config: config.clone(), monitored, channels }
    }

    /// Channels from which active routes receive.
    pub fn count(&self) -> usize {
        self.channels.len()
    }

    /// The file patterns of these routes' channels, or of all in a default run without routes, and those of bots.ini for these routes.
    pub fn targets(&self, routes: &[String]) -> Vec<WatchTarget> {
        let runs = |channel: &&InChannel| match routes.is_empty() {
            true => channel.is_in_default_run,
            false => routes.contains(&channel.route),
        };
        let running: Vec<&InChannel> = self.channels.iter().filter(runs).collect();
        let directories = running.iter().filter(|channel| channel.is_directory);
        let files = directories.filter_map(|channel| self.monitored.files(&channel.path, &channel.filename));
        // Two routes may have one channel.
        let (mut targets, mut known) = (Vec::new(), HashSet::new());
        for files in files.filter(|files| known.insert((files.directory.clone(), files.mask.clone()))) {
            targets.push(self.channel(&files));
        }
        // Most sections watch the directory of a channel, and the mask of the channel decides which files Bots matches.
        for section in &self.monitored.directories {
            let is_other = known.iter().all(|(directory, _)| *directory != section.files.directory);
            if is_other && running.iter().any(|channel| channel.route == section.route) {
                let target =
                    self.target(&section.origin, &section.files, section.options.or(self.monitored.default_options));
                targets.push(WatchTarget { is_recursive: section.is_recursive, ..target });
            }
        }
        targets
    }

    /// The file pattern of a channel, as Bots passes it to Python's `glob`.
    pub fn target_of(&self, pattern: &Path) -> WatchTarget {
        let mask = pattern.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.channel(&FilePattern { directory: pattern.parent().unwrap_or(pattern).to_owned(), mask })
    }

    fn channel(&self, files: &FilePattern) -> WatchTarget {
        let target = self.target("a channel", files, self.monitored.watch_options_for(&files.directory));
        WatchTarget { is_channel: true, ..target }
    }

    fn target(&self, origin: &str, files: &FilePattern, options: WatchOptions) -> WatchTarget {
        let locks = self.channels.iter().map(|channel| (channel.path.as_str(), channel.lock.as_str()));
        let name = (origin.to_owned(), String::new());
        let target = target(&self.config, &self.monitored, name, files, options, locks);
        WatchTarget { watch_by: WatchMethod::Poll, ..target }
    }
}
