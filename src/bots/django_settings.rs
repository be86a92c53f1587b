//! The settings of Bots and Django: the reply of one Python start, cached for the next one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use super::Error;
use super::config_source::Digest;
use super::context::BotsContext;
use super::loaded_files::{LoadBegin, LoadedFiles};
use super::python_fault::PythonFault;
use super::settings_cache_key::{is_relevant, settings_cache_key};
use super::settings_py::edited_block_warning;
use crate::fs::atomic;
use crate::fs::regular;
use crate::model::{DjangoDatabase, ManagedTable, Page};

/// The reply of Bots's own start-up code.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DjangoSettings {
    pub bots_version: String,
    pub django_version: String,
    #[serde(default)]
    pub python_version: String,
    pub database: DjangoDatabase,
    pub directories: Directories,
    /// The zone of its local times; `None` for the machine's.
    pub time_zone: Option<String>,
    /// Warnings about settings that work but are unsafe or misleading.
    pub warnings: Vec<String>,
    pub static_url: String,
    pub login: Page,
    pub web_port: u16,
    pub web_https: bool,
    /// Tables that Django makes, by name.
    pub tables: BTreeMap<String, ManagedTable>,
    /// Migrations that the installed apps ship, by app.
    pub migrations: BTreeMap<String, Vec<String>>,
    /// Files that the settings depend on, besides those in the configuration directory.
    pub sources: Vec<PathBuf>,
    /// The contents of all these files; `None` if they are not known.
    #[serde(skip)]
    loaded: Option<LoadedFiles>,
}

/// The directories that Bots reports.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Directories {
    pub config: PathBuf,
    pub botssys: PathBuf,
    pub usersys: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct CachedSettings {
    fingerprint: String,
    /// The variable with the database password or the name of its file; `None` if there is no password.
    password_variable: Option<String>,
    django: DjangoSettings,
}

impl DjangoSettings {
    /// The cached settings, if all their inputs are unchanged and the database password is available without Python.
    pub fn load_cached(context: &BotsContext<'_>) -> Option<Self> {
        let cached: CachedSettings =
            serde_json::from_slice(&regular::read(&context.environment.settings_cache_file()).ok()?).ok()?;
        let current = settings_cache_key(context, &cached.django.sources);
        let mut django = (cached.fingerprint == current).then_some(cached.django)?;
        django.database.password = match cached.password_variable {
            Some(variable) => password_from(&variable, context.variables.effective().get(&variable)?),
            None => SecretString::default(),
        };
        Some(django)
    }

    /// Whether database and expected schema are the same.
    pub fn is_same(&self, other: &Self) -> bool {
        self.database.is_same(&other.database) && serde_json::json!(self) == serde_json::json!(other)
    }

    /// Logs the warnings of the settings.
    pub fn log_warnings(&self) {
        self.warnings.iter().for_each(|warning| warn!("{warning}"));
    }

    /// Parses a reply of Python.
    ///
    /// # Errors
    /// Invalid settings, with file and line, or an invalid reply.
    pub fn parse(reply: serde_json::Value) -> Result<Self, Error> {
        serde_json::from_value(reply)
            .map_err(|error| Error::fault(format!("cannot parse the settings that Bots returned: {error}")))
    }

    /// Parses and checks a reply.
    ///
    /// # Errors
    /// All errors of the settings, with file and line.
    pub(super) fn from_reply(
        context: &BotsContext<'_>,
        begin: &LoadBegin,
        mut reply: serde_json::Value,
    ) -> Result<Self, Error> {
        let reported: Vec<PythonFault> = PythonFault::take(&mut reply, "faults")?;
        let parsed = Self::parse(reply);
        let mut faults = parsed.as_ref().map_or_else(|_| Vec::new(), |django| django.faults(context));
        for fault in reported {
            debug!("{}", fault.traceback);
            faults.push(fault.describe(context.environment));
        }
        Error::fail_if_any(faults)?;
        let mut django = parsed?;
        let settings = context.environment.config.join("settings.py");
        let text = regular::read_to_string(&settings).unwrap_or_default();
        django.warnings.extend(edited_block_warning(&settings, &text));
        django.loaded = begin.loaded(context.environment, &django.sources);
        Ok(django)
    }

