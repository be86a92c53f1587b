//! The directories and files that Bots needs before it can start, and their checks.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tracing::info;

use super::config_source::ConfigFiles;
use super::replaced_files::{self, Replacement};
use super::seed_usersys::SeedSource;
use super::{Error, Installation, engine_shim, ini_check, seed_usersys, settings_py};
use crate::config::Config;
use crate::fs::atomic::{
    AtomicBatch, check_writable, create_if_absent, describe_io_error, file_mode, is_up_to_date, load_or_create_secret,
    lock, make_dir,
};
use crate::fs::regular;
use crate::model::BotsVersion;
use crate::pycompat::configparser::{BotsIni, EditError, ParseError, remove_section, set_value};
use crate::random;

/// Length of a generated SECRET_KEY: Django's own has 50 characters of 50; this is 50 of 62.
const SECRET_LENGTH: usize = 50;

/// A prepared environment.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Parent of the other three.
    pub root: PathBuf,
    /// settings.py and bots.ini.
    pub config: PathBuf,
    /// Bots's data directory.
    pub botssys: PathBuf,
    /// The user's grammars, mappings and scripts.
    pub usersys: PathBuf,
}

impl Environment {
    /// The layout below the parent of the configuration directory.
    pub fn paths(config: &Config) -> Self {
        let root = config.environment_root().to_path_buf();
        Self {
            config: config.environment.config_dir.clone(),
            botssys: root.join("botssys"),
            usersys: root.join("usersys"),
            root,
        }
    }

    /// An environment that was prepared before, with the directories that its bots.ini names.
    pub fn load(config: &Config) -> Result<Self, Error> {
        let mut environment = Self::paths(config);
        environment.apply_ini_paths(&environment.read_ini()?);
        Ok(environment)
    }

    /// The effective bots.ini.
    pub fn ini_file(&self) -> PathBuf {
        self.config.join("bots.ini")
    }

    /// Reads the effective bots.ini.
    ///
    /// # Errors
    /// When it cannot be read; each fault with file and line.
    pub fn read_ini(&self) -> Result<BotsIni, Error> {
        let file = self.ini_file();
        parse_ini(&file, &read(&file)?)
    }

    /// The file with Django's SECRET_KEY if none is configured.
    pub fn secret_key_file(&self) -> PathBuf {
        self.root.join("secret-key")
    }

    /// The file with the password of the first web user.
    pub fn admin_password_file(&self) -> PathBuf {
        self.root.join("admin-password")
    }

    /// The cache of Django's settings.
    pub fn settings_cache_file(&self) -> PathBuf {
        self.root.join(".bots-ctl-settings-cache.json")
    }

    /// An installed Bots contains a package of the same name as `/config`, which Python would import instead.
    pub fn check_config_dir(config: &Config, bots: &Installation) -> Result<(), Error> {
        let config_dir = &config.environment.config_dir;
        let name = config_dir.file_name().unwrap_or_default();
        if config_dir.parent() == Some(Path::new("/")) && bots.package.join(name).is_dir() {
            return Err(Error::fault(format!(
                "BOTS_CONFIG_DIR={}: Bots would import its own package bots.{} instead; use a \
                 deeper directory, such as /srv/bots/config, and mount the files to copy there at \
                 /config",
                config_dir.display(),
                name.to_string_lossy()
            )));
        }
        Ok(())
    }

    /// The changes that update the configuration directory, and the resulting environment. Writes nothing.
    ///
    /// # Errors
    /// All errors that would make this version of Bots fail.
    pub fn plan(config: &Config, bots: &Installation, source: &ConfigFiles) -> Result<(Self, ConfigUpdate), Error> {
        let mut environment = Self::paths(config);
        Self::check_config_dir(config, bots)?;
        let mut update = ConfigUpdate::default();
        for (name, file) in source.files_except(&["bots.ini", "settings.py"]) {
            update.add(&environment.config.join(name), &file.content, file.mode | 0o600, &file.path);
        }
        let ini = environment.plan_bots_ini(config, bots, source, &mut update)?;
        environment.apply_ini_paths(&ini);
        environment.plan_settings(bots, source, &mut update)?;
        Ok((environment, update))
    }

