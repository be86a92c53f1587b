//! What differs between environments: values for fields of channels, partners and routes, from a file or the command line.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::normalize::convert;
use super::tables::is_secret;
use super::{Error, Plugin, Table};
use crate::bots::plugin_session::StoredConfiguration;
use crate::fs::{atomic, regular};

/// The end of a key whose value is a file with the value of the field.
const FILE_SUFFIX: &str = "_file";

/// The rows that can have values, and the field that names them.
const NAMED: [(Table, &str); 3] =
    [(Table::Channel, "idchannel"), (Table::Partner, "idpartner"), (Table::Route, "idroute")];

/// Values, of which later ones count before earlier ones.
#[derive(Debug, Default)]
pub struct Values {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    table: Table,
    name: String,
    field: String,
    value: Value,
    /// For messages.
    origin: String,
}

impl Values {
    /// Adds the values of a file.
    ///
    /// # Errors
    /// If it is not a table of tables.
    pub fn add_file(&mut self, path: &Path) -> Result<(), Error> {
        let text = regular::read_to_string(path).map_err(|error| atomic::describe_io_error("read", path, &error))?;
        let content: toml::Table = toml::from_str(&text).map_err(|error| Error::toml(path, &text, &error))?;
        let directory = path.parent().unwrap_or(Path::new("."));
        let mut faults = Vec::new();
        for (word, rows) in content {
            for (name, fields) in rows.as_table().cloned().unwrap_or_default() {
                for (field, value) in fields.as_table().cloned().unwrap_or_default() {
                    let origin = format!("{}: [{word}.\"{name}\"] {field}", path.display());
                    match json_value(value) {
                        Some(value) => self.add(&word, &name, &field, value, origin, directory, &mut faults),
                        None => faults.push(format!("{origin}: expected a text, a number, true, false or a list")),
                    }
                }
                if !fields.is_table() {
                    faults.push(format!("{}: [{word}] {name}: expected a table [{word}.NAME]", path.display()));
                }
            }
            if !rows.is_table() {
                faults.push(format!("{}: {word}: expected a table [channel.NAME]", path.display()));
            }
        }
        Error::fail_if_any(faults)
    }

    /// Adds a value of the command line, such as `channel.NAME.path=/data/in`.
    ///
    /// # Errors
    /// When it has another form, or would be a secret that every process can read.
    pub fn add_argument(&mut self, argument: &str) -> Result<(), Error> {
        let parts = argument.split_once('=').and_then(|(key, value)| {
            let (word, rest) = key.split_once('.')?;
            let (name, field) = rest.rsplit_once('.')?;
            Some((word, name, field, value))
        });
        let Some((word, name, field, value)) = parts else {
            let shown = argument.split('=').next().unwrap_or_default();
            return Err(Error::fault(format!("--set {shown}: expected channel.NAME.FIELD=VALUE, or partner or route")));
        };
        let origin = format!("--set {word}.{name}.{field}");
        if is_secret(Table::Channel, field) {
            let text = "other users of this machine can read it there: give the file with it as";
            return Err(Error::fault(format!("{origin}: {text} {word}.{name}.{field}{FILE_SUFFIX}=FILE")));
        }
        let mut faults = Vec::new();
        self.add(word, name, field, json!(value), origin, Path::new("."), &mut faults);
        Error::fail_if_any(faults)
    }

    #[allow(clippy::too_many_arguments, reason = "an entry and where it is from")]
    fn add(
        &mut self,
        word: &str,
        name: &str,
        field: &str,
        value: Value,
        origin: String,
        directory: &Path,
        faults: &mut Vec<String>,
    ) {
        let Some((table, _)) = NAMED.into_iter().find(|(table, _)| table.word() == word) else {
            faults.push(format!("{origin}: expected channel, partner or route, not {word}"));
            return;
        };
        let (field, value) = match (field.strip_suffix(FILE_SUFFIX), value.as_str()) {
            (Some(field), Some(file)) => {
                let path = directory.join(file);
                match regular::read_to_string(&path) {
                    Ok(text) => (field, json!(text.trim_end_matches(['\n', '\r']))),
                    Err(error) => {
                        faults.push(format!("{origin}: {}", atomic::describe_io_error("read", &path, &error)));
                        return;
                    }
                }
            }
            _ => (field, value),
        };
        let (name, field) = (name.to_owned(), field.to_owned());
        self.entries.push(Entry { table, name, field, value, origin });
    }

    /// Puts the values into the rows of a normalized plugin.
    ///
    /// # Errors
    /// Names that the plugin or this Bots does not have, and values that it cannot keep.
    pub fn apply(&self, plugin: &mut Plugin, stored: &StoredConfiguration) -> Result<(), Error> {
        let mut faults = Vec::new();
        let positions = positions(plugin);
        for entry in &self.entries {
            let types = stored.tables.get(entry.table.model()).map(|table| &table.fields);
            let kind = types.and_then(|types| types.get(&entry.field));
            let Some(kind) = kind.filter(|_| !entry.table.key().contains(&entry.field.as_str())) else {
                faults.push(format!("{}: a {} has no field {}", entry.origin, entry.table.word(), entry.field));
                continue;
            };
            let value = match convert(&entry.value, kind) {
                Ok(value) => value,
                Err(reason) => {
                    faults.push(format!("{}: {reason}", entry.origin));
                    continue;
                }
            };
            let Some(named) = positions.get(&(entry.table, entry.name.clone())) else {
                faults.push(format!("{}: the plugin has no {} {}", entry.origin, entry.table.word(), entry.name));
                continue;
            };
            for position in named {
                plugin.rows[*position].1.insert(entry.field.clone(), value.clone());
            }
        }
        Error::fail_if_any(faults)
    }
}

/// The positions of the rows that can have values, by table and name: a plugin may have thousands of rows, and the values too.
fn positions(plugin: &Plugin) -> BTreeMap<(Table, String), Vec<usize>> {
    let mut positions: BTreeMap<(Table, String), Vec<usize>> = BTreeMap::new();
    for (position, (table, row)) in plugin.rows.iter().enumerate() {
        let key = NAMED.iter().find(|(named, _)| named == table).map(|(_, key)| *key);
        if let Some(name) = key.and_then(|key| row.get(key)).and_then(Value::as_str) {
            positions.entry((*table, name.to_owned())).or_default().push(position);
        }
    }
    positions
}

fn json_value(value: toml::Value) -> Option<Value> {
    match value {
        toml::Value::String(text) => Some(json!(text)),
        toml::Value::Integer(number) => Some(json!(number)),
        toml::Value::Boolean(value) => Some(json!(value)),
        toml::Value::Array(items) => items.into_iter().map(json_value).collect::<Option<Vec<_>>>().map(Value::Array),
        toml::Value::Datetime(date) => Some(json!(date.to_string())),
        toml::Value::Float(_) | toml::Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_of_a_file_has_its_line_and_no_secret() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "[channel.in]\n\nsecret = sesame\n").expect("written");
        let fault = Values::default().add_file(file.path()).expect_err("it is no TOML").to_string();
        assert!(fault.starts_with(&format!("{}:3: ", file.path().display())), "{fault}");
        assert!(fault.lines().count() == 1 && !fault.contains("sesame"), "{fault}");
    }
}
