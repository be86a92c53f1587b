//! The schema of a database, from its own catalogue, in terms common to all databases.

use std::collections::BTreeMap;

use crate::database::DatabaseConfig;
use crate::database::query::{Connection, Row};
use crate::model::IndexDef;

/// All tables of a database.
#[derive(Debug, Default, Clone)]
pub struct Schema {
    /// Tables by name.
    pub tables: BTreeMap<String, Table>,
}

/// A table.
#[derive(Debug, Default, Clone)]
pub struct Table {
    /// In their order.
    pub columns: Vec<Column>,
    /// Indexes, also those of constraints.
    pub keys: Vec<IndexDef>,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub kind: ColumnType,
    pub nullable: bool,
    pub default: ColumnDefault,
    /// The type in the database's own words.
    pub own_type: String,
}

/// A type, with the distinctions that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnType {
    /// Of any size.
    Integer,
    /// True or false.
    Boolean,
    /// A text with a maximum length.
    Varchar(u32),
    /// A text of any length.
    Text,
    /// Date and time, with a time zone or without.
    Timestamp,
    /// Any other type.
    Other(String),
}

/// The value of a column that an INSERT leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnDefault {
    /// NULL, or an error where NULL is not allowed.
    None,
    /// A constant; 0 or 1 for booleans.
    Constant(String),
    /// The time of the INSERT.
    Now,
    /// The next number.
    Generated,
    /// Another expression.
    Other(String),
}

const SQLITE_COLUMNS: &str = "SELECT m.name, p.name, p.type, p.\"notnull\", p.dflt_value, p.pk > 0 AND p.type = 'integer' COLLATE NOCASE \
     FROM sqlite_master m JOIN pragma_table_info(m.name) p WHERE m.type = 'table' ORDER BY m.name, p.cid";

const SQLITE_KEYS: &str = "SELECT m.name, l.name, l.\"unique\" AND NOT l.partial, i.name FROM sqlite_master m JOIN pragma_index_list(m.name) l \
     JOIN pragma_index_info(l.name) i WHERE m.type = 'table' ORDER BY m.name, l.name, i.seqno";

const MYSQL_COLUMNS: &str = "SELECT table_name, column_name, column_type, is_nullable = 'NO', column_default, extra LIKE '%auto_increment%' \
     FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position";

const MYSQL_KEYS: &str = "SELECT table_name, index_name, non_unique = 0, column_name FROM information_schema.statistics \
     WHERE table_schema = DATABASE() ORDER BY table_name, index_name, seq_in_index";

const POSTGRES_COLUMNS: &str = "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull::int, pg_get_expr(d.adbin, d.adrelid), \
     (a.attidentity <> '')::int FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
     LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum \
     WHERE c.relkind IN ('r', 'p') AND c.relnamespace <> 'pg_catalog'::regnamespace AND pg_table_is_visible(c.oid) \
     ORDER BY c.relname, a.attnum";

/// Without the kinds of relation, PostgreSQL would look up the visibility of each index and catalogue table as well, which takes a
/// new session milliseconds.
const POSTGRES_KEYS: &str = "SELECT c.relname, n.relname, (i.indisunique AND i.indpred IS NULL)::int, a.attname FROM pg_class c \
     JOIN pg_index i ON i.indrelid = c.oid JOIN pg_class n ON n.oid = i.indexrelid \
     JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey::int2[]) \
     WHERE c.relkind IN ('r', 'p') AND c.relnamespace <> 'pg_catalog'::regnamespace AND pg_table_is_visible(c.oid) \
     ORDER BY c.relname, n.relname, array_position(i.indkey::int2[], a.attnum)";

impl Schema {
    /// Reads the catalogue of the current database.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn read(connection: &mut Connection) -> Result<Self, sqlx::Error> {
        let (columns, keys) = match connection.settings {
            DatabaseConfig::Sqlite(_) => (SQLITE_COLUMNS, SQLITE_KEYS),
            DatabaseConfig::Mysql(_) => (MYSQL_COLUMNS, MYSQL_KEYS),
            DatabaseConfig::Postgres(_) => (POSTGRES_COLUMNS, POSTGRES_KEYS),
        };
        let mut catalogue = Self::default();
        for row in connection.fetch_text(columns).await? {
            if let Some((table, column)) = read_column(row) {
                catalogue.tables.entry(table).or_default().columns.push(column);
            }
        }
        for row in connection.fetch_text(keys).await? {
            catalogue.add_key(row);
        }
        Ok(catalogue)
    }

    /// Whether the table exists.
    #[must_use]
    pub fn has(&self, table: &str) -> bool {
        self.tables.contains_key(table)
    }

    fn add_key(&mut self, row: Row) {
        let [Some(table), Some(name), unique, Some(column)] = <[_; 4]>::try_from(row).unwrap_or_default() else {
            return;
        };
        let Some(table) = self.tables.get_mut(&table) else { return };
        match table.keys.last_mut().filter(|key| key.name == name) {
            Some(key) => key.columns.push(column),
            None => {
                let (columns, unique) = (vec![column], is_true(unique.as_deref()));
                table.keys.push(IndexDef { name, columns, unique, operators: None });
            }
        }
    }
}

