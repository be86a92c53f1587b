//! Compares the schema of a database with the desired one. Pure. Safe repairs are separate from those that need an
//! administrator.

use std::collections::BTreeSet;

use super::desired::{self, DesiredSchema, UNMANAGED, UnmanagedTable};
use super::introspect::{Column, ColumnDefault, ColumnType, Schema, Table};
use crate::database::DatabaseConfig;
use crate::model::{IndexDef, ManagedTable};

/// The differences.
#[derive(Debug, Default)]
pub struct SchemaDiff {
    /// Missing unmanaged tables.
    pub unmanaged: Vec<UnmanagedTable>,
    /// Missing managed tables.
    pub managed: Vec<String>,
    /// Migrations that were not applied, as `app.name`.
    pub migrations: Vec<String>,
    /// Repairs without risk.
    pub repairs: Vec<SchemaFix>,
    /// Differences that are left to an administrator.
    pub manual_fixes: Vec<String>,
    /// Whether there is no web user.
    pub lacks_superuser: bool,
    /// Whether the bundled account has its well-known password.
    pub has_default_password: bool,
    /// Whether no table of Django or Bots exists.
    pub is_empty: bool,
}

/// A change that loses no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaFix {
    /// A column of an unmanaged table.
    AddColumn { table: String, column: Column },
    /// A wider type, a default, or NULL.
    AlterColumn { table: String, from: Column, to: Column },
    /// An index.
    AddIndex { table: String, index: IndexDef },
}

