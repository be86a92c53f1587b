//! `plugin undo`: restores the state before the last change.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio_util::task::TaskTracker;

use crate::bots::plugin_session::{Fields, StoredConfiguration, StoredRow};
use crate::config::Config;
use crate::exit::{Error, Kind};
use crate::plugin::Table;
use crate::plugin::diff::{Plan, RowChange};
use crate::process::reaper::Reaper;

use super::change::{Change, PlannedChange, carry_out};
use super::target::Target;
use super::write::begin;

/// Reverts the last change. `show` gets the difference first.
///
/// # Errors
/// If there is none, and those of [`carry_out`].
pub(crate) async fn undo(
    config: &Config,
    reaper: &Reaper,
    check: bool,
    critical: &TaskTracker,
    show: impl FnOnce(&Plan, &[String]),
) -> Result<Change, Error> {
    let mut target = Target::open(config, reaper).await?;
    let base = begin(config, &target, check, critical).await?;
    let Some((backup, change)) = target.journal.last_backup()? else {
        return Err(Error::new(Kind::Failed, "there is no change to undo"));
    };
    let stored = target.python.read_configuration().await?;
    let plan = Plan { rows: reverted(&change.rows, &stored), files: target.journal.reverted_files(&backup, &change)? };
    let planned = PlannedChange { plan, ignored: Vec::new(), tested: None, undoes: Some(backup), base };
    carry_out(config, reaper, &mut target, planned, critical, show).await
}

/// The changes back, without those of rows that are as they were.
fn reverted(changes: &[RowChange], stored: &StoredConfiguration) -> Vec<RowChange> {
    let rows = |table: Table| stored.tables.get(table.model()).map_or(Vec::new(), |found| found.rows.iter().collect());
    let mut current: BTreeMap<Table, Vec<&StoredRow>> = Table::ALL.map(|table| (table, rows(table))).into();
    let mut take = |change: &RowChange, is_match: &dyn Fn(&StoredRow) -> bool| {
        let rows = current.get_mut(&change.table)?;
        rows.iter().position(|row| is_match(row)).map(|position| rows.swap_remove(position))
    };
    // Each row is the result of one change. Those that are as their changes have left them are paired first.
    let mut found: Vec<Option<&StoredRow>> =
        changes.iter().map(|change| take(change, &|row| Some(&row.fields) == left_by(change))).collect();
    for (change, found) in changes.iter().zip(&mut found) {
        *found = found.or_else(|| take(change, &|row| is_row_of(change, row)));
    }
    let back = changes.iter().zip(found).map(|(change, found)| RowChange {
        table: change.table,
        pk: found.map_or(Value::Null, |row| row.pk.clone()),
        before: found.map(|row| row.fields.clone()),
        after: change.before.clone(),
    });
    back.filter(|change| change.before != change.after).collect()
}

/// The row as a change has left it; for a removed one, the row that is there if it was restored since.
fn left_by(change: &RowChange) -> Option<&Fields> {
    change.after.as_ref().or(change.before.as_ref())
}

/// Whether a row is that of a change, changed since.
fn is_row_of(change: &RowChange, row: &StoredRow) -> bool {
    // The database may give the key of a removed row to another one.
    let has_same_pk = change.after.is_some() && !change.pk.is_null() && change.pk == row.pk;
    let key = |fields| change.table.key_of(fields);
    let has_same_key = || left_by(change).is_some_and(|left| key(left) == key(&row.fields));
    has_same_pk || change.table.has_unique_key() && has_same_key()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bots::plugin_session::StoredTable;

    fn fields(table: Table, key: &str, text: &str) -> Fields {
        Fields::from([(table.key()[0].to_owned(), json!(key)), ("desc".to_owned(), json!(text))])
    }

    fn stored(table: Table, rows: &[(i32, &str, &str)]) -> StoredConfiguration {
        let rows = rows.iter().map(|(pk, key, text)| StoredRow { pk: json!(pk), fields: fields(table, key, text) });
        let tables = BTreeMap::from([(
            table.model().to_owned(),
            StoredTable { rows: rows.collect(), ..StoredTable::default() },
        )]);
        StoredConfiguration { tables, ..StoredConfiguration::default() }
    }

    /// Changes of rows with one key, and those that undo them: primary key, text before and after.
    fn undone(
        table: Table,
        changes: &[(Option<i32>, &str, &str)],
        now: &[(i32, &str)],
    ) -> Vec<(Value, String, String)> {
        let row = |text: &str| (!text.is_empty()).then(|| fields(table, "a", text));
        let changes: Vec<RowChange> = changes
            .iter()
            .map(|(pk, before, after)| {
                let pk = pk.map_or(Value::Null, Value::from);
                RowChange { table, pk, before: row(before), after: row(after) }
            })
            .collect();
        let now: Vec<_> = now.iter().map(|(pk, text)| (*pk, "a", *text)).collect();
        let text =
            |row: Option<Fields>| row.map_or(String::new(), |row| row["desc"].as_str().unwrap_or_default().to_owned());
        let reverted = reverted(&changes, &stored(table, &now));
        reverted.into_iter().map(|change| (change.pk, text(change.before), text(change.after))).collect()
    }

    fn change(pk: impl Into<Value>, before: &str, after: &str) -> (Value, String, String) {
        (pk.into(), before.to_owned(), after.to_owned())
    }

    #[test]
    fn a_row_that_the_change_did_not_touch_stays() {
        let table = Table::Translation;
        // The row that was added has been removed since, and another one has its key.
        assert_eq!(undone(table, &[(None, "", "added")], &[(7, "other")]), []);
        // The row that was changed has been removed since.
        assert_eq!(undone(table, &[(Some(1), "old", "new")], &[(7, "other")]), [change(Value::Null, "", "old")]);
        assert_eq!(undone(table, &[(Some(1), "old", "")], &[(1, "other")]), [change(Value::Null, "", "old")]);
    }

    #[test]
    fn each_row_is_the_result_of_one_change() {
        let table = Table::Translation;
        let both = [(None, "", "same"), (None, "", "same")];
        assert_eq!(undone(table, &both, &[(1, "same"), (2, "same"), (3, "other")]).len(), 2);
        assert_eq!(undone(table, &both, &[(1, "same")]), [change(1, "same", "")]);
        // A row that has changed since is found by its primary key, also before one that is equal to its former state.
        let changes = [(Some(1), "old", "new"), (Some(2), "older", "newer")];
        let expected = [change(1, "edited", "old"), change(2, "newer", "older")];
        assert_eq!(undone(table, &changes, &[(2, "newer"), (1, "edited")]), expected);
    }

    #[test]
    fn a_unique_key_finds_a_row_that_was_made_again() {
        let table = Table::Route;
        assert_eq!(undone(table, &[(Some(1), "old", "new")], &[(7, "edited")]), [change(7, "edited", "old")]);
        assert_eq!(undone(table, &[(Some(1), "old", "")], &[(7, "edited")]), [change(7, "edited", "old")]);
        assert_eq!(undone(table, &[(Some(1), "old", "")], &[(7, "old")]), []);
    }
}
