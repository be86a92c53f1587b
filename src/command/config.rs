//! `config show` and `config check`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::bots::django::{Context, Facts};
use crate::bots::environment::{Environment, random_text};
use crate::bots::files;
use crate::cli::Global;
use crate::config::Config;
use crate::exit::{Error, Outcome};

use super::{Session, child_variables, find_bots, load_config, print, temporary_directory, with_session};

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

/// Checks everything that a start would trip over, without changing the environment.
///
/// # Errors
/// All faults that were found.
pub fn check(global: &Global) -> Result<Outcome, Error> {
    with_session(load_config(global, Vec::new())?, async |session| {
        let staging = Staging::new(&session.config)?;
        let checked = check_staged(&session, &staging).await;
        checked.map_err(|error| staging.in_users_terms(&error))?;
        print("the configuration is valid\n");
        Ok(Outcome::Success)
    })
}

async fn check_staged(session: &Session, staging: &Staging) -> Result<(), Error> {
    let bots = find_bots(session).await?;
    let environment = Environment::prepare(&staging.config, &bots)?;
    let variables = child_variables(&staging.config, Some(&bots.bin_dir));
    let context = Context { reaper: &session.reaper, bots: &bots, environment: &environment, variables: &variables };
    Facts::ask(&context).await?;
    Ok(())
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
        let name = config.environment.config_dir.file_name().unwrap_or_default();
        let mut staged = config.clone();
        staged.environment.config_dir = root.join(name);
        let staging = Self { root, real, config: staged };
        files::make_dir(&staging.config.environment.config_dir)?;
        copy_files(&config.environment.config_dir, &staging.config.environment.config_dir)?;
        for name in ["usersys", "secret-key"] {
            let (from, to) = (staging.real.join(name), staging.root.join(name));
            if from.exists() {
                std::os::unix::fs::symlink(&from, &to).map_err(|error| files::explain("link", &to, &error))?;
            }
        }
        Ok(staging)
    }

    /// The user knows nothing of the copy.
    fn in_users_terms(&self, error: &Error) -> Error {
        let (staged, real) = (self.root.display().to_string(), self.real.display().to_string());
        let faults = error.faults().iter().map(|fault| fault.replace(&staged, &real)).collect();
        Error::all(error.kind(), faults)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn copy_files(from: &Path, to: &Path) -> Result<(), Error> {
    let files = fs::read_dir(from).into_iter().flatten().flatten().map(|entry| entry.path());
    for file in files.filter(|path| path.is_file()) {
        let target = to.join(file.file_name().unwrap_or_default());
        fs::copy(&file, &target).map_err(|error| files::explain("copy", &file, &error))?;
    }
    Ok(())
}