impl SchemaFix {
    /// The missing part, by name.
    #[must_use]
    pub fn missing(&self) -> String {
        match self {
            Self::AddColumn { table, column } => format!("column {table}.{}", column.name),
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

    /// The repair, for the log.
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
    /// Whether Django has migrations to run.
    #[must_use]
    pub fn needs_migrate(&self) -> bool {
        !self.managed.is_empty() || !self.migrations.is_empty()
    }

    /// Whether the schema needs no change.
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

    /// All missing parts, by name.
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

/// Compares the schema, without web users.
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
    let table = || own.name.clone();
    for wanted in &own.table.columns {
        match found.column(&wanted.name) {
            Some(column) => compare_column(settings, &own.name, wanted, column, difference),
            None => difference.repairs.push(SchemaFix::AddColumn { table: table(), column: wanted.clone() }),
        }
    }
    extra_columns(
        &own.name,
        found.columns.iter().filter(|column| own.table.column(&column.name).is_none()),
        difference,
    );
    let missing = own.table.keys.iter().filter(|index| !found.has_key(&index.columns));
    difference.repairs.extend(missing.map(|index| SchemaFix::AddIndex { table: table(), index: index.clone() }));
}

fn compare_column(
    settings: &DatabaseConfig,
    table: &str,
    wanted: &Column,
    found: &Column,
    difference: &mut SchemaDiff,
) {
    let mut to = found.clone();
    match (&wanted.kind, &found.kind) {
        (ColumnType::Varchar(wanted), ColumnType::Varchar(found)) => {
            // SQLite does not enforce lengths.
            if wanted > found && !settings.is_sqlite() {
                to.kind = ColumnType::Varchar(*wanted);
                to.own_type = format!("varchar({wanted})");
            }
        }
        (wanted, found) if wanted == found => {}
        // A text without a limit holds whatever one with a limit would.
        (ColumnType::Varchar(_), ColumnType::Text) => {}
        _ => {
            let text = format!("{table}.{} is {}, expected {}", found.name, found.own_type, wanted.own_type);
            difference.manual_fixes.push(text);
            return;
        }
    }
    match (&wanted.default, &found.default) {
        (wanted, found) if wanted == found => {}
        (ColumnDefault::None, _) => {}
        (ColumnDefault::Generated, _) => {
            difference.manual_fixes.push(format!("{table}.{} does not number its rows automatically", found.name));
            return;
        }
        (wanted, ColumnDefault::None) => to.default = wanted.clone(),
        (_, _) => {
            let text = format!("{table}.{} has an unexpected default: {}", found.name, wanted.own_type);
            difference.manual_fixes.push(text);
        }
    }
    // Bots omits columns without a value from its INSERTs.
    if wanted.nullable && wanted.default == ColumnDefault::None && found.default == ColumnDefault::None {
        to.nullable = true;
    }
    if to != *found {
        difference.repairs.push(SchemaFix::AlterColumn { table: table.to_owned(), from: found.clone(), to });
    }
}

/// Columns unknown to this version of Bots, for example of a newer one: its INSERTs must not fail on them.
fn extra_columns<'a>(table: &str, columns: impl Iterator<Item = &'a Column>, difference: &mut SchemaDiff) {
    for from in columns.filter(|column| !column.nullable && column.default == ColumnDefault::None) {
        let default = match from.kind {
            ColumnType::Integer | ColumnType::Boolean => "0",
            ColumnType::Varchar(_) => "",
            _ => {
                let text = format!("{table}.{} is unknown to this version of Bots, and has no default", from.name);
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
    for column in &wanted.columns {
        match found.column(&column.name) {
            None => difference.manual_fixes.push(format!("column {name}.{} is missing", column.name)),
            Some(found) => {
                if let (Some(wanted), ColumnType::Varchar(length)) = (&column.max_length, &found.kind)
                    && wanted > length
                    && !settings.is_sqlite()
                {
                    let own_type = format!("varchar({wanted})");
                    let to = Column { kind: ColumnType::Varchar(*wanted), own_type, ..found.clone() };
                    difference.repairs.push(SchemaFix::AlterColumn { table: name.to_owned(), from: found.clone(), to });
                }
            }
        }
    }
    let known = |column: &&Column| wanted.columns.iter().any(|wanted| wanted.name.eq_ignore_ascii_case(&column.name));
    extra_columns(name, found.columns.iter().filter(|column| !known(column)), difference);
    for index in missing_indexes(&wanted.indexes, found) {
        if index.columns.iter().all(|column| found.column(column).is_some()) {
            difference.repairs.push(SchemaFix::AddIndex { table: name.to_owned(), index: index.clone() });
        }
    }
}

/// Each index satisfies one requirement: that of its name, else one with the same columns. Older versions of Django chose other
/// names.
fn missing_indexes<'a>(wanted: &'a [IndexDef], found: &Table) -> Vec<&'a IndexDef> {
    let mut free: Vec<&IndexDef> = found.keys.iter().collect();
    let other_name: Vec<&IndexDef> = wanted.iter().filter(|index| !take(&mut free, index, true)).collect();
    other_name.into_iter().filter(|index| !take(&mut free, index, false)).collect()
}

/// Removes the index that satisfies the requirement; returns whether there is one.
fn take(free: &mut Vec<&IndexDef>, wanted: &IndexDef, by_name: bool) -> bool {
    let same = |key: &&IndexDef| key.columns == wanted.columns && key.unique == wanted.unique;
    let satisfies = |key: &&IndexDef| same(key) && (!by_name || key.name == wanted.name);
    free.iter().position(satisfies).map(|index| free.remove(index)).is_some()
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

    /// The unmanaged tables, exactly as desired.
    fn whole(settings: &DatabaseConfig, version: BotsVersion) -> Schema {
        let tables = desired::unmanaged(settings, version).into_iter().map(|own| (own.name, own.table));
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
    fn complete_schema_has_no_differences() {
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
    fn schema_of_older_bots_lacks_column_lengths_and_indexes() {
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
    fn schema_of_newer_bots_lacks_one_column() {
        let found = missing(&postgres(), &whole(&postgres(), BotsVersion::V4), &expected(BotsVersion::V3));
        assert_eq!(found, ["column ta.statuse"]);
    }

    #[test]
    fn missing_defaults_are_repairable_and_other_ones_manual() {
        let mut catalogue = whole(&postgres(), BotsVersion::V4);
        *change(&mut catalogue, "ta", "statust") =
            Column { default: ColumnDefault::None, nullable: false, ..change(&mut catalogue, "ta", "statust").clone() };
        change(&mut catalogue, "ta", "errortext").nullable = false;
        change(&mut catalogue, "mutex", "mutexer").default = ColumnDefault::Constant("7".to_owned());
        change(&mut catalogue, "uniek", "nummer").kind = ColumnType::Text;
        let all = compare(&postgres(), &catalogue, &expected(BotsVersion::V4), &BTreeSet::new());
        assert_eq!(all.missing(), ["default of ta.statust", "NULL in ta.errortext"]);
        assert!(all.lacks_defaults("ta") && !all.lacks_defaults("mutex"));
        assert!(all.manual_fixes.iter().any(|text| text.contains("mutex.mutexer has an unexpected default")));
        assert!(all.manual_fixes.iter().any(|text| text.contains("uniek.nummer is ")));
    }

    #[test]
    fn unknown_not_null_columns_need_default_or_manual_fix() {
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
    fn index_satisfies_one_wanted_index_of_same_columns() {
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
            IndexDef { name, columns, unique, operators: None }
        });
        let mut found = Table { columns: Vec::new(), keys: keys.to_vec() };
        assert_eq!(missing_indexes(&wanted, &found), [&wanted[0], &wanted[3]]);
        found.keys.push(IndexDef { name: "of_an_older_django".to_owned(), ..found.keys[1].clone() });
        assert_eq!(missing_indexes(&wanted, &found), [&wanted[3]]);
    }

    #[test]
    fn missing_tables_and_migrations_are_named() {
        let mut expected = expected(BotsVersion::V4);
        expected.managed.insert("channel".to_owned(), ManagedTable { columns: Vec::new(), indexes: Vec::new() });
        expected.migrations.insert("bots".to_owned(), vec!["0001_initial".to_owned(), "0002".to_owned()]);
        let applied = BTreeSet::from([("bots".to_owned(), "0001_initial".to_owned())]);
        let all = compare(&sqlite(), &Schema::default(), &expected, &applied);
        assert!(all.is_empty && all.needs_migrate());
        assert_eq!(all.missing()[4..], ["table channel", "migration bots.0002"]);
    }
}
