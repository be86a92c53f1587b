//! An error that Python reports in the place of a result.

use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Error;
use super::environment::Environment;

/// An error in Python, at its place in the user's files if one of them took part.
#[derive(Debug, Deserialize)]
pub struct PythonFault {
    text: String,
    file: String,
    line: Option<u32>,
    pub traceback: String,
    /// The section of the invalid value of bots.ini.
    #[serde(default)]
    section: String,
    #[serde(default)]
    key: String,
    /// Whether the database is out of reach or locked, so that a repetition can succeed.
    #[serde(default)]
    pub is_unavailable: bool,
}

impl PythonFault {
    /// Removes the faults from a reply; null, or no such field, means that there are none.
    ///
    /// # Errors
    /// If the field has another form.
    pub fn take<T: DeserializeOwned + Default>(reply: &mut Value, field: &str) -> Result<T, Error> {
        let value = reply.get_mut(field).map(Value::take).unwrap_or_default();
        let faults = serde_json::from_value::<Option<T>>(value)
            .map_err(|error| Error::Failed(format!("cannot parse the {field} that Python reported: {error}")))?;
        Ok(faults.unwrap_or_default())
    }

    /// The text for a user whose settings could not be loaded.
    pub fn describe(&self, environment: &Environment) -> String {
        match (self.key.as_str(), self.file.as_str()) {
            ("", "") => format!("cannot load Bots's settings: {self}"),
            ("", _) => self.to_string(),
            (key, _) => environment.describe_value(&self.section, key, &self.text),
        }
    }
}

impl fmt::Display for PythonFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, file, line, .. } = self;
        let hint = if text.contains("mysqlclient") {
            "; bots-ctl install --with mysql installs it"
        } else if text.contains("psycopg2") {
            "; bots-ctl install --with postgresql installs it"
        } else if text.contains("timezone") {
            "; set TZ to a name such as Europe/Berlin"
        } else if text.contains("marshal data") {
            "; a compiled file is truncated, probably by a full volume: remove the directories __pycache__ below the environment"
        } else {
            ""
        };
        match (file.as_str(), line) {
            ("", _) => write!(f, "{text}{hint}"),
            (_, None) => write!(f, "{file}: {text}{hint}"),
            (_, Some(line)) => write!(f, "{file}:{line}: {text}{hint}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fault_is_reported_at_its_place() {
        let [root, config, botssys, usersys] = ["/e", "/e/c", "/e/b", "/e/u"].map(Into::into);
        let environment = Environment { root, config, botssys, usersys };
        for (file, line, expected) in [
            ("/c/settings.py", json!(3), "/c/settings.py:3: no"),
            ("/c/settings.py", json!(null), "/c/settings.py: no"),
            ("", json!(null), "cannot load Bots's settings: no"),
        ] {
            let mut reply = json!({ "fault": { "text": "no", "file": file, "line": line, "traceback": "" } });
            let fault: Option<PythonFault> = PythonFault::take(&mut reply, "fault").expect("valid");
            assert_eq!(fault.expect("there is one").describe(&environment), expected);
        }
    }

    #[test]
    fn unparsable_faults_do_not_count_as_none() {
        for mut reply in [json!({}), json!({ "faults": null }), json!({ "faults": [] })] {
            let faults: Vec<PythonFault> = PythonFault::take(&mut reply, "faults").expect("none");
            assert!(faults.is_empty());
        }
        for mut reply in [json!({ "faults": 5 }), json!({ "faults": [{ "text": "no" }] })] {
            let refused = PythonFault::take::<Vec<PythonFault>>(&mut reply, "faults").expect_err("another form");
            assert!(refused.to_string().starts_with("cannot parse the faults that Python reported: "), "{refused}");
        }
    }
}