    /// The lock of a start that loads the settings.
    pub fn settings_cache_lock(&self) -> PathBuf {
        self.root.join(".bots-ctl-settings-cache.lock")
    }

    /// Creates missing files, applies the mounted ones, all or none, and logs each change. The configuration was
    /// validated before.
    ///
    /// Replicas on one volume do so one by one.
    ///
    /// # Errors
    /// All files that cannot be created or read.
    pub fn commit(config: &Config, bots: &Installation, source: &ConfigFiles) -> Result<Self, Error> {
        let paths = Self::paths(config);
        Self::check_config_dir(config, bots)?;
        make_dir(&paths.config)?;
        let _lock = lock(&paths.root.join(".bots-ctl.lock"))?;
        let (environment, update) = Self::plan(config, bots, source)?;
        let batch = update.write()?;
        let replaced = update.files.iter().map(|file| Replacement {
            path: &file.path,
            content: &file.content,
            origin: &file.origin,
        });
        replaced_files::keep(config, replaced)?;
        batch.commit()?;
        update.files.iter().for_each(|file| info!("wrote {}, from {}", file.path.display(), file.origin.display()));
        environment.complete(config, bots)?;
        Ok(environment)
    }

    /// Creates everything else that an environment with this configuration needs.
    ///
    /// # Errors
    /// All files and directories that cannot be created.
    pub fn complete(&self, config: &Config, bots: &Installation) -> Result<(), Error> {
        create_if_absent(&self.config.join("__init__.py"), b"", 0o644)?;
        create_if_absent(&self.settings_cache_lock(), b"", 0o600)?;
        load_or_create_secret(&self.secret_key_file(), &random::alphanumeric(SECRET_LENGTH), "key")?;
        make_dir(&self.botssys.join("sqlitedb"))?;
        self.seed_usersys(config, bots)?;
        self.check_directories()?;
        engine_shim::create(&self.root)
    }

    /// Writes the mounted files under temporary names and deletes them, so that a full volume is detected before a
    /// service is stopped.
    ///
    /// # Errors
    /// As [`Environment::commit`].
    pub fn try_write(config: &Config, bots: &Installation, source: &ConfigFiles) -> Result<(), Error> {
        let _lock = lock(&Self::paths(config).root.join(".bots-ctl.lock"))?;
        let (environment, update) = Self::plan(config, bots, source)?;
        let _batch = update.write()?;
        make_dir(&environment.botssys.join("sqlitedb"))?;
        make_dir(&environment.usersys)?;
        environment.check_directories()
    }

    /// An error of a value of bots.ini, with its line.
    pub(super) fn describe_value(&self, section: &str, key: &str, problem: &str) -> String {
        let file = self.ini_file();
        let ini = self.read_ini().unwrap_or_default();
        match ini.get(section, key) {
            Some(entry) => {
                format!("{}:{}: [{section}] {key} = {}: {problem}", file.display(), entry.line, entry.value)
            }
            None => format!("{}: [{section}] {key}: {problem}", file.display()),
        }
    }

    /// bots.ini may set other directories; relative ones are below the environment.
    fn apply_ini_paths(&mut self, ini: &BotsIni) {
        self.botssys = self.root.join(directory(ini, "botssys"));
        self.usersys = self.root.join(directory(ini, "usersys"));
    }

