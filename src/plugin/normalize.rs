//! Rows in the form in which they are compared: values of the types in the installed Bots, and paths that begin with
//! `botssys` if they are inside that directory, as in Bots's own plugins.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::tables::{PATHS, is_secret};
use super::{Error, Plugin, Table};
use crate::bots::plugin_session::{FieldKind, FieldType, Fields, StoredConfiguration};
use crate::model::counted;

/// How Bots's plugins name the directory.
const BOTSSYS: &str = "botssys";

/// How a date begins in the form of ISO 8601.
const DATE_LENGTH: usize = 10;

/// Replaces the directory botssys at the beginning of paths by its word.
#[must_use]
pub fn to_portable(table: Table, row: &Fields, botssys: &str) -> Fields {
    replace_prefix(table, row, botssys.trim_end_matches('/'), BOTSSYS)
}

/// Replaces the word botssys at the beginning of paths by the directory.
#[must_use]
pub fn to_local(table: Table, row: &Fields, botssys: &str) -> Fields {
    replace_prefix(table, row, BOTSSYS, botssys.trim_end_matches('/'))
}

fn replace_prefix(table: Table, row: &Fields, from: &str, to: &str) -> Fields {
    let mut row = row.clone();
    for field in PATHS.iter().filter(|_| table == Table::Channel) {
        let Some(Value::String(path)) = row.get_mut(*field) else { continue };
        if let Some(rest) = path.strip_prefix(from)
            && (rest.is_empty() || rest.starts_with('/'))
        {
            *path = format!("{to}{rest}");
        }
    }
    row
}

/// The text in an index in the place of a secret.
#[must_use]
pub fn secret_place(channel: &str) -> String {
    format!("${{channel.{channel}.secret}}")
}

/// The rows of an export: without secrets, in whose places stand their names.
#[must_use]
pub fn exported_rows(stored: &StoredConfiguration) -> Vec<(Table, Fields)> {
    let mut rows = Vec::new();
    for table in Table::ALL {
        let stored_rows = stored.tables.get(table.model()).map(|found| &found.rows);
        for row in stored_rows.into_iter().flatten() {
            let mut fields = to_portable(table, &row.fields, &stored.botssys);
            let place = secret_place(&table.name_of(&fields));
            for (_, value) in fields.iter_mut().filter(|(field, _)| is_secret(table, field)) {
                if value.as_str().is_some_and(|secret| !secret.is_empty()) {
                    *value = json!(place);
                }
            }
            rows.push((table, fields));
        }
    }
    rows
}

