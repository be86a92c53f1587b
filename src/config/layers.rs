//! Defaults < `bots-ctl.toml` < environment < flags: one pass that keeps the origin of each value and gathers all faults.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::keys::{self, Setting, ValueType};
use super::toml_file::{self, TomlValue};

/// Bytes of a file that holds a secret.
const MAX_SECRET: u64 = 64 * 1024;

/// Where a value came from.
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

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What, where, and what to do.
    pub text: String,
    /// It is about the command line, not about configuration.
    pub is_from_command_line: bool,
}

/// One line of `config show`.
#[derive(Debug, Clone)]
pub struct EffectiveSetting {
    /// Dotted path.
    pub path: &'static str,
    /// Environment variable.
    pub env: &'static str,
    /// The effective value; empty when there is none, never a secret.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
    /// The setting's meaning.
    pub help: &'static str,
    /// The default, in words.
    pub default: &'static str,
    /// What its value must be.
    pub shape: ValueType,
    /// Its value is never shown, and may be given in a file.
    pub secret: bool,
}

#[derive(Debug, Clone)]
struct RawValue {
    text: String,
    shape: Option<ValueType>,
    origin: Origin,
}

/// The layers, asked key by key.
pub struct LayeredConfig<'a> {
    environment: &'a BTreeMap<String, String>,
    overrides: &'a [FlagOverride],
    file: Option<(PathBuf, BTreeMap<String, TomlValue>)>,
    known: BTreeSet<String>,
    effective: Vec<EffectiveSetting>,
    faults: Vec<Diagnostic>,
}

impl<'a> LayeredConfig<'a> {
    /// Reads the file, if there is one, and gets ready to be asked.
    #[must_use]
    pub fn new(
        environment: &'a BTreeMap<String, String>,
        overrides: &'a [FlagOverride],
        file: Option<PathBuf>,
    ) -> Self {
        let mut faults = Vec::new();
        let file = file.and_then(|path| read_file(path, &mut faults));
        let faults = faults.into_iter().map(|text| Diagnostic { text, is_from_command_line: false }).collect();
        Self { environment, overrides, file, known: BTreeSet::new(), effective: Vec::new(), faults }
    }

    /// The value of a key that has a default: the key's own, or `default` where it depends on the machine.
    pub fn get_or<T: Clone + fmt::Debug>(&mut self, key: &Setting<T>, default: T, default_text: &str) -> T {
        match self.layered(key) {
            Some((value, raw)) => {
                self.show(key, raw.text, raw.origin);
                value
            }
            None => {
                self.show(key, default_text.to_owned(), Origin::Default);
                default
            }
        }
    }

    /// The value of a key with a fixed default.
    ///
    /// # Panics
    /// When the key table holds a default that its own parser refuses; a unit test reads every default.
    pub fn get<T: Clone + fmt::Debug>(&mut self, key: &Setting<T>) -> T {
        let default = (key.parse)(key.default).expect("the key table's defaults parse");
        self.get_or(key, default, key.default)
    }

    /// The value of a key that may be left unset.
    pub fn optional<T: Clone + fmt::Debug>(&mut self, key: &Setting<T>) -> Option<T> {
        let Some((value, raw)) = self.layered(key) else {
            self.show(key, String::new(), Origin::Default);
            return None;
        };
        self.show(key, raw.text, raw.origin);
        Some(value)
    }

    /// A secret, which may be given directly or as the name of a file that holds it.
    pub fn secret(&mut self, key: &Setting<String>) -> Option<SecretString> {
        self.optional(key).map(SecretString::from)
    }

    /// Ends the pass: reports what the file holds beside known keys, and returns what was seen and every fault.
    #[must_use]
    pub fn finish(mut self) -> (Vec<EffectiveSetting>, Vec<Diagnostic>) {
        self.report_unknown_keys();
        for fault in &mut self.faults {
            fault.text = on_one_line(&fault.text);
        }
        (self.effective, self.faults)
    }

    /// Adds a fault that concerns more than one key.
    pub fn report(&mut self, fault: impl Into<String>) {
        self.faults.push(Diagnostic { text: fault.into(), is_from_command_line: false });
    }

    fn layered<T>(&mut self, key: &Setting<T>) -> Option<(T, RawValue)> {
        self.known.insert(key.path.to_owned());
        let raw = self.raw(key)?;
        let parsed = match shape_fits(key.shape, raw.shape) {
            true => (key.parse)(&raw.text),
            false => Err(format!("expected {}", describe(key.shape))),
        };
        match parsed {
            Ok(value) => Some((value, raw)),
            Err(problem) => {
                let value = if key.secret { "(hidden)".to_owned() } else { format!("{:?}", raw.text) };
                let text = format!("{}: {value} is wrong: {problem}", location(key.path, &raw.origin));
                self.faults.push(Diagnostic { text, is_from_command_line: matches!(raw.origin, Origin::Flag(_)) });
                None
            }
        }
    }

    fn raw<T>(&mut self, key: &Setting<T>) -> Option<RawValue> {
        let flag = self.overrides.iter().find(|o| o.path == key.path);
        if let Some(FlagOverride { flag, value, .. }) = flag {
            return Some(RawValue { text: value.clone(), shape: None, origin: Origin::Flag(flag) });
        }
        self.environment_layer(key).or_else(|| self.file_layer(key))
    }

