//! `config show` and `config check`.

use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use crate::cli::Global;
use crate::config::layers::hint;
use crate::config::{Config, LogConfig, LogLevel};
use crate::exit::{Error, Kind, Outcome};
use crate::telemetry::escape::escape_control;

use super::{config_inputs, for_one_shot, load_config, run_one_shot_with, write_line};
use crate::runtime::config_check;
use crate::runtime::effective_settings::{EffectiveValue, effective_settings};

/// Prints all values, or one of them, with their sources.
///
/// # Errors
/// When the configuration is not valid, or there is no such key.
pub fn show(global: &Global, key: Option<&str>, json: bool) -> Result<Outcome, Error> {
    let config = load_config(global, Vec::new())?;
    let mut all = effective_settings(&config)?;
    if let Some(key) = key {
        let is_wanted = |known: &EffectiveValue| known.key == key || known.variable == Some(key);
        if !all.iter().any(is_wanted) {
            return Err(unknown_key(key, &all));
        }
        all.retain(is_wanted);
    }
    match (json, key) {
        (true, _) => write_line(&to_json(&all)),
        (false, Some(_)) => all.iter().for_each(|known| write_line(&escape_control(&known.value))),
        (false, None) => write_table(&all),
    }
    Ok(Outcome::Success)
}

fn unknown_key(key: &str, all: &[EffectiveValue]) -> Error {
    let known: Vec<String> = all.iter().map(|known| known.key.clone()).collect();
    Error::new(Kind::Usage, format!("there is no key {key:?}; {}", hint(key, known.iter(), "keys")))
}

fn to_json(all: &[EffectiveValue]) -> String {
    let value = |known: &EffectiveValue| {
        let value = Some(&known.value).filter(|value| !value.is_empty());
        (known.key.clone(), json!({"value": value, "origin": known.origin}))
    };
    format!("{:#}", Value::Object(all.iter().map(value).collect()))
}

fn write_table(all: &[EffectiveValue]) {
    let width = all.iter().map(|known| known.key.len()).max().unwrap_or(0);
    let value_width = all.iter().map(|known| known.value.len()).filter(|width| *width <= 40).max().unwrap_or(0);
    for known in all {
        let value = if known.value.is_empty() { "-" } else { &known.value };
        let (key, value) = (escape_control(&known.key), escape_control(value));
        write_line(&format!("{key:width$}  {value:value_width$}  {}", escape_control(&known.origin)));
    }
}

/// Reports all errors that would make a start fail, without changing the environment.
///
/// # Errors
/// All faults that were found.
pub fn check(global: &Global) -> Result<Outcome, Error> {
    let (config, faults) = config_inputs(global, Vec::new()).read_in_use()?;
    let config = for_one_shot(config);
    let mut faults: Vec<String> = faults.into_iter().map(|fault| fault.text).collect();
    let quiet = LogConfig { level: config.log.level.min(LogLevel::Warn), ..config.log };
    run_one_shot_with(Config { log: quiet, ..config }, &TaskTracker::new(), async |config, reaper| {
        match config_check::check(config, reaper).await {
            Ok(found) => {
                faults.extend(found.faults);
                found.notes.iter().for_each(|note| write_line(&format!("note: {}", escape_control(note))));
            }
            // Without Bots, nothing can be checked; the exit code shows it, unless there are other errors.
            Err(error) if faults.is_empty() => return Err(error),
            Err(error) => faults.extend(error.into_faults()),
        }
        if !faults.is_empty() {
            return Err(Error::all(Kind::Configuration, faults));
        }
        write_line("the configuration is valid");
        Ok(Outcome::Success)
    })
}
