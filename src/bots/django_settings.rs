//! The settings of Bots and Django: the reply of one Python start, kept for the next one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tracing::debug;

use super::Error;
use super::context::BotsContext;
use super::settings_cache_key::settings_cache_key;
use crate::fs::atomic;
use crate::model::{DjangoDatabase, ManagedTable};

/// The reply of Bots's own start-up code.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DjangoSettings {
    pub bots_version: String,
    pub django_version: String,
    pub database: DjangoDatabase,
    pub directories: Directories,
    /// The zone of its local times; `None` for the machine's.
    pub time_zone: Option<String>,
    pub static_url: String,
    pub web_port: u16,
    pub web_https: bool,
    /// Tables that Django makes, by name.
    pub tables: BTreeMap<String, ManagedTable>,
    /// Migrations that the installed apps ship, by app.
    pub migrations: BTreeMap<String, Vec<String>>,
    /// Files the settings were made from, beside those in the configuration directory.
    pub sources: Vec<PathBuf>,
}

/// Where Bots itself says its directories are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Directories {
    pub config: PathBuf,
    pub botssys: PathBuf,
    pub usersys: PathBuf,
}

#[derive(Deserialize)]
struct PythonError {
    text: String,
    file: String,
    line: u32,
    traceback: String,
}

#[derive(Serialize, Deserialize)]
struct CachedSettings {
    fingerprint: String,
    /// The variable with the password of the database or the name of its file; none where there is no password.
    password_variable: Option<String>,
    django: DjangoSettings,
}

impl DjangoSettings {
    /// The reply kept from an earlier start, if everything it was made from is as it was then, and the database's
    /// password can be had without Python.
    pub fn load_cached(context: &BotsContext<'_>) -> Option<Self> {
        let cached: CachedSettings =
            serde_json::from_slice(&fs::read(context.environment.settings_cache_file()).ok()?).ok()?;
        let current = settings_cache_key(context, &cached.django.sources);
        let mut django = (cached.fingerprint == current).then_some(cached.django)?;
        django.database.password = match cached.password_variable {
            Some(variable) => password_from(&variable, context.variables.effective().get(&variable)?),
            None => SecretString::default(),
        };
        Some(django)
    }

    /// Whether both say the same of the database and of what should be in it.
    pub fn is_same(&self, other: &Self) -> bool {
        self.database.is_same(&other.database) && serde_json::json!(self) == serde_json::json!(other)
    }

    /// A digest of everything that the settings are made from, before Python reads them.
    pub(super) fn fingerprint(context: &BotsContext<'_>) -> String {
        settings_cache_key(context, &[])
    }

    /// Reads a reply of Python.
    ///
    /// # Errors
    /// What is wrong with the settings, with file and line, or that this is no such reply.
    pub fn parse(reply: serde_json::Value) -> Result<Self, Error> {
        serde_json::from_value(without_fault(reply)?)
            .map_err(|error| Error::fault(format!("cannot read what Bots says of its settings: {error}")))
    }

    /// Reads and checks a reply, and keeps it if nothing has changed since the digest `before` was made.
    pub(super) fn learn(context: &BotsContext<'_>, reply: serde_json::Value, before: &str) -> Result<Self, Error> {
        let django = Self::parse(reply)?;
        django.check(context)?;
        // Something may have changed while Python ran; then the reply is of neither state for certain.
        if settings_cache_key(context, &[]) == before {
            django.write_cache(context);
        }
        Ok(django)
    }

    /// Kept for the next start, without the password: only where that can be had without Python. A failure only costs time.
    fn write_cache(&self, context: &BotsContext<'_>) {
        let password = self.database.password.expose_secret();
        let variables = context.variables.effective();
        let has_it = |(name, value): &(&String, &String)| password_from(name, value).expose_secret() == password;
        let password_variable = variables.iter().find(has_it).map(|(name, _)| name.clone());
        if !password.is_empty() && password_variable.is_none() {
            return;
        }
        let password_variable = password_variable.filter(|_| !password.is_empty());
        let fingerprint = settings_cache_key(context, &self.sources);
        let text = serde_json::to_vec(&CachedSettings { fingerprint, password_variable, django: self.clone() });
        let file = context.environment.settings_cache_file();
        if let Err(error) = atomic::write_atomically(&file, &text.unwrap_or_default(), 0o600) {
            debug!("{error}");
        }
    }

    /// Python may have found a package of the same name elsewhere, which Bots never mentions.
    fn check(&self, context: &BotsContext<'_>) -> Result<(), Error> {
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
                "settings.py: DATABASES names {}, inside the installed Bots, where it is lost with the installation; \
                 use a file below {}",
                self.database.name,
                environment.botssys.display()
            ));
        }
        Error::from_faults(faults)
    }
}

/// A variable `NAME_FILE` names a file, in which the line end does not count.
fn password_from(variable: &str, value: &str) -> SecretString {
    match variable.ends_with("_FILE") {
        true => fs::read_to_string(value).unwrap_or_default().trim_end_matches(['\r', '\n']).into(),
        false => value.into(),
    }
}

/// A reply of Python, or the error in it.
pub(super) fn without_fault(mut reply: serde_json::Value) -> Result<serde_json::Value, Error> {
    let fault = reply.get_mut("fault").map(serde_json::Value::take).unwrap_or_default();
    match serde_json::from_value::<PythonError>(fault) {
        Ok(fault) => Err(to_error(&fault)),
        Err(_) => Ok(reply),
    }
}

fn to_error(fault: &PythonError) -> Error {
    debug!("{}", fault.traceback);
    let PythonError { text, file, line, .. } = fault;
    let hint = if text.contains("mysqlclient") {
        "; bots-ctl install --with mysql has it"
    } else if text.contains("psycopg2") {
        "; bots-ctl install --with postgresql has it"
    } else {
        ""
    };
    match file.is_empty() {
        true => Error::fault(format!("cannot load Bots's settings: {text}{hint}")),
        false => Error::fault(format!("{file}:{line}: {text}{hint}")),
    }
}

fn shadowed_path_error(what: &str, found: &Path, wanted: &Path) -> String {
    format!(
        "Bots takes its {what} from {} instead of {}: a package of that name stands earlier on Python's path, or the \
         directory cannot be imported; look at PYTHONPATH and at [directories] in bots.ini",
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
    fn what_is_no_answer_is_refused_in_words() {
        for wrong in ["null", "5", "[]", "[{\"fault\": {}}]", "\"text\"", "{}", "{\"fault\": 5}"] {
            let reply = serde_json::from_str(wrong).expect("JSON");
            let reported = DjangoSettings::parse(reply).expect_err("no facts").to_string();
            assert!(reported.starts_with("cannot read what Bots says of its settings: "), "{reported}");
        }
        let fault = r#"{"fault": {"text": "no", "file": "/c/settings.py", "line": 3, "traceback": ""}}"#;
        let told = DjangoSettings::parse(serde_json::from_str(fault).expect("JSON")).expect_err("a fault").to_string();
        assert_eq!(told, "/c/settings.py:3: no");
    }
}
