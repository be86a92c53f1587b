//! Numbers of `ta` when it is made while reports are there: they refer to its rows, so it must not begin anew under them.

use super::introspect::Schema;
use crate::database::DatabaseConfig;
use crate::database::query::Connection;

/// The table with the numbers.
pub const TABLE: &str = "ta";

/// Where numbers of its rows are kept.
const KEPT_IN: [(&str, &str); 3] = [("report", "idta"), ("filereport", "idta"), ("filereport", "reportidta")];

/// The highest number that is in use; 0 when there is none.
///
/// # Errors
/// What the database says.
pub async fn max_referenced_id(connection: &mut Connection, catalogue: &Schema) -> Result<u64, sqlx::Error> {
    let mut last = 0;
    for (table, column) in KEPT_IN {
        if catalogue.tables.get(table).is_some_and(|table| table.column(column).is_some()) {
            let highest = connection.fetch_value(format!("SELECT max({column}) FROM {table}")).await?;
            last = last.max(highest.and_then(|number| number.parse().ok()).unwrap_or_default());
        }
    }
    Ok(last)
}

/// The statements that make the table, its first number being the one after `last`.
pub fn create_with_start(connection: &Connection, statement: &str, last: u64) -> Vec<String> {
    let make = statement.to_owned();
    match connection.settings {
        _ if last == 0 => vec![make],
        // One statement, as MySQL could be interrupted between two.
        DatabaseConfig::Mysql(_) => vec![format!("{make} AUTO_INCREMENT={}", last + 1)],
        DatabaseConfig::Postgres(_) => {
            vec![make, format!("SELECT setval(pg_get_serial_sequence('{TABLE}', 'idta'), {last})")]
        }
        DatabaseConfig::Sqlite(_) => vec![
            make,
            format!("DELETE FROM sqlite_sequence WHERE name = '{TABLE}'"),
            format!("INSERT INTO sqlite_sequence (name, seq) VALUES ('{TABLE}', {last})"),
        ],
    }
}
