//! Checks the directories of channels, if the engine runs in this container: Bots treats a missing one as empty.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::debug;

use crate::bots::Installation;
use crate::bots::dirmonitor_config::{DirmonitorConfig, FilePattern};
use crate::bots::environment::Environment;
use crate::config::Config;
use crate::database::connect::{ConnectMode, connect};
use crate::database::{DatabaseConfig, Error};
use crate::edi::monitored_routes::{FileChannel, file_channels};
use crate::health::state::{ChannelFault, HealthState};
use crate::process::{blocking, periodic};
use crate::pycompat::fnmatch::FnMatch;
use crate::watch::target::PathPattern;

/// Checks until the task is dropped.
pub(crate) async fn run(
    config: Config,
    bots: Installation,
    database: DatabaseConfig,
    health: watch::Sender<HealthState>,
) {
    let interval = config.health.results_interval.max(Duration::from_secs(1));
    let paths = DirmonitorConfig::without_sections(&Environment::paths(&config), &bots);
    loop {
        match read(&database).await {
            Ok(channels) => {
                let paths = paths.clone();
                let check = move || faults(&channels, &paths);
                if let Ok(faults) = blocking::run(check).await {
                    health.send_if_modified(|state| {
                        let has_changed = state.channels != faults;
                        state.channels = faults;
                        has_changed
                    });
                }
            }
            // The database check reports this error.
            Err(error) => debug!("{error}"),
        }
        periodic::due(interval).await;
    }
}

async fn read(database: &DatabaseConfig) -> Result<Vec<FileChannel>, Error> {
    let mut connection = connect(database, ConnectMode::Probe).await?;
    let channels = file_channels(&mut connection).await;
    connection.close().await;
    channels
}

/// If channels share a directory, one of an active route receives its files.
fn faults(channels: &[FileChannel], paths: &DirmonitorConfig) -> Arc<[ChannelFault]> {
    let in_use = |channel: &FileChannel| channels.iter().any(|other| other.is_active && other.path == channel.path);
    let checked = channels.iter().filter(|channel| channel.is_active || !in_use(channel));
    checked.filter_map(|channel| fault(channel, paths)).collect()
}

/// The error of a channel. May wait for a file system.
fn fault(channel: &FileChannel, paths: &DirmonitorConfig) -> Option<ChannelFault> {
    let files = paths.files(&channel.path, &channel.filename)?;
    let root = PathPattern::new(&files.directory).root;
    let (error, waiting) = match fs::read_dir(&root) {
        Ok(_) if channel.is_active => return None,
        Ok(_) => (None, count(&files)),
        Err(_) if !channel.is_active => return None,
        Err(error) => (Some(format!("cannot read {}: {error}", root.display())), 0),
    };
    let fault = ChannelFault {
        channel: channel.channel.clone(),
        route: channel.route.clone(),
        files: files.directory.join(&files.mask).display().to_string(),
        error,
        waiting,
    };
    (fault.error.is_some() || fault.waiting > 0).then_some(fault)
}

/// Files that the channel would receive, if its path has no mask for directories.
fn count(files: &FilePattern) -> usize {
    let mask = FnMatch::new(&files.mask);
    let entries = fs::read_dir(&files.directory).into_iter().flatten().flatten();
    let is_taken = |name: &Path| mask.matches(name.as_os_str());
    entries.filter(|entry| entry.path().is_file() && is_taken(Path::new(&entry.file_name()))).count()
}
