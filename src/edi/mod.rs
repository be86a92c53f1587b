//! Bots's own tables: runs of the engine and their recovery, routes and channels, and the results of files.

pub mod failures;
pub mod files;
pub mod monitored_routes;
pub mod open_run;
pub mod recovery;
pub mod runs;
pub mod stats;

use std::str::FromStr;

use crate::database::query::{Connection, Row};
use crate::database::{DatabaseConfig, Error, errors};

/// The rows of a query on Bots's tables.
async fn fetch(connection: &mut Connection, query: impl Into<String>) -> Result<Vec<Row>, Error> {
    connection.fetch_text(query).await.map_err(|error| failed(&connection.settings, &error))
}

/// A missing table is a separate error: the database was never initialized.
fn failed(settings: &DatabaseConfig, error: &sqlx::Error) -> Error {
    if errors::is_missing_table(error) {
        let text = format!("the {} lacks tables of Bots: run bots-ctl init-db first", settings.describe());
        return Error::Failed(text);
    }
    settings.failed("read", error)
}

/// A column as text; empty for NULL.
fn text_or_empty(row: &Row, index: usize) -> String {
    row.get(index).cloned().flatten().unwrap_or_default()
}

/// A column as a number; 0 for NULL, and for a number that the type does not have.
fn number_or_zero<T: FromStr + Default>(row: &Row, index: usize) -> T {
    row.get(index).and_then(Option::as_ref).and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// A column that is 1 or 0.
fn is_set(row: &Row, index: usize) -> bool {
    number_or_zero::<u8>(row, index) == 1
}
