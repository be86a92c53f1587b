//! `config show` and `config check`.

use std::cell::Cell;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::bots::django::{Context, Facts};
use crate::bots::environment::{Environment, random_text};
use crate::bots::{files, seed};
use crate::cli::Global;
use crate::config::bots_ini::{BotsIni, set_value};
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
        let work = check_staged(config, reaper, &faults);
        let Ok(found) = until_stopped(signals, &Cell::new(false), work).await else {
            return Err(Error::new(Kind::CheckNotRun, "interrupted"));
        };
        let found = found?;
        faults.extend(found);
        if !faults.is_empty() {
            return Err(Error::all(Kind::Configuration, faults));
        }
        print("the configuration is valid\n");
        Ok(Outcome::Success)
    })
}

/// Rehearses a start in a copy. Faults of one part do not keep the others from being looked at.
async fn check_staged(config: &Config, reaper: &Reaper, found_before: &[String]) -> Result<Vec<String>, Error> {
    let bots = match find_bots(config, reaper).await {
        Ok(bots) => bots,
        // Without Bots there is nothing to rehearse with, and the code says so unless there is more to say.
        Err(error) if found_before.is_empty() => return Err(error.into()),
        Err(error) => return Ok(Error::from(error).faults().to_vec()),
    };
    let staging = Staging::new(config)?;
    let (environment, mut faults) = match Environment::prepare(&staging.config, &bots) {
        Ok(environment) => (environment, Vec::new()),
        Err(error) => (Environment::layout(&staging.config), Error::from(error).faults().to_vec()),
    };
    let mut variables = child_variables(&staging.config, Some(&bots.bin_dir));
    // Through a link to the user's own packages, bytecode would end up beside them.
    variables.0.push(("PYTHONDONTWRITEBYTECODE".to_owned(), "1".into()));
    let context = Context { reaper, bots: &bots, environment: &environment, variables: &variables };
    let settings = match faults.is_empty() {
        true => Facts::ask(&context).await.map(|_| ()),
        false if environment.config.join("settings.py").exists() => Facts::try_settings(&context).await,
        false => Ok(()),
    };
    if let Err(error) = settings {
        faults.extend(Error::from(error).faults().to_vec());
    }
    Ok(faults.into_iter().map(|fault| staging.in_users_terms(&fault)).collect())
}

/// A copy of the environment in which a start is rehearsed: its configuration files, a storage of its own, and links
/// to the rest.
struct Staging {
    root: PathBuf,
    real: PathBuf,
    real_source: PathBuf,
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
        let real_source = std::mem::replace(&mut staged.environment.config_source, root.join("config-source"));
        let staging = Self { root, real, real_source, config: staged };
        let (staged_config, staged_source) =
            (&staging.config.environment.config_dir, &staging.config.environment.config_source);
        for dir in [&staging.root, staged_config, staged_source] {
            // Configuration may hold passwords.
            let made = DirBuilder::new().mode(0o700).create(dir);
            made.map_err(|error| files::explain("create the directory", dir, &error))?;
        }
        link_all(&staging.real, &staging.root, |name, _| ["usersys", "botssys"].contains(&name))?;
        link_all(real_config, staged_config, |_, path| path.is_file())?;
        for (from, to) in [(real_config, staged_config), (&staging.real_source, staged_source)] {
            copy_files(from, to)?;
            staging.redirect_storage(&to.join("bots.ini"))?;
        }
        staging.link_usersys()?;
        Ok(staging)
    }

    /// Bots makes directories in its storage as soon as it reads its settings.
    fn redirect_storage(&self, bots_ini: &Path) -> Result<(), Error> {
        let Ok(text) = fs::read_to_string(bots_ini) else { return Ok(()) };
        let own = self.root.join("botssys").display().to_string();
        let is_set = BotsIni::parse(&text).is_ok_and(|ini| ini.get("directories", "botssys").is_some());
        if let (true, Ok(text)) = (is_set, set_value(&text, "directories", "botssys", &own)) {
            fs::write(bots_ini, text).map_err(|error| files::explain("write", bots_ini, &error))?;
        }
        Ok(())
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
        let source = self.config.environment.config_source.display().to_string();
        let fault = fault.replace(&source, &self.real_source.display().to_string());
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
        let own = name.as_encoded_bytes().starts_with(b".bots-ctl") || name == "__pycache__";
        if own || target.exists() || leave_out(&name.to_string_lossy(), &entry.path()) {
            continue;
        }
        std::os::unix::fs::symlink(entry.path(), &target).map_err(|error| files::explain("link", &target, &error))?;
    }
    Ok(())
}

/// What cannot be read in the original is linked to, so that the rehearsal meets it as a start would.
fn copy_files(from: &Path, to: &Path) -> Result<(), Error> {
    for file in fs::read_dir(from).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let target = to.join(file.file_name().unwrap_or_default());
        let is_other = fs::metadata(&file).is_ok_and(|meta| !meta.is_file());
        if !is_other && fs::copy(&file, &target).is_err() {
            std::os::unix::fs::symlink(&file, &target).map_err(|error| files::explain("link", &target, &error))?;
        }
    }
    Ok(())
}