    /// The effective bots.ini: the mounted one, else the existing one, else the template, with corrected directories.
    /// It is written once, so that no other pod reads an intermediate state.
    fn plan_bots_ini(
        &self,
        config: &Config,
        bots: &Installation,
        source: &ConfigFiles,
        update: &mut ConfigUpdate,
    ) -> Result<BotsIni, Error> {
        let path = self.ini_file();
        let template = bots.package.join("install/bots.ini");
        let (origin, text, mode) = if let Some(mounted) = source.file("bots.ini") {
            (&mounted.path, as_text(&mounted.path, mounted.content.clone())?, Some(mounted.mode | 0o600))
        } else if let Some(text) = read_optional(&path)? {
            (&path, text, file_mode(&path))
        } else {
            (&template, read(&template)?, None)
        };
        Error::fail_if_any(ini_check::faults(origin, &parse_ini(origin, &text)?, bots.bots_version()))?;
        let is_template = origin == &template;
        let edited = self.edit_ini(bots, text.clone(), is_template, is_template && config.enables_queue);
        let planned = edited.map_err(|error| match error {
            // Each fault has its line.
            EditError::Unreadable(faults) => ini_faults(origin, &faults),
            error => Error::fault(format!("{}: {error}", origin.display())),
        })?;
        let ini = parse_ini(origin, &planned)?;
        // Without an edit the file is not written: a person may have changed it since it was read.
        if origin != &path || planned != text {
            update.add(&path, planned.as_bytes(), mode.unwrap_or(0o644), origin);
        }
        Ok(ini)
    }

    /// The bots.ini, with directories outside the installed Bots.
    fn edit_ini(
        &self,
        bots: &Installation,
        mut text: String,
        is_template: bool,
        enables_queue: bool,
    ) -> Result<String, EditError> {
        if is_template {
            // The examples of 3.3.1 watch directories of their author.
            text = remove_section(&remove_section(&text, "dirmonitor1")?, "dirmonitor2")?;
            text = set_value(&text, "directories", "botssys", &self.botssys.display().to_string())?;
        }
        if enables_queue {
            text = set_value(&text, "jobqueue", "enabled", "True")?;
        }
        let ini = BotsIni::parse(&text).map_err(EditError::Unreadable)?;
        // Bots 3.3.1 would create a relative botssys inside the installed package, where an upgrade deletes it.
        let botssys = directory(&ini, "botssys");
        if bots.bots_version() == BotsVersion::V3 && !botssys.starts_with('/') {
            text = set_value(&text, "directories", "botssys", &self.root.join(botssys).display().to_string())?;
        }
        Ok(text)
    }

    /// The effective settings.py: the mounted one, else the existing one, else the template; with the block of
    /// bots-ctl, unless it is the user's. It is written once, like bots.ini.
    fn plan_settings(&self, bots: &Installation, source: &ConfigFiles, update: &mut ConfigUpdate) -> Result<(), Error> {
        let path = self.config.join("settings.py");
        let mounted = source.file("settings.py");
        let given = mounted.map(|mounted| as_text(&mounted.path, mounted.content.clone())).transpose()?;
        let current = if given.is_some() { given.clone() } else { read_optional(&path)? };
        let template_file = bots.package.join("install/settings.py");
        let template = read(&template_file)?;
        let Some(text) = settings_py::merge(current.as_deref(), &template).or(given) else { return Ok(()) };
        let (origin, mode) = match mounted {
            None if current.as_ref() == Some(&text) => return Ok(()),
            Some(mounted) => (&mounted.path, Some(mounted.mode | 0o600)),
            None => (&template_file, file_mode(&path)),
        };
        update.add(&path, text.as_bytes(), mode.unwrap_or(0o644), origin);
        Ok(())
    }

    /// Fills an empty usersys, or its empty directory of grammars, from the existing source directories.
    fn seed_usersys(&self, config: &Config, bots: &Installation) -> Result<(), Error> {
        let own = bots.package.join("usersys");
        let own_grammars = own.join("grammars");
        let (from_image, grammars) = (&config.environment.seed_usersys, &config.environment.seed_grammars);
        let (here, below) = (Path::new(""), Path::new("grammars"));
        let source = |from, below| SeedSource { from, below };
        let (path, mut sources) = if seed_usersys::needs_seeding(&self.usersys)? {
            (here, vec![source(&own, here), source(from_image, here), source(grammars, below)])
        } else if grammars.is_dir() && seed_usersys::needs_seeding(&self.usersys.join(below))? {
            (below, vec![source(&own_grammars, here), source(grammars, here)])
        } else {
            (here, Vec::new())
        };
        if !sources.is_empty() {
            sources.retain(|source| source.from.is_dir());
            let files = seed_usersys::seed(&self.usersys, path, &sources)?;
            info!("filled {} with {files} files", self.usersys.join(path).display());
        }
        // Bots 3.3.1 fails to import a usersys without it.
        create_if_absent(&self.usersys.join("__init__.py"), b"", 0o644)?;
        Ok(())
    }

