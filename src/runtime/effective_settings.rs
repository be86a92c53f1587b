//! The effective settings of bots-ctl and values of bots.ini, each with its origin.

use crate::bots::environment::parse_ini;
use crate::config::Config;
use crate::config::redact::{HIDDEN, redact};
use crate::exit::Error;
use crate::fs::atomic::describe_io_error;
use crate::fs::regular;

/// The prefix of keys of bots.ini.
const BOTS_INI: &str = "bots.ini:";

/// Words in keys of bots.ini, to which user scripts may add their own, whose values are not shown.
const SECRETS: [&str; 8] = ["pass", "pwd", "secret", "token", "credential", "apikey", "api_key", "private"];

/// One value.
pub(crate) struct EffectiveValue {
    pub key: String,
    /// The variable that sets it.
    pub variable: Option<&'static str>,
    /// Empty if unset; never a secret.
    pub value: String,
    pub origin: String,
}

/// All values.
///
/// # Errors
/// When there is a bots.ini that cannot be read.
pub(crate) fn effective_settings(config: &Config) -> Result<Vec<EffectiveValue>, Error> {
    let own = config.effective_settings.iter().map(|known| EffectiveValue {
        key: known.setting.path.to_owned(),
        variable: Some(known.setting.env),
        value: known.value.clone(),
        origin: known.origin.to_string(),
    });
    let (mut all, ini): (Vec<_>, _) = (own.collect(), bots_ini(config)?);
    let port = all.iter().position(|known| known.key == "webserver.port").filter(|_| config.webserver.port.is_none());
    if let Some((port, of_bots)) = port.zip(ini.iter().find(|value| value.key == "bots.ini:webserver.port")) {
        (all[port].value, all[port].origin) = (of_bots.value.clone(), of_bots.origin.clone());
    }
    all.extend(ini);
    Ok(all)
}

/// The values of the bots.ini that the next start uses: the mounted one, else the existing one; none before the first start.
fn bots_ini(config: &Config) -> Result<Vec<EffectiveValue>, Error> {
    let paths = &config.environment;
    let places = [&paths.config_source, &paths.config_dir].map(|directory| directory.join("bots.ini"));
    let Some(path) = places.into_iter().find(|path| regular::may_exist(path)) else { return Ok(Vec::new()) };
    let text = regular::read_to_string(&path).map_err(|error| describe_io_error("read", &path, &error))?;
    let ini = parse_ini(&path, &text)?;
    let mut values = Vec::new();
    for section in ini.sections() {
        for (key, value) in ini.items(section) {
            // Menu entries of the web UI, such as menu_changepassword, contain no secrets.
            let is_secret = !key.starts_with("menu_") && SECRETS.iter().any(|word| key.contains(word));
            let line = ini.get(section, key).map_or(0, |entry| entry.line);
            values.push(EffectiveValue {
                key: format!("{BOTS_INI}{section}.{key}"),
                variable: None,
                value: if is_secret && !value.is_empty() { HIDDEN.to_owned() } else { redact(value) },
                origin: format!("{}:{line}", path.display()),
            });
        }
    }
    Ok(values)
}