impl Table {
    /// The column of this name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name))
    }

    /// Whether an index serves to find rows by these columns: it begins with them.
    #[must_use]
    pub fn has_key(&self, columns: &[String]) -> bool {
        self.keys.iter().any(|key| key.columns.starts_with(columns))
    }
}

fn read_column(row: Row) -> Option<(String, Column)> {
    let [table, name, own_type, required, default, generated] = <[_; 6]>::try_from(row).ok()?;
    let own_type = own_type.unwrap_or_default();
    let kind = ColumnType::read(&own_type);
    let default = match is_true(generated.as_deref()) {
        true => ColumnDefault::Generated,
        false => ColumnDefault::read(default.as_deref(), &kind),
    };
    let column = Column { name: name?, kind, nullable: !is_true(required.as_deref()), default, own_type };
    Some((table?, column))
}

fn is_true(flag: Option<&str>) -> bool {
    flag == Some("1")
}

impl ColumnType {
    /// Parses the type names of all databases.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        let (name, length) = match text.split_once('(') {
            Some((name, rest)) => (name.trim(), rest.split(')').next().and_then(|length| length.trim().parse().ok())),
            None => (text.as_str(), None),
        };
        let first = name.split_whitespace().next().unwrap_or_default();
        match (first, length) {
            ("tinyint", Some(1)) | ("bool" | "boolean", _) => Self::Boolean,
            ("int" | "integer" | "bigint" | "smallint" | "serial" | "tinyint" | "mediumint", _) => Self::Integer,
            ("varchar" | "character" | "char", Some(length)) => Self::Varchar(length),
            ("text" | "longtext" | "mediumtext" | "varchar" | "character", _) => Self::Text,
            ("timestamp" | "datetime" | "timestamptz", _) => Self::Timestamp,
            _ => Self::Other(text),
        }
    }
}

impl ColumnDefault {
    /// Parses the expressions of all databases.
    #[must_use]
    pub fn read(text: Option<&str>, kind: &ColumnType) -> Self {
        let Some(text) = text.map(str::trim).filter(|text| !text.eq_ignore_ascii_case("null")) else {
            return Self::None;
        };
        let lower = text.to_ascii_lowercase();
        if lower.contains("nextval(") {
            return Self::Generated;
        }
        if lower.contains("current_timestamp")
            || lower.contains("now") && (lower.contains('(') || *kind == ColumnType::Timestamp)
        {
            return Self::Now;
        }
        if let Some(quoted) = text.strip_prefix('\'').and_then(|text| text.rfind('\'').map(|end| &text[..end])) {
            return Self::Constant(quoted.replace("''", "'"));
        }
        match lower.as_str() {
            "true" => Self::Constant("1".to_owned()),
            "false" => Self::Constant("0".to_owned()),
            "" => Self::Constant(String::new()),
            _ if lower.contains('(') => Self::Other(text.to_owned()),
            _ => Self::Constant(text.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_names_of_all_databases_are_normalized() {
        for text in ["int(11)", "INTEGER", "integer unsigned", "bigint(20)", "serial", "smallint"] {
            assert_eq!(ColumnType::read(text), ColumnType::Integer, "{text}");
        }
        for text in ["varchar(35)", "character varying(35)", "VARCHAR(35)"] {
            assert_eq!(ColumnType::read(text), ColumnType::Varchar(35), "{text}");
        }
        for text in ["timestamp", "datetime(6)", "timestamp with time zone", "timestamp without time zone"] {
            assert_eq!(ColumnType::read(text), ColumnType::Timestamp, "{text}");
        }
        for text in ["tinyint(1)", "bool", "boolean"] {
            assert_eq!(ColumnType::read(text), ColumnType::Boolean, "{text}");
        }
        assert_eq!(ColumnType::read("longtext"), ColumnType::Text);
        assert_eq!(ColumnType::read("uuid"), ColumnType::Other("uuid".to_owned()));
    }

    #[test]
    fn defaults_of_all_databases_are_normalized() {
        let read = |text| ColumnDefault::read(Some(text), &ColumnType::Text);
        for text in ["CURRENT_TIMESTAMP", "current_timestamp()", "now()", "(datetime('now', 'localtime'))"] {
            assert_eq!(read(text), ColumnDefault::Now, "{text}");
        }
        for text in ["''", "''::character varying", ""] {
            assert_eq!(read(text), ColumnDefault::Constant(String::new()), "{text:?}");
        }
        assert_eq!(read("'text/plain'::character varying"), ColumnDefault::Constant("text/plain".to_owned()));
        assert_eq!(read("false"), ColumnDefault::Constant("0".to_owned()));
        assert_eq!(read("nextval('ta_idta_seq'::regclass)"), ColumnDefault::Generated);
        assert_eq!(read("NULL"), ColumnDefault::None);
        assert_eq!(ColumnDefault::read(None, &ColumnType::Text), ColumnDefault::None);
    }
}