    fn check_directories(&self) -> Result<(), Error> {
        let refused = [&self.botssys, &self.usersys].into_iter().filter_map(|dir| check_writable(dir).err());
        Error::fail_if_any(refused.map(|error| error.to_string()).collect())
    }
}

/// Files of the configuration directory that have to change.
#[derive(Default)]
pub struct ConfigUpdate {
    files: Vec<NewFile>,
}

/// One of them.
struct NewFile {
    path: PathBuf,
    content: Vec<u8>,
    mode: u32,
    /// For the log.
    origin: PathBuf,
}

impl ConfigUpdate {
    /// The invalid settings.py of the mounted files, unchanged.
    pub fn of_settings(config: &Config, source: &ConfigFiles) -> Self {
        let mut update = Self::default();
        if let Some(file) = source.file("settings.py") {
            let path = config.environment.config_dir.join("settings.py");
            update.add(&path, &file.content, file.mode | 0o600, &file.path);
        }
        update
    }

    /// The files: path, content and mode.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &[u8], u32)> {
        self.files.iter().map(|file| (file.path.as_path(), file.content.as_slice(), file.mode))
    }

    /// Whether everything is up to date.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    fn add(&mut self, path: &Path, content: &[u8], mode: u32, origin: &Path) {
        if !is_up_to_date(path, content, mode) {
            let (path, origin) = (path.to_path_buf(), origin.to_path_buf());
            self.files.push(NewFile { path, content: content.to_vec(), mode, origin });
        }
    }

    /// Writes the files under temporary names: all, or none if one does not fit on the volume.
    fn write(&self) -> Result<AtomicBatch, Error> {
        let mut batch = AtomicBatch::default();
        for file in &self.files {
            batch.add(&file.path, &file.content, file.mode)?;
        }
        Ok(batch)
    }
}

/// A directory of bots.ini. An empty value counts as none.
fn directory<'a>(ini: &'a BotsIni, key: &'a str) -> &'a str {
    ini.get("directories", key).map(|entry| entry.value).filter(|value| !value.is_empty()).unwrap_or(key)
}

/// Parses a bots.ini.
///
/// # Errors
/// Each fault with its line.
pub(crate) fn parse_ini(path: &Path, text: &str) -> Result<BotsIni, Error> {
    BotsIni::parse(text).map_err(|faults| ini_faults(path, &faults))
}

fn ini_faults(path: &Path, faults: &[ParseError]) -> Error {
    Error::Faults(faults.iter().map(|fault| format!("{}:{}: {}", path.display(), fault.line, fault.message)).collect())
}

fn read(path: &Path) -> Result<String, Error> {
    as_text(path, regular::read(path).map_err(|error| describe_io_error("read", path, &error))?)
}

fn as_text(path: &Path, content: Vec<u8>) -> Result<String, Error> {
    String::from_utf8(content).map_err(|error| {
        let line = error.as_bytes().iter().take(error.utf8_error().valid_up_to()).filter(|b| **b == b'\n').count() + 1;
        Error::fault(format!("{}:{line}: the file is not UTF-8 text; save it as UTF-8", path.display()))
    })
}

/// A file that exists but cannot be read is an error.
fn read_optional(path: &Path) -> Result<Option<String>, Error> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(describe_io_error("read", path, &error).into()),
        Ok(_) => read(path).map(Some),
    }
}
