//! A change as text and as JSON, without secrets.

use serde_json::{Map, Value, json};

use super::diff::{FileChange, Plan, RowChange};
use super::tables::is_secret;
use crate::bots::plugin_session::Fields;

/// The change of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Added,
    Changed,
    Removed,
}

impl Action {
    fn of<T>(before: Option<&T>, after: Option<&T>) -> Self {
        match (before, after) {
            (None, _) => Self::Added,
            (Some(_), Some(_)) => Self::Changed,
            (Some(_), None) => Self::Removed,
        }
    }

    fn sign(self) -> char {
        match self {
            Self::Added => '+',
            Self::Changed => '~',
            Self::Removed => '-',
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// A line for each thing that is added, changed or removed, and one for each field that changes.
#[must_use]
pub fn text(plan: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    for row in &plan.rows {
        let action = row_action(row);
        lines.push(format!("{} {}", action.sign(), row.name()));
        if action == Action::Changed {
            let fields = changed_fields(row).into_iter();
            lines.extend(fields.map(|FieldChange { field, before, after }| {
                format!("    {field}: {} -> {}", shown(before), shown(after))
            }));
        }
    }
    lines.extend(plan.files.iter().map(|file| format!("{} file usersys/{}", file_action(file).sign(), file.path)));
    lines
}

/// The number of things that are added, changed and removed.
#[must_use]
pub fn summary(plan: &Plan) -> String {
    let actions: Vec<Action> = plan.rows.iter().map(row_action).chain(plan.files.iter().map(file_action)).collect();
    let count = |wanted| actions.iter().filter(|action| **action == wanted).count();
    let [added, changed, removed] = [Action::Added, Action::Changed, Action::Removed].map(count);
    format!("{added} added, {changed} changed, {removed} removed")
}

/// The same as JSON.
#[must_use]
pub fn json(plan: &Plan, is_applied: bool, ignored: &[String]) -> Value {
    let rows: Vec<Value> = plan.rows.iter().map(row_json).collect();
    let files = plan
        .files
        .iter()
        .map(|file| json!({ "path": format!("usersys/{}", file.path), "change": file_action(file).word() }));
    json!({
        "status": match (plan.is_empty(), is_applied) {
            (true, _) => "unchanged",
            (false, true) => "applied",
            (false, false) => "differs",
        },
        "rows": rows,
        "files": files.collect::<Vec<_>>(),
        "ignored": ignored,
    })
}

fn row_json(row: &RowChange) -> Value {
    let fields: Map<String, Value> = changed_fields(row)
        .into_iter()
        .map(|change| (change.field, json!({ "before": change.before, "after": change.after })))
        .collect();
    let name = row.after.as_ref().or(row.before.as_ref()).map(|fields| row.table.name_of(fields));
    json!({
        "type": row.table.word(),
        "name": name,
        "change": row_action(row).word(),
        "fields": fields,
    })
}

fn row_action(row: &RowChange) -> Action {
    Action::of(row.before.as_ref(), row.after.as_ref())
}

fn file_action(file: &FileChange) -> Action {
    Action::of(file.before.as_ref(), file.after.as_ref())
}

fn shown(value: Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => format!("{text:?}"),
        value => value.to_string(),
    }
}

/// A field that changes, without secrets.
struct FieldChange {
    field: String,
    before: Value,
    after: Value,
}

fn changed_fields(row: &RowChange) -> Vec<FieldChange> {
    let empty = Fields::new();
    let (before, after) = (row.before.as_ref().unwrap_or(&empty), row.after.as_ref().unwrap_or(&empty));
    let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
    let differing = names.filter(|name| before.get(*name) != after.get(*name));
    let value = |fields: &Fields, name: &str| match fields.get(name) {
        Some(value) if is_secret(row.table, name) && value != "" => json!("(hidden)"),
        Some(value) => value.clone(),
        None => Value::Null,
    };
    let change =
        |name: &String| FieldChange { field: name.clone(), before: value(before, name), after: value(after, name) };
    differing.map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Table;

    fn channel(path: &str, secret: &str) -> Option<Fields> {
        let fields = [("idchannel", "in"), ("path", path), ("secret", secret)];
        Some(fields.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect())
    }

    #[test]
    fn a_change_is_shown_without_secrets() {
        let change = |before, after| RowChange { table: Table::Channel, pk: json!("in"), before, after };
        let plan = Plan {
            rows: vec![
                change(channel("a", "one"), channel("b", "two")),
                change(None, channel("a", "one")),
                change(channel("a", "one"), None),
            ],
            files: vec![FileChange { path: "mappings/x.py".to_owned(), before: None, after: Some(Vec::new()) }],
        };
        let lines = [
            "~ channel in",
            "    path: \"a\" -> \"b\"",
            "    secret: \"(hidden)\" -> \"(hidden)\"",
            "+ channel in",
            "- channel in",
            "+ file usersys/mappings/x.py",
        ];
        assert_eq!(text(&plan), lines);
        assert_eq!(summary(&plan), "2 added, 1 changed, 1 removed");
        let shown = json(&plan, false, &[]).to_string();
        assert!(!shown.contains("one") && !shown.contains("two"), "{shown}");
    }
}
