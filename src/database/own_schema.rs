//! The tables of bots-ctl itself. `init-db` makes all of them; in a database that an earlier version initialised, the
//! first process that needs one makes it.

use super::query::Connection;
use super::{DatabaseConfig, Error};

/// A file of `sql/`, with the tables that it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum OwnTables {
    InitProgress,
    Lease,
    Recovery,
    RunMetrics,
    Jobs,
}

impl OwnTables {
    /// All of them. Recovery takes what earlier versions kept in the lease.
    pub const ALL: [Self; 5] = [Self::InitProgress, Self::Lease, Self::Recovery, Self::RunMetrics, Self::Jobs];

    fn names(self) -> &'static str {
        match self {
            Self::InitProgress => "botsctl_init",
            Self::Lease => "botsctl_lease",
            Self::Recovery => "botsctl_recovery",
            Self::RunMetrics => "botsctl_run, botsctl_total",
            Self::Jobs => "botsctl_job",
        }
    }

    fn statements(self, settings: &DatabaseConfig) -> &'static str {
        macro_rules! of_kind {
            ($file:literal) => {
                match settings {
                    DatabaseConfig::Sqlite(_) => include_str!(concat!("../../sql/sqlite/", $file)),
                    DatabaseConfig::Mysql(_) => include_str!(concat!("../../sql/mysql/", $file)),
                    DatabaseConfig::Postgres(_) => include_str!(concat!("../../sql/postgresql/", $file)),
                }
            };
        }
        match self {
            Self::InitProgress => of_kind!("init_progress.sql"),
            Self::Lease => of_kind!("lease.sql"),
            Self::Recovery => of_kind!("recovery.sql"),
            Self::RunMetrics => of_kind!("run_metrics.sql"),
            Self::Jobs => of_kind!("jobs.sql"),
        }
    }
}

/// Makes the tables if they are not there: an account that may not make tables, or that is warned of each that is there,
/// has no need to try.
///
/// # Errors
/// When the database refuses.
pub async fn ensure(connection: &mut Connection, settings: &DatabaseConfig, tables: OwnTables) -> Result<(), Error> {
    if are_there(connection, tables).await {
        return Ok(());
    }
    let made = connection.execute_batch(tables.statements(settings)).await;
    let Err(error) = made else { return Ok(()) };
    // Another process may have made them in this moment, which PostgreSQL takes for a conflict.
    if are_there(connection, tables).await {
        return Ok(());
    }
    Err(Error::failed(&format!("make {} in", tables.names()), settings, &error))
}

async fn are_there(connection: &mut Connection, tables: OwnTables) -> bool {
    let query = match tables {
        // A server without transactions for CREATE TABLE may have been cut off before the row was there.
        OwnTables::Recovery => "SELECT run FROM botsctl_recovery".to_owned(),
        _ => format!("SELECT count(*) FROM {} WHERE 1 = 0", tables.names()),
    };
    matches!(connection.fetch_value(query).await, Ok(Some(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::connect::{ConnectMode, connect};

    #[tokio::test]
    async fn rows_of_earlier_versions_move_out_of_the_lease_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let settings = DatabaseConfig::Sqlite(dir.path().join("db"));
        let mut on = connect(&settings, ConnectMode::Create).await.expect("opened");
        ensure(&mut on, &settings, OwnTables::Lease).await.expect("made");
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
            ensure(&mut on, &settings, OwnTables::Recovery).await.expect("made");
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
    async fn each_of_the_tables_is_made_and_then_left_alone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let settings = DatabaseConfig::Sqlite(dir.path().join("db"));
        let mut on = connect(&settings, ConnectMode::Create).await.expect("opened");
        for tables in OwnTables::ALL {
            assert!(!are_there(&mut on, tables).await, "{tables:?}");
            ensure(&mut on, &settings, tables).await.expect("made");
            assert!(are_there(&mut on, tables).await, "{tables:?}");
        }
        on.execute_batch("UPDATE botsctl_recovery SET run = 5").await.expect("written");
        ensure(&mut on, &settings, OwnTables::Recovery).await.expect("it is there");
        assert_eq!(on.fetch_value("SELECT run FROM botsctl_recovery").await.expect("read"), Some("5".to_owned()));
    }
}