    fn environment_layer<T>(&mut self, key: &Setting<T>) -> Option<RawValue> {
        let set = |name: &str| self.environment.get(name).filter(|value| !value.is_empty()).cloned();
        let direct = set(key.env);
        let by_file = key.secret.then(|| set(&format!("{}_FILE", key.env))).flatten();
        match (direct, by_file) {
            (Some(_), Some(_)) => {
                self.report(format!("{0} and {0}_FILE are both set: keep one of them", key.env));
                None
            }
            (Some(text), None) => Some(RawValue { text, shape: None, origin: Origin::Environment(key.env.to_owned()) }),
            (None, Some(path)) => {
                let name = format!("{}_FILE", key.env);
                self.secret_file(name.clone(), &name, PathBuf::from(path))
            }
            (None, None) => None,
        }
    }

    fn file_layer<T>(&mut self, key: &Setting<T>) -> Option<RawValue> {
        let (path, values) = self.file.as_ref()?;
        if let Some(value) = values.get(key.path) {
            // An empty variable is as none. Here it is a secret that anybody knows.
            if key.secret && value.text.is_empty() {
                let location = format!("{}:{}", path.display(), value.line);
                self.report(format!("{location}: {} is empty: give it a value, or take the line out", key.path));
                return None;
            }
            let origin = Origin::File(path.clone(), value.line);
            return Some(RawValue { text: value.text.clone(), shape: Some(value.shape), origin });
        }
        if !key.secret {
            return None;
        }
        let name = format!("{}_file", key.path);
        self.known.insert(name.clone());
        let value = values.get(&name)?;
        let (place, file) = (format!("{}:{}: {name}", path.display(), value.line), PathBuf::from(&value.text));
        self.secret_file(name, &place, file)
    }

    /// `place` is where the file is named: for messages, where `name` would not say enough.
    fn secret_file(&mut self, name: String, location: &str, path: PathBuf) -> Option<RawValue> {
        match read_secret(&path) {
            Ok(text) if text.trim().is_empty() => {
                self.report(format!("{location}: {} is empty", path.display()));
                None
            }
            Ok(text) => {
                let text = text.trim_end_matches(['\r', '\n']).to_owned();
                Some(RawValue { text, shape: None, origin: Origin::SecretFile(name, path) })
            }
            Err(error) => {
                self.report(format!("{location}: cannot read {}: {error}", path.display()));
                None
            }
        }
    }

    fn show<T>(&mut self, key: &Setting<T>, value: String, origin: Origin) {
        let Setting { path, env, help, default, shape, secret, .. } = *key;
        let value = if secret && !value.is_empty() { "(hidden)".to_owned() } else { value };
        self.effective.push(EffectiveSetting { path, env, value, origin, help, default, shape, secret });
    }

    fn report_unknown_keys(&mut self) {
        let Some((path, values)) = &self.file else { return };
        let unknown = values.iter().filter(|(name, _)| !self.known.contains(*name));
        let faults: Vec<String> = unknown
            .map(|(name, value)| {
                let hint = closest_match(name, self.known.iter()).map_or_else(
                    || "; config show lists all keys".to_owned(),
                    |near| format!("; did you mean {near}?"),
                );
                format!("{}:{}: unknown key {name}{hint}", path.display(), value.line)
            })
            .collect();
        faults.into_iter().for_each(|fault| self.report(fault));
    }
}

/// Names of keys and files may hold line ends and what moves a cursor.
fn on_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// Some files never end.
fn read_secret(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let length = File::open(path)?.take(MAX_SECRET + 1).read_to_string(&mut text)?;
    if length as u64 > MAX_SECRET {
        return Err(io::Error::other(format!("it holds more than {} KiB, which no secret has", MAX_SECRET / 1024)));
    }
    Ok(text)
}

/// The candidate most like `name`, if one is alike enough to be what was meant.
pub fn closest_match<'a>(name: &str, candidates: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    const MIN_SIMILARITY: f64 = 0.8;
    candidates
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(score, _)| *score >= MIN_SIMILARITY)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// The file to read: the one named, else the first that exists of the usual places.
#[must_use]
pub fn file_path(environment: &BTreeMap<String, String>, flag: Option<&Path>, home: &Path) -> Option<PathBuf> {
    let set = |name| environment.get(name).filter(|value| !value.is_empty());
    let named = flag.map(Path::to_path_buf).or_else(|| set(keys::CONFIG_FILE_ENV).map(PathBuf::from));
    if named.is_some() {
        return named;
    }
    let source = set(keys::CONFIG_SOURCE.env).map_or(keys::CONFIG_SOURCE.default, String::as_str);
    let usual = [Path::new(source).join("bots-ctl.toml"), home.join(".bots/bots-ctl.toml")];
    usual.into_iter().find(|path| path.exists())
}

fn read_file(path: PathBuf, faults: &mut Vec<String>) -> Option<(PathBuf, BTreeMap<String, TomlValue>)> {
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            faults.push(format!("cannot read the configuration file {}: {error}", path.display()));
            return None;
        }
    };
    match toml_file::parse(&text) {
        Ok(values) => Some((path, values)),
        Err(errors) => {
            let explain = |e: toml_file::SyntaxError| format!("{}:{}: {}", path.display(), e.line, e.message);
            faults.extend(errors.into_iter().map(explain));
            None
        }
    }
}

/// Text from the environment (`None`) fits everything; so does a TOML string, which the parser then judges.
fn shape_fits(wanted: ValueType, found: Option<ValueType>) -> bool {
    match found {
        None | Some(ValueType::Text) => true,
        Some(ValueType::Integer) => matches!(wanted, ValueType::Integer | ValueType::Duration),
        Some(found) => found == wanted,
    }
}

fn describe(shape: ValueType) -> &'static str {
    match shape {
        ValueType::Text => "a string",
        ValueType::Integer => "an integer",
        ValueType::Boolean => "true or false",
        ValueType::Duration => "a duration such as \"30s\"",
        ValueType::List | ValueType::Other => "an array of strings",
    }
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

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
