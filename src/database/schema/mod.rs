//! A look at a database: what is in it, against what should be.

pub mod apply;
pub mod desired;
pub mod diff;
pub mod introspect;
mod numbering;

use std::collections::BTreeSet;

use super::connect::{ConnectMode, connect};
use super::init_progress::{self, InitProgress};
use super::query::Connection;
use super::{DatabaseConfig, Error, default_account, errors};
use desired::DesiredSchema;
use diff::{SchemaDiff, compare};
use introspect::Schema;

/// Tables without which no service is of use; the names of Bots's own start-up check.
pub const REQUIRED: [&str; 4] = ["channel", "routes", "ta", "mutex"];

/// What a look told.
#[derive(Debug)]
pub struct Inspection {
    /// What is not as it should be.
    pub difference: SchemaDiff,
    /// What an earlier run has left in it.
    pub progress: Option<InitProgress>,
    /// Everything that is there.
    pub catalogue: Schema,
}

/// Compares the database with what is expected.
///
/// # Errors
/// When it cannot be read.
pub async fn inspect(
    connection: &mut Connection,
    settings: &DatabaseConfig,
    expected: &DesiredSchema,
) -> Result<Inspection, Error> {
    let inspected = inspection(connection, settings, expected).await;
    let (difference, catalogue) = inspected.map_err(|error| Error::failed("read", settings, &error))?;
    let has_table = catalogue.has(init_progress::TABLE);
    let progress = if has_table { init_progress::read(connection).await? } else { None };
    Ok(Inspection { difference, progress, catalogue })
}

async fn inspection(
    connection: &mut Connection,
    settings: &DatabaseConfig,
    expected: &DesiredSchema,
) -> Result<(SchemaDiff, Schema), sqlx::Error> {
    let catalogue = Schema::read(connection).await?;
    let applied = applied(connection, &catalogue).await?;
    let mut difference = compare(settings, &catalogue, expected, &applied);
    difference.lacks_superuser = !catalogue.has("auth_user") || !has_rows(connection, "auth_user").await?;
    difference.has_default_password = !difference.lacks_superuser && default_account::is_open(connection).await?;
    Ok((difference, catalogue))
}

async fn applied(connection: &mut Connection, catalogue: &Schema) -> Result<BTreeSet<(String, String)>, sqlx::Error> {
    if !catalogue.has("django_migrations") {
        return Ok(BTreeSet::new());
    }
    let rows = connection.fetch_text("SELECT app, name FROM django_migrations").await?;
    let pairs = rows.into_iter().filter_map(|row| match <[_; 2]>::try_from(row) {
        Ok([Some(app), Some(name)]) => Some((app, name)),
        _ => None,
    });
    Ok(pairs.collect())
}

/// Whether there is a row in any of these tables, as far as they are there.
///
/// # Errors
/// When they cannot be read.
pub async fn any_rows(
    connection: &mut Connection,
    settings: &DatabaseConfig,
    catalogue: &Schema,
    tables: impl Iterator<Item = &str>,
) -> Result<bool, Error> {
    for table in tables.filter(|table| catalogue.has(table)) {
        if has_rows(connection, table).await.map_err(|error| Error::failed("read", settings, &error))? {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn has_rows(connection: &mut Connection, table: &str) -> Result<bool, sqlx::Error> {
    let table = connection.quote_ident(table);
    Ok(connection.fetch_value(format!("SELECT 1 FROM {table} LIMIT 1")).await?.is_some())
}

/// Which of the tables that every service needs are not there.
///
/// # Errors
/// When the database cannot be read.
pub async fn missing_required(settings: &DatabaseConfig) -> Result<Vec<String>, Error> {
    let mut connection = connect(settings, ConnectMode::Probe).await?;
    let found = Schema::read(&mut connection).await;
    connection.close().await;
    match found {
        Ok(found) => Ok(REQUIRED.into_iter().filter(|name| !found.has(name)).map(str::to_owned).collect()),
        Err(error) if errors::is_busy(&error) => Ok(Vec::new()),
        Err(error) => Err(Error::failed("read", settings, &error)),
    }
}
