//! What is in a database against what should be: pure. What can be mended without risk is told apart from what is
//! left to a person.

use std::collections::BTreeSet;

use super::desired;
use super::desired::{DesiredSchema, UNMANAGED, UnmanagedColumn, UnmanagedTable};
use super::introspect::{Column, ColumnDefault, ColumnType, IndexInfo, Schema, Table};
use crate::database::DatabaseConfig;
use crate::model::{IndexDef, ManagedTable};

/// What a look at the database told.
#[derive(Debug, std::default::Default)]
pub struct SchemaDiff {
    /// Unmanaged tables that are not there.
    pub unmanaged: Vec<UnmanagedTable>,
    /// Managed tables that are not there.
    pub managed: Vec<String>,
    /// Migrations that were not applied, as `app.name`.
    pub migrations: Vec<String>,
    /// What is not as it should be and can be mended without risk.
    pub repairs: Vec<SchemaFix>,
    /// What is not as it should be and is left to a person.
    pub manual_fixes: Vec<String>,
    /// Whether there is no web user at all.
    pub lacks_superuser: bool,
    /// Whether the bundled account has its well-known password.
    pub has_default_password: bool,
    /// Whether there is none of the tables of Django or Bots.
    pub is_empty: bool,
}

/// A change that loses nothing, whatever rows there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaFix {
    /// A column of an unmanaged table.
    AddColumn { table: String, column: String, definition: String },
    /// A wider type, a default, NULL where nothing needs to be said.
    AlterColumn { table: String, from: Column, to: Column },
    /// An index.
    AddIndex { table: String, index: IndexDef },
}

impl SchemaFix {
    /// What is missing, by name.
    #[must_use]
    pub fn missing(&self) -> String {
        match self {
            Self::AddColumn { table, column, .. } => format!("column {table}.{column}"),
            Self::AddIndex { table, index } => {
                let (unique, columns) = (if index.unique { "unique " } else { "" }, index.columns.join(", "));
                let name = if index.name.is_empty() { String::new() } else { format!("{} ", index.name) };
                format!("{unique}index {name}on {table} ({columns})")
            }
            Self::AlterColumn { table, from, to } if from.kind != to.kind => {
                format!("room in {table}.{}: it is {}, not {}", from.name, from.own_type, to.own_type)
            }
            Self::AlterColumn { table, from, to } if from.default != to.default => {
                format!("default of {table}.{}", from.name)
            }
            Self::AlterColumn { table, from, .. } => format!("NULL in {table}.{}", from.name),
        }
    }

    /// What has been done about it.
    #[must_use]
    pub fn done(&self) -> String {
        match self {
            Self::AddColumn { .. } | Self::AddIndex { .. } => format!("added the {}", self.missing()),
            Self::AlterColumn { table, from, to } if from.kind != to.kind => {
                format!("widened {table}.{} from {} to {}", from.name, from.own_type, to.own_type)
            }
            Self::AlterColumn { table, from, to } if from.default != to.default => {
                format!("gave {table}.{} its default", from.name)
            }
            Self::AlterColumn { table, from, .. } => format!("allowed NULL in {table}.{}", from.name),
        }
    }
}

impl SchemaDiff {
    /// Whether Django has something to do.
    #[must_use]
    pub fn needs_migrate(&self) -> bool {
        !self.managed.is_empty() || !self.migrations.is_empty()
    }

    /// Whether nothing needs to be done to the schema.
    #[must_use]
    pub fn is_schema_complete(&self) -> bool {
        !self.needs_migrate() && self.unmanaged.is_empty() && self.repairs.is_empty()
    }

    /// Whether an unmanaged table was made without the defaults it needs.
    #[must_use]
    pub fn lacks_defaults(&self, name: &str) -> bool {
        let is_default = |repair: &SchemaFix| matches!(repair, SchemaFix::AlterColumn { table, from, to } if table == name && from.default != to.default);
        self.repairs.iter().any(is_default)
    }

