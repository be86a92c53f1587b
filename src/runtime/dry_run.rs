//! A dry run of a start in a copy of the environment: for `config check`, and before a changed configuration is applied.

use std::fs;
use std::path::{Path, PathBuf};

use tracing::subscriber::{NoSubscriber, with_default};

use crate::bots;
use crate::bots::config_source::ConfigFiles;
use crate::bots::context::BotsContext;
use crate::bots::django_settings::DjangoSettings;
use crate::bots::environment::Environment;
use crate::bots::python_session::PythonSession;
use crate::bots::{Installation, seed_usersys};
use crate::config::Config;
use crate::exit::Error;
use crate::fs::atomic;
use crate::model::BotsVersion;
use crate::process::reaper::Reaper;
use crate::pycompat::configparser::{BotsIni, set_value};

use super::bots_environment::{blocking, child_variables, find_bots, temporary_directory};
use crate::fs::temp_dir::{PrivateTempDir, make_private};

/// Directories of an environment, by their names below it and in bots.ini.
const USERSYS: &str = "usersys";
const BOTSSYS: &str = "botssys";

/// The result of a dry run.
pub(crate) struct DryRunResult {
    /// The errors of a start.
    pub faults: Vec<String>,
    /// Django's settings, where the dry run got so far, with the paths of the environment itself.
    pub django: Option<DjangoSettings>,
}

