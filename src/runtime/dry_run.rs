//! A dry run of a start in a copy of the environment: for `config check`, and before a changed configuration is committed.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tracing::subscriber::{NoSubscriber, with_default};

use crate::bots::config_source::{ConfigFiles, Digest};
use crate::bots::context::BotsContext;
use crate::bots::django_settings::DjangoSettings;
use crate::bots::engine_shim::means_no_links;
use crate::bots::environment::{ConfigUpdate, Environment};
use crate::bots::loaded_files::directory_digest;
use crate::bots::python_session::PythonSession;
use crate::bots::{self, Installation, seed_usersys};
use crate::config::Config;
use crate::exit::{Error, Kind};
use crate::fs::atomic;
use crate::fs::regular;
use crate::fs::temp_dir::{PrivateTempDir, make_private};
use crate::process::reaper::Reaper;
use crate::pycompat::configparser::set_value;

use super::bots_environment::{blocking, child_variables, temporary_directory};

/// Directories of an environment, by their names below it and in bots.ini.
const USERSYS: &str = "usersys";
const BOTSSYS: &str = "botssys";

/// The result of a dry run.
pub(crate) struct DryRunResult {
    /// The errors of a start.
    pub faults: Vec<String>,
    /// Django's settings, if the dry run got that far, with the paths of the real environment.
    pub django: Option<DjangoSettings>,
    /// The copy, which goes with this.
    staging: StagedEnvironment,
}

impl DryRunResult {
    /// The environment after a start: the configuration of the copy, and everything else at its real path.
    pub fn environment(&self) -> Environment {
        Environment { config: self.staging.copy.config.clone(), ..self.staging.real.clone() }
    }

    /// Replaces the paths of the copy in a text for the user.
    pub fn describe(&self, text: &str) -> String {
        self.staging.describe(text)
    }

    /// Django's settings, or all errors.
    pub fn settings(&self) -> Result<&DjangoSettings, Error> {
        match &self.django {
            Some(django) if self.faults.is_empty() => Ok(django),
            _ => Err(Error::all(Kind::Configuration, self.faults.clone())),
        }
    }
}

