//! What is made and mended by our own statements: nothing that could lose a row.

use super::desired::{Index, OwnTable};
use super::diff::Repair;
use super::introspect::{Catalogue, Column, Default, Kind};
use super::{numbering, sqlite_alter};
use crate::database::connection::Connection;
use crate::database::{Error, Settings};

/// Makes the unmanaged tables that are missing: all of them or none, where the database can take back what it has begun.
///
/// # Errors
/// When the database refuses.
pub async fn make(
    connection: &mut Connection,
    settings: &Settings,
    catalogue: &Catalogue,
    tables: &[OwnTable],
) -> Result<(), Error> {
    let made = async {
        let mut statements = Vec::new();
        for table in tables {
            let last = if table.name == numbering::TABLE { numbering::last(connection, catalogue).await? } else { 0 };
            statements.extend(numbering::from(connection, &table.statement, last));
            statements.extend(table.indexes.iter().map(|(_, statement)| statement.clone()));
        }
        together(connection, &statements).await
    };
    made.await.map_err(|error| Error::failed("make tables in", settings, &error))
}

/// Makes tables anew that hold no row, so that nothing is lost: those that Django has made, without the defaults.
///
/// # Errors
/// When the database refuses.
pub async fn remake(connection: &mut Connection, settings: &Settings, tables: &[&OwnTable]) -> Result<(), Error> {
    let again = |table: &&OwnTable| {
        let indexes = table.indexes.iter().map(|(_, statement)| statement.clone());
        let drop = format!("DROP TABLE {}", table.name);
        [drop, table.statement.clone()].into_iter().chain(indexes).collect::<Vec<_>>()
    };
    let statements: Vec<String> = tables.iter().flat_map(again).collect();
    together(connection, &statements).await.map_err(|error| Error::failed("make tables in", settings, &error))
}

/// Mends one thing.
///
/// # Errors
/// When the database refuses.
pub async fn mend(connection: &mut Connection, settings: &Settings, repair: &Repair) -> Result<(), Error> {
    let mended = match repair {
        Repair::Reshape { table, from, to } if matches!(connection, Connection::Sqlite(_)) => {
            let default = default(connection, to).filter(|_| from.default != to.default);
            let nullable = to.nullable && !from.nullable;
            sqlite_alter::change(connection, table, &from.name, default.as_deref(), nullable).await
        }
        _ => {
            let statements = statements(connection, repair);
            together(connection, &statements).await
        }
    };
    mended.map_err(|error| {
        let by_hand = statements(connection, repair).join("; ");
        let hint = if by_hand.is_empty() { String::new() } else { format!("; to be run by hand: {by_hand};") };
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
pub async fn clear(connection: &mut Connection, settings: &Settings, tables: &[String]) -> Result<(), Error> {
    let drops: Vec<String> = tables.iter().map(|table| format!("DROP TABLE {}", connection.quote(table))).collect();
    let all = format!("SET FOREIGN_KEY_CHECKS = 0; {}; SET FOREIGN_KEY_CHECKS = 1", drops.join("; "));
    connection.run(all).await.map_err(|error| Error::failed("clear", settings, &error))
}

/// In one transaction, where the database has those for such statements.
async fn together(connection: &mut Connection, statements: &[String]) -> Result<(), sqlx::Error> {
    if matches!(connection, Connection::Mysql(_)) {
        for statement in statements {
            connection.run(statement.clone()).await?;
        }
        return Ok(());
    }
    let begin = if matches!(connection, Connection::Sqlite(_)) { "BEGIN IMMEDIATE" } else { "BEGIN" };
    let done = connection.run(format!("{begin}; {}; COMMIT", statements.join("; "))).await;
    if done.is_err() {
        // It may have failed before it began, or the connection may be gone: then there is nothing to take back.
        let _ = connection.run("ROLLBACK").await;
    }
    done
}

fn statements(connection: &Connection, repair: &Repair) -> Vec<String> {
    match repair {
        Repair::AddColumn { table, column, definition } => {
            vec![format!("ALTER TABLE {} ADD COLUMN {column} {definition}", connection.quote(table))]
        }
        Repair::AddIndex { table, index } => vec![add_index(connection, table, index)],
        Repair::Reshape { table, from, to } => reshape(connection, table, from, to),
    }
}

fn add_index(connection: &Connection, table: &str, index: &Index) -> String {
    let operators = index.operators.as_ref().map(|operators| format!(" {operators}")).unwrap_or_default();
    let column = |column: &String| format!("{}{operators}", connection.quote(column));
    let columns = index.columns.iter().map(column).collect::<Vec<_>>().join(", ");
    let name = match index.name.as_str() {
        "" => format!("{table}_{}_botsctl", index.columns.join("_")).chars().take(60).collect(),
        name => name.to_owned(),
    };
    let (name, table) = (connection.quote(&name), connection.quote(table));
    match (connection, index.unique) {
        // As Django has it: a later migration looks for a constraint of that name.
        (Connection::Postgres(_), true) => format!("ALTER TABLE {table} ADD CONSTRAINT {name} UNIQUE ({columns})"),
        (_, unique) => format!("CREATE {}INDEX {name} ON {table} ({columns})", if unique { "UNIQUE " } else { "" }),
    }
}

fn reshape(connection: &Connection, table: &str, from: &Column, to: &Column) -> Vec<String> {
    let (table, column) = (connection.quote(table), connection.quote(&from.name));
    let default = default(connection, to);
    match connection {
        Connection::Mysql(_) => {
            let null = if to.nullable { "NULL" } else { "NOT NULL" };
            let default = default.map(|default| format!(" DEFAULT {default}")).unwrap_or_default();
            vec![format!("ALTER TABLE {table} MODIFY COLUMN {column} {} {null}{default}", to.own_type)]
        }
        Connection::Postgres(_) => {
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
        Connection::Sqlite(_) => Vec::new(),
    }
}

fn default(connection: &Connection, column: &Column) -> Option<String> {
    match &column.default {
        Default::None | Default::Generated => None,
        Default::Other(expression) => Some(expression.clone()),
        Default::Now => Some(match connection {
            Connection::Sqlite(_) => "(datetime('now', 'localtime'))".to_owned(),
            // MySQL wants the same precision as the column's.
            Connection::Mysql(_) => {
                let precision = column.own_type.split_once('(').map(|(_, rest)| format!("({rest}")).unwrap_or_default();
                format!("CURRENT_TIMESTAMP{precision}")
            }
            Connection::Postgres(_) => "CURRENT_TIMESTAMP".to_owned(),
        }),
        Default::Constant(text) => Some(match (&column.kind, connection) {
            (Kind::Boolean, Connection::Postgres(_)) => if text == "0" { "false" } else { "true" }.to_owned(),
            (Kind::Integer | Kind::Boolean, _) => text.clone(),
            _ => connection.literal(text),
        }),
    }
}