    /// Names of everything that is missing.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let tables = self.unmanaged.iter().map(|table| format!("table {}", table.name));
        let managed = self.managed.iter().map(|table| format!("table {table}"));
        let migrations = self.migrations.iter().map(|name| format!("migration {name}"));
        let users = self.lacks_superuser.then(|| "a web user".to_owned());
        tables
            .chain(managed)
            .chain(migrations)
            .chain(self.repairs.iter().map(SchemaFix::missing))
            .chain(users)
            .collect()
    }
}

/// Compares the schema; web users are no part of it.
#[must_use]
pub fn compare(
    settings: &DatabaseConfig,
    catalogue: &Schema,
    expected: &DesiredSchema,
    applied: &BTreeSet<(String, String)>,
) -> SchemaDiff {
    let mut difference = SchemaDiff::default();
    for own in desired::unmanaged(settings, expected.version) {
        match catalogue.tables.get(&own.name) {
            None => difference.unmanaged.push(own),
            Some(found) => compare_own(settings, &own, found, &mut difference),
        }
    }
    let managed = || expected.managed.iter().filter(|(name, _)| !UNMANAGED.contains(&name.as_str()));
    difference.managed = managed().filter(|(name, _)| !catalogue.has(name)).map(|(name, _)| name.clone()).collect();
    difference.migrations = unapplied(expected, applied);
    difference.is_empty =
        difference.managed.len() == managed().count() && difference.unmanaged.len() == UNMANAGED.len();
    if !difference.needs_migrate() {
        for (name, table) in managed() {
            if let Some(found) = catalogue.tables.get(name) {
                compare_managed(settings, name, table, found, &mut difference);
            }
        }
    }
    difference
}

fn unapplied(expected: &DesiredSchema, applied: &BTreeSet<(String, String)>) -> Vec<String> {
    let all =
        expected.migrations.iter().flat_map(|(app, names)| names.iter().map(move |name| (app.clone(), name.clone())));
    all.filter(|migration| !applied.contains(migration)).map(|(app, name)| format!("{app}.{name}")).collect()
}

fn compare_own(settings: &DatabaseConfig, own: &UnmanagedTable, found: &Table, difference: &mut SchemaDiff) {
    let table = own.name.clone();
    for wanted in &own.columns {
        let Some(column) = found.column(&wanted.name) else {
            let (column, definition) = (wanted.name.clone(), wanted.definition.clone());
            difference.repairs.push(SchemaFix::AddColumn { table: table.clone(), column, definition });
            continue;
        };
        compare_column(settings, &table, wanted, column, difference);
    }
    let known = |column: &&Column| own.columns.iter().any(|own| own.name.eq_ignore_ascii_case(&column.name));
    extra_columns(&table, found.columns.iter().filter(|column| !known(column)), difference);
    for (index, _) in own.indexes.iter().filter(|(index, _)| !found.has_key(&index.columns)) {
        difference.repairs.push(SchemaFix::AddIndex { table: table.clone(), index: index.clone() });
    }
}

