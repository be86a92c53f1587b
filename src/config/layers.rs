//! Defaults < `bots-ctl.toml` < environment < flags: one pass that keeps the origin of each value and collects all
//! errors.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::parse::ParseResult;
use super::redact::{HIDDEN, redact};
use super::setting::{CONFIG_FILE_ENV, Setting, ValueType};
use super::toml_file::{self, TomlValue};
use crate::fs::regular;

/// The prefix of all variables that belong to bots-ctl.
const ENV_PREFIX: &str = "BOTS_CTL_";

/// Maximum size of a secret file, in bytes.
const MAX_SECRET: u64 = 64 * 1024;

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The built-in default.
    Default,
    /// A line of `bots-ctl.toml`.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// A file that an environment variable or a key names.
    SecretFile(String, PathBuf),
    /// A flag of the command line.
    Flag(&'static str),
}

/// A flag that sets a key: dotted path, the flag's name, the value as typed.
#[derive(Debug, Clone)]
pub struct FlagOverride {
    /// Dotted path of the key.
    pub path: &'static str,
    /// The flag, for messages.
    pub flag: &'static str,
    /// The value as typed.
    pub value: String,
}

/// One error of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The error, its location and the remedy.
    pub text: String,
    /// Whether it concerns the command line.
    pub is_from_command_line: bool,
}

/// One line of `config show`.
#[derive(Debug, Clone)]
pub struct EffectiveSetting {
    /// The setting.
    pub setting: &'static Setting,
    /// The effective value; empty if unset, never a secret.
    pub value: String,
    /// The source of the value.
    pub origin: Origin,
    /// Whether the given value is invalid, so that this is the default.
    pub is_wrong: bool,
}

struct RawValue {
    text: String,
    /// Of a TOML value.
    value_type: Option<ValueType>,
    origin: Origin,
}

/// The layers, from which each setting is read once.
pub struct LayeredConfig<'a> {
    environment: &'a BTreeMap<String, String>,
    overrides: &'a [FlagOverride],
    home: &'a Path,
    file: Option<(PathBuf, BTreeMap<String, TomlValue>)>,
    effective: Vec<EffectiveSetting>,
    faults: Vec<Diagnostic>,
}

impl<'a> LayeredConfig<'a> {
    /// Reads the file, if there is one.
    pub fn new(
        environment: &'a BTreeMap<String, String>,
        overrides: &'a [FlagOverride],
        file: Option<PathBuf>,
        home: &'a Path,
    ) -> Self {
        let mut layers = Self { environment, overrides, home, file: None, effective: Vec::new(), faults: Vec::new() };
        layers.file = file.and_then(|path| layers.read_file(path));
        layers
    }

    /// The value of a setting that has a default.
    ///
    /// # Panics
    /// If its own parser rejects a default of the table; a unit test reads every default.
    pub fn get<T>(&mut self, setting: &'static Setting, parse: fn(&str) -> ParseResult<T>) -> T {
        let default = self.default_value(setting.default);
        let value = parse(&default).expect("the table's defaults parse");
        self.layered(setting, parse, default).unwrap_or(value)
    }

    /// The value of a setting that may be left unset.
    pub fn optional<T>(&mut self, setting: &'static Setting, parse: fn(&str) -> ParseResult<T>) -> Option<T> {
        self.layered(setting, parse, String::new())
    }

    /// Ends the pass: reports unknown variables and keys, and returns all settings and errors.
    pub fn finish(mut self) -> (Vec<EffectiveSetting>, Vec<Diagnostic>) {
        self.report_unknown_variables();
        self.report_unknown_keys();
        for fault in &mut self.faults {
            fault.text = on_one_line(&fault.text);
        }
        (self.effective, self.faults)
    }

    /// Adds an error that concerns several keys.
    pub fn report(&mut self, fault: impl Into<String>) {
        self.faults.push(Diagnostic { text: fault.into(), is_from_command_line: false });
    }

    /// Evaluates a default: `A in Kubernetes, else B`, `as VARIABLE` for the value of a setting read before, or a path
    /// that begins with `~/` and may contain `$BOTSENV`.
    fn default_value(&self, rule: &str) -> String {
        let value_of = |variable: &str| {
            let known = self.effective.iter().find(|known| known.setting.env == variable);
            known.map_or("", |known| &known.value)
        };
        if let Some((in_kubernetes, elsewhere)) = rule.split_once(" in Kubernetes, else ") {
            let is_pod = self.environment.contains_key("KUBERNETES_SERVICE_HOST");
            return if is_pod { in_kubernetes.to_owned() } else { self.default_value(elsewhere) };
        }
        match (rule.strip_prefix("as "), rule.strip_prefix("~/")) {
            (Some(variable), _) => value_of(variable).to_owned(),
            (_, Some(path)) => self.home.join(path.replace("$BOTSENV", value_of("BOTSENV"))).display().to_string(),
            _ => rule.to_owned(),
        }
    }

