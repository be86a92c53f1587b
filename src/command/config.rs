//! `config show` and `config check`.

use std::cell::Cell;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::bots::django::{Context, Facts};
use crate::bots::environment::{Environment, random_text};
use crate::bots::{files, seed};
use crate::cli::Global;
use crate::config::{Config, Log, LogLevel};
use crate::exit::{Error, Kind, Outcome};
use crate::process::reaper::Reaper;

use super::{
    Session, child_variables, find_bots, load_config, print, read_config, temporary_directory, until_stopped,
    with_session,
};

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
        let work = check_staged(config, reaper);
        let Ok(found) = until_stopped(signals, &Cell::new(false), work).await else {
            return Err(Error::new(Kind::CheckNotRun, "interrupted"));
        };
        faults.extend(found?);
        if !faults.is_empty() {
            return Err(Error::all(Kind::Configuration, faults));
        }
        print("the configuration is valid\n");
        Ok(Outcome::Success)
    })
}

/// Rehearses a start in a copy. Faults of one part do not keep the others from being looked at.
async fn check_staged(config: &Config, reaper: &Reaper) -> Result<Vec<String>, Error> {
    let bots = match find_bots(config, reaper).await {
        Ok(bots) => bots,
        Err(error) => return Ok(vec![error.to_string()]),
    };
    let staging = Staging::new(config)?;
    let (environment, mut faults) = match Environment::prepare(&staging.config, &bots) {
        Ok(environment) => (environment, Vec::new()),
        Err(error) => (Environment::layout(&staging.config), Error::from(error).faults().to_vec()),
    };
    let variables = child_variables(&staging.config, Some(&bots.bin_dir));
    let context = Context { reaper, bots: &bots, environment: &environment, variables: &variables };
    let settings =
        if faults.is_empty() { Facts::ask(&context).await.map(|_| ()) } else { Facts::try_settings(&context).await };
    if let Err(error) = settings {
        faults.extend(Error::from(error).faults().to_vec());
    }
    Ok(faults.into_iter().map(|fault| staging.in_users_terms(&fault)).collect())
}

/// A copy of the environment in which a start is rehearsed: its configuration files, and links to the rest.
struct Staging {
    root: PathBuf,
    real: PathBuf,
    config: Config,
}

impl Staging {
    fn new(config: &Config) -> Result<Self, Error> {
        let real = config.environment_root().to_path_buf();
        let temporary = temporary_directory(config).unwrap_or_else(std::env::temp_dir);
        let root = temporary.join(format!("bots-ctl-check-{}", random_text(12)));
        let real_config = &config.environment.config_dir;
        let mut staged = config.clone();
        staged.environment.config_dir = root.join(real_config.file_name().unwrap_or_default());
        // Nothing is filled through a link: what a check finds empty stays so.
        staged.environment.seed_grammars = PathBuf::from("/nonexistent");
        let staging = Self { root, real, config: staged };
        let staged_config = &staging.config.environment.config_dir;
        for dir in [&staging.root, staged_config] {
            // Configuration may hold passwords.
            let made = DirBuilder::new().mode(0o700).create(dir);
            made.map_err(|error| files::explain("create the directory", dir, &error))?;
        }
        link_all(&staging.real, &staging.root, |name, _| ["usersys", "botssys"].contains(&name))?;
        link_all(real_config, staged_config, |_, path| path.is_file())?;
        copy_files(real_config, staged_config)?;
        staging.link_usersys()?;
        Ok(staging)
    }

    /// One link for each entry, so that the directory itself is the copy's own: Bots's start adds files to it.
    fn link_usersys(&self) -> Result<(), Error> {
        let (real, staged) = (self.real.join("usersys"), self.root.join("usersys"));
        if seed::needs_seeding(&real)? {
            return Ok(());
        }
        files::make_dir(&staged)?;
        link_all(&real, &staged, |_, _| false)
    }

    /// The user knows nothing of the copy.
    fn in_users_terms(&self, fault: &str) -> String {
        fault.replace(&self.root.display().to_string(), &self.real.display().to_string())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn link_all(from: &Path, to: &Path, leave_out: impl Fn(&str, &Path) -> bool) -> Result<(), Error> {
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let target = to.join(&name);
        let own = name.as_encoded_bytes().starts_with(b".bots-ctl");
        if own || target.exists() || leave_out(&name.to_string_lossy(), &entry.path()) {
            continue;
        }
        std::os::unix::fs::symlink(entry.path(), &target).map_err(|error| files::explain("link", &target, &error))?;
    }
    Ok(())
}

fn copy_files(from: &Path, to: &Path) -> Result<(), Error> {
    let files = fs::read_dir(from).into_iter().flatten().flatten().map(|entry| entry.path());
    for file in files.filter(|path| path.is_file()) {
        let target = to.join(file.file_name().unwrap_or_default());
        fs::copy(&file, &target).map_err(|error| files::explain("copy", &file, &error))?;
    }
    Ok(())
}
