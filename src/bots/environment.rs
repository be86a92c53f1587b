//! The directories and files a Bots needs before it can start, and the checks that it will find them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::config_source::ConfigFiles;
use super::{Error, Installation, engine_shim, seed_usersys, settings_py};
use crate::config::Config;
use crate::fs::atomic::{
    AtomicBatch, check_writable, create_if_absent, describe_io_error, file_mode, load_or_create_secret, lock, make_dir,
};
use crate::model::BotsVersion;
use crate::pycompat::configparser::{BotsIni, EditError, remove_section, set_value};
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
    #[must_use]
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
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn load(config: &Config) -> Result<Self, Error> {
        let mut environment = Self::paths(config);
        let file = environment.config.join("bots.ini");
        environment.apply_ini_paths(&parse_ini(&file, &read(&file)?)?);
        Ok(environment)
    }

    /// Where Django's SECRET_KEY is kept if none is configured.
    #[must_use]
    pub fn secret_key_file(&self) -> PathBuf {
        self.root.join("secret-key")
    }

    /// Where the password of the first web user is kept.
    #[must_use]
    pub fn admin_password_file(&self) -> PathBuf {
        self.root.join("admin-password")
    }

    /// Where the answer of the last Python run is kept.
    #[must_use]
    pub fn settings_cache_file(&self) -> PathBuf {
        self.root.join(".bots-ctl-settings-cache.json")
    }

    /// Makes what is missing, takes over what is mounted, and checks the result. `tell` hears what has changed.
    ///
    /// May be run by several replicas on one volume at once: they take turns.
    ///
    /// # Errors
    /// Everything that cannot be made or read, and everything this version of Bots would trip over.
    pub fn prepare(
        config: &Config,
        bots: &Installation,
        source: &ConfigFiles,
        log: &dyn Fn(&str),
    ) -> Result<Self, Error> {
        let mut environment = Self::paths(config);
        check_config_dir(&environment.config, bots)?;
        make_dir(&environment.config)?;
        let _lock = lock(&environment.root.join(".bots-ctl.lock"))?;
        create_if_absent(&environment.config.join("__init__.py"), b"", 0o644)?;
        load_or_create_secret(&environment.secret_key_file(), &random::alphanumeric(SECRET_LENGTH), "key")?;
        let (update, ini) = environment.stage_config(config, bots, source)?;
        update.commit(log)?;
        environment.apply_ini_paths(&ini);
        make_dir(&environment.botssys.join("sqlitedb"))?;
        environment.seed_usersys(config, bots, log)?;
        environment.check_directories()?;
        engine_shim::create(&environment.root)?;
        Ok(environment)
    }

    /// Writes the files that bring the configuration directory up to date, each beside its place: all of them, or none where one
    /// of them is at fault or has no room.
    fn stage_config(
        &self,
        config: &Config,
        bots: &Installation,
        source: &ConfigFiles,
    ) -> Result<(ConfigUpdate, BotsIni), Error> {
        let mut edition = ConfigUpdate::default();
        for (name, file) in source.files_except(&["bots.ini", "settings.py"]) {
            edition.add(&self.config.join(name), &file.content, file.mode | 0o600, &file.path)?;
        }
        let ini = self.write_bots_ini(config, bots, source, &mut edition)?;
        self.write_settings(bots, source, &mut edition)?;
        Ok((edition, ini))
    }

    /// Writes what is mounted beside its places and removes it again, so that want of room is found before anything is stopped
    /// for it.
    ///
    /// # Errors
    /// As [`Environment::prepare`].
    pub fn try_write(config: &Config, bots: &Installation, source: &ConfigFiles) -> Result<(), Error> {
        let mut environment = Self::paths(config);
        let _lock = lock(&environment.root.join(".bots-ctl.lock"))?;
        let (_update, ini) = environment.stage_config(config, bots, source)?;
        environment.apply_ini_paths(&ini);
        make_dir(&environment.botssys.join("sqlitedb"))?;
        make_dir(&environment.usersys)?;
        environment.check_directories()
    }

    /// The user's bots.ini may have its directories elsewhere; relative ones are below the environment.
    fn apply_ini_paths(&mut self, ini: &BotsIni) {
        let path = |key| ini.get("directories", key).map(|entry| entry.value).filter(|value| !value.is_empty());
        self.botssys = self.root.join(path("botssys").unwrap_or("botssys"));
        self.usersys = self.root.join(path("usersys").unwrap_or("usersys"));
    }

    /// The effective bots.ini: the one that is mounted, else the one that is there, else the template; with what the
    /// environment decides. It is written once, so that no other pod ever reads a state in between.
    fn write_bots_ini(
        &self,
        config: &Config,
        bots: &Installation,
        source: &ConfigFiles,
        edition: &mut ConfigUpdate,
    ) -> Result<BotsIni, Error> {
        let path = self.config.join("bots.ini");
        let template = bots.package.join("install/bots.ini");
        let (origin, mut text) = if let Some(mounted) = source.file("bots.ini") {
            (&mounted.path, as_text(&mounted.path, mounted.content.clone())?)
        } else if let Some(text) = read_optional(&path)? {
            (&path, text)
        } else {
            (&template, map_edit_error(&template, self.render_template(&read(&template)?))?)
        };
        let ini = parse_ini(origin, &text)?;
        // Bots 3.3.1 would take a relative botssys for one inside the installed package, and lose it with the image.
        let botssys = ini.get("directories", "botssys").map_or("botssys", |entry| entry.value);
        if bots.bots_version() == BotsVersion::V3 && !botssys.starts_with('/') {
            let absolute = self.root.join(botssys);
            text = map_edit_error(origin, set_value(&text, "directories", "botssys", &absolute.display().to_string()))?;
        }
        if let Some(port) = config.webserver.port {
            text = map_edit_error(origin, set_value(&text, "webserver", "port", &port.to_string()))?;
        }
        if config.jobqueue.url.is_some() {
            // Without it no program of Bots would ask for the queue that we pass their jobs on to.
            text = map_edit_error(origin, set_value(&text, "jobqueue", "enabled", "True"))?;
        }
        let ini = parse_ini(&path, &text)?;
        let faults = check_ini(origin, &ini, bots.bots_version());
        if !faults.is_empty() {
            return Err(Error::Faults(faults));
        }
        let mode = if origin == &template { 0o644 } else { file_mode(origin).unwrap_or(0o644) };
        edition.add(&path, text.as_bytes(), mode, origin)?;
        Ok(ini)
    }

    /// The examples of 3.3.1 watch directories of its author.
    fn render_template(&self, template: &str) -> Result<String, EditError> {
        let text = remove_section(&remove_section(template, "dirmonitor1")?, "dirmonitor2")?;
        set_value(&text, "directories", "botssys", &self.botssys.display().to_string())
    }

    /// The effective settings.py: the one that is mounted, else the one that is there, else the template; with our block
    /// where it is not the user's own. It is written once, as bots.ini is.
    fn write_settings(
        &self,
        bots: &Installation,
        source: &ConfigFiles,
        edition: &mut ConfigUpdate,
    ) -> Result<(), Error> {
        let path = self.config.join("settings.py");
        let mounted = source.file("settings.py");
        let given = mounted.map(|mounted| as_text(&mounted.path, mounted.content.clone())).transpose()?;
        let current = if given.is_some() { given.clone() } else { read_optional(&path)? };
        let template_file = bots.package.join("install/settings.py");
        let template = read(&template_file)?;
        let Some(text) = settings_py::merge(current.as_deref(), &template).or(given.clone()) else { return Ok(()) };
        let (origin, mode) = match mounted {
            Some(mounted) => (&mounted.path, Some(mounted.mode | 0o600)),
            None => (&template_file, file_mode(&path)),
        };
        edition.add(&path, text.as_bytes(), mode.unwrap_or(0o644), origin)
    }

    fn seed_usersys(&self, config: &Config, bots: &Installation, log: &dyn Fn(&str)) -> Result<(), Error> {
        let own = bots.package.join("usersys");
        let (below, grammars_below) = (Path::new(""), Path::new("grammars"));
        let (from_image, grammars) = (&config.environment.seed_usersys, &config.environment.seed_grammars);
        let present = |source: &&(&Path, &Path)| source.0.is_dir();
        if seed_usersys::needs_seeding(&self.usersys)? {
            let sources = [(own.as_path(), below), (from_image.as_path(), below), (grammars.as_path(), grammars_below)];
            self.fill_usersys(below, &sources.iter().filter(present).copied().collect::<Vec<_>>(), log)?;
        } else if grammars.is_dir() && seed_usersys::needs_seeding(&self.usersys.join("grammars"))? {
            let own_grammars = own.join("grammars");
            let sources = [(own_grammars.as_path(), below), (grammars.as_path(), below)];
            self.fill_usersys(grammars_below, &sources.iter().filter(present).copied().collect::<Vec<_>>(), log)?;
        }
        // Bots 3.3.1 fails to import a usersys without it.
        create_if_absent(&self.usersys.join("__init__.py"), b"", 0o644)?;
        Ok(())
    }

    fn fill_usersys(&self, path: &Path, sources: &[(&Path, &Path)], log: &dyn Fn(&str)) -> Result<(), Error> {
        let files = seed_usersys::seed(&self.usersys, path, sources)?;
        log(&format!("filled {} with {files} files", self.usersys.join(path).display()));
        Ok(())
    }

    fn check_directories(&self) -> Result<(), Error> {
        let dirs = [&self.botssys, &self.usersys].into_iter();
        let faults: Vec<String> = dirs.filter_map(|dir| check_writable(dir).err()).map(|e| e.to_string()).collect();
        if faults.is_empty() { Ok(()) } else { Err(Error::Faults(faults)) }
    }
}