fn compare_column(
    settings: &DatabaseConfig,
    table: &str,
    wanted: &UnmanagedColumn,
    found: &Column,
    difference: &mut SchemaDiff,
) {
    let mut to = found.clone();
    match (&wanted.kind, &found.kind) {
        (ColumnType::Varchar(wanted), ColumnType::Varchar(found)) => {
            if wanted > found && enforces_length(settings) {
                to.kind = ColumnType::Varchar(*wanted);
                to.own_type = format!("varchar({wanted})");
            }
        }
        (wanted, found) if wanted == found => {}
        // A text without a limit holds whatever one with a limit would.
        (ColumnType::Varchar(_), ColumnType::Text) => {}
        _ => {
            let text = format!("{table}.{} is {}, expected {}", found.name, found.own_type, wanted.definition);
            difference.manual_fixes.push(text);
            return;
        }
    }
    match (&wanted.default, &found.default) {
        (wanted, found) if wanted == found => {}
        (ColumnDefault::None, _) => {}
        (ColumnDefault::Generated, _) => {
            difference.manual_fixes.push(format!("{table}.{} does not number its rows by itself", found.name));
            return;
        }
        (wanted, ColumnDefault::None) => to.default = wanted.clone(),
        (_, _) => {
            let text = format!("{table}.{} has another default than expected: {}", found.name, wanted.definition);
            difference.manual_fixes.push(text);
        }
    }
    // Bots leaves out what it has no value for.
    if wanted.nullable && wanted.default == ColumnDefault::None && found.default == ColumnDefault::None {
        to.nullable = true;
    }
    if to != *found {
        difference.repairs.push(SchemaFix::AlterColumn { table: table.to_owned(), from: found.clone(), to });
    }
}

/// SQLite stores what it is given.
fn enforces_length(settings: &DatabaseConfig) -> bool {
    !matches!(settings, DatabaseConfig::Sqlite(_))
}

/// Columns that this Bots does not know, of a newer one for instance: its INSERTs must not fail on them.
fn extra_columns<'a>(table: &str, columns: impl Iterator<Item = &'a Column>, difference: &mut SchemaDiff) {
    for from in columns.filter(|column| !column.nullable && column.default == ColumnDefault::None) {
        let default = match from.kind {
            ColumnType::Integer | ColumnType::Boolean => "0",
            ColumnType::Varchar(_) => "",
            _ => {
                let text = format!("{table}.{} is unknown to this Bots and must be given at every INSERT", from.name);
                difference.manual_fixes.push(text);
                continue;
            }
        };
        let to = Column { default: ColumnDefault::Constant(default.to_owned()), ..from.clone() };
        difference.repairs.push(SchemaFix::AlterColumn { table: table.to_owned(), from: from.clone(), to });
    }
}

fn compare_managed(
    settings: &DatabaseConfig,
    name: &str,
    wanted: &ManagedTable,
    found: &Table,
    difference: &mut SchemaDiff,
) {
    for (column, length, _) in &wanted.columns {
        match found.column(column) {
            None => difference.manual_fixes.push(format!("column {name}.{column} is missing")),
            Some(found) => {
                if let (Some(wanted), ColumnType::Varchar(length)) = (length, &found.kind)
                    && wanted > length
                    && enforces_length(settings)
                {
                    let own_type = format!("varchar({wanted})");
                    let to = Column { kind: ColumnType::Varchar(*wanted), own_type, ..found.clone() };
                    difference.repairs.push(SchemaFix::AlterColumn { table: name.to_owned(), from: found.clone(), to });
                }
            }
        }
    }
    let known = |column: &&Column| wanted.columns.iter().any(|(name, ..)| name.eq_ignore_ascii_case(&column.name));
    extra_columns(name, found.columns.iter().filter(|column| !known(column)), difference);
    for index in missing_indexes(&wanted.indexes, found) {
        if index.columns.iter().all(|column| found.column(column).is_some()) {
            difference.repairs.push(SchemaFix::AddIndex { table: name.to_owned(), index: index.clone() });
        }
    }
}

