//! `config show` and `config check`.

use tokio_util::task::TaskTracker;

use crate::cli::Global;
use crate::config::{Config, LogConfig, LogLevel};
use crate::exit::{Error, Kind, Outcome};
use crate::telemetry::escape::escape_control;

use super::{load_config, read_config, write_line};
use crate::runtime::channel_masks;
use crate::runtime::dry_run::dry_run;
use crate::runtime::session::{App, run_until_shutdown, with_app};

/// Prints every setting with its effective value and where that came from.
///
/// # Errors
/// When the configuration is not valid.
pub fn show(global: &Global) -> Result<Outcome, Error> {
    let config = load_config(global, Vec::new())?;
    let settings = &config.effective_settings;
    let width = settings.iter().map(|setting| setting.setting.path.len()).max().unwrap_or(0);
    let value_width = settings.iter().map(|setting| setting.value.len()).filter(|w| *w <= 40).max().unwrap_or(0);
    for setting in settings {
        let value = if setting.value.is_empty() { "-" } else { &setting.value };
        write_line(&format!("{:width$}  {value:value_width$}  {}", setting.setting.path, setting.origin));
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
    let quiet = LogConfig { level: config.log.level.min(LogLevel::Warn), ..config.log };
    with_app(Config { log: quiet, ..config }, async |mut session| {
        let App { config, reaper, signals, .. } = &mut session;
        let work = dry_run(config, reaper, None, !faults.is_empty(), |_, _| Ok(()));
        let Ok(found) = run_until_shutdown(signals, &TaskTracker::new(), work).await else {
            return Err(Error::new(Kind::CheckNotRun, "interrupted"));
        };
        let found = found?;
        faults.extend(found.faults);
        if !faults.is_empty() {
            return Err(Error::all(Kind::Configuration, faults));
        }
        if let Some(django) = found.django {
            let warnings = channel_masks::warnings(config, reaper, &django).await;
            warnings.iter().for_each(|warning| write_line(&format!("note: {}", escape_control(warning))));
        }
        write_line("the configuration is valid");
        Ok(Outcome::Success)
    })
}
