//! The parts of plugin handling that need Bots's Python: the configuration in its database, its check of grammars, and
//! archives.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Error;
use super::python_session::PythonSession;

/// Fields of a row by their names in Bots's models.
pub type Fields = BTreeMap<String, Value>;

/// The configuration in the database.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct StoredConfiguration {
    /// The directory botssys as bots.ini names it.
    pub botssys: String,
    /// The tables by the names of Bots's models.
    pub tables: BTreeMap<String, StoredTable>,
}

/// A table of the configuration.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct StoredTable {
    pub fields: BTreeMap<String, FieldType>,
    pub rows: Vec<StoredRow>,
}

/// The type of a field in the installed Bots.
#[derive(Debug, Clone, Deserialize)]
pub struct FieldType {
    pub kind: FieldKind,
    /// Whether it may be empty as NULL.
    pub null: bool,
    /// Whether Bots strips it.
    pub strip: bool,
    /// The most characters.
    pub max: Option<usize>,
    /// Its value in a new row.
    pub default: Value,
}

/// The kind of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldKind {
    Bool,
    Integer,
    Text,
    Date,
    /// The key of another row.
    Key,
    /// Keys of other rows.
    List,
}

/// A row as the database has it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct StoredRow {
    pub pk: Value,
    pub fields: Fields,
}

/// A change of a row: created if it has no key yet, deleted if there are no new values.
#[derive(Debug, Serialize)]
pub struct RowWrite<'a> {
    pub table: &'a str,
    /// For messages.
    pub name: String,
    pub pk: &'a Value,
    pub before: Option<&'a Fields>,
    pub after: Option<&'a Fields>,
}

/// A fault of a script.
#[derive(Debug, Deserialize)]
pub struct ScriptFault {
    /// Below usersys.
    pub file: String,
    /// 0 when it is not known.
    pub line: u64,
    pub text: String,
}

impl PythonSession {
    /// Reads the configuration.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn read_configuration(&mut self) -> Result<StoredConfiguration, Error> {
        self.plugin_request("read the configuration", &json!({ "plugin": "read" })).await
    }

    /// Makes all changes in one transaction, or none if one of the rows has changed since. `base` is the ID of the
    /// previous change, `id` that of this one.
    ///
    /// # Errors
    /// If a statement fails.
    pub async fn write_configuration(&mut self, base: &str, id: &str, changes: &[RowWrite<'_>]) -> Result<(), Error> {
        let request = json!({ "plugin": "write", "base": base, "id": id, "changes": changes });
        self.plugin_request("write the configuration", &request).await.map(|_: Value| ())
    }

    /// Checks scripts of a copy of usersys, which is in `directory`: all are compiled, and grammars are read.
    ///
    /// # Errors
    /// When Python fails.
    pub async fn check_scripts(&mut self, directory: &Path, files: &[String]) -> Result<Vec<ScriptFault>, Error> {
        #[derive(Deserialize)]
        struct Reply {
            faults: Vec<ScriptFault>,
        }
        let request = json!({ "plugin": "check", "directory": directory, "files": files });
        let reply: Reply = self.plugin_request("check the scripts", &request).await?;
        Ok(reply.faults)
    }

    /// The rows of a botsindex.py, which is not executed.
    ///
    /// # Errors
    /// If it does not have the form that Bots writes.
    pub async fn read_python_index(&mut self, file: &Path) -> Result<Vec<Fields>, Error> {
        #[derive(Deserialize)]
        struct Reply {
            plugins: Vec<Fields>,
        }
        let action = format!("read {}", file.display());
        let reply: Reply = self.plugin_request(&action, &json!({ "plugin": "index", "file": file })).await?;
        Ok(reply.plugins)
    }

    /// Unpacks an archive.
    ///
    /// # Errors
    /// If it is not an archive, is too large, or contains paths outside of it.
    pub async fn unpack(&mut self, file: &Path, directory: &Path) -> Result<(), Error> {
        let request = json!({ "plugin": "unpack", "file": file, "directory": directory });
        self.plugin_request(&format!("read {}", file.display()), &request).await.map(|_: Value| ())
    }

    /// Packs a directory into an archive, whose bytes depend on names and contents alone.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn pack(&mut self, directory: &Path, file: &Path) -> Result<(), Error> {
        let request = json!({ "plugin": "pack", "file": file, "directory": directory });
        self.plugin_request(&format!("write {}", file.display()), &request).await.map(|_: Value| ())
    }

    async fn plugin_request<T: DeserializeOwned>(&mut self, action: &str, request: &Value) -> Result<T, Error> {
        let reply = self.request(request).await;
        let reply = reply.map_err(|error| error.to_error(format!("cannot {action}: {error}")))?;
        let failed = |text: &str| Error::Failed(format!("cannot {action}: {text}"));
        if let Some(refused) = reply["refused"].as_str() {
            let is_conflict = reply["conflict"] == true;
            return Err(if is_conflict {
                Error::Unavailable(format!("cannot {action}: {refused}"))
            } else {
                failed(refused)
            });
        }
        serde_json::from_value(reply).map_err(|error| failed(&format!("cannot read the reply of Python: {error}")))
    }
}
