//! `plugin undo`: restores the state before the last change.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tokio_util::task::TaskTracker;

use crate::bots::plugin_session::{StoredConfiguration, StoredRow};
use crate::config::Config;
use crate::exit::{Error, Kind};
use crate::plugin::Table;
use crate::plugin::diff::{Plan, RowChange};
use crate::process::reaper::Reaper;

use super::change::Change;
use super::target::Target;
use super::write::{settle_earlier, write};

/// Reverts the last change. `show` gets the difference first.
///
/// # Errors
/// If there is none, and those of [`write()`].
pub(crate) async fn undo(
    config: &Config,
    reaper: &Reaper,
    check: bool,
    critical: &TaskTracker,
    show: impl FnOnce(&Plan, &[String]),
) -> Result<Change, Error> {
    let mut target = Target::open(config, reaper).await?;
    if !check {
        settle_earlier(config, &target).await?;
    }
    let Some((backup, change)) = target.journal.last_backup()? else {
        return Err(Error::new(Kind::Failed, "there is no change to undo"));
    };
    let stored = target.python.read_configuration().await?;
    let plan = Arc::new(Plan {
        rows: reverted(&change.rows, &stored),
        files: target.journal.reverted_files(&backup, &change)?,
    });
    show(&plan, &[]);
    if check {
        return Ok(Change { plan, ignored: Vec::new(), is_applied: false });
    }
    let uncancelled = critical.token();
    write(config, &mut target, &plan, Some(backup)).await?;
    drop(uncancelled);
    Ok(Change { plan, ignored: Vec::new(), is_applied: true })
}

/// The changes back, without those of rows that are as they were.
fn reverted(changes: &[RowChange], stored: &StoredConfiguration) -> Vec<RowChange> {
    let mut current: BTreeMap<(Table, Vec<String>), Vec<&StoredRow>> = BTreeMap::new();
    for table in Table::ALL {
        for row in stored.tables.get(table.model()).into_iter().flat_map(|found| &found.rows) {
            current.entry((table, table.key_of(&row.fields))).or_default().push(row);
        }
    }
    let back = |change: &RowChange| {
        let table = Table::of_model(&change.table)?;
        let row = change.after.as_ref().or(change.before.as_ref())?;
        let same = current.get(&(table, table.key_of(row))).map(Vec::as_slice).unwrap_or_default();
        // The row as the change has left it, else one that has its key now.
        let found = same.iter().find(|current| current.fields == *row).or_else(|| same.first());
        let reverted = RowChange {
            table: change.table.clone(),
            pk: found.map_or(Value::Null, |current| current.pk.clone()),
            before: found.map(|current| current.fields.clone()),
            after: change.before.clone(),
        };
        (reverted.before != reverted.after).then_some(reverted)
    };
    changes.iter().filter_map(back).collect()
}
