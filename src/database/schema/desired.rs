//! The schema that a database should have: the unmanaged tables, and the tables of Django's models.
//!
//! Only the statements in `sql/` describe the unmanaged tables. They are parsed here, so that the comparison and the CREATE
//! TABLE cannot differ.

use std::collections::BTreeMap;

use super::introspect::{Column, ColumnDefault, ColumnType, Schema, Table};
use crate::database::DatabaseConfig;
use crate::model::{BotsVersion, IndexDef, ManagedTable};

/// Tables that Bots uses with its own SQL.
pub const UNMANAGED: [&str; 4] = ["ta", "mutex", "persist", "uniek"];

/// The schema that a database should have.
#[derive(Debug, Clone)]
pub struct DesiredSchema {
    /// Decides about the unmanaged tables.
    pub version: BotsVersion,
    /// Tables that Django creates, by name.
    pub managed: BTreeMap<String, ManagedTable>,
    /// Migrations by app.
    pub migrations: BTreeMap<String, Vec<String>>,
}

impl DesiredSchema {
    /// The existing tables of Bots and Django.
    #[must_use]
    pub fn tables(&self, catalogue: &Schema) -> Vec<String> {
        let managed = self.managed.keys().map(String::as_str);
        let mut all: Vec<&str> = managed.chain(UNMANAGED).chain(["django_migrations"]).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter().filter(|name| catalogue.has(name)).map(str::to_owned).collect()
    }
}

/// A table that bots-ctl creates with its own statement.
#[derive(Debug, Clone)]
pub struct UnmanagedTable {
    pub name: String,
    /// The CREATE TABLE.
    pub statement: String,
    /// The type of a column is its whole definition, after the name.
    pub table: Table,
}

/// The unmanaged tables of a Bots in this kind of database.
#[must_use]
pub fn unmanaged(settings: &DatabaseConfig, version: BotsVersion) -> Vec<UnmanagedTable> {
    parse(match (settings, version) {
        (DatabaseConfig::Sqlite(_), BotsVersion::V3) => include_str!("../../../sql/sqlite/bots-3.sql"),
        (DatabaseConfig::Sqlite(_), BotsVersion::V4) => include_str!("../../../sql/sqlite/bots-4.sql"),
        (DatabaseConfig::Mysql(_), BotsVersion::V3) => include_str!("../../../sql/mysql/bots-3.sql"),
        (DatabaseConfig::Mysql(_), BotsVersion::V4) => include_str!("../../../sql/mysql/bots-4.sql"),
        (DatabaseConfig::Postgres(_), BotsVersion::V3) => include_str!("../../../sql/postgresql/bots-3.sql"),
        (DatabaseConfig::Postgres(_), BotsVersion::V4) => include_str!("../../../sql/postgresql/bots-4.sql"),
    })
}

/// `sql/README.md` requires one line per column, and a line end after every statement.
fn parse(text: &str) -> Vec<UnmanagedTable> {
    let lines = text.lines().filter(|line| !line.starts_with("--"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let mut tables: Vec<UnmanagedTable> = Vec::new();
    for statement in text.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()) {
        let statement = statement.trim_end_matches(';');
        if let Some(rest) = statement.strip_prefix("CREATE TABLE ") {
            let name = rest.split([' ', '(']).next().unwrap_or_default().to_owned();
            let mut columns: Vec<Column> = rest.lines().skip(1).filter_map(column).collect();
            let primary = rest.split_once("PRIMARY KEY (").and_then(|(_, names)| names.split(')').next());
            for name in primary.into_iter().flat_map(|names| names.split(", ")) {
                columns.iter_mut().filter(|column| column.name == name).for_each(|column| column.nullable = false);
            }
            let table = Table { columns, keys: Vec::new() };
            tables.push(UnmanagedTable { name, statement: statement.to_owned(), table });
        } else if let Some((start, position)) = statement.split_once(" ON ")
            && let Some(name) = start.strip_prefix("CREATE INDEX ")
            && let Some((table, column)) = position.trim_end_matches(')').split_once(" (")
            && let Some(own) = tables.iter_mut().find(|own| own.name == table)
        {
            let (name, columns) = (name.to_owned(), vec![column.to_owned()]);
            own.table.keys.push(IndexDef { name, columns, unique: false, operators: None });
        }
    }
    tables
}

fn column(line: &str) -> Option<Column> {
    let line = line.strip_prefix("    ")?.trim_end_matches(',');
    let (name, definition) = line.split_once(' ').filter(|(name, _)| *name != "PRIMARY")?;
    let (own_type, default) =
        definition.split_once(" DEFAULT ").map_or((definition, None), |(own_type, default)| (own_type, Some(default)));
    let kind = ColumnType::read(own_type);
    let is_number = ["AUTO_INCREMENT", "AUTOINCREMENT", "SERIAL"].iter().any(|word| definition.contains(word));
    let default = if is_number { ColumnDefault::Generated } else { ColumnDefault::read(default, &kind) };
    let nullable = !definition.contains("NOT NULL") && !is_number;
    Some(Column { name: name.to_owned(), kind, nullable, default, own_type: definition.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn sql_files_parse_into_expected_tables() {
        let tables = unmanaged(&DatabaseConfig::Sqlite(PathBuf::new()), BotsVersion::V4);
        let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
        assert_eq!(names, UNMANAGED);
        assert_eq!(tables.iter().map(|own| own.table.columns.len()).collect::<Vec<_>>(), [41, 3, 4, 2]);
        let ta = &tables[0].table;
        let indexes = ta.keys.iter().map(|index| (index.name.as_str(), index.columns[0].as_str()));
        assert_eq!(indexes.collect::<Vec<_>>(), [("ta_parent", "parent"), ("ta_reference", "reference")]);
        let column = |name: &str| ta.columns.iter().find(|column| column.name == name).expect(name);
        assert_eq!(column("idta").default, ColumnDefault::Generated);
        assert_eq!(column("contenttype").default, ColumnDefault::Constant("text/plain".to_owned()));
        assert_eq!(column("reference").kind, ColumnType::Varchar(256));
        assert_eq!((&column("ts").kind, &column("ts").default), (&ColumnType::Timestamp, &ColumnDefault::Now));
        assert!(
            column("errortext").nullable
                && !tables[1].table.columns[0].nullable
                && !tables[2].table.columns[0].nullable
        );
    }

    #[test]
    fn all_databases_have_the_same_tables() {
        let shape = |text: &str| -> Vec<(String, Vec<String>)> {
            let columns = |own: &UnmanagedTable| own.table.columns.iter().map(|column| column.name.clone()).collect();
            parse(text).iter().map(|own| (own.name.clone(), columns(own))).collect()
        };
        let [three, four] = [
            shape(include_str!("../../../sql/sqlite/bots-3.sql")),
            shape(include_str!("../../../sql/sqlite/bots-4.sql")),
        ];
        assert_eq!(shape(include_str!("../../../sql/mysql/bots-3.sql")), three);
        assert_eq!(shape(include_str!("../../../sql/postgresql/bots-3.sql")), three);
        assert_eq!(shape(include_str!("../../../sql/mysql/bots-4.sql")), four);
        assert_eq!(shape(include_str!("../../../sql/postgresql/bots-4.sql")), four);
    }
}