/// Finds all errors of a start, without changing the environment. Errors of one part do not prevent checks of the
/// others. `source` are the mounted files; `services` checks the services to be started, if everything else is valid.
///
/// # Errors
/// If the dry run itself fails.
pub(crate) async fn dry_run(
    config: &Config,
    reaper: &Reaper,
    bots: &Installation,
    source: Result<ConfigFiles, Error>,
    services: impl FnOnce(&BotsContext<'_>, &DjangoSettings) -> Result<(), Error>,
) -> Result<DryRunResult, Error> {
    let mut faults: Vec<String> = Vec::new();
    let source = source.unwrap_or_else(|error| {
        faults.extend(error.into_faults());
        ConfigFiles::default()
    });
    let (real, installed) = (config.clone(), bots.clone());
    let (staging, found) = blocking(move || StagedEnvironment::new(&real, &installed, &source)).await??;
    faults.extend(found);
    let variables = child_variables(&staging.config, Some(&bots.bin_dir));
    let context = BotsContext { reaper, bots, environment: &staging.copy, variables: &variables };
    let settings = match faults.is_empty() {
        true => PythonSession::check(&context).await.map(Some),
        false if staging.copy.config.join("settings.py").exists() => {
            PythonSession::import_settings_only(&context).await.map(|()| None)
        }
        false => Ok(None),
    };
    let loaded = match settings {
        Ok(loaded) => loaded,
        Err(bots::Error::Faults(found)) => {
            faults.extend(found);
            None
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(loaded) = &loaded {
        faults.extend(services(&context, loaded).err().into_iter().flat_map(Error::into_faults));
    }
    let faults = faults.into_iter().map(|fault| staging.describe(&fault)).collect();
    let django = loaded.map(|loaded| loaded.map_paths(staging.validated, |path| staging.map_paths_back(path)));
    Ok(DryRunResult { faults, django, staging })
}

/// A copy of the environment for a dry run: its configuration files, a private data directory, and links to everything
/// else.
struct StagedEnvironment {
    /// The environment as a start would have it.
    real: Environment,
    copy: Environment,
    /// Files of the copy, and the mounted files from which they were copied.
    mounted: Vec<(PathBuf, PathBuf)>,
    /// The digest of the configuration directory after a start.
    validated: Digest,
    /// With the copy as the environment.
    config: Config,
    _scratch: PrivateTempDir,
}

impl StagedEnvironment {
    /// Creates the copy, and returns it with the errors that can be found without Python.
    fn new(config: &Config, bots: &Installation, source: &ConfigFiles) -> Result<(Self, Vec<String>), Error> {
        let (real, update, mut faults) = match Environment::plan(config, bots, source) {
            Ok((real, update)) => (real, update, Vec::new()),
            Err(error) => (
                Environment::paths(config),
                ConfigUpdate::of_settings(config, source),
                Error::from(error).into_faults(),
            ),
        };
        if faults.is_empty() {
            faults.extend(check_in_place(&real).iter().map(ToString::to_string));
        }
        let scratch = PrivateTempDir::new(&temporary_directory(config).unwrap_or_else(std::env::temp_dir))?;
        let root = scratch.path().to_path_buf();
        let copy = Environment {
            config: root.join(real.config.file_name().unwrap_or_default()),
            botssys: root.join(BOTSSYS),
            usersys: root.join(USERSYS),
            root,
        };
        let mut config = config.clone();
        config.environment.config_dir.clone_from(&copy.config);
        // Nothing is filled through a link: a check leaves an empty directory empty.
        config.environment.seed_grammars = PathBuf::from("/nonexistent");
        let mounted =
            source.files_except(&[]).map(|(name, file)| (copy.config.join(name), file.path.clone())).collect();
        let mut staging = Self { real, copy, mounted, validated: Digest::default(), config, _scratch: scratch };
        staging.fill(&update)?;
        let completed = with_default(NoSubscriber::new(), || staging.copy.complete(&staging.config, bots));
        if faults.is_empty() {
            faults.extend(completed.err().into_iter().flat_map(|error| Error::from(error).into_faults()));
        }
        Ok((staging, faults))
    }

    fn fill(&mut self, update: &ConfigUpdate) -> Result<(), Error> {
        let Self { real, copy, validated, .. } = self;
        make_private(&copy.config)?;
        link_all(&real.root, &copy.root, |name, _| [USERSYS, BOTSSYS, "secret-key"].contains(&name))?;
        link_all(&real.config, &copy.config, |_, path| !path.is_dir())?;
        copy_files(&real.config, &copy.config)?;
        for (path, content, mode) in update.files() {
            atomic::write_atomically(&copy.config.join(path.file_name().unwrap_or_default()), content, mode)?;
        }
        atomic::create_if_absent(&copy.config.join("__init__.py"), b"", 0o644)?;
        *validated = directory_digest(&copy.config);
        // Bots makes directories in its storage as soon as it reads its settings, and a start makes files in usersys.
        let ini = copy.ini_file();
        let storage = copy.botssys.display().to_string();
        let redirected = regular::read_to_string(&ini).ok().and_then(|text| {
            let text = set_value(&text, "directories", BOTSSYS, &storage).ok()?;
            set_value(&text, "directories", USERSYS, USERSYS).ok()
        });
        if let Some(text) = redirected {
            atomic::write_atomically(&ini, text.as_bytes(), 0o600)?;
        }
        // One link per entry, so that the directory itself belongs to the copy.
        if !seed_usersys::needs_seeding(&real.usersys)? {
            atomic::make_dir(&copy.usersys)?;
            link_all(&real.usersys, &copy.usersys, |_, _| false)?;
        }
        Ok(())
    }

    /// Replaces the paths of the copy in a text for the user by those of the mounted files.
    fn describe(&self, fault: &str) -> String {
        let mounted =
            self.mounted.iter().fold(fault.to_owned(), |fault, (staged, source)| replace(&fault, staged, source));
        self.map_paths_back(&mounted)
    }

    /// Replaces the paths of the copy with those of the real environment.
    fn map_paths_back(&self, text: &str) -> String {
        let Self { real, copy, .. } = self;
        let paths = [(&copy.usersys, &real.usersys), (&copy.botssys, &real.botssys), (&copy.root, &real.root)];
        paths.into_iter().fold(text.to_owned(), |text, (staged, real)| replace(&text, staged, real))
    }
}

fn replace(text: &str, staged: &Path, real: &Path) -> String {
    text.replace(&staged.display().to_string(), &real.display().to_string())
}

/// Checks the private parts of the copy: the directories that a start writes to, and the secret key.
fn check_in_place(real: &Environment) -> Vec<crate::fs::Error> {
    if let Err(error) = atomic::check_creatable(&real.root) {
        return vec![error];
    }
    let directories = [&real.botssys, &real.usersys].into_iter();
    let mut refused: Vec<_> = directories.filter_map(|path| atomic::check_creatable(path).err()).collect();
    let key = real.secret_key_file();
    if fs::symlink_metadata(&key).is_ok() {
        refused.extend(atomic::read_secret(&key, "key").err());
    }
    refused
}

fn link_all(from: &Path, to: &Path, leave_out: impl Fn(&str, &Path) -> bool) -> Result<(), Error> {
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let target = to.join(&name);
        let own = name.as_encoded_bytes().starts_with(b".bots-ctl") || name == "__pycache__";
        if own || target.exists() || leave_out(&name.to_string_lossy(), &entry.path()) {
            continue;
        }
        link(&entry.path(), &target).map_err(|error| atomic::describe_io_error("link", &target, &error))?;
    }
    Ok(())
}

/// A link, or a copy if the file system does not support links.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    match symlink(from, to) {
        Err(error) if means_no_links(&error) && from.is_dir() => {
            fs::create_dir(to)?;
            fs::read_dir(from)?.flatten().try_for_each(|entry| link(&entry.path(), &to.join(entry.file_name())))
        }
        Err(error) if means_no_links(&error) => fs::copy(from, to).map(|_| ()),
        linked => linked,
    }
}

/// A file that this user may not read is linked to, so that Python meets it as in a start.
fn copy_files(from: &Path, to: &Path) -> Result<(), Error> {
    for file in fs::read_dir(from).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let target = to.join(file.file_name().unwrap_or_default());
        let copied = match regular::read(&file) {
            Ok(content) => fs::write(&target, content),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => link(&file, &target),
            // A directory, or an error that the caller has already reported.
            Err(_) => Ok(()),
        };
        copied.map_err(|error| atomic::describe_io_error("write", &target, &error))?;
    }
    Ok(())
}
