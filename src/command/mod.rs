//! One file per command: it parses its flags, calls a layer below, and prints.

pub mod completions;
pub mod config;
pub mod dirmonitor;
pub mod engine;
pub mod exec;
pub mod healthcheck;
pub mod init_db;
pub mod install;
pub mod job;
pub mod jobqueue;
pub mod status;
pub mod up;
pub mod webserver;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::cli::Global;
use crate::config::{Config, Diagnostic, FlagOverride};
use crate::exit::{Error, Kind};
use crate::runtime::reload_state;

/// Reads the configuration for a command line; `more` holds what its own flags set.
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
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .collect();
    let overrides = global_overrides(global, more);
    let home = home_dir(environment.get("HOME"))?;
    let committed = reload_state::own_file();
    let file = committed.as_deref().or(global.config.as_deref());
    let (config, faults) = Config::read(&environment, &overrides, file, &home);
    Ok((config, faults))
}

/// Where the listener of this container is, and what is wrong with the configuration. Whoever runs may have refused that and
/// go on with the one before, so it is told only when nobody answers.
fn health_addr(global: &Global) -> Result<(SocketAddr, Option<Error>), Error> {
    let (config, faults) = read_config(global, Vec::new())?;
    let faults: Vec<String> = faults.into_iter().map(|fault| fault.text).collect();
    Ok((config.health.addr, (!faults.is_empty()).then(|| Error::all(Kind::Configuration, faults))))
}

fn global_overrides(global: &Global, more: Vec<FlagOverride>) -> Vec<FlagOverride> {
    let mut overrides = more;
    if let Some(dir) = &global.config_dir {
        let value = std::path::absolute(dir).unwrap_or_else(|_| dir.clone()).display().to_string();
        overrides.push(FlagOverride { path: "environment.config_dir", flag: "--config-dir", value });
    }
    if let Some(level) = &global.log_level {
        overrides.push(FlagOverride { path: "log.level", flag: "--log-level", value: level.clone() });
    }
    overrides
}

/// The flag `--health-addr`, where a command has it.
fn health_override(value: Option<&String>) -> Vec<FlagOverride> {
    let given = value.map(|value| FlagOverride { path: "health.addr", flag: "--health-addr", value: value.clone() });
    given.into_iter().collect()
}

/// `HOME`, else what the user database says, as Bots itself does.
fn home_dir(variable: Option<&String>) -> Result<PathBuf, Error> {
    let named = variable.filter(|home| home.starts_with('/')).map(PathBuf::from);
    let known = || nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.dir);
    named.or_else(known).ok_or_else(|| {
        let uid = nix::unistd::getuid();
        let text = format!("HOME is not set, and user {uid} has no home directory: set HOME to a writable directory");
        Error::new(Kind::Configuration, text)
    })
}

/// Writes a command's result. A reader that went away is no failure.
fn write_stdout(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}
