//! Inspects a database: its schema against the desired one.

pub mod apply;
pub mod charset;
pub mod desired;
pub mod diff;
pub mod introspect;

use std::collections::BTreeSet;

use super::init_progress::{self, InitProgress};
use super::query::{Connection, text};
use super::{Error, default_account};
use charset::NarrowCharset;
use desired::DesiredSchema;
use diff::{SchemaDiff, compare};
use introspect::Schema;

/// The tables of Bots's own start-up check, without which no service works.
pub const REQUIRED: [&str; 4] = ["channel", "routes", "ta", "mutex"];

/// The result of an inspection.
#[derive(Debug)]
pub struct Inspection {
    pub difference: SchemaDiff,
    /// That of an earlier run.
    pub progress: Option<InitProgress>,
    pub catalogue: Schema,
    /// Where the database cannot hold every text.
    pub narrow_charset: Option<NarrowCharset>,
}

/// Compares the database with the desired schema.
///
/// # Errors
/// When it cannot be read.
pub async fn inspect(connection: &mut Connection, expected: &DesiredSchema) -> Result<Inspection, Error> {
    let inspected = inspection(connection, expected).await;
    let (difference, catalogue, narrow_charset) =
        inspected.map_err(|error| connection.settings.failed("read", &error))?;
    let has_table = catalogue.has(init_progress::TABLE);
    let progress = if has_table { init_progress::read(connection).await? } else { None };
    Ok(Inspection { difference, progress, catalogue, narrow_charset })
}

async fn inspection(
    connection: &mut Connection,
    expected: &DesiredSchema,
) -> Result<(SchemaDiff, Schema, Option<NarrowCharset>), sqlx::Error> {
    let catalogue = Schema::read(connection).await?;
    let applied = applied(connection, &catalogue).await?;
    let mut difference = compare(&connection.settings, &catalogue, expected, &applied);
    difference.lacks_superuser = !catalogue.has("auth_user") || !has_rows(connection, "auth_user").await?;
    difference.has_default_password = !difference.lacks_superuser && default_account::is_open(connection).await?;
    let narrow_charset = charset::read(connection, &expected.tables(&catalogue)).await?;
    Ok((difference, catalogue, narrow_charset))
}

/// The applied migrations, each with its app.
async fn applied(connection: &mut Connection, catalogue: &Schema) -> Result<BTreeSet<(String, String)>, sqlx::Error> {
    if !catalogue.has("django_migrations") {
        return Ok(BTreeSet::new());
    }
    let rows = connection.fetch_text("SELECT app, name FROM django_migrations").await?;
    Ok(rows.iter().filter_map(|row| Some((text(row, 0)?, text(row, 1)?))).collect())
}

/// Whether any of these tables exists and has a row.
///
/// # Errors
/// When they cannot be read.
pub async fn any_rows(
    connection: &mut Connection,
    catalogue: &Schema,
    tables: impl Iterator<Item = &str>,
) -> Result<bool, Error> {
    for table in tables.filter(|table| catalogue.has(table)) {
        let has_rows = has_rows(connection, table).await;
        if has_rows.map_err(|error| connection.settings.failed("read", &error))? {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn has_rows(connection: &mut Connection, table: &str) -> Result<bool, sqlx::Error> {
    let table = connection.quote_ident(table);
    Ok(connection.fetch_value(format!("SELECT 1 FROM {table} LIMIT 1")).await?.is_some())
}

/// The missing ones among the tables that every service needs.
///
/// # Errors
/// If the query fails.
pub async fn missing_required(connection: &mut Connection) -> Result<Vec<&'static str>, sqlx::Error> {
    let found = Schema::read(connection).await?;
    Ok(REQUIRED.into_iter().filter(|name| !found.has(name)).collect())
}