    /// The same settings with each path mapped, to convert those of a copied environment. `directory` is the digest of the
    /// configuration directory that was copied.
    pub fn map_paths(&self, directory: Digest, map: impl Fn(&str) -> String) -> Self {
        let map_path = |path: &PathBuf| PathBuf::from(map(&path.to_string_lossy()));
        let Directories { config, botssys, usersys } = &self.directories;
        Self {
            database: DjangoDatabase { name: map(&self.database.name), ..self.database.clone() },
            directories: Directories {
                config: map_path(config),
                botssys: map_path(botssys),
                usersys: map_path(usersys),
            },
            sources: self.sources.iter().map(map_path).collect(),
            warnings: self.warnings.iter().map(|warning| map(warning)).collect(),
            loaded: self.loaded.as_ref().map(|loaded| loaded.with_directory(directory)),
            ..self.clone()
        }
    }

    /// Caches the settings for the next start, without the password, if that is available without Python, and if they
    /// were loaded from the files of this environment. An error only costs time.
    pub fn write_cache(&self, context: &BotsContext<'_>) {
        let password = self.database.password.expose_secret();
        let variables = context.variables.effective();
        let has_it = |(name, value): &(&String, &String)| {
            is_relevant(name) && password_from(name, value).expose_secret() == password
        };
        let password_variable = variables.iter().find(has_it).map(|(name, _)| name.clone());
        if !password.is_empty() && password_variable.is_none() {
            return;
        }
        let password_variable = password_variable.filter(|_| !password.is_empty());
        let fingerprint = settings_cache_key(context, &self.sources);
        // After the fingerprint, which differs from that of files that change from now on.
        if self.loaded != Some(LoadedFiles::read(context.environment, &self.sources)) {
            debug!("the files of the settings have changed since they were loaded");
            return;
        }
        let text = serde_json::to_vec(&CachedSettings { fingerprint, password_variable, django: self.clone() });
        let file = context.environment.settings_cache_file();
        if let Err(error) = atomic::write_atomically(&file, &text.unwrap_or_default(), 0o600) {
            debug!("{error}");
        }
    }

    /// Python may import a package of the same name from elsewhere, which Bots does not report.
    fn faults(&self, context: &BotsContext<'_>) -> Vec<String> {
        let environment = context.environment;
        let mut faults = Vec::new();
        if !is_same_path(&self.directories.config, &environment.config) {
            faults.push(shadowed_path_error("configuration", &self.directories.config, &environment.config));
        }
        if self.directories.usersys.starts_with(&context.bots.package) {
            faults.push(shadowed_path_error("usersys", &self.directories.usersys, &environment.usersys));
        }
        if self.database.is_sqlite() && Path::new(&self.database.name).starts_with(&context.bots.package) {
            faults.push(format!(
                "settings.py: DATABASES names {}, inside the installed Bots, where an upgrade \
                 deletes it; use a file below {}",
                self.database.name,
                environment.botssys.display()
            ));
        }
        faults
    }
}

/// A variable `NAME_FILE` names a file; its trailing newline is ignored.
fn password_from(variable: &str, value: &str) -> SecretString {
    match variable.ends_with("_FILE") {
        true => regular::read_to_string(Path::new(value)).unwrap_or_default().trim_end_matches(['\r', '\n']).into(),
        false => value.into(),
    }
}

fn shadowed_path_error(what: &str, found: &Path, wanted: &Path) -> String {
    format!(
        "Bots imports its {what} from {} instead of {}: a package of that name comes earlier on \
         Python's path, or the directory cannot be imported; check PYTHONPATH and [directories] in \
         bots.ini",
        found.display(),
        wanted.display()
    )
}

fn is_same_path(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_reply_is_rejected_with_reason() {
        for wrong in ["null", "5", "[]", "[{\"fault\": {}}]", "\"text\"", "{}", "{\"fault\": 5}"] {
            let reply = serde_json::from_str(wrong).expect("JSON");
            let reported = DjangoSettings::parse(reply).expect_err("no facts").to_string();
            assert!(reported.starts_with("cannot parse the settings that Bots returned: "), "{reported}");
        }
    }
}
