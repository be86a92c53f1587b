//! One file per command: it parses its flags, calls a layer below, and prints.

pub mod completions;
pub mod config;
pub mod dirmonitor;
pub mod engine;
pub mod exec;
pub mod files;
pub mod healthcheck;
pub mod init_db;
pub mod install;
pub mod job;
pub mod jobqueue;
pub mod status;
pub mod up;
pub mod webserver;

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::cli::Global;
use crate::config::{Config, Diagnostic, FlagOverride};
use crate::exit::{Error, Kind};
use crate::runtime::config_inputs::ConfigInputs;

/// Reads the configuration for a command line; `more` are the overrides by flags of the command itself.
fn load_config(global: &Global, more: Vec<FlagOverride>) -> Result<Config, Error> {
    let (config, faults) = read_config(global, more)?;
    if faults.is_empty() {
        return Ok(config);
    }
    let kind = if faults.iter().all(|fault| fault.is_from_command_line) { Kind::Usage } else { Kind::Configuration };
    Err(Error::all(kind, faults.into_iter().map(|fault| fault.text).collect()))
}

/// As [`load_config`]; faults do not keep the rest from being read.
fn read_config(global: &Global, more: Vec<FlagOverride>) -> Result<(Config, Vec<Diagnostic>), Error> {
    config_inputs(global, more).read()
}

/// Where the configuration of a command line is read from, again at each reload.
fn config_inputs(global: &Global, more: Vec<FlagOverride>) -> ConfigInputs {
    let absolute = |dir: &PathBuf| std::path::absolute(dir).unwrap_or_else(|_| dir.clone()).display().to_string();
    let mut flags = more;
    flags.extend(overrides([
        ("environment.config_dir", "--config-dir", global.config_dir.as_ref().map(absolute)),
        ("log.level", "--log-level", global.log_level.clone()),
    ]));
    ConfigInputs { overrides: flags, file: global.config.clone() }
}

/// The address of this container's health listener, and the faults of the configuration. The running bots-ctl may have refused
/// a faulty one and use the one before, so callers report the faults only when nothing answers.
fn health_addr(global: &Global) -> Result<(SocketAddr, Option<Error>), Error> {
    let (config, faults) = read_config(global, Vec::new())?;
    let faults: Vec<String> = faults.into_iter().map(|fault| fault.text).collect();
    Ok((config.health.addr, (!faults.is_empty()).then(|| Error::all(Kind::Configuration, faults))))
}

/// The flags that were given, of those that set a key of the configuration: key, flag and value.
fn overrides<const N: usize>(flags: [(&'static str, &'static str, Option<String>); N]) -> Vec<FlagOverride> {
    let given = flags.into_iter().filter_map(|(path, flag, value)| Some(FlagOverride { path, flag, value: value? }));
    given.collect()
}

/// Writes a line of a command's result.
fn write_line(line: &(impl Display + ?Sized)) {
    write_stdout(&format!("{line}\n"));
}

/// Writes a command's result. A reader that went away is no failure.
fn write_stdout(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}
