//! One scan of all targets of the directory monitor, which starts nothing.

use std::sync::Arc;

use crate::config::Config;
use crate::exit::Error;
use crate::process::reaper::Reaper;
use crate::watch::events::Watcher;
use crate::watch::observation::ClockSource;
use crate::watch::scan::{ScanOutcome, ScanScope, TargetScanner};
use crate::watch::target::WatchTarget;

use super::bots_environment::{blocking, find_bots, mounted_files};
use super::dry_run::dry_run;
use super::init_db;
use super::watch_targets::TargetSources;

/// A target, and the outcome of its first scan.
pub(crate) struct ScannedTarget {
    pub target: WatchTarget,
    pub found: ScanOutcome,
}

/// Scans the targets.
///
/// # Errors
/// When the environment cannot be prepared, or its database cannot be read.
pub(crate) async fn scan(config: &Config, reaper: &Reaper) -> Result<Vec<ScannedTarget>, Error> {
    let bots = find_bots(config, reaper).await?;
    let checked = dry_run(config, reaper, &bots, mounted_files(config).await, |_, _| Ok(())).await?;
    let environment = checked.environment();
    let database = init_db::database_config(config, checked.settings()?)?;
    let mut sources = TargetSources::new(config, &bots, &environment, database)?;
    sources.read_database().await?;
    let targets = sources.targets();
    let scan = move || {
        let events = Arc::new(Watcher::start().0);
        let look = |(index, entry): (u64, WatchTarget)| {
            let mut scanner =
                TargetScanner::new(Arc::new(entry.clone()), index, Arc::clone(&events), ClockSource::Local);
            let found = scanner.scan(Vec::new(), ScanScope::Full);
            ScannedTarget { target: entry, found }
        };
        (0..).zip(targets).map(look).collect::<Vec<_>>()
    };
    blocking(scan).await
}
