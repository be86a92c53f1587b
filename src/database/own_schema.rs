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

    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::INIT_PROGRESS, Self::LEASE, Self::RECOVERY, Self::RUN_METRICS, Self::JOBS, Self::PLUGIN];
}

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
    connection.fetch_value(format!("SELECT count(*) FROM {} WHERE 1 = 0", tables.names)).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::connect::{ConnectMode, connect};

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
        let run = async |on: &mut Connection| on.fetch_value("SELECT run FROM botsctl_recovery").await.expect("read");
        assert_eq!(run(&mut on).await, Some("5".to_owned()));
        on.execute_batch("DELETE FROM botsctl_recovery").await.expect("as when it is interrupted before the row");
        ensure(&mut on, OwnTables::RECOVERY).await.expect("completed");
        assert_eq!(run(&mut on).await, Some("0".to_owned()));
    }
}
