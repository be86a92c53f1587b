//! The task of a job: its command line, as it was submitted.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::xmlrpc::Value;
use crate::telemetry::escape::escape_control;

/// The command line of a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobCommand(Vec<String>);

impl JobCommand {
    /// A task from its arguments.
    ///
    /// # Errors
    /// When an argument has a character that XML or a command line cannot have.
    pub fn new(argv: Vec<String>) -> Result<Self, String> {
        match argv.iter().flat_map(|word| word.chars()).find(|c| !is_character(*c)) {
            Some(wrong) => Err(format!("the task contains the character U+{:04X}", u32::from(wrong))),
            None => Ok(Self(argv)),
        }
    }

    /// A task from its value on the wire: an array of strings.
    ///
    /// # Errors
    /// If the value is not an array of strings.
    pub fn from_value(value: &Value) -> Result<Self, String> {
        let Value::Array(values) = value else { return Err("the task is not an array of strings".to_owned()) };
        let word = |value: &Value| match value {
            Value::String(word) => Ok(word.clone()),
            _ => Err("the task is not an array of strings".to_owned()),
        };
        Self::new(values.iter().map(word).collect::<Result<_, _>>()?)
    }

    /// Its value on the wire.
    #[must_use]
    pub fn to_value(&self) -> Value {
        Value::Array(self.0.iter().map(|word| Value::String(word.clone())).collect())
    }

    /// The arguments, with the program.
    #[must_use]
    pub fn argv(&self) -> &[String] {
        &self.0
    }

    /// Its form in the database.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// A task from its form in the database.
    #[must_use]
    pub fn from_json(json: &str) -> Self {
        // Text that another program wrote there becomes a task that is never allowed.
        Self(serde_json::from_str(json).unwrap_or_else(|_| vec![json.to_owned()]))
    }

    /// Equal for equal tasks only.
    #[must_use]
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(self.to_json().as_bytes()))
    }
}

impl std::fmt::Display for JobCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&escape_control(&self.0.join(" ")))
    }
}

/// The characters of XML 1.0.
fn is_character(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}') || matches!(c, '\t' | '\n' | '\r' | '\u{7f}'..='\u{9f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(argv: &[&str]) -> JobCommand {
        JobCommand::new(argv.iter().map(|word| (*word).to_owned()).collect()).expect("a task")
    }

    #[test]
    fn task_digest_covers_whole_argument_list() {
        assert_eq!(task(&["a", "b"]).digest(), task(&["a", "b"]).digest());
        assert_ne!(task(&["a", "b"]).digest(), task(&["a b"]).digest());
        assert_ne!(task(&["a", "b"]).digest(), task(&["a", "b", ""]).digest());
        let odd = task(&["ü\n", "\"", ""]);
        assert_eq!(JobCommand::from_json(&odd.to_json()), odd);
        assert_eq!(JobCommand::from_value(&odd.to_value()), Ok(odd));
    }

    #[test]
    fn task_rejects_non_strings_and_control_characters() {
        assert!(JobCommand::from_value(&Value::String("a".to_owned())).is_err());
        assert!(JobCommand::from_value(&Value::Array(vec![Value::Integer(1)])).is_err());
        assert!(JobCommand::new(vec!["a\0".to_owned()]).is_err_and(|text| text.contains("U+0000")));
        assert!(JobCommand::new(vec!["\u{1b}[2J".to_owned()]).is_err());
    }
}