/// Converts the rows of a plugin to the form of the installed Bots. Unknown content is skipped and reported.
///
/// # Errors
/// Values that this Bots cannot store.
pub fn normalize(plugin: &mut Plugin, stored: &StoredConfiguration) -> Result<(), Error> {
    let mut faults = Vec::new();
    let mut unknown: BTreeMap<(&'static str, String), usize> = BTreeMap::new();
    for (table, row) in &mut plugin.rows {
        let Some(types) = stored.tables.get(table.model()).map(|found| &found.fields) else { continue };
        let name = table.name_of(row);
        let mut fields = Fields::new();
        for (field, value) in std::mem::take(row) {
            let Some(kind) = types.get(&field) else {
                if is_filled(&value) && field != "id" {
                    *unknown.entry((table.word(), field)).or_default() += 1;
                }
                continue;
            };
            match convert(&value, kind) {
                Ok(value) => {
                    fields.insert(field, value);
                }
                Err(reason) => faults.push(format!("{} {name}: {field}: {reason}", table.word())),
            }
        }
        *row = fields;
    }
    let ignored = unknown.into_iter().map(|((word, field), rows)| {
        format!("the field {field} of {}, which this Bots does not have", counted(rows, word))
    });
    plugin.ignored.extend(ignored);
    Error::fail_if_any(faults)
}

/// Whether the loss of a value would change anything.
fn is_filled(value: &Value) -> bool {
    !(value.is_null() || value == "" || value == false || value == 0 || value == &json!([]))
}

/// A value as this Bots keeps it.
///
/// # Errors
/// Why it cannot. The text has no value in it: it may be a secret.
pub fn convert(value: &Value, kind: &FieldType) -> Result<Value, String> {
    let empty = if kind.null { Value::Null } else { kind.default.clone() };
    match (kind.kind, value) {
        (FieldKind::List, value) => list(value),
        (FieldKind::Text, Value::Null) => Ok(if kind.null { Value::Null } else { json!("") }),
        (_, Value::Null) => Ok(empty),
        (FieldKind::Text, value) => text(value, kind),
        (FieldKind::Bool | FieldKind::Integer | FieldKind::Date | FieldKind::Key, Value::String(text))
            if text.trim().is_empty() =>
        {
            Ok(empty)
        }
        (FieldKind::Bool, value) => bool_of(value).map(Value::Bool).ok_or_else(|| "expected true or false".to_owned()),
        (FieldKind::Integer, Value::Bool(value)) => Ok(json!(i64::from(*value))),
        (FieldKind::Integer, Value::String(text)) => {
            text.trim().parse::<i64>().map(Value::from).map_err(|_| "expected a whole number".to_owned())
        }
        (FieldKind::Integer, value) => {
            value.as_i64().map(Value::from).ok_or_else(|| "expected a whole number".to_owned())
        }
        (FieldKind::Date, Value::String(text)) => {
            let date = text.trim().get(..DATE_LENGTH).filter(|date| is_date(date));
            date.map(Value::from).ok_or_else(|| "expected a date such as 2026-01-31".to_owned())
        }
        (FieldKind::Key, Value::String(text)) => Ok(json!(text.trim())),
        _ => Err("expected a text".to_owned()),
    }
}

fn bool_of(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::Number(number) => number.as_i64().filter(|number| (0..=1).contains(number)).map(|number| number == 1),
        Value::String(text) => match text.trim() {
            "True" | "true" | "1" => Some(true),
            "False" | "false" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn is_date(text: &str) -> bool {
    let is_separator = |index| index == 4 || index == 7;
    text.bytes().enumerate().all(|(index, byte)| if is_separator(index) { byte == b'-' } else { byte.is_ascii_digit() })
}

fn text(value: &Value, kind: &FieldType) -> Result<Value, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err("expected a text".to_owned()),
    };
    let text = if kind.strip { text.trim().to_owned() } else { text };
    match kind.max {
        Some(max) if text.chars().count() > max => {
            Err(format!("it has {} characters, and this Bots keeps {max}", text.chars().count()))
        }
        _ => Ok(json!(text)),
    }
}

fn list(value: &Value) -> Result<Value, String> {
    let wrong = || "expected a list of texts".to_owned();
    if value.is_null() {
        return Ok(json!([]));
    }
    let items: Option<Vec<&str>> = value.as_array().ok_or_else(wrong)?.iter().map(Value::as_str).collect();
    let mut items = items.ok_or_else(wrong)?;
    items.sort_unstable();
    items.dedup();
    Ok(json!(items))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(kind: FieldKind, null: bool) -> FieldType {
        FieldType { kind, null, strip: true, max: Some(3), default: json!(false) }
    }

    #[test]
    fn values_are_converted_to_field_types() {
        let (text, flag) = (kind(FieldKind::Text, false), kind(FieldKind::Bool, false));
        assert_eq!(convert(&json!(" ab "), &text), Ok(json!("ab")));
        assert_eq!(convert(&json!(7), &text), Ok(json!("7")));
        assert_eq!(convert(&Value::Null, &text), Ok(json!("")));
        assert_eq!(convert(&Value::Null, &kind(FieldKind::Text, true)), Ok(Value::Null));
        assert_eq!(convert(&json!(1), &flag), Ok(json!(true)));
        assert_eq!(convert(&Value::Null, &flag), Ok(json!(false)));
        assert_eq!(convert(&json!(""), &kind(FieldKind::Key, true)), Ok(Value::Null));
        assert_eq!(convert(&json!("7"), &kind(FieldKind::Integer, true)), Ok(json!(7)));
        assert_eq!(convert(&json!("2026-01-31T00:00:00"), &kind(FieldKind::Date, true)), Ok(json!("2026-01-31")));
        assert_eq!(convert(&json!(["b", "a", "b"]), &kind(FieldKind::List, false)), Ok(json!(["a", "b"])));
        let refused = convert(&json!("word of four"), &text).expect_err("it is too long");
        assert_eq!(refused, "it has 12 characters, and this Bots keeps 3");
    }

    #[test]
    fn only_paths_below_botssys_become_portable() {
        let row = |path: &str| Fields::from([("path".to_owned(), json!(path))]);
        let there = |path: &str| to_portable(Table::Channel, &row(path), "/env/botssys/")["path"].clone();
        assert_eq!(there("/env/botssys/in"), "botssys/in");
        assert_eq!(there("/env/botssys"), "botssys");
        assert_eq!(there("/env/botssys2/in"), "/env/botssys2/in");
        assert_eq!(to_local(Table::Channel, &row("botssys/in"), "/b")["path"], "/b/in");
        assert_eq!(to_local(Table::Partner, &row("botssys/in"), "/b")["path"], "botssys/in");
    }
}
