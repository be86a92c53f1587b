//! The changes of a plugin: the rows and files that differ from those of an environment.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::normalize::{secret_place, to_local, to_portable};
use super::tables::is_secret;
use super::{Error, Plugin, Table};
use crate::bots::plugin_session::{FieldKind, Fields, RowWrite, StoredConfiguration, StoredRow, StoredTable};

/// Everything that a change makes, replaces and removes.
#[derive(Debug, Default)]
pub struct Plan {
    pub rows: Vec<RowChange>,
    pub files: Vec<FileChange>,
}

/// A row that is made, changed or removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RowChange {
    pub table: Table,
    /// Null for a row that is made.
    pub pk: Value,
    pub before: Option<Fields>,
    pub after: Option<Fields>,
}

/// A file below usersys that is made, changed or removed.
#[derive(Debug, Clone, PartialEq)]
pub struct FileChange {
    pub path: String,
    pub before: Option<Vec<u8>>,
    pub after: Option<Vec<u8>>,
}

/// Which routes are active afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// As in the plugin.
    #[default]
    AsInPlugin,
    /// All of the plugin.
    Activate,
    /// Those that are active already; new ones are not, as when Bots itself reads a plugin.
    Keep,
}

/// How a plugin is compared.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiffOptions {
    pub activation: Activation,
    /// Whether rows and files that the plugin does not have are removed.
    pub prune: bool,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.files.is_empty()
    }

    /// The changes of rows for Bots's Python, in the order in which one refers to the other.
    #[must_use]
    pub fn writes(&self) -> Vec<RowWrite<'_>> {
        self.rows.iter().map(RowChange::as_write).collect()
    }
}

impl RowChange {
    /// The word for the row, and its name.
    #[must_use]
    pub fn name(&self) -> String {
        let row = self.after.as_ref().or(self.before.as_ref());
        row.map_or_else(String::new, |row| format!("{} {}", self.table.word(), self.table.name_of(row)))
    }

    fn as_write(&self) -> RowWrite<'_> {
        RowWrite {
            table: self.table.model(),
            name: self.name(),
            pk: &self.pk,
            before: self.before.as_ref(),
            after: self.after.as_ref(),
        }
    }
}

/// The difference between a normalized plugin and an environment; `files` are those of its usersys.
///
/// # Errors
/// Secrets without a value, and dangling references.
pub fn plan(
    plugin: &Plugin,
    stored: &StoredConfiguration,
    files: &BTreeMap<String, Vec<u8>>,
    options: DiffOptions,
) -> Result<Plan, Error> {
    let mut faults = check_references(plugin, stored, options.prune);
    let mut rows = Vec::new();
    for table in Table::ALL {
        let Some(stored_table) = stored.tables.get(table.model()) else { continue };
        let wanted: Vec<&Fields> = plugin.rows.iter().filter(|(of, _)| *of == table).map(|(_, row)| row).collect();
        let comparison = Comparison { table, stored: stored_table, botssys: &stored.botssys, options };
        rows.extend(comparison.changes(&wanted, &mut faults));
    }
    Error::fail_if_any(faults)?;
    Ok(Plan { rows, files: file_changes(&plugin.files, files, options.prune) })
}

/// The files that differ.
fn file_changes(
    wanted: &BTreeMap<String, Vec<u8>>,
    current: &BTreeMap<String, Vec<u8>>,
    prune: bool,
) -> Vec<FileChange> {
    let paths: BTreeSet<&String> = wanted.keys().chain(current.keys().filter(|_| prune)).collect();
    let changes = paths.into_iter().map(|path| FileChange {
        path: path.clone(),
        before: current.get(path).cloned(),
        after: wanted.get(path).cloned(),
    });
    changes.filter(|change| change.before != change.after).collect()
}

/// The rows of one table.
struct Comparison<'a> {
    table: Table,
    stored: &'a StoredTable,
    botssys: &'a str,
    options: DiffOptions,
}

