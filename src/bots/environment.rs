//! The directories and files a Bots needs before it can start, and the checks that it will find them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tracing::info;

use super::config_source::ConfigFiles;
use super::{Error, Installation, engine_shim, ini_check, seed_usersys, settings_py};
use crate::config::Config;
use crate::fs::atomic::{
    AtomicBatch, check_writable, create_if_absent, describe_io_error, file_mode, load_or_create_secret, lock, make_dir,
};
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
    /// Bots's own storage.
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

    /// The file with Django's settings as the last Python run has found them.
    pub fn settings_cache_file(&self) -> PathBuf {
        self.root.join(".bots-ctl-settings-cache.json")
    }

    /// Makes missing files, applies the mounted ones, checks the result, and logs each change.
    ///
    /// Several replicas on one volume may do so at once: they take turns.
    ///
    /// # Errors
    /// Everything that cannot be made or read, and everything this version of Bots would trip over.
    pub fn prepare(config: &Config, bots: &Installation, source: &ConfigFiles) -> Result<Self, Error> {
        let mut environment = Self::paths(config);
        check_config_dir(&environment.config, bots)?;
        make_dir(&environment.config)?;
        let _lock = lock(&environment.root.join(".bots-ctl.lock"))?;
        create_if_absent(&environment.config.join("__init__.py"), b"", 0o644)?;
        load_or_create_secret(&environment.secret_key_file(), &random::alphanumeric(SECRET_LENGTH), "key")?;
        environment.stage_config(config, bots, source)?.commit()?;
        make_dir(&environment.botssys.join("sqlitedb"))?;
        environment.seed_usersys(config, bots)?;
        environment.check_directories()?;
        engine_shim::create(&environment.root)?;
        Ok(environment)
    }

    /// Writes the mounted files beside their places and removes them again, so that want of room is found before any service is
    /// stopped.
    ///
    /// # Errors
    /// As [`Environment::prepare`].
    pub fn try_write(config: &Config, bots: &Installation, source: &ConfigFiles) -> Result<(), Error> {
        let mut environment = Self::paths(config);
        let _lock = lock(&environment.root.join(".bots-ctl.lock"))?;
        let _update = environment.stage_config(config, bots, source)?;
        make_dir(&environment.botssys.join("sqlitedb"))?;
        make_dir(&environment.usersys)?;
        environment.check_directories()
    }

    /// Writes the files that bring the configuration directory up to date, each beside its place: all of them, or none where one
    /// of them is at fault or has no room.
    fn stage_config(
        &mut self,
        config: &Config,
        bots: &Installation,
        source: &ConfigFiles,
    ) -> Result<ConfigUpdate, Error> {
        let mut update = ConfigUpdate::default();
        for (name, file) in source.files_except(&["bots.ini", "settings.py"]) {
            update.add(&self.config.join(name), &file.content, file.mode | 0o600, &file.path)?;
        }
        let ini = self.write_bots_ini(config, bots, source, &mut update)?;
        self.apply_ini_paths(&ini);
        self.write_settings(bots, source, &mut update)?;
        Ok(update)
    }

    /// The user's bots.ini may have its directories elsewhere; relative ones are below the environment.
    fn apply_ini_paths(&mut self, ini: &BotsIni) {
        let path = |key| ini.get("directories", key).map(|entry| entry.value).filter(|value| !value.is_empty());
        self.botssys = self.root.join(path("botssys").unwrap_or("botssys"));
        self.usersys = self.root.join(path("usersys").unwrap_or("usersys"));
    }

    /// The effective bots.ini: the one that is mounted, else the one that is there, else the template; with the values that
    /// the environment decides. It is written once, so that no other pod ever reads a state in between.
    fn write_bots_ini(
        &self,
        config: &Config,
        bots: &Installation,
        source: &ConfigFiles,
        update: &mut ConfigUpdate,
    ) -> Result<BotsIni, Error> {
        let path = self.ini_file();
        let template = bots.package.join("install/bots.ini");
        let (origin, text) = if let Some(mounted) = source.file("bots.ini") {
            (&mounted.path, as_text(&mounted.path, mounted.content.clone())?)
        } else if let Some(text) = read_optional(&path)? {
            (&path, text)
        } else {
            (&template, read(&template)?)
        };
        let edited = self.edit_ini(config, bots, text, origin == &template);
        let text = edited.map_err(|error| match error {
            // Each fault has its line.
            EditError::Unreadable(faults) => ini_faults(origin, &faults),
            error => Error::fault(format!("{}: {error}", origin.display())),
        })?;
        let ini = parse_ini(origin, &text)?;
        Error::from_faults(ini_check::faults(origin, &ini, bots.bots_version()))?;
        let mode = if origin == &template { 0o644 } else { file_mode(origin).unwrap_or(0o644) };
        update.add(&path, text.as_bytes(), mode, origin)?;
        Ok(ini)
    }

    /// A bots.ini with the values that the environment decides.
    fn edit_ini(
        &self,
        config: &Config,
        bots: &Installation,
        mut text: String,
        is_template: bool,
    ) -> Result<String, EditError> {
        if is_template {
            // The examples of 3.3.1 watch directories of its author.
            text = remove_section(&remove_section(&text, "dirmonitor1")?, "dirmonitor2")?;
            text = set_value(&text, "directories", "botssys", &self.botssys.display().to_string())?;
        }
        let ini = BotsIni::parse(&text).map_err(EditError::Unreadable)?;
        // Bots 3.3.1 would take a relative botssys for one inside the installed package, and lose it with the image.
        let botssys = ini.get("directories", "botssys").map_or("botssys", |entry| entry.value);
        if bots.bots_version() == BotsVersion::V3 && !botssys.starts_with('/') {
            text = set_value(&text, "directories", "botssys", &self.root.join(botssys).display().to_string())?;
        }
        if let Some(port) = config.webserver.port {
            text = set_value(&text, "webserver", "port", &port.to_string())?;
        }
        if config.jobqueue.url.is_some() {
            // Without it no program of Bots would ask for the queue to which we forward their jobs.
            text = set_value(&text, "jobqueue", "enabled", "True")?;
        }
        Ok(text)
    }

    /// The effective settings.py: the one that is mounted, else the one that is there, else the template; with our block
    /// where it is not the user's own. It is written once, as bots.ini is.
    fn write_settings(
        &self,
        bots: &Installation,
        source: &ConfigFiles,
        update: &mut ConfigUpdate,
    ) -> Result<(), Error> {
        let path = self.config.join("settings.py");
        let mounted = source.file("settings.py");
        let given = mounted.map(|mounted| as_text(&mounted.path, mounted.content.clone())).transpose()?;
        let current = if given.is_some() { given.clone() } else { read_optional(&path)? };
        let template_file = bots.package.join("install/settings.py");
        let template = read(&template_file)?;
        let Some(text) = settings_py::merge(current.as_deref(), &template).or(given) else { return Ok(()) };
        let (origin, mode) = match mounted {
            Some(mounted) => (&mounted.path, Some(mounted.mode | 0o600)),
            None => (&template_file, file_mode(&path)),
        };
        update.add(&path, text.as_bytes(), mode.unwrap_or(0o644), origin)
    }

    /// Fills an empty usersys, or an empty directory of grammars in it, from the directories that exist of these.
    fn seed_usersys(&self, config: &Config, bots: &Installation) -> Result<(), Error> {
        let own = bots.package.join("usersys");
        let own_grammars = own.join("grammars");
        let (from_image, grammars) = (&config.environment.seed_usersys, &config.environment.seed_grammars);
        let (here, below) = (Path::new(""), Path::new("grammars"));
        let (path, mut sources): (&Path, Vec<(&Path, &Path)>) = if seed_usersys::needs_seeding(&self.usersys)? {
            (here, vec![(&own, here), (from_image, here), (grammars, below)])
        } else if grammars.is_dir() && seed_usersys::needs_seeding(&self.usersys.join(below))? {
            (below, vec![(&own_grammars, here), (grammars, here)])
        } else {
            (here, Vec::new())
        };
        if !sources.is_empty() {
            sources.retain(|(directory, _)| directory.is_dir());
            let files = seed_usersys::seed(&self.usersys, path, &sources)?;
            info!("filled {} with {files} files", self.usersys.join(path).display());
        }
        // Bots 3.3.1 fails to import a usersys without it.
        create_if_absent(&self.usersys.join("__init__.py"), b"", 0o644)?;
        Ok(())
    }

    fn check_directories(&self) -> Result<(), Error> {
        let refused = [&self.botssys, &self.usersys].into_iter().filter_map(|dir| check_writable(dir).err());
        Error::from_faults(refused.map(|error| error.to_string()).collect())
    }
}

