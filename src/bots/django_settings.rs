//! What Bots and Django are configured with: the answer of one Python start, kept for the next one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tracing::debug;

use super::environment::Environment;
use super::python_session::Interpreter;
use super::settings_cache_key::fingerprint;
use super::{Error, Installation, services};
use crate::fs::atomic;
use crate::process::reaper::Reaper;

/// The answer of Bots's own start-up code.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Facts {
    pub bots_version: String,
    pub django_version: String,
    pub database: Database,
    pub directories: Directories,
    /// The zone of its local times; `None` for the machine's.
    pub time_zone: Option<String>,
    pub static_url: String,
    pub web_port: u16,
    pub web_https: bool,
    /// Tables that Django makes, by name.
    pub tables: BTreeMap<String, Table>,
    /// Migrations that the installed apps ship, by app.
    pub migrations: BTreeMap<String, Vec<String>>,
    /// Files the settings were made from, beside those in the configuration directory.
    pub sources: Vec<PathBuf>,
}

/// Django's `DATABASES['default']`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Database {
    pub engine: String,
    pub name: String,
    pub user: String,
    pub host: String,
    pub port: String,
    pub options: serde_json::Map<String, serde_json::Value>,
    /// Never written to a file.
    #[serde(skip_serializing, default)]
    pub password: SecretString,
}

/// A table as its model has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Table {
    /// Name, length and whether NULL is allowed.
    pub columns: Vec<(String, Option<u32>, bool)>,
    /// All but the primary one.
    pub keys: Vec<Key>,
}

/// An index as Django makes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Key {
    /// Empty where the database finds one.
    pub name: String,
    /// In their order.
    pub columns: Vec<String>,
    /// Whether each row must differ from the others.
    pub unique: bool,
    /// PostgreSQL's class of operators, where it is not the usual one.
    pub operators: Option<String>,
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
struct Fault {
    text: String,
    file: String,
    line: u32,
    traceback: String,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    fingerprint: String,
    password: PasswordPlace,
    facts: Facts,
}

/// Where the password of the database can be had without asking Django.
#[derive(Serialize, Deserialize)]
enum PasswordPlace {
    /// There is none.
    Nowhere,
    /// The value of this variable.
    Variable(String),
    /// The file that this variable names.
    File(String),
    /// Only settings.py knows.
    Settings,
}

/// Everything a question to Python needs.
pub struct Context<'a> {
    /// Starts Python.
    pub reaper: &'a Reaper,
    /// Which Bots.
    pub bots: &'a Installation,
    /// Which environment.
    pub environment: &'a Environment,
    /// Variables that the services get.
    pub variables: &'a services::Variables,
}

impl Facts {
    /// The answer kept from an earlier start, if everything it was made from is as it was then, and the database's
    /// password is known without asking.
    #[must_use]
    pub fn kept(context: &Context<'_>) -> Option<Self> {
        let kept: Kept = serde_json::from_slice(&fs::read(context.environment.facts_file()).ok()?).ok()?;
        let current = fingerprint(context, &kept.facts.sources);
        let mut facts = (kept.fingerprint == current).then_some(kept.facts)?;
        facts.database.password = kept.password.read(context)?;
        Some(facts)
    }

