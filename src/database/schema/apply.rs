//! Creates tables and applies repairs. None of them can lose a row.

use super::desired::UnmanagedTable;
use super::diff::SchemaFix;
use super::introspect::{Column, ColumnDefault, ColumnType, Schema};
use crate::database::query::Connection;
use crate::database::{DatabaseConfig, Error};
use crate::model::IndexDef;

/// The table whose numbers reports refer to.
const NUMBERED: &str = "ta";

/// Columns with these numbers.
const REFERENCES: [(&str, &str); 3] = [("report", "idta"), ("filereport", "idta"), ("filereport", "reportidta")];

/// Creates missing unmanaged tables: all or none, if the database supports transactions for this.
///
/// # Errors
/// When the database refuses.
pub async fn create_tables(
    connection: &mut Connection,
    catalogue: &Schema,
    tables: &[UnmanagedTable],
) -> Result<(), Error> {
    let created = async {
        let mut statements = Vec::new();
        for own in tables {
            let last = if own.name == NUMBERED { max_referenced_id(connection, catalogue).await? } else { 0 };
            statements.extend(create_with_start(connection, &own.statement, last));
            statements.extend(own.table.keys.iter().map(|index| add_index(connection, &own.name, index)));
        }
        connection.execute_in_transaction(&statements).await
    };
    created.await.map_err(|error| connection.settings.failed("make tables in", &error))
}

/// The highest number of the table that reports refer to; 0 if it is empty.
async fn max_referenced_id(connection: &mut Connection, catalogue: &Schema) -> Result<u64, sqlx::Error> {
    let mut last = 0;
    for (table, column) in REFERENCES {
        if catalogue.tables.get(table).is_some_and(|table| table.column(column).is_some()) {
            let highest = connection.fetch_value(format!("SELECT max({column}) FROM {table}")).await?;
            last = last.max(highest.and_then(|number| number.parse().ok()).unwrap_or_default());
        }
    }
    Ok(last)
}

/// The statements that create the numbered table, whose first number is the one after `last`.
fn create_with_start(connection: &Connection, statement: &str, last: u64) -> Vec<String> {
    let create = statement.to_owned();
    match connection.settings {
        _ if last == 0 => vec![create],
        // One statement, since MySQL could be interrupted between two.
        DatabaseConfig::Mysql(_) => vec![format!("{create} AUTO_INCREMENT={}", last + 1)],
        DatabaseConfig::Postgres(_) => {
            vec![create, format!("SELECT setval(pg_get_serial_sequence('{NUMBERED}', 'idta'), {last})")]
        }
        DatabaseConfig::Sqlite(_) => vec![
            create,
            format!("DELETE FROM sqlite_sequence WHERE name = '{NUMBERED}'"),
            format!("INSERT INTO sqlite_sequence (name, seq) VALUES ('{NUMBERED}', {last})"),
        ],
    }
}

/// Creates tables again that hold no row: Django has created them without the defaults.
///
/// # Errors
/// When the database refuses.
pub async fn recreate_tables(connection: &mut Connection, tables: &[&UnmanagedTable]) -> Result<(), Error> {
    let mut statements = Vec::new();
    for own in tables {
        statements.extend([format!("DROP TABLE {}", own.name), own.statement.clone()]);
        statements.extend(own.table.keys.iter().map(|index| add_index(connection, &own.name, index)));
    }
    let created = connection.execute_in_transaction(&statements).await;
    created.map_err(|error| connection.settings.failed("make tables in", &error))
}

/// Applies one repair.
///
/// # Errors
/// When the database refuses.
pub async fn apply(connection: &mut Connection, repair: &SchemaFix) -> Result<(), Error> {
    let statements = statements(connection, repair);
    connection.execute_in_transaction(&statements).await.map_err(|error| {
        let hint = format!("; to be run by hand: {};", statements.join("; "));
        let action = format!("add what is missing ({}) to", repair.missing());
        match connection.settings.failed(&action, &error) {
            Error::Failed(text) => Error::Failed(format!("{text}{hint}")),
            other => other,
        }
    })
}

/// Drops the tables of an interrupted first initialisation. The caller has made sure that bots-ctl created them and that they
/// hold no row but Django's own.
///
/// # Errors
/// When the database refuses.
pub async fn drop_tables(connection: &mut Connection, tables: &[String]) -> Result<(), Error> {
    let drops: Vec<String> =
        tables.iter().map(|table| format!("DROP TABLE {}", connection.quote_ident(table))).collect();
    let all = format!("SET FOREIGN_KEY_CHECKS = 0; {}; SET FOREIGN_KEY_CHECKS = 1", drops.join("; "));
    connection.change("clear", all, &[]).await.map(|_| ())
}

fn statements(connection: &Connection, repair: &SchemaFix) -> Vec<String> {
    match repair {
        SchemaFix::AddColumn { table, column: Column { name, own_type, .. } } => {
            vec![format!("ALTER TABLE {} ADD COLUMN {name} {own_type}", connection.quote_ident(table))]
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
        // Django's name, which a later migration expects.
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
        // SQLite cannot change a column: a new column gets its values and its name. It becomes the last column,
        // which does not matter, since Bots and Django name the columns in their queries.
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