impl Comparison<'_> {
    fn changes(&self, wanted: &[&Fields], faults: &mut Vec<String>) -> Vec<RowChange> {
        let mut current: BTreeMap<Vec<String>, Vec<(&StoredRow, Fields)>> = BTreeMap::new();
        for row in &self.stored.rows {
            let fields = to_portable(self.table, &row.fields, self.botssys);
            current.entry(self.table.key_of(&fields)).or_default().push((row, fields));
        }
        let mut by_key: BTreeMap<Vec<String>, Vec<Fields>> = BTreeMap::new();
        for row in wanted {
            let row = self.comparable(row);
            let same = by_key.entry(self.table.key_of(&row)).or_default();
            if self.table.has_unique_key() {
                // Of two rows with one key Bots keeps the last.
                same.clear();
            }
            if !same.contains(&row) {
                same.push(row);
            }
        }
        let mut changes = Vec::new();
        for (key, rows) in by_key {
            let mut found = current.remove(&key).unwrap_or_default();
            // Equal rows are paired first, so that no other row of the same key is paired with them.
            let (same, differing): (Vec<_>, Vec<_>) =
                rows.into_iter().partition(|row| self.remove_equal(row, &mut found));
            drop(same);
            for row in differing {
                let existing = (!found.is_empty()).then(|| found.remove(0));
                changes.push(self.change(&row, existing.as_ref(), faults));
            }
            current.entry(key).or_default().extend(found);
        }
        if self.options.prune {
            changes.extend(current.into_values().flatten().map(|(row, _)| self.removal(row)));
        }
        changes
    }

    /// With the fields of the key that an index leaves out, and with paths in the form of the rows that are there.
    fn comparable(&self, row: &Fields) -> Fields {
        let mut row = to_portable(self.table, row, self.botssys);
        for field in self.table.key() {
            if let Some(kind) = self.stored.fields.get(*field)
                && !row.contains_key(*field)
            {
                row.insert((*field).to_owned(), kind.default.clone());
            }
        }
        row
    }

    fn remove_equal(&self, wanted: &Fields, found: &mut Vec<(&StoredRow, Fields)>) -> bool {
        let is_equal = |(_, current): &(&StoredRow, Fields)| {
            self.merged(wanted, Some(current)).is_ok_and(|merged| merged == *current)
        };
        let position = found.iter().position(is_equal);
        position.map(|index| found.remove(index)).is_some()
    }

    fn change(&self, wanted: &Fields, existing: Option<&(&StoredRow, Fields)>, faults: &mut Vec<String>) -> RowChange {
        let merged = self.merged(wanted, existing.map(|(_, fields)| fields)).unwrap_or_else(|fault| {
            faults.push(fault);
            wanted.clone()
        });
        let local = to_local(self.table, &merged, self.botssys);
        let after = match existing {
            None => local,
            // An unchanged path keeps its form in the database.
            Some((row, fields)) => {
                let mut after = row.fields.clone();
                let changed = local.into_iter().filter(|(field, _)| merged.get(field) != fields.get(field));
                after.extend(changed);
                after
            }
        };
        RowChange {
            table: self.table,
            pk: existing.map_or(Value::Null, |(row, _)| row.pk.clone()),
            before: existing.map(|(row, _)| row.fields.clone()),
            after: Some(after),
        }
    }

    fn removal(&self, row: &StoredRow) -> RowChange {
        RowChange { table: self.table, pk: row.pk.clone(), before: Some(row.fields.clone()), after: None }
    }

    /// The row as it is to be: the fields of the plugin over those that are there, or over those of a new row.
    fn merged(&self, wanted: &Fields, current: Option<&Fields>) -> Result<Fields, String> {
        let mut merged = current.cloned().unwrap_or_else(|| self.defaults());
        merged.extend(wanted.iter().map(|(field, value)| (field.clone(), value.clone())));
        if self.table == Table::Route {
            let was_active = current.and_then(|row| row.get("active").cloned());
            let active = match self.options.activation {
                Activation::AsInPlugin => None,
                Activation::Activate => Some(json!(true)),
                Activation::Keep => Some(was_active.unwrap_or(json!(false))),
            };
            merged.extend(active.map(|active| ("active".to_owned(), active)));
        }
        self.fill_secrets(&mut merged, current)?;
        Ok(merged)
    }

    /// A secret without a value stays as it is.
    fn fill_secrets(&self, merged: &mut Fields, current: Option<&Fields>) -> Result<(), String> {
        let name = self.table.name_of(merged);
        let places = merged.iter_mut().filter(|(field, value)| is_secret(self.table, field) && is_place(value));
        for (field, value) in places {
            let kept =
                current.and_then(|row| row.get(field)).filter(|kept| kept.as_str().is_some_and(|s| !s.is_empty()));
            *value = kept.cloned().ok_or_else(|| {
                format!(
                    "channel {name}: its {field} has no value: give the file with it as {field}_file in [channel.\"{name}\"] of \
                     the values, or with --set channel.{name}.{field}_file=FILE"
                )
            })?;
        }
        Ok(())
    }

    fn defaults(&self) -> Fields {
        self.stored.fields.iter().map(|(field, kind)| (field.clone(), kind.default.clone())).collect()
    }
}

fn is_place(value: &Value) -> bool {
    let place = secret_place("");
    let (start, end) = place.split_at(place.len() - ".secret}".len());
    value.as_str().is_some_and(|text| text.starts_with(start) && text.ends_with(end))
}

/// References to channels, partners and code lists that are in neither the plugin nor the database.
fn check_references(plugin: &Plugin, stored: &StoredConfiguration, prune: bool) -> Vec<String> {
    let mut known: BTreeSet<(Table, String)> = BTreeSet::new();
    for table in [Table::Channel, Table::Partner, Table::CodeList] {
        let own = plugin.rows.iter().filter(|(of, _)| *of == table).map(|(_, row)| row);
        let there = stored.tables.get(table.model()).filter(|_| !prune);
        let there = there.into_iter().flat_map(|found| &found.rows).map(|row| &row.fields);
        known.extend(own.chain(there).filter_map(|row| Some((table, row.get(table.key()[0])?.as_str()?.to_owned()))));
    }
    let mut faults = Vec::new();
    for (table, row) in &plugin.rows {
        let Some(types) = stored.tables.get(table.model()).map(|found| &found.fields) else { continue };
        for (field, value) in row {
            let of = match types.get(field).map(|kind| kind.kind) {
                Some(FieldKind::Key) if field == "ccodeid" => Table::CodeList,
                Some(FieldKind::Key) if field.contains("partner") && !field.ends_with("channel") => Table::Partner,
                Some(FieldKind::Key) if field.ends_with("partner_tochannel") => Table::Partner,
                Some(FieldKind::Key) => Table::Channel,
                Some(FieldKind::List) => Table::Partner,
                _ => continue,
            };
            let names = value.as_array().map_or_else(|| vec![value], |list| list.iter().collect());
            for name in names.into_iter().filter_map(Value::as_str) {
                if !known.contains(&(of, name.to_owned())) {
                    let (word, row) = (table.word(), table.name_of(row));
                    faults.push(format!("{word} {row}: {field}: there is no {} {name}", of.word()));
                }
            }
        }
    }
    faults
}