    /// Asks Python, checks the answer, and keeps it.
    ///
    /// # Errors
    /// What is wrong with the settings, with file and line; or a directory that Bots would take from elsewhere.
    pub async fn ask(context: &Context<'_>) -> Result<Self, Error> {
        Ok(Interpreter::start(context).await?.1)
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
    pub async fn try_settings(context: &Context<'_>) -> Result<(), Error> {
        Interpreter::try_settings(context).await
    }

    /// What everything was like before a question.
    pub(super) fn fingerprint(context: &Context<'_>) -> String {
        fingerprint(context, &[])
    }

    /// Reads an answer of Python.
    ///
    /// # Errors
    /// What is wrong with the settings, with file and line, or that this is no answer.
    pub fn from_answer(answer: serde_json::Value) -> Result<Self, Error> {
        serde_json::from_value(without_fault(answer)?)
            .map_err(|error| Error::fault(format!("cannot read what Bots says of its settings: {error}")))
    }

    /// Reads, checks and keeps an answer to a question that was asked when things were as `before` says.
    pub(super) fn learn(context: &Context<'_>, answer: serde_json::Value, before: &str) -> Result<Self, Error> {
        let facts = Self::from_answer(answer)?;
        facts.check(context)?;
        // Something may have changed while Python ran; then the answer is of neither state for certain.
        if fingerprint(context, &[]) == before {
            facts.keep(context);
        }
        Ok(facts)
    }

    /// Kept for the next start; there is no password in it. A failure only costs time.
    fn keep(&self, context: &Context<'_>) {
        let password = PasswordPlace::of(self.database.password.expose_secret(), context);
        let kept = Kept { fingerprint: fingerprint(context, &self.sources), password, facts: self.clone() };
        let text = serde_json::to_vec(&kept).unwrap_or_default();
        if let Err(error) = atomic::write_atomically(&context.environment.facts_file(), &text, 0o600) {
            debug!("{error}");
        }
    }

    /// Python may have found a package of the same name elsewhere, which Bots never mentions.
    fn check(&self, context: &Context<'_>) -> Result<(), Error> {
        let environment = context.environment;
        let mut faults = Vec::new();
        let expected = [("configuration", &self.directories.config, &environment.config)];
        for (what, found, wanted) in expected {
            if !same_place(found, wanted) {
                faults.push(taken_from_elsewhere(what, found, wanted));
            }
        }
        if self.directories.usersys.starts_with(&context.bots.package) {
            faults.push(taken_from_elsewhere("usersys", &self.directories.usersys, &environment.usersys));
        }
        if self.database.is_sqlite() && Path::new(&self.database.name).starts_with(&context.bots.package) {
            faults.push(format!(
                "settings.py: DATABASES names {}, inside the installed Bots, where it is lost with the installation; \
                 use a file below {}",
                self.database.name,
                environment.botssys.display()
            ));
        }
        if faults.is_empty() { Ok(()) } else { Err(Error::Faults(faults)) }
    }
}

impl Database {
    /// Whether this is SQLite.
    #[must_use]
    pub fn is_sqlite(&self) -> bool {
        self.engine.ends_with("sqlite3")
    }

    /// Whether both are the same database, reached in the same way.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let passwords = [self, other].map(|database| database.password.expose_secret());
        passwords[0] == passwords[1] && serde_json::json!(self) == serde_json::json!(other)
    }
}

impl PasswordPlace {
    fn of(password: &str, context: &Context<'_>) -> Self {
        if password.is_empty() {
            return Self::Nowhere;
        }
        let variables = context.variables.effective();
        let direct = variables.iter().find(|(_, value)| value.as_str() == password);
        let named = || variables.iter().find(|(name, value)| name.ends_with("_FILE") && content(value) == password);
        match direct {
            Some((name, _)) => Self::Variable(name.clone()),
            None => named().map_or(Self::Settings, |(name, _)| Self::File(name.clone())),
        }
    }

    fn read(&self, context: &Context<'_>) -> Option<SecretString> {
        let variable = |wanted: &str| {
            let found = context.variables.effective().into_iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value)
        };
        match self {
            Self::Nowhere => Some(SecretString::default()),
            Self::Variable(name) => variable(name).map(SecretString::from),
            Self::File(name) => variable(name).map(|path| SecretString::from(content(&path))),
            Self::Settings => None,
        }
    }
}

/// As secrets are written: with a line end that does not count.
fn content(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_end_matches(['\r', '\n']).to_owned()
}

/// An answer of Python, unless it is that something went wrong.
pub(super) fn without_fault(mut answer: serde_json::Value) -> Result<serde_json::Value, Error> {
    let fault = answer.get_mut("fault").map(serde_json::Value::take).unwrap_or_default();
    match serde_json::from_value::<Fault>(fault) {
        Ok(fault) => Err(explain(&fault)),
        Err(_) => Ok(answer),
    }
}

fn explain(fault: &Fault) -> Error {
    debug!("{}", fault.traceback);
    let Fault { text, file, line, .. } = fault;
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

fn taken_from_elsewhere(what: &str, found: &Path, wanted: &Path) -> String {
    format!(
        "Bots takes its {what} from {} instead of {}: a package of that name stands earlier on Python's path, or the \
         directory cannot be imported; look at PYTHONPATH and at [directories] in bots.ini",
        found.display(),
        wanted.display()
    )
}

fn same_place(one: &Path, other: &Path) -> bool {
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
            let answer = serde_json::from_str(wrong).expect("JSON");
            let told = Facts::from_answer(answer).expect_err("no facts").to_string();
            assert!(told.starts_with("cannot read what Bots says of its settings: "), "{told}");
        }
        let fault = r#"{"fault": {"text": "no", "file": "/c/settings.py", "line": 3, "traceback": ""}}"#;
        let told = Facts::from_answer(serde_json::from_str(fault).expect("JSON")).expect_err("a fault").to_string();
        assert_eq!(told, "/c/settings.py:3: no");
    }
}