/// Files of the configuration directory that are brought up to date together.
#[derive(Default)]
struct ConfigUpdate {
    batch: AtomicBatch,
    /// What is told once it is true.
    update: Vec<String>,
}

impl ConfigUpdate {
    fn add(&mut self, path: &Path, content: &[u8], mode: u32, origin: &Path) -> Result<(), Error> {
        if self.batch.add(path, content, mode)? {
            self.update.push(format!("wrote {}, from {}", path.display(), origin.display()));
        }
        Ok(())
    }

    fn commit(self, log: &dyn Fn(&str)) -> Result<(), Error> {
        self.batch.commit()?;
        self.update.iter().for_each(|line| log(line));
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

/// Everything in bots.ini that would make Bots fail, or worse, silently go elsewhere.
fn check_ini(path: &Path, ini: &BotsIni, generation: BotsVersion) -> Vec<String> {
    let sections: &[&str] = match generation {
        BotsVersion::V3 => &["settings", "directories", "charsets"],
        BotsVersion::V4 => &["settings", "dirmonitor", "directories", "charsets"],
    };
    let (section, key, example) = match generation {
        BotsVersion::V3 => ("settings", "log_file_number", "10"),
        BotsVersion::V4 => ("webserver", "menu_all_routes", "notindefaultrun"),
    };
    let missing = sections.iter().filter(|name| !ini.has_section(name));
    let mut faults: Vec<String> =
        missing.map(|name| format!("{}: section [{name}] is missing; Bots needs it", path.display())).collect();
    if ini.get(section, key).is_none() {
        faults.push(format!("{}: [{section}] {key} is missing; Bots needs it: {key} = {example}", path.display()));
    }
    faults.extend(check_usersys(path, ini, generation));
    faults.extend(check_integers(path, ini));
    faults
}

fn check_usersys(path: &Path, ini: &BotsIni, generation: BotsVersion) -> Option<String> {
    let entry = ini.get("directories", "usersys")?;
    let absolute = entry.value.starts_with('/') && generation == BotsVersion::V3;
    absolute.then(|| {
        format!(
            "{}:{}: [directories] usersys = {}: this version of Bots cannot import an absolute path; write usersys = usersys",
            path.display(),
            entry.line,
            entry.value
        )
    })
}

fn check_integers(path: &Path, ini: &BotsIni) -> Vec<String> {
    let ports = [("webserver", "port"), ("settings", "port"), ("jobqueue", "port")];
    let wrong = ports.iter().filter_map(|(section, key)| {
        let entry = ini.get(section, key)?;
        let port = crate::pycompat::configparser::parse_integer(entry.value);
        let fine = port.is_some_and(|port| (1..=65535).contains(&port));
        (!fine).then(|| {
            let dir = format!("{}:{}: [{section}] {key} = {}", path.display(), entry.line, entry.value);
            format!("{dir}: expected a port number from 1 to 65535")
        })
    });
    wrong.collect()
}

fn map_edit_error(path: &Path, text: Result<String, EditError>) -> Result<String, Error> {
    text.map_err(|error| Error::fault(format!("{}: {error}", path.display())))
}

/// Reads and parses a bots.ini.
///
/// # Errors
/// Each fault with file and line.
pub fn parse_ini(path: &Path, text: &str) -> Result<BotsIni, Error> {
    BotsIni::parse(text).map_err(|errors| {
        Error::Faults(errors.iter().map(|e| format!("{}:{}: {}", path.display(), e.line, e.message)).collect())
    })
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

/// What is there but cannot be looked at is an error, not an absence.
fn read_optional(path: &Path) -> Result<Option<String>, Error> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(describe_io_error("read", path, &error).into()),
        Ok(_) => read(path).map(Some),
    }
}
