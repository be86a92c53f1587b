//! The row with the ID of the last change of Bots's configuration. Python writes it in the transaction of the change,
//! so it shows after a crash whether that was committed.

use super::Error;
use super::own_schema::{self, OwnTables};
use super::query::{Connection, Param, text};
use crate::random;

/// Length of the name of a change.
const ID_LENGTH: usize = 32;

/// A name for a change, which no other one has.
#[must_use]
pub fn new_change_id() -> String {
    random::alphanumeric(ID_LENGTH)
}

/// The ID of the last change. Creates the row if it is missing; it serialises concurrent changes.
///
/// # Errors
/// If the query fails.
pub async fn last_change(connection: &mut Connection) -> Result<String, Error> {
    own_schema::ensure(connection, OwnTables::PLUGIN).await?;
    let query = "SELECT change_id FROM botsctl_plugin WHERE name = 'applied'";
    if let Some(row) = connection.select("read botsctl_plugin in", query, &[]).await?.first() {
        return Ok(text(row, 0).unwrap_or_default());
    }
    let change_id = new_change_id();
    let insert = "INSERT INTO botsctl_plugin (name, change_id) VALUES ('applied', ?)";
    connection.change("write botsctl_plugin in", insert, &[Param::Text(&change_id)]).await?;
    Ok(change_id)
}

/// Whether a change was committed. Waits for its transaction, and prevents a later commit if it was not: the
/// transaction expects the previous ID in the row.
///
/// # Errors
/// If the query fails.
pub async fn settle(connection: &mut Connection, change_id: &str) -> Result<bool, Error> {
    own_schema::ensure(connection, OwnTables::PLUGIN).await?;
    let other = new_change_id();
    let update = "UPDATE botsctl_plugin SET change_id = ? WHERE name = 'applied' AND change_id <> ?";
    let arguments = [Param::Text(&other), Param::Text(change_id)];
    connection.change("write botsctl_plugin in", update, &arguments).await?;
    let query = "SELECT change_id FROM botsctl_plugin WHERE name = 'applied'";
    let rows = connection.select("read botsctl_plugin in", query, &[]).await?;
    Ok(rows.first().and_then(|row| text(row, 0)).is_some_and(|found| found == change_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::DatabaseConfig;
    use crate::database::connect::{ConnectMode, connect};

    #[tokio::test]
    async fn settled_change_cannot_be_committed_later() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let settings = DatabaseConfig::Sqlite(dir.path().join("db"));
        let mut on = connect(&settings, ConnectMode::Create).await.expect("opened");
        let base = last_change(&mut on).await.expect("made");
        assert_eq!(last_change(&mut on).await.expect("read"), base);
        let commit = "UPDATE botsctl_plugin SET change_id = ? WHERE name = 'applied' AND change_id = ?";
        let committed = on.execute(commit, &[Param::Text("one"), Param::Text(&base)]).await.expect("written");
        assert!(committed == 1 && settle(&mut on, "one").await.expect("read"));
        assert!(settle(&mut on, "one").await.expect("read"), "it stays committed");
        assert!(!settle(&mut on, "two").await.expect("read"));
        assert_eq!(on.execute(commit, &[Param::Text("two"), Param::Text("one")]).await.expect("tried"), 0);
    }
}
