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
