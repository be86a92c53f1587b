//! What Bots and Django are configured with: the answer of one Python start, kept for the next one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tracing::debug;

use super::Error;
use super::python_session::PythonSession;
use super::services::BotsContext;
use super::settings_cache_key::settings_cache_key;
use crate::fs::atomic;
use crate::model::{DjangoDatabase, ManagedTable};

/// The answer of Bots's own start-up code.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)]
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
#[allow(missing_docs)]
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
    password: PasswordSource,
    django: DjangoSettings,
}

/// Where the password of the database can be had without asking Django.
#[derive(Serialize, Deserialize)]
enum PasswordSource {
    /// There is none.
    None,
    /// The value of this variable.
    EnvVar(String),
    /// The file that this variable names.
    EnvFile(String),
    /// Only settings.py knows.
    SettingsPy,
}

impl DjangoSettings {
    /// The answer kept from an earlier start, if everything it was made from is as it was then, and the database's
    /// password is known without asking.
    #[must_use]
    pub fn load_cached(context: &BotsContext<'_>) -> Option<Self> {
        let cached: CachedSettings =
            serde_json::from_slice(&fs::read(context.environment.settings_cache_file()).ok()?).ok()?;
        let current = settings_cache_key(context, &cached.django.sources);
        let mut django = (cached.fingerprint == current).then_some(cached.django)?;
        django.database.password = cached.password.read(context)?;
        Some(django)
    }

    /// Asks Python, checks the answer, and keeps it.
    ///
    /// # Errors
    /// What is wrong with the settings, with file and line; or a directory that Bots would take from elsewhere.
    pub async fn query(context: &BotsContext<'_>) -> Result<Self, Error> {
        Ok(PythonSession::start(context).await?.1)
    }

    /// Whether both say the same of the database and of what should be in it.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.database.is_same(&other.database) && serde_json::json!(self) == serde_json::json!(other)
    }

    /// Imports settings.py alone, for a check of it where bots.ini is known to be faulty.
    ///
    /// # Errors
    /// What is wrong with it, with file and line.
    pub async fn query_settings_only(context: &BotsContext<'_>) -> Result<(), Error> {
        PythonSession::import_settings_only(context).await
    }

    /// What everything was like before a question.
    pub(super) fn fingerprint(context: &BotsContext<'_>) -> String {
        settings_cache_key(context, &[])
    }

    /// Reads an answer of Python.
    ///
    /// # Errors
    /// What is wrong with the settings, with file and line, or that this is no answer.
    pub fn parse(reply: serde_json::Value) -> Result<Self, Error> {
        serde_json::from_value(without_fault(reply)?)
            .map_err(|error| Error::fault(format!("cannot read what Bots says of its settings: {error}")))
    }

    /// Reads, checks and keeps an answer to a question that was asked when things were as `before` says.
    pub(super) fn learn(context: &BotsContext<'_>, reply: serde_json::Value, before: &str) -> Result<Self, Error> {
        let django = Self::parse(reply)?;
        django.check(context)?;
        // Something may have changed while Python ran; then the answer is of neither state for certain.
        if settings_cache_key(context, &[]) == before {
            django.write_cache(context);
        }
        Ok(django)
    }

    /// Kept for the next start; there is no password in it. A failure only costs time.
    fn write_cache(&self, context: &BotsContext<'_>) {
        let password = PasswordSource::of(self.database.password.expose_secret(), context);
        let cached =
            CachedSettings { fingerprint: settings_cache_key(context, &self.sources), password, django: self.clone() };
        let text = serde_json::to_vec(&cached).unwrap_or_default();
        if let Err(error) = atomic::write_atomically(&context.environment.settings_cache_file(), &text, 0o600) {
            debug!("{error}");
        }
    }

    /// Python may have found a package of the same name elsewhere, which Bots never mentions.
    fn check(&self, context: &BotsContext<'_>) -> Result<(), Error> {
        let environment = context.environment;
        let mut faults = Vec::new();
        let expected = [("configuration", &self.directories.config, &environment.config)];
        for (what, found, wanted) in expected {
            if !is_same_path(found, wanted) {
                faults.push(shadowed_path_error(what, found, wanted));
            }
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

impl PasswordSource {
    fn of(password: &str, context: &BotsContext<'_>) -> Self {
        if password.is_empty() {
            return Self::None;
        }
        let variables = context.variables.effective();
        let direct = variables.iter().find(|(_, value)| value.as_str() == password);
        let named =
            || variables.iter().find(|(name, value)| name.ends_with("_FILE") && read_trimmed(value) == password);
        match direct {
            Some((name, _)) => Self::EnvVar(name.clone()),
            None => named().map_or(Self::SettingsPy, |(name, _)| Self::EnvFile(name.clone())),
        }
    }

    fn read(&self, context: &BotsContext<'_>) -> Option<SecretString> {
        let variable = |wanted: &str| {
            let found = context.variables.effective().into_iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value)
        };
        match self {
            Self::None => Some(SecretString::default()),
            Self::EnvVar(name) => variable(name).map(SecretString::from),
            Self::EnvFile(name) => variable(name).map(|path| SecretString::from(read_trimmed(&path))),
            Self::SettingsPy => None,
        }
    }
}

/// As secrets are written: with a line end that does not count.
fn read_trimmed(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_end_matches(['\r', '\n']).to_owned()
}

/// An answer of Python, unless it is that something went wrong.
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
