//! What is made and mended by our own statements: nothing that could lose a row.

use super::desired::UnmanagedTable;
use super::diff::SchemaFix;
use super::introspect::{Column, ColumnDefault, ColumnType, Schema};
use super::numbering;
use crate::database::query::Connection;
use crate::database::{DatabaseConfig, Error};
use crate::model::IndexDef;

/// Makes the unmanaged tables that are missing: all of them or none, where the database can take back what it has begun.
///
/// # Errors
/// When the database refuses.
pub async fn create_tables(
    connection: &mut Connection,
    settings: &DatabaseConfig,
    catalogue: &Schema,
    tables: &[UnmanagedTable],
) -> Result<(), Error> {
    let made = async {
        let mut statements = Vec::new();
        for table in tables {
            let last = if table.name == numbering::TABLE {
                numbering::max_referenced_id(connection, catalogue).await?
            } else {
                0
            };
            statements.extend(numbering::create_with_start(connection, &table.statement, last));
            statements.extend(table.indexes.iter().map(|(_, statement)| statement.clone()));
        }
        connection.execute_in_transaction(&statements).await
    };
    made.await.map_err(|error| Error::failed("make tables in", settings, &error))
}

/// Makes tables anew that hold no row, so that nothing is lost: those that Django has made, without the defaults.
///
/// # Errors
/// When the database refuses.
pub async fn recreate_tables(
    connection: &mut Connection,
    settings: &DatabaseConfig,
    tables: &[&UnmanagedTable],
) -> Result<(), Error> {
    let again = |table: &&UnmanagedTable| {
        let indexes = table.indexes.iter().map(|(_, statement)| statement.clone());
        let drop = format!("DROP TABLE {}", table.name);
        [drop, table.statement.clone()].into_iter().chain(indexes).collect::<Vec<_>>()
    };
    let statements: Vec<String> = tables.iter().flat_map(again).collect();
    connection
        .execute_in_transaction(&statements)
        .await
        .map_err(|error| Error::failed("make tables in", settings, &error))
}

/// Mends one thing.
///
/// # Errors
/// When the database refuses.
pub async fn apply(connection: &mut Connection, settings: &DatabaseConfig, repair: &SchemaFix) -> Result<(), Error> {
    let statements = statements(connection, repair);
    connection.execute_in_transaction(&statements).await.map_err(|error| {
        let hint = format!("; to be run by hand: {};", statements.join("; "));
        match Error::failed(&format!("add what is missing ({}) to", repair.missing()), settings, &error) {
            Error::Failed(text) => Error::Failed(format!("{text}{hint}")),
            other => other,
        }
    })
}

/// Begins a first initialisation again that was cut off: takes away the tables it has made. The caller has made sure
/// that it was ours and that there is no row in any of them that somebody has written.
///
/// # Errors
/// When the database refuses.
pub async fn drop_tables(
    connection: &mut Connection,
    settings: &DatabaseConfig,
    tables: &[String],
) -> Result<(), Error> {
    let drops: Vec<String> =
        tables.iter().map(|table| format!("DROP TABLE {}", connection.quote_ident(table))).collect();
    let all = format!("SET FOREIGN_KEY_CHECKS = 0; {}; SET FOREIGN_KEY_CHECKS = 1", drops.join("; "));
    connection.execute_batch(all).await.map_err(|error| Error::failed("clear", settings, &error))
}

fn statements(connection: &Connection, repair: &SchemaFix) -> Vec<String> {
    match repair {
        SchemaFix::AddColumn { table, column, definition } => {
            vec![format!("ALTER TABLE {} ADD COLUMN {column} {definition}", connection.quote_ident(table))]
        }
        SchemaFix::AddIndex { table, index } => vec![add_index(connection, table, index)],
        SchemaFix::AlterColumn { table, from, to } => alter_column(connection, table, from, to),
    }
}

