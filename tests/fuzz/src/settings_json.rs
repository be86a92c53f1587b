//! The settings reported by Python: parsed or rejected, and the database address is printed without the password.
//!
//! The input is the JSON, followed by a byte 0xff and a database URL.

use bots_ctl::bots::django_settings::DjangoSettings;
use bots_ctl::config::DatabaseUrl;
use bots_ctl::database::DatabaseConfig;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, from_str, json};

/// A password that occurs only here in the input must not occur in any output.
const PASSWORD: &str = "hush-7Kq";

/// Reads facts, and makes settings of them.
pub fn check(data: &[u8]) {
    let [answer, url] = super::parts::<2>(data);
    let url = (!url.is_empty()).then(|| check_url(&url)).flatten();
    let Ok(answer) = from_str::<Value>(&answer) else { return };
    let is_secret = is_in_the_password_alone(&answer);
    let facts = match DjangoSettings::parse(answer.clone()) {
        Ok(facts) => facts,
        Err(error) => {
            let told = error.to_string();
            assert!(!told.is_empty());
            assert!(!is_secret || !told.contains(PASSWORD), "{told}");
            return;
        }
    };
    assert!(facts.is_same(&facts));
    let kept = json!(facts);
    assert!(kept["database"].get("password").is_none());
    let mut again = DjangoSettings::parse(kept).expect("what is kept can be read");
    again.database.password = SecretString::from(facts.database.password.expose_secret());
    assert!(facts.is_same(&again));
    check_settings(&facts, url.as_ref(), is_secret);
}

fn check_url(text: &str) -> Option<DatabaseUrl> {
    match DatabaseUrl::parse(text) {
        Ok(url) => {
            assert!(url.engine == "sqlite" || !url.name.is_empty());
            Some(url)
        }
        Err(fault) => {
            assert!(!fault.contains(PASSWORD) && !super::has_control(&fault), "{fault}");
            None
        }
    }
}

fn is_in_the_password_alone(answer: &Value) -> bool {
    let mut rest = answer.clone();
    let password = rest.get_mut("database").and_then(|database| database.get_mut("password")).map(Value::take);
    password == Some(Value::from(PASSWORD)) && !rest.to_string().contains(PASSWORD)
}

fn check_settings(facts: &DjangoSettings, url: Option<&DatabaseUrl>, is_secret: bool) {
    let database = &facts.database;
    let has_url = url.is_some();
    let told = match DatabaseConfig::from_django(database, url) {
        Ok(settings) => {
            assert!(
                has_url
                    || database.is_sqlite() == matches!(settings, DatabaseConfig::Sqlite(_))
                    || !database.engine.contains('.')
            );
            format!("{} {settings:?} {facts:?}", settings.describe())
        }
        Err(error) => error.to_string(),
    };
    assert!(!is_secret || has_url || !told.contains(PASSWORD), "{told}");
}
