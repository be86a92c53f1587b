//! The database configured outside settings.py: by one URL or by several variables, which must agree.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::{Map, Value};

use super::database_url::DatabaseUrl;
use super::keys::DatabaseSection;
use super::layers::LayeredConfig;

/// How long to retry while the server is unreachable, unless a person waits at a terminal.
const CONNECT_RETRY_WINDOW: Duration = Duration::from_secs(60);

impl DatabaseSection {
    /// How long to retry while the server is unreachable.
    pub fn retry_window(&self) -> Duration {
        self.connect_timeout.unwrap_or(if stderr().is_terminal() { Duration::ZERO } else { CONNECT_RETRY_WINDOW })
    }

    /// Copies the parts of the URL to the settings from which `settings.py` is generated.
    pub(super) fn apply_url(&mut self, layers: &mut LayeredConfig<'_>) {
        let Some(url) = self.url.clone() else { return };
        check_conflicts(self, &url).into_iter().for_each(|fault| layers.report(fault));
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        self.engine = Some(url.engine.to_owned());
        self.name = given(url.name);
        self.user = given(url.user).or_else(|| self.user.take());
        self.host = given(url.host).or_else(|| self.host.take());
        self.port = url.port.or(self.port);
        self.password = url.password.or_else(|| self.password.take());
        let options = url.options.into_iter().map(|(key, value)| (key, Value::String(value)));
        let all: Map<String, Value> = self.options.take().into_iter().flatten().chain(options).collect();
        self.options = Some(all).filter(|all| !all.is_empty());
    }
}

/// The engine family, for any of its names.
pub fn normalise_engine(engine: &str) -> &str {
    match engine.rsplit('.').next().unwrap_or(engine) {
        "sqlite" | "sqlite3" => "sqlite",
        "mysql" | "mariadb" => "mysql",
        "postgres" | "postgresql" | "postgresql_psycopg2" => "postgresql",
        other => other,
    }
}

fn check_conflicts(database: &DatabaseSection, url: &DatabaseUrl) -> Vec<String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let number = |port: Option<u16>| port.map(|port| port.to_string()).unwrap_or_default();
    let engine = database.engine.as_deref().map(|engine| normalise_engine(&engine.to_ascii_lowercase()).to_owned());
    let pairs = [
        ("DB_ENGINE", text(&engine), url.engine.to_owned()),
        ("DB_NAME", text(&database.name), url.name.clone()),
        ("DB_USER", text(&database.user), url.user.clone()),
        ("DB_HOST", text(&database.host), url.host.clone()),
        ("DB_PORT", number(database.port), number(url.port)),
    ];
    let mut faults: Vec<String> = pairs
        .into_iter()
        .filter(|(_, one, other)| !one.is_empty() && !other.is_empty() && one != other)
        .map(|(name, one, other)| {
            format!("{name} is {one:?}, but BOTS_CTL_DATABASE_URL has {other:?}: remove one of them")
        })
        .collect();
    let passwords = database.password.as_ref().zip(url.password.as_ref());
    if passwords.is_some_and(|(one, other)| one.expose_secret() != other.expose_secret()) {
        faults.push("DB_PASSWORD and BOTS_CTL_DATABASE_URL have different passwords: remove one of them".to_owned());
    }
    faults
}
