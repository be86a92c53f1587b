//! The layers of configuration: each value comes from the last layer that sets it, each error has its location, and no
//! secret is printed.
//!
//! The input is lines `NAME=value` of the environment, an empty line, and `bots-ctl.toml`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bots_ctl::config::toml_file::{self, TomlValue};
use bots_ctl::config::{Config, Diagnostic, EffectiveSetting, Origin};
use tempfile::TempDir;

/// A secret that occurs only here in the input must not occur in any output.
const SECRET: &str = "hush-7Kq";

thread_local! {
    static PLACE: TempDir = {
        let place = tempfile::tempdir().expect("a temporary directory");
        fs::write(place.path().join("secret"), SECRET).expect("written");
        place
    };
}

/// Reads all layers.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (lines, toml) = text.split_once("\n\n").unwrap_or((&text, ""));
    // A secret may be in any file that can be read; some never end.
    if ["/dev", "/proc", "/sys", "/."].iter().any(|place| text.contains(place)) {
        return;
    }
    PLACE.with(|place| {
        let environment = environment(lines, place.path());
        let file = place.path().join("bots-ctl.toml");
        fs::write(&file, toml).expect("written");
        let (config, faults) = Config::read(&environment, &[], Some(&file), Path::new("/home/me"));
        let values = toml_file::parse(toml);
        let file_place = format!("{}:", file.display());
        for fault in &faults {
            check_fault(fault, &config.effective_settings, &file_place);
        }
        if let Ok(values) = &values {
            for shown in &config.effective_settings {
                check_origin(shown, &environment, values, &faults);
            }
        }
        // A value that is in no layer cannot be printed.
        let has_secret = text.contains(SECRET) || text.to_ascii_lowercase().contains("_file");
        if has_secret && is_secret_alone(&environment, values.as_ref().ok(), toml, &config.effective_settings) {
            check_secrecy(&config, &faults, data.len().is_multiple_of(16));
        }
    });
}

/// `NAME_FILE` names the file that is there, or one that is not.
fn environment(lines: &str, place: &Path) -> BTreeMap<String, String> {
    let pairs = lines.lines().filter_map(|line| line.split_once('='));
    let file = |value: &str| place.join(if value.is_empty() { "nothing" } else { "secret" }).display().to_string();
    let value = |name: &str, value: &str| if name.ends_with("_FILE") { file(value) } else { value.to_owned() };
    pairs.map(|(name, text)| (name.to_owned(), value(name, text))).collect()
}

fn check_fault(fault: &Diagnostic, shown: &[EffectiveSetting], file_place: &str) {
    let text = &fault.text;
    assert!(!super::has_control(text), "{text:?}");
    let names_key =
        || shown.iter().map(|shown| shown.setting).any(|key| text.contains(key.env) || text.contains(key.path));
    let is_located =
        ["environment variable BOTS_CTL_", "BOTS_CONFIG_DIR", file_place].iter().any(|place| text.contains(place));
    assert!(is_located || names_key(), "{text:?} is nowhere");
    assert!(!fault.is_from_command_line, "{text:?}: there are no flags");
}

/// The environment overrides the file, and the file the default, unless a value is invalid.
fn check_origin(
    shown: &EffectiveSetting,
    environment: &BTreeMap<String, String>,
    values: &BTreeMap<String, TomlValue>,
    faults: &[Diagnostic],
) {
    let key = shown.setting;
    let set = |name: &str| environment.get(name).is_some_and(|value| !value.is_empty());
    let refused = |name: &str| faults.iter().any(|fault| fault.text.contains(name));
    let is_file_variable = |name: &str| name.strip_suffix("_FILE") == Some(key.env);
    let is_fine = match &shown.origin {
        Origin::Environment(name) => name == key.env && set(name),
        Origin::SecretFile(name, _) => {
            key.secret && !set(key.env) && (is_file_variable(name) || name.ends_with("_file"))
        }
        Origin::File(_, line) => !set(key.env) && values.get(key.path).is_some_and(|value| value.line == *line),
        Origin::Default => {
            (!set(key.env) || refused(key.env)) && (!values.contains_key(key.path) || set(key.env) || refused(key.path))
        }
        Origin::Flag(_) => false,
    };
    assert!(is_fine, "{} comes from {:?}: {faults:?}", key.path, shown.origin);
}

/// Whether it stands where secrets do, and nowhere else.
fn is_secret_alone(
    environment: &BTreeMap<String, String>,
    values: Option<&BTreeMap<String, TomlValue>>,
    toml: &str,
    shown: &[EffectiveSetting],
) -> bool {
    // The parts of the URL are printed if they conflict with others.
    let secrets = || shown.iter().map(|shown| shown.setting).filter(|key| key.secret && key.path != "database.url");
    let of_secrets = |name: &str| secrets().any(|key| key.env == name || key.path == name);
    let variables =
        environment.iter().all(|(name, value)| !name.contains(SECRET) && (!value.contains(SECRET) || of_secrets(name)));
    let in_file = match values {
        Some(values) => values
            .iter()
            .all(|(name, value)| !name.contains(SECRET) && (!value.text.contains(SECRET) || of_secrets(name))),
        // What is not TOML has it in a string, at least.
        None => toml.matches(SECRET).count() == toml.matches(&format!("= \"{SECRET}\"\n")).count(),
    };
    variables && in_file
}

fn check_secrecy(config: &Config, faults: &[Diagnostic], also_debug: bool) {
    for fault in faults {
        assert!(!fault.text.contains(SECRET), "{}", fault.text);
    }
    for shown in &config.effective_settings {
        assert!(!shown.value.contains(SECRET), "{} shows it", shown.setting.path);
    }
    assert!(!also_debug || !format!("{config:?}").contains(SECRET));
}