fn add_index(connection: &Connection, table: &str, index: &IndexDef) -> String {
    let operators = index.operators.as_ref().map(|operators| format!(" {operators}")).unwrap_or_default();
    let column = |column: &String| format!("{}{operators}", connection.quote_ident(column));
    let columns = index.columns.iter().map(column).collect::<Vec<_>>().join(", ");
    let name = match index.name.as_str() {
        "" => format!("{table}_{}_botsctl", index.columns.join("_")).chars().take(60).collect(),
        name => name.to_owned(),
    };
    let (name, table) = (connection.quote_ident(&name), connection.quote_ident(table));
    match (&connection.settings, index.unique) {
        // As Django has it: a later migration looks for a constraint of that name.
        (DatabaseConfig::Postgres(_), true) => format!("ALTER TABLE {table} ADD CONSTRAINT {name} UNIQUE ({columns})"),
        (_, unique) => format!("CREATE {}INDEX {name} ON {table} ({columns})", if unique { "UNIQUE " } else { "" }),
    }
}

fn alter_column(connection: &Connection, table: &str, from: &Column, to: &Column) -> Vec<String> {
    let (table, column) = (connection.quote_ident(table), connection.quote_ident(&from.name));
    let default = default(connection, to);
    match connection.settings {
        DatabaseConfig::Mysql(_) => {
            let null = if to.nullable { "NULL" } else { "NOT NULL" };
            let default = default.map(|default| format!(" DEFAULT {default}")).unwrap_or_default();
            vec![format!("ALTER TABLE {table} MODIFY COLUMN {column} {} {null}{default}", to.own_type)]
        }
        DatabaseConfig::Postgres(_) => {
            let mut changes = Vec::new();
            if from.kind != to.kind {
                changes.push(format!("ALTER COLUMN {column} TYPE {}", to.own_type));
            }
            if let Some(default) = default.filter(|_| from.default != to.default) {
                changes.push(format!("ALTER COLUMN {column} SET DEFAULT {default}"));
            }
            if to.nullable && !from.nullable {
                changes.push(format!("ALTER COLUMN {column} DROP NOT NULL"));
            }
            vec![format!("ALTER TABLE {table} {}", changes.join(", "))]
        }
        // SQLite changes no column that is there: another one takes over its rows and its name. That it stands last then makes no
        // difference, since Bots and Django name the columns that they want.
        DatabaseConfig::Sqlite(_) => {
            let next = connection.quote_ident(&format!("{}_botsctl", from.name));
            let null = if to.nullable { "" } else { " NOT NULL" };
            let default = default.map(|default| format!(" DEFAULT {default}")).unwrap_or_default();
            vec![
                format!("ALTER TABLE {table} ADD COLUMN {next} {}{null}{default}", to.own_type),
                format!("UPDATE {table} SET {next} = {column}"),
                format!("ALTER TABLE {table} DROP COLUMN {column}"),
                format!("ALTER TABLE {table} RENAME COLUMN {next} TO {column}"),
            ]
        }
    }
}

fn default(connection: &Connection, column: &Column) -> Option<String> {
    match &column.default {
        ColumnDefault::None | ColumnDefault::Generated => None,
        ColumnDefault::Other(expression) => Some(expression.clone()),
        ColumnDefault::Now => Some(match connection.settings {
            DatabaseConfig::Sqlite(_) => "(datetime('now', 'localtime'))".to_owned(),
            // MySQL wants the same precision as the column's.
            DatabaseConfig::Mysql(_) => {
                let precision = column.own_type.split_once('(').map(|(_, rest)| format!("({rest}")).unwrap_or_default();
                format!("CURRENT_TIMESTAMP{precision}")
            }
            DatabaseConfig::Postgres(_) => "CURRENT_TIMESTAMP".to_owned(),
        }),
        ColumnDefault::Constant(text) => Some(match (&column.kind, &connection.settings) {
            (ColumnType::Boolean, DatabaseConfig::Postgres(_)) => if text == "0" { "false" } else { "true" }.to_owned(),
            (ColumnType::Integer | ColumnType::Boolean, _) => text.clone(),
            _ => connection.quote_literal(text),
        }),
    }
}
