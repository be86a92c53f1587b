//! The character sets of a database on MySQL or MariaDB, and the statements that convert it to utf8mb4.
//!
//! In another one a file name or an error of Bots may not fit, and the run fails with it.

use std::collections::BTreeSet;

use crate::database::DatabaseConfig;
use crate::database::query::{Connection, Row, text};

const OWN_TABLES_PREFIX: &str = "botsctl_";

const DEFAULT: &str =
    "SELECT default_character_set_name FROM information_schema.schemata WHERE schema_name = DATABASE()";

/// Tables with a text column in another character set, or with another default for new columns.
const TABLES: &str = "SELECT table_name, character_set_name FROM information_schema.columns \
     WHERE table_schema = DATABASE() AND character_set_name <> 'utf8mb4' \
     UNION SELECT table_name, SUBSTRING_INDEX(table_collation, '_', 1) FROM information_schema.tables \
     WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' AND table_collation NOT LIKE 'utf8mb4%'";

/// Foreign keys on text columns; a column that has one cannot be converted.
const FOREIGN_KEYS: &str = "SELECT k.table_name, k.constraint_name, k.column_name, k.referenced_table_name, k.referenced_column_name \
     FROM information_schema.key_column_usage k JOIN information_schema.columns c ON c.table_schema = k.table_schema \
     AND c.table_name = k.table_name AND c.column_name = k.column_name WHERE k.table_schema = DATABASE() \
     AND k.referenced_table_schema = DATABASE() AND c.character_set_name IS NOT NULL ORDER BY k.table_name, k.constraint_name";

/// A database whose character set does not hold every text.
#[derive(Debug)]
pub struct NarrowCharset {
    /// Names of character sets.
    pub found: Vec<String>,
    /// Convert it to utf8mb4, one after the other.
    pub statements: Vec<String>,
}

/// The character sets of the database and of these `tables` that cannot store every text.
///
/// # Errors
/// If the query fails.
pub async fn read(connection: &mut Connection, tables: &[String]) -> Result<Option<NarrowCharset>, sqlx::Error> {
    let DatabaseConfig::Mysql(server) = &connection.settings else { return Ok(None) };
    let database = connection.quote_ident(&server.name);
    let is_ours =
        |row: &Row| text(row, 0).is_some_and(|table| tables.contains(&table) || table.starts_with(OWN_TABLES_PREFIX));
    let default = connection.fetch_value(DEFAULT).await?.filter(|name| name != "utf8mb4");
    let mut narrow = connection.fetch_text(TABLES).await?;
    narrow.retain(is_ours);
    let mut found: Vec<String> = narrow.iter().filter_map(|row| text(row, 1)).chain(default.clone()).collect();
    found.sort_unstable();
    found.dedup();
    if found.is_empty() {
        return Ok(None);
    }
    let mut statements = Vec::new();
    if default.is_some() {
        statements.push(format!("ALTER DATABASE {database} CHARACTER SET utf8mb4"));
    }
    if !narrow.is_empty() {
        let mut keys = connection.fetch_text(FOREIGN_KEYS).await?;
        keys.retain(is_ours);
        statements.extend(convert_tables(connection, &narrow, &keys));
    }
    Ok(Some(NarrowCharset { found, statements }))
}

/// Drops the foreign keys, converts the tables, and adds the foreign keys again.
fn convert_tables(connection: &Connection, narrow: &[Row], keys: &[Row]) -> Vec<String> {
    let name = |row: &Row, column| connection.quote_ident(&text(row, column).unwrap_or_default());
    let convert: BTreeSet<String> = narrow.iter().map(|row| name(row, 0)).collect();
    let mut statements: Vec<String> =
        keys.iter().map(|key| format!("ALTER TABLE {} DROP FOREIGN KEY {}", name(key, 0), name(key, 1))).collect();
    statements.extend(convert.iter().map(|table| format!("ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4")));
    statements.extend(keys.iter().map(|key| {
        let [table, constraint, column, other, referenced] = [0, 1, 2, 3, 4].map(|column| name(key, column));
        format!(
            "ALTER TABLE {table} ADD CONSTRAINT {constraint} FOREIGN KEY ({column}) REFERENCES {other} ({referenced})"
        )
    }));
    statements
}
