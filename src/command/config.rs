//! `config show` and `config check`.

use tokio_util::task::TaskTracker;

use crate::cli::Global;
use crate::config::{Config, LogConfig, LogLevel};
use crate::exit::{Error, Kind, Outcome};
use crate::telemetry::escape::escape_control;

use super::{load_config, read_config, write_line};
use crate::runtime::config_check;
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
        let Ok(found) = run_until_shutdown(signals, &TaskTracker::new(), config_check::check(config, reaper)).await
        else {
            return Err(Error::new(Kind::CheckNotRun, "interrupted"));
        };
        match found {
            Ok(found) => {
                faults.extend(found.faults);
                found.notes.iter().for_each(|note| write_line(&format!("note: {}", escape_control(note))));
            }
            // Without Bots there can be no check; the exit code shows it unless there are other faults.
            Err(error) if faults.is_empty() => return Err(error),
            Err(error) => faults.extend(error.faults().to_vec()),
        }
        if !faults.is_empty() {
            return Err(Error::all(Kind::Configuration, faults));
        }
        write_line("the configuration is valid");
        Ok(Outcome::Success)
    })
}