/// Files of the configuration directory that are brought up to date together.
#[derive(Default)]
struct ConfigUpdate {
    batch: AtomicBatch,
    /// For the log, once the files are in place.
    changes: Vec<String>,
}

impl ConfigUpdate {
    fn add(&mut self, path: &Path, content: &[u8], mode: u32, origin: &Path) -> Result<(), Error> {
        if self.batch.add(path, content, mode)? {
            self.changes.push(format!("wrote {}, from {}", path.display(), origin.display()));
        }
        Ok(())
    }

    fn commit(self) -> Result<(), Error> {
        self.batch.commit()?;
        self.changes.iter().for_each(|change| info!("{change}"));
        Ok(())
    }
}

/// `/config` is also the name of a package inside an installed Bots, which then wins.
fn check_config_dir(config_dir: &Path, bots: &Installation) -> Result<(), Error> {
    let name = config_dir.file_name().unwrap_or_default();
    if config_dir.parent() == Some(Path::new("/")) && bots.package.join(name).is_dir() {
        return Err(Error::fault(format!(
            "BOTS_CONFIG_DIR={}: Bots would take this for its own package bots.{}; use a directory further down, such \
             as /srv/bots/config, and mount files to be copied there at /config",
            config_dir.display(),
            name.to_string_lossy()
        )));
    }
    Ok(())
}

fn parse_ini(path: &Path, text: &str) -> Result<BotsIni, Error> {
    BotsIni::parse(text).map_err(|faults| ini_faults(path, &faults))
}

fn ini_faults(path: &Path, faults: &[ParseError]) -> Error {
    Error::Faults(faults.iter().map(|fault| format!("{}:{}: {}", path.display(), fault.line, fault.message)).collect())
}

fn read(path: &Path) -> Result<String, Error> {
    as_text(path, fs::read(path).map_err(|error| describe_io_error("read", path, &error))?)
}

fn as_text(path: &Path, content: Vec<u8>) -> Result<String, Error> {
    String::from_utf8(content).map_err(|error| {
        let line = error.as_bytes().iter().take(error.utf8_error().valid_up_to()).filter(|b| **b == b'\n').count() + 1;
        Error::fault(format!("{}:{line}: the file is not UTF-8 text; save it as UTF-8", path.display()))
    })
}

/// A file that exists but cannot be read is an error, not an absence.
fn read_optional(path: &Path) -> Result<Option<String>, Error> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(describe_io_error("read", path, &error).into()),
        Ok(_) => read(path).map(Some),
    }
}