/// Each index serves for one: the one of its name, else one of the same columns. Older Djangos chose other names.
fn missing_indexes<'a>(wanted: &'a [IndexDef], found: &Table) -> Vec<&'a IndexDef> {
    let mut free: Vec<&IndexInfo> = found.keys.iter().collect();
    let mut enforces =
        |fits: &dyn Fn(&IndexInfo) -> bool| free.iter().position(|key| fits(key)).map(|at| free.remove(at));
    let same = |index: &IndexDef, key: &IndexInfo| key.columns == index.columns && key.unique == index.unique;
    let nameless: Vec<&IndexDef> =
        wanted.iter().filter(|index| enforces(&|key| key.name == index.name && same(index, key)).is_none()).collect();
    nameless.into_iter().filter(|index| enforces(&|key| same(index, key)).is_none()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use secrecy::SecretString;

    use super::*;
    use crate::database::config::{Server, ServerAddress};
    use crate::database::tls::Tls;
    use crate::model::BotsVersion;

    fn sqlite() -> DatabaseConfig {
        DatabaseConfig::Sqlite(PathBuf::new())
    }

    fn postgres() -> DatabaseConfig {
        let (name, password) = ("n".to_owned(), SecretString::default());
        let (tls, session) = (Tls::default(), Vec::new());
        DatabaseConfig::Postgres(Server {
            address: ServerAddress::Default,
            user: String::new(),
            password,
            name,
            tls,
            session,
        })
    }

    /// The unmanaged tables just as they are wanted.
    fn whole(settings: &DatabaseConfig, version: BotsVersion) -> Schema {
        let column = |own: &UnmanagedColumn| Column {
            name: own.name.clone(),
            kind: own.kind.clone(),
            nullable: own.nullable,
            default: own.default.clone(),
            own_type: String::new(),
        };
        let key = |(index, _): &(IndexDef, String)| IndexInfo {
            name: index.name.clone(),
            columns: index.columns.clone(),
            unique: false,
        };
        let tables = desired::unmanaged(settings, version).into_iter().map(|own| {
            let columns = own.columns.iter().map(column).collect();
            (own.name, Table { columns, keys: own.indexes.iter().map(key).collect() })
        });
        Schema { tables: tables.collect() }
    }

    fn expected(version: BotsVersion) -> DesiredSchema {
        DesiredSchema { version, managed: BTreeMap::new(), migrations: BTreeMap::new() }
    }

    fn missing(settings: &DatabaseConfig, catalogue: &Schema, expected: &DesiredSchema) -> Vec<String> {
        compare(settings, catalogue, expected, &BTreeSet::new()).missing()
    }

    fn change<'a>(catalogue: &'a mut Schema, table: &str, column: &str) -> &'a mut Column {
        let table = catalogue.tables.get_mut(table).expect("it is there");
        table.columns.iter_mut().find(|found| found.name == column).expect("it is there")
    }

    #[test]
    fn what_is_as_it_should_be_is_not_mentioned() {
        for version in [BotsVersion::V3, BotsVersion::V4] {
            let all = compare(&postgres(), &whole(&postgres(), version), &expected(version), &BTreeSet::new());
            assert!(
                all.is_schema_complete() && all.manual_fixes.is_empty(),
                "{:?} {:?}",
                all.missing(),
                all.manual_fixes
            );
        }
    }

    #[test]
    fn a_database_of_the_older_bots_lacks_room_and_indexes() {
        let (older, newer) = (whole(&postgres(), BotsVersion::V3), expected(BotsVersion::V4));
        let found = missing(&postgres(), &older, &newer);
        let indexes = ["index ta_parent on ta (parent)", "index ta_reference on ta (reference)"];
        for part in ["room in ta.reference", "room in uniek.domein", indexes[0], indexes[1]] {
            assert!(found.iter().any(|name| name.starts_with(part)), "{part}: {found:?}");
        }
        // SQLite stores whatever it is given.
        assert_eq!(missing(&sqlite(), &older, &newer), indexes);
    }

    #[test]
    fn a_database_of_the_newer_bots_lacks_a_column() {
        let found = missing(&postgres(), &whole(&postgres(), BotsVersion::V4), &expected(BotsVersion::V3));
        assert_eq!(found, ["column ta.statuse"]);
    }

    #[test]
    fn defaults_that_are_missing_are_mended_and_others_are_told() {
        let mut catalogue = whole(&postgres(), BotsVersion::V4);
        *change(&mut catalogue, "ta", "statust") =
            Column { default: ColumnDefault::None, nullable: false, ..change(&mut catalogue, "ta", "statust").clone() };
        change(&mut catalogue, "ta", "errortext").nullable = false;
        change(&mut catalogue, "mutex", "mutexer").default = ColumnDefault::Constant("7".to_owned());
        change(&mut catalogue, "uniek", "nummer").kind = ColumnType::Text;
        let all = compare(&postgres(), &catalogue, &expected(BotsVersion::V4), &BTreeSet::new());
        assert_eq!(all.missing(), ["default of ta.statust", "NULL in ta.errortext"]);
        assert!(all.lacks_defaults("ta") && !all.lacks_defaults("mutex"));
        assert!(all.manual_fixes.iter().any(|text| text.contains("mutex.mutexer has another default")));
        assert!(all.manual_fixes.iter().any(|text| text.contains("uniek.nummer is ")));
    }

    #[test]
    fn columns_of_another_bots_must_not_make_an_insert_fail() {
        let mut catalogue = whole(&postgres(), BotsVersion::V3);
        let column = |name: &str, kind: ColumnType| Column {
            name: name.to_owned(),
            kind,
            nullable: false,
            default: ColumnDefault::None,
            own_type: String::new(),
        };
        let columns =
            vec![column("dirmonitor", ColumnType::Boolean), column("odd", ColumnType::Other("uuid".to_owned()))];
        catalogue.tables.insert("routes".to_owned(), Table { columns, keys: Vec::new() });
        let mut expected = expected(BotsVersion::V3);
        expected.managed.insert("routes".to_owned(), ManagedTable { columns: Vec::new(), indexes: Vec::new() });
        let all = compare(&postgres(), &catalogue, &expected, &BTreeSet::new());
        assert_eq!(all.missing(), ["default of routes.dirmonitor"]);
        assert!(all.manual_fixes[0].contains("routes.odd"), "{:?}", all.manual_fixes);
    }

    #[test]
    fn an_index_serves_for_one_and_a_longer_one_for_none() {
        let key = |name: &str, columns: &[&str], unique| {
            let columns = columns.iter().map(|&column| column.to_owned()).collect();
            (name.to_owned(), columns, unique)
        };
        let index = |name, columns, unique| {
            let (name, columns, unique) = key(name, columns, unique);
            IndexDef { name, columns, unique, operators: None }
        };
        let wanted = [
            index("a_like", &["a"], false),
            index("a", &["a"], false),
            index("", &["b"], true),
            index("c", &["c"], false),
        ];
        let keys = [("pk", &["a"][..], true), ("a", &["a"], false), ("b", &["b"], true), ("c_d", &["c", "d"], false)];
        let keys = keys.map(|(name, columns, unique)| {
            let (name, columns, unique) = key(name, columns, unique);
            IndexInfo { name, columns, unique }
        });
        let mut found = Table { columns: Vec::new(), keys: keys.to_vec() };
        assert_eq!(missing_indexes(&wanted, &found), [&wanted[0], &wanted[3]]);
        found.keys.push(IndexInfo { name: "of_an_older_django".to_owned(), ..found.keys[1].clone() });
        assert_eq!(missing_indexes(&wanted, &found), [&wanted[3]]);
    }

    #[test]
    fn tables_and_migrations_that_are_missing_are_named() {
        let mut expected = expected(BotsVersion::V4);
        expected.managed.insert("channel".to_owned(), ManagedTable { columns: Vec::new(), indexes: Vec::new() });
        expected.migrations.insert("bots".to_owned(), vec!["0001_initial".to_owned(), "0002".to_owned()]);
        let applied = BTreeSet::from([("bots".to_owned(), "0001_initial".to_owned())]);
        let all = compare(&sqlite(), &Schema::default(), &expected, &applied);
        assert!(all.is_empty && all.needs_migrate());
        assert_eq!(all.missing()[4..], ["table channel", "migration bots.0002"]);
    }
}