    fn layered<T>(
        &mut self,
        setting: &'static Setting,
        parse: fn(&str) -> ParseResult<T>,
        default: String,
    ) -> Option<T> {
        let faults_before = self.faults.len();
        let found = self.raw(setting).and_then(|raw| Some((self.parsed(setting, parse, &raw)?, raw)));
        let (value, text, origin) = match found {
            Some((value, raw)) => (Some(value), raw.text, raw.origin),
            None => (None, default, Origin::Default),
        };
        let text = if setting.secret && !text.is_empty() { HIDDEN.to_owned() } else { redact(&text) };
        let is_wrong = self.faults.len() > faults_before;
        self.effective.push(EffectiveSetting { setting, value: text, origin, is_wrong });
        value
    }

    fn parsed<T>(&mut self, setting: &Setting, parse: fn(&str) -> ParseResult<T>, raw: &RawValue) -> Option<T> {
        let parsed = match raw.value_type.is_none_or(|found| setting.value_type.accepts(found)) {
            true => parse(&raw.text),
            false => Err(format!("expected {}", setting.value_type.describe())),
        };
        parsed
            .map_err(|problem| {
                let value = if setting.secret { HIDDEN.to_owned() } else { format!("{:?}", redact(&raw.text)) };
                let text = format!("{}: {value} is invalid: {problem}", location(setting.path, &raw.origin));
                self.faults.push(Diagnostic { text, is_from_command_line: matches!(raw.origin, Origin::Flag(_)) });
            })
            .ok()
    }

    fn raw(&mut self, setting: &Setting) -> Option<RawValue> {
        let flag = self.overrides.iter().find(|o| o.path == setting.path);
        if let Some(FlagOverride { flag, value, .. }) = flag {
            return Some(RawValue { text: value.clone(), value_type: None, origin: Origin::Flag(flag) });
        }
        self.environment_layer(setting).or_else(|| self.file_layer(setting))
    }

    fn environment_layer(&mut self, setting: &Setting) -> Option<RawValue> {
        let set = |name: &str| self.environment.get(name).filter(|value| !value.is_empty()).cloned();
        let name = format!("{}_FILE", setting.env);
        match (set(setting.env), set(&name).filter(|_| setting.secret)) {
            (Some(_), Some(_)) => {
                self.report(format!("{} and {name} are both set: remove one of them", setting.env));
                None
            }
            (Some(text), None) => {
                Some(RawValue { text, value_type: None, origin: Origin::Environment(setting.env.to_owned()) })
            }
            (None, Some(path)) => self.secret_file(name.clone(), &name, PathBuf::from(path)),
            (None, None) => None,
        }
    }

    fn file_layer(&mut self, setting: &Setting) -> Option<RawValue> {
        let (path, values) = self.file.as_ref()?;
        let name = format!("{}_file", setting.path);
        let named = values.get(&name).filter(|_| setting.secret);
        if let Some(value) = values.get(setting.path) {
            if named.is_some() {
                let location = format!("{}:{}", path.display(), value.line);
                self.report(format!("{location}: {} and {name} are both set: remove one of them", setting.path));
                return None;
            }
            // An empty variable counts as unset. An empty value in the file would be a known secret.
            if setting.secret && value.text.is_empty() {
                let location = format!("{}:{}", path.display(), value.line);
                self.report(format!("{location}: {} is empty: set a value, or remove the line", setting.path));
                return None;
            }
            let origin = Origin::File(path.clone(), value.line);
            return Some(RawValue { text: value.text.clone(), value_type: Some(value.value_type), origin });
        }
        let value = named?;
        let (location, file) = (format!("{}:{}: {name}", path.display(), value.line), PathBuf::from(&value.text));
        self.secret_file(name, &location, file)
    }

    /// `location` names the file in messages.
    fn secret_file(&mut self, name: String, location: &str, path: PathBuf) -> Option<RawValue> {
        match read_secret(&path) {
            Ok(text) if text.trim().is_empty() => {
                self.report(format!("{location}: {} is empty", path.display()));
                None
            }
            Ok(text) => {
                let text = text.trim_end_matches(['\r', '\n']).to_owned();
                Some(RawValue { text, value_type: None, origin: Origin::SecretFile(name, path) })
            }
            Err(error) => {
                self.report(format!("{location}: cannot read {}: {error}", path.display()));
                None
            }
        }
    }

