//! The tables of bots-ctl. `init-db` creates all of them; in a database that an earlier version initialized, the first
//! process that needs one creates it.

use super::query::Connection;
use super::{DatabaseConfig, Error};

/// A file of `sql/`, with the tables that it creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnTables {
    names: &'static str,
    /// For SQLite, MySQL and PostgreSQL.
    statements: [&'static str; 3],
}

macro_rules! own_tables {
    ($names:literal, $file:literal) => {
        OwnTables {
            names: $names,
            statements: [
                include_str!(concat!("../../sql/sqlite/", $file)),
                include_str!(concat!("../../sql/mysql/", $file)),
                include_str!(concat!("../../sql/postgresql/", $file)),
            ],
        }
    };
}

impl OwnTables {
    pub const INIT_PROGRESS: Self = own_tables!("botsctl_init", "init_progress.sql");
    pub const LEASE: Self = own_tables!("botsctl_lease", "lease.sql");
    pub const RECOVERY: Self = own_tables!("botsctl_recovery", "recovery.sql");
    pub const RUN_METRICS: Self = own_tables!("botsctl_engine_run, botsctl_counter", "run_metrics.sql");
    pub const JOBS: Self = own_tables!("botsctl_job", "jobs.sql");
    pub const PLUGIN: Self = own_tables!("botsctl_plugin", "plugin.sql");

    /// All of them. Recovery moves rows of earlier versions out of the lease.
    pub const ALL: [Self; 6] =
        [Self::INIT_PROGRESS, Self::LEASE, Self::RECOVERY, Self::RUN_METRICS, Self::JOBS, Self::PLUGIN];
}

/// Tables that earlier versions had under another name.
const RENAMED: [(&str, &str); 2] = [("botsctl_run", "botsctl_engine_run"), ("botsctl_total", "botsctl_counter")];

/// Creates missing tables. If they exist, the account needs no right to create tables.
///
/// # Errors
/// When the database refuses.
pub async fn ensure(connection: &mut Connection, tables: OwnTables) -> Result<(), Error> {
    if exist(connection, tables).await {
        return Ok(());
    }
    let Err(error) = create(connection, tables).await else { return Ok(()) };
    // Another process may have created them at the same time, which PostgreSQL reports as a conflict.
    if exist(connection, tables).await {
        return Ok(());
    }
    Err(connection.settings.failed(&format!("create {} in", tables.names), &error))
}

async fn create(connection: &mut Connection, tables: OwnTables) -> Result<(), sqlx::Error> {
    for (old, new) in RENAMED.into_iter().filter(|(_, new)| tables.names.contains(new)) {
        if has_table(connection, old).await {
            connection.execute_batch(format!("ALTER TABLE {old} RENAME TO {new}")).await?;
        }
    }
    let [sqlite, mysql, postgres] = tables.statements;
    let statements = match connection.settings {
        DatabaseConfig::Sqlite(_) => sqlite,
        DatabaseConfig::Mysql(_) => mysql,
        DatabaseConfig::Postgres(_) => postgres,
    };
    connection.execute_batch(statements).await
}

async fn exist(connection: &mut Connection, tables: OwnTables) -> bool {
    // A server without transactions for CREATE TABLE may have been interrupted before it wrote the row.
    if tables == OwnTables::RECOVERY {
        return matches!(connection.fetch_value("SELECT run FROM botsctl_recovery").await, Ok(Some(_)));
    }
    has_table(connection, tables.names).await
}

/// Whether the tables of this list can be read.
async fn has_table(connection: &mut Connection, names: &str) -> bool {
    connection.fetch_value(format!("SELECT count(*) FROM {names} WHERE 1 = 0")).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::connect::{ConnectMode, connect};

    #[tokio::test]
    async fn rows_of_earlier_versions_are_moved_from_lease_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let settings = DatabaseConfig::Sqlite(dir.path().join("db"));
        let mut on = connect(&settings, ConnectMode::Create).await.expect("opened");
        ensure(&mut on, OwnTables::LEASE).await.expect("made");
        on.execute_batch(
            "INSERT INTO botsctl_lease (name, owner, holder, acquired, renewed, released) VALUES \
             ('engine', 'e', 'pod', 1, 2, 0), ('recovery', '17', '2', 3, 3, 0), ('watched', 'noon', 'noon 9', 4, 4, 1); \
             CREATE TABLE botsctl_recovery (id INTEGER PRIMARY KEY NOT NULL, run BIGINT NOT NULL, failures INTEGER NOT \
             NULL, engine VARCHAR(64) NOT NULL, snapshot VARCHAR(255) NOT NULL, changed BIGINT NOT NULL, has_changed \
             INTEGER NOT NULL)",
        )
        .await
        .expect("written, and cut off before the row");
        for _ in 0..2 {
            ensure(&mut on, OwnTables::RECOVERY).await.expect("made");
            let rows = on.fetch_text("SELECT * FROM botsctl_recovery").await.expect("read");
            let row = ["1", "17", "2", "noon", "noon 9", "4", "1"].map(|cell| Some(cell.to_owned()));
            assert_eq!(rows, [row.to_vec()]);
            on.execute_batch("INSERT INTO botsctl_lease SELECT 'recovery', '18', '', 5, 5, 0").await.expect("written");
            let leases = on.fetch_text("SELECT name FROM botsctl_lease WHERE owner <> '18'").await.expect("read");
            assert_eq!(leases, [[Some("engine".to_owned())]]);
            on.execute_batch("DELETE FROM botsctl_lease WHERE owner = '18'").await.expect("removed");
        }
    }

    #[tokio::test]
    async fn ensure_creates_each_table_and_keeps_existing_rows() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let settings = DatabaseConfig::Sqlite(dir.path().join("db"));
        let mut on = connect(&settings, ConnectMode::Create).await.expect("opened");
        for tables in OwnTables::ALL {
            assert!(!exist(&mut on, tables).await, "{tables:?}");
            ensure(&mut on, tables).await.expect("made");
            assert!(exist(&mut on, tables).await, "{tables:?}");
        }
        on.execute_batch("UPDATE botsctl_recovery SET run = 5").await.expect("written");
        ensure(&mut on, OwnTables::RECOVERY).await.expect("it is there");
        assert_eq!(on.fetch_value("SELECT run FROM botsctl_recovery").await.expect("read"), Some("5".to_owned()));
    }

    #[tokio::test]
    async fn ensure_renames_earlier_tables_with_their_rows() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let settings = DatabaseConfig::Sqlite(dir.path().join("db"));
        let mut on = connect(&settings, ConnectMode::Create).await.expect("opened");
        ensure(&mut on, OwnTables::RUN_METRICS).await.expect("created");
        on.execute_batch(
            "INSERT INTO botsctl_counter (name, value) VALUES ('run_success', 7); \
             ALTER TABLE botsctl_counter RENAME TO botsctl_total; ALTER TABLE botsctl_engine_run RENAME TO botsctl_run",
        )
        .await
        .expect("as an earlier version has left them");
        ensure(&mut on, OwnTables::RUN_METRICS).await.expect("renamed");
        let value = on.fetch_value("SELECT value FROM botsctl_counter WHERE name = 'run_success'").await;
        assert_eq!(value.expect("read"), Some("7".to_owned()));
        assert!(!has_table(&mut on, "botsctl_total").await && !has_table(&mut on, "botsctl_run").await);
    }
}