/// Finds all errors of a start, without changing the environment. Errors of one part do not keep the others from being
/// checked. `source` are the mounted files, where they were read already; `has_faults` is set where errors are known
/// already; `services` checks the services that would run, where all else is in order.
///
/// # Errors
/// When there can be no dry run.
pub(crate) async fn dry_run(
    config: &Config,
    reaper: &Reaper,
    source: Option<&ConfigFiles>,
    has_faults: bool,
    services: impl FnOnce(&BotsContext<'_>, &DjangoSettings) -> Result<(), Error>,
) -> Result<DryRunResult, Error> {
    let bots = match find_bots(config, reaper).await {
        Ok(bots) => bots,
        // Without Bots there can be no dry run; the exit code shows it unless there are other errors.
        Err(error) if !has_faults => return Err(error.into()),
        Err(error) => return Ok(DryRunResult { faults: Error::from(error).faults().to_vec(), django: None }),
    };
    let (real, installed, mounted) = (config.clone(), bots.clone(), source.cloned());
    let (staging, prepared) = blocking(move || stage(&real, &installed, mounted.as_ref())).await??;
    let (environment, mut faults) = match prepared {
        Ok(environment) => (environment, Vec::new()),
        Err(error) => (Environment::paths(&staging.config), Error::from(error).faults().to_vec()),
    };
    faults.extend(check_secret_key(config).err().iter().map(ToString::to_string));
    let mut variables = child_variables(&staging.config, Some(&bots.bin_dir));
    // Through a link to the user's own packages, bytecode would end up beside them.
    variables.0.push(("PYTHONDONTWRITEBYTECODE".to_owned(), "1".into()));
    let context = BotsContext { reaper, bots: &bots, environment: &environment, variables: &variables };
    let settings = match faults.is_empty() {
        true => PythonSession::start(&context).await.map(|(_, django)| Some(django)),
        false if environment.config.join("settings.py").exists() => {
            PythonSession::import_settings_only(&context).await.map(|()| None)
        }
        false => Ok(None),
    };
    let loaded = settings.unwrap_or_else(|error| {
        faults.extend(Error::from(error).faults().to_vec());
        None
    });
    if let Some(loaded) = &loaded {
        faults.extend(services(&context, loaded).err().iter().flat_map(|error| error.faults().to_vec()));
    }
    let faults = faults.into_iter().map(|fault| staging.map_paths_back(&fault)).collect();
    let loaded = loaded.map(|mut loaded| {
        loaded.database.name = staging.map_paths_back(&loaded.database.name);
        loaded
    });
    Ok(DryRunResult { faults, django: loaded })
}

/// Checks the secret key, of which the copy has one of its own, so that no secret leaves its place.
fn check_secret_key(config: &Config) -> Result<(), bots::Error> {
    let key = Environment::paths(config).secret_key_file();
    match fs::symlink_metadata(&key).is_ok() {
        true => Ok(atomic::read_secret(&key, "key").map(|_| ())?),
        false => Ok(()),
    }
}

/// Makes the copy and prepares it, without the log lines of changes to it.
fn stage(
    config: &Config,
    bots: &Installation,
    source: Option<&ConfigFiles>,
) -> Result<(StagedEnvironment, Result<Environment, bots::Error>), Error> {
    let staging = StagedEnvironment::new(config, bots.bots_version(), source)?;
    let paths = &staging.config.environment;
    let source = ConfigFiles::mounted(&paths.config_source, &paths.config_dir);
    let prepare = || Environment::prepare(&staging.config, bots, &source?);
    let prepared = with_default(NoSubscriber::new(), prepare);
    Ok((staging, prepared))
}

/// A copy of the environment for the dry run of a start: its configuration files, a storage of its own, and links
/// to the rest.
struct StagedEnvironment {
    scratch: PrivateTempDir,
    real: PathBuf,
    real_source: PathBuf,
    real_usersys: PathBuf,
    config: Config,
}

impl StagedEnvironment {
    fn new(config: &Config, generation: BotsVersion, source: Option<&ConfigFiles>) -> Result<Self, Error> {
        let real = config.environment_root().to_path_buf();
        let scratch = PrivateTempDir::new(&temporary_directory(config).unwrap_or_else(std::env::temp_dir))?;
        let root = scratch.path();
        let real_config = &config.environment.config_dir;
        let mut staged = config.clone();
        staged.environment.config_dir = root.join(real_config.file_name().unwrap_or_default());
        // Nothing is filled through a link: a check leaves an empty directory empty.
        staged.environment.seed_grammars = PathBuf::from("/nonexistent");
        let real_source = std::mem::replace(&mut staged.environment.config_source, root.join("config-source"));
        let real_usersys = real.join(USERSYS);
        let mut staging = Self { scratch, real, real_source, real_usersys, config: staged };
        let paths = &staging.config.environment;
        let (staged_config, staged_source) = (paths.config_dir.clone(), paths.config_source.clone());
        make_private(&staged_config)?;
        make_private(&staged_source)?;
        link_all(&staging.real, staging.root(), |name, _| [USERSYS, BOTSSYS, "secret-key"].contains(&name))?;
        link_all(real_config, &staged_config, |_, path| path.is_file())?;
        copy_files(real_config, &staged_config)?;
        match source {
            Some(source) => source.write_to(&staged_source)?,
            None => copy_files(&staging.real_source, &staged_source)?,
        }
        // The mounted files come second, since they count.
        for directory in [staged_config, staged_source] {
            staging.rewrite_ini_paths(&directory.join("bots.ini"), generation)?;
        }
        staging.link_usersys()?;
        Ok(staging)
    }

    fn root(&self) -> &Path {
        self.scratch.path()
    }

    /// Bots makes directories in its storage as soon as it reads its settings, and a start makes files in usersys: both go
    /// into the copy.
    fn rewrite_ini_paths(&mut self, bots_ini: &Path, generation: BotsVersion) -> Result<(), Error> {
        let Ok(text) = fs::read_to_string(bots_ini) else { return Ok(()) };
        let Ok(ini) = BotsIni::parse(&text) else { return Ok(()) };
        let set = |key| ini.get("directories", key).map(|entry| entry.value);
        let mut paths = Vec::new();
        if set(BOTSSYS).is_some() {
            paths.push((BOTSSYS, self.root().join(BOTSSYS).display().to_string()));
        }
        let usersys = set(USERSYS).filter(|value| !value.is_empty()).unwrap_or(USERSYS);
        self.real_usersys = self.real.join(usersys);
        // A start refuses an absolute one of Bots 3, and so must the dry run.
        let is_refused = generation == BotsVersion::V3 && usersys.starts_with('/');
        if usersys != USERSYS && !is_refused {
            paths.push((USERSYS, USERSYS.to_owned()));
        }
        let redirected = paths.iter().try_fold(text, |text, (key, value)| set_value(&text, "directories", key, value));
        if let Ok(text) = redirected {
            atomic::write_atomically(bots_ini, text.as_bytes(), 0o600)?;
        }
        Ok(())
    }

    /// One link for each entry, so that the directory itself is the copy's own: Bots's start adds files to it.
    fn link_usersys(&self) -> Result<(), Error> {
        if seed_usersys::needs_seeding(&self.real_usersys)? {
            return Ok(());
        }
        let staged = self.root().join(USERSYS);
        atomic::make_dir(&staged)?;
        link_all(&self.real_usersys, &staged, |_, _| false)
    }

    /// Replaces the paths of the copy in a text for the user.
    fn map_paths_back(&self, fault: &str) -> String {
        let (source, usersys) = (&self.config.environment.config_source, self.root().join(USERSYS));
        let paths = [(source.as_path(), &self.real_source), (&usersys, &self.real_usersys), (self.root(), &self.real)];
        paths.into_iter().fold(fault.to_owned(), |fault, (staged, real)| {
            fault.replace(&staged.display().to_string(), &real.display().to_string())
        })
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
        std::os::unix::fs::symlink(entry.path(), &target)
            .map_err(|error| atomic::describe_io_error("link", &target, &error))?;
    }
    Ok(())
}

/// A file that cannot be read is linked to, so that the dry run meets it as a start would.
fn copy_files(from: &Path, to: &Path) -> Result<(), Error> {
    for file in fs::read_dir(from).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let target = to.join(file.file_name().unwrap_or_default());
        let is_other = fs::metadata(&file).is_ok_and(|meta| !meta.is_file());
        if !is_other && fs::copy(&file, &target).is_err() {
            std::os::unix::fs::symlink(&file, &target)
                .map_err(|error| atomic::describe_io_error("link", &target, &error))?;
        }
    }
    Ok(())
}