    /// Kubernetes adds variables for a Service of this name.
    fn report_unknown_variables(&mut self) {
        let settings = self.effective.iter().map(|known| known.setting);
        let files = settings.clone().filter(|setting| setting.secret).map(|setting| format!("{}_FILE", setting.env));
        let known: BTreeSet<String> =
            settings.map(|setting| setting.env.to_owned()).chain(files).chain([CONFIG_FILE_ENV.to_owned()]).collect();
        let is_set = |(name, value): &(&String, &String)| name.starts_with(ENV_PREFIX) && !value.is_empty();
        let names = self.environment.iter().filter(is_set).map(|(name, _)| name);
        let unknown = names.filter(|name| !known.contains(*name) && !self.is_from_service(name));
        let faults: Vec<String> = unknown
            .map(|name| format!("environment variable {name} is unknown; {}", hint(name, known.iter(), "settings")))
            .collect();
        faults.into_iter().for_each(|fault| self.report(fault));
    }

    /// Whether this is one of the variables that Kubernetes sets for each Service: `NAME_SERVICE_HOST`, `NAME_PORT` and
    /// others.
    fn is_from_service(&self, name: &str) -> bool {
        let mut services = self.environment.keys().filter_map(|name| name.strip_suffix("_SERVICE_HOST"));
        services.any(|service| {
            let rest = name.strip_prefix(service).unwrap_or_default();
            rest.starts_with("_SERVICE_") || rest == "_PORT" || rest.starts_with("_PORT_")
        })
    }

    fn report_unknown_keys(&mut self) {
        let Some((path, values)) = self.file.take() else { return };
        let settings = self.effective.iter().map(|known| known.setting);
        let files = settings.clone().filter(|setting| setting.secret).map(|setting| format!("{}_file", setting.path));
        let known: BTreeSet<String> = settings.map(|setting| setting.path.to_owned()).chain(files).collect();
        for (name, value) in values.iter().filter(|(name, _)| !known.contains(*name)) {
            let hint = hint(name, known.iter(), "keys");
            self.report(format!("{}:{}: unknown key {name}; {hint}", path.display(), value.line));
        }
    }

    fn read_file(&mut self, path: PathBuf) -> Option<(PathBuf, BTreeMap<String, TomlValue>)> {
        let text = regular::read_to_string(&path)
            .map_err(|error| self.report(format!("cannot read the configuration file {}: {error}", path.display())));
        match toml_file::parse(&text.ok()?) {
            Ok(values) => Some((path, values)),
            Err(errors) => {
                errors.iter().for_each(|e| self.report(format!("{}:{}: {}", path.display(), e.line, e.message)));
                None
            }
        }
    }
}

/// Names of keys and files may contain newlines and escape sequences.
fn on_one_line(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

/// Bounded read: devices and FIFOs may never reach EOF.
fn read_secret(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let length = regular::open(path)?.take(MAX_SECRET + 1).read_to_string(&mut text)?;
    if length as u64 > MAX_SECRET {
        return Err(io::Error::other(format!(
            "the file is larger than {} KiB, the maximum for a secret",
            MAX_SECRET / 1024
        )));
    }
    Ok(text)
}

/// How a user finds the right name in place of an unknown one.
pub fn hint<'a>(name: &str, candidates: impl Iterator<Item = &'a String>, all: &str) -> String {
    closest_match(name, candidates)
        .map_or_else(|| format!("config show lists all {all}"), |near| format!("did you mean {near}?"))
}

/// The most similar candidate, if it is similar enough to be a typo.
pub fn closest_match<'a>(name: &str, candidates: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    const MIN_SIMILARITY: f64 = 0.8;
    candidates
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(score, _)| *score >= MIN_SIMILARITY)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

fn location(path: &str, origin: &Origin) -> String {
    match origin {
        Origin::Default => path.to_owned(),
        Origin::File(file, line) => format!("{}:{line}: {path}", file.display()),
        Origin::Environment(name) => format!("environment variable {name}"),
        Origin::SecretFile(name, file) => format!("{name} ({})", file.display()),
        Origin::Flag(flag) => (*flag).to_owned(),
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::SecretFile(name, path) => write!(f, "{name} = {}", path.display()),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}
