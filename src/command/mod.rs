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

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::cli::Global;
use crate::config::{Config, Diagnostic, FlagOverride};
use crate::exit::{Error, Kind};
use crate::runtime::reload_state;

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
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .collect();
    let absolute = |dir: &PathBuf| std::path::absolute(dir).unwrap_or_else(|_| dir.clone()).display().to_string();
    let mut flags = more;
    flags.extend(overrides([
        ("environment.config_dir", "--config-dir", global.config_dir.as_ref().map(absolute)),
        ("log.level", "--log-level", global.log_level.clone()),
    ]));
    let home = home_dir(environment.get("HOME"))?;
    let committed = reload_state::own_file();
    let file = committed.as_deref().or(global.config.as_deref());
    Ok(Config::read(&environment, &flags, file, &home))
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

/// `HOME`, else what the user database says, as Bots itself does.
fn home_dir(variable: Option<&String>) -> Result<PathBuf, Error> {
    let uid = nix::unistd::getuid();
    let named = variable.filter(|home| home.starts_with('/')).map(PathBuf::from);
    let known = || nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.dir);
    named.or_else(known).ok_or_else(|| {
        let text = format!("HOME is not set, and user {uid} has no home directory: set HOME to a writable directory");
        Error::new(Kind::Configuration, text)
    })
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
