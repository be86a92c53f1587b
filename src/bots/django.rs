//! What Bots and Django are configured with: one short Python run, whose answer is kept for the next start.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::debug;

use super::environment::Environment;
use super::fingerprint::fingerprint;
use super::{Error, Installation, files, service};
use crate::process::capture::capture_within;
use crate::process::child::Spec;
use crate::process::reaper::Reaper;

const SCRIPT: &str = include_str!("python/facts.py");

/// The answer of Bots's own start-up code.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Facts {
    pub bots_version: String,
    pub django_version: String,
    pub database: Database,
    pub directories: Directories,
    pub static_url: String,
    pub web_port: u16,
    pub web_https: bool,
    /// Tables that Django makes.
    pub tables: Vec<String>,
    /// Migrations that the installed apps ship, by app.
    pub migrations: BTreeMap<String, Vec<String>>,
    /// Files the settings were made from, beside those in the configuration directory.
    pub sources: Vec<PathBuf>,
}

/// Django's `DATABASES['default']`, without the password.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Database {
    pub engine: String,
    pub name: String,
    pub user: String,
    pub host: String,
    pub port: String,
    pub has_password: bool,
}

/// Where Bots itself says its directories are.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Directories {
    pub config: PathBuf,
    pub botssys: PathBuf,
    pub usersys: PathBuf,
}

/// Longer than any Python start on a busy machine with a cold disk; settings that hang must not hang us.
const LIMIT: Duration = Duration::from_secs(120);

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
    facts: Facts,
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
    pub variables: &'a service::Variables,
}

impl Facts {
    /// The answer kept from an earlier start, if everything it was made from is as it was then.
    #[must_use]
    pub fn kept(context: &Context<'_>) -> Option<Self> {
        let kept: Kept = serde_json::from_slice(&fs::read(context.environment.facts_file()).ok()?).ok()?;
        let current = fingerprint(context, &kept.facts.sources);
        (kept.fingerprint == current).then_some(kept.facts)
    }

    /// Asks Python, checks the answer, and keeps it.
    ///
    /// # Errors
    /// What is wrong with the settings, with file and line; or a directory that Bots would take from elsewhere.
    pub async fn ask(context: &Context<'_>) -> Result<Self, Error> {
        let before = fingerprint(context, &[]);
        let answer = question(context, &[]).await?;
        let facts: Self = serde_json::from_value(answer)
            .map_err(|error| Error::fault(format!("cannot read what Bots says of its settings: {error}")))?;
        facts.check(context)?;
        // Something may have changed while Python ran; then the answer is of neither state for certain.
        if fingerprint(context, &[]) == before {
            facts.keep(context);
        }
        Ok(facts)
    }

    /// Imports settings.py alone, for a check of it where bots.ini is known to be faulty.
    ///
    /// # Errors
    /// What is wrong with it, with file and line.
    pub async fn try_settings(context: &Context<'_>) -> Result<(), Error> {
        question(context, &["settings"]).await.map(|_| ())
    }

    /// Kept for the next start; there is no password in it. A failure only costs time.
    fn keep(&self, context: &Context<'_>) {
        let kept = Kept { fingerprint: fingerprint(context, &self.sources), facts: self.clone() };
        let text = serde_json::to_vec(&kept).unwrap_or_default();
        if let Err(error) = files::write_atomically(&context.environment.facts_file(), &text, 0o600) {
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
}

/// A Python of this Bots that runs `script`, with the same variables as a service.
#[must_use]
pub fn python(context: &Context<'_>, script: &str) -> Spec {
    let mut spec = Spec::new(&context.bots.python).arg("-c").arg(script);
    spec.directory = Some(context.environment.root.clone());
    context.variables.apply(spec)
}

async fn question(context: &Context<'_>, more: &[&str]) -> Result<serde_json::Value, Error> {
    let spec = python(context, SCRIPT).arg(&context.environment.config).args(more.iter().copied());
    let asked = capture_within(context.reaper, &spec, b"", Some(LIMIT)).await;
    let captured = asked.map_err(|error| Error::fault(error.to_string()))?;
    if captured.exit.is_none() {
        let settings = context.environment.config.join("settings.py");
        let text = format!("{}: was not loaded within {} s", settings.display(), LIMIT.as_secs());
        return Err(Error::fault(text));
    }
    let Ok(mut answer) = serde_json::from_slice::<serde_json::Value>(&captured.stdout) else {
        let reason = captured.stderr.trim().lines().last().unwrap_or("it printed nothing").to_owned();
        let python = context.bots.python.display();
        return Err(Error::fault(format!("cannot ask Bots for its settings with {python}: {reason}")));
    };
    match serde_json::from_value::<Fault>(answer["fault"].take()) {
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
