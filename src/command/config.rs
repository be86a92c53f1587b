//! `config show` and `config check`.

use std::cell::Cell;

use crate::cli::Global;
use crate::config::{Config, Log, LogLevel};
use crate::exit::{Error, Kind, Outcome};
use crate::telemetry::escape::shown;

use super::{load_config, print, read_config};
use crate::runtime::channel_masks;
use crate::runtime::dry_run::rehearse;
use crate::runtime::session::{Session, until_stopped, with_session};

/// Prints every setting with its effective value and where that came from.
///
/// # Errors
/// When the configuration is not valid.
pub fn show(global: &Global) -> Result<Outcome, Error> {
    let config = load_config(global, Vec::new())?;
    let width = config.shown.iter().map(|shown| shown.path.len()).max().unwrap_or(0);
    let value_width = config.shown.iter().map(|shown| shown.value.len()).filter(|w| *w <= 40).max().unwrap_or(0);
    for shown in &config.shown {
        let value = if shown.value.is_empty() { "-" } else { &shown.value };
        print(&format!("{:width$}  {value:value_width$}  {}\n", shown.path, shown.origin));
    }
    Ok(Outcome::Success)
}

/// Checks everything that a start would trip over, all of it at once, without changing the environment.
///
/// # Errors
/// All faults that were found.
pub fn check(global: &Global) -> Result<Outcome, Error> {
    let (config, faults) = read_config(global, Vec::new())?;
    let mut faults: Vec<String> = faults.into_iter().map(|fault| fault.text).collect();
    let quiet = Log { level: config.log.level.min(LogLevel::Warn), ..config.log };
    with_session(Config { log: quiet, ..config }, async |mut session| {
        let Session { config, reaper, signals, .. } = &mut session;
        let work = rehearse(config, reaper, None, !faults.is_empty());
        let Ok(found) = until_stopped(signals, &Cell::new(false), work).await else {
            return Err(Error::new(Kind::CheckNotRun, "interrupted"));
        };
        let found = found?;
        faults.extend(found.faults);
        if !faults.is_empty() {
            return Err(Error::all(Kind::Configuration, faults));
        }
        if let Some(facts) = found.facts {
            let notes = channel_masks::notes(config, reaper, &facts).await;
            notes.iter().for_each(|note| print(&format!("note: {}\n", shown(note))));
        }
        print("the configuration is valid\n");
        Ok(Outcome::Success)
    })
}
