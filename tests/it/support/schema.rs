//! The schema of a database, as comparable facts; and the same schema created by Bots's own means.

use std::collections::BTreeSet;
use std::fs;
use std::sync::OnceLock;

use crate::support::bots::{is_bots_3, package};
use crate::support::sandbox::{Finished, Sandbox, python, rounds};
use crate::support::servers::{Database, Engine};

/// Tables that Bots uses with its own SQL.
pub const UNMANAGED: [&str; 4] = ["ta", "mutex", "persist", "uniek"];

/// Tables, columns with type, default and nullability, keys, indexes and constraints. `botsctl_` tables are not
/// Bots's.
const SQLITE: &str = r#"
SELECT 'table', name, sql LIKE '%AUTOINCREMENT%' FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%';
SELECT 'column', m.name, c.name, upper(c.type), c."notnull", replace(c.dflt_value, ' ', ''), c.pk
    FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%';
SELECT 'index', m.name, CASE i.origin WHEN 'c' THEN i.name ELSE i.origin END, i."unique", i.partial, c.seqno, c.name
    FROM sqlite_master m, pragma_index_list(m.name) i, pragma_index_info(i.name) c WHERE m.type = 'table';
SELECT 'foreign key', m.name, k."from", k."table", k."to", k.on_update, k.on_delete
    FROM sqlite_master m, pragma_foreign_key_list(m.name) k WHERE m.type = 'table';
SELECT type, name, tbl_name FROM sqlite_master WHERE type IN ('trigger', 'view');
"#;
const MARIADB: &str = r"
SELECT 'table', table_name, engine, table_collation FROM information_schema.tables WHERE table_schema = database();
SELECT 'column', table_name, column_name, column_type, is_nullable, column_default, extra, collation_name
    FROM information_schema.columns WHERE table_schema = database();
SELECT 'index', table_name, index_name, non_unique, seq_in_index, column_name, sub_part
    FROM information_schema.statistics WHERE table_schema = database();
SELECT 'foreign key', table_name, constraint_name, column_name, referenced_table_name, referenced_column_name
    FROM information_schema.key_column_usage
    WHERE table_schema = database() AND referenced_table_name IS NOT NULL;
SELECT 'check', table_name, constraint_name, check_clause FROM information_schema.check_constraints
    WHERE constraint_schema = database();
";
const POSTGRESQL: &str = r"
SELECT 'table', relname, relkind FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S');
SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
    pg_get_expr(d.adbin, d.adrelid)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped;
SELECT 'index', tablename, indexdef FROM pg_indexes WHERE schemaname = 'public';
SELECT 'constraint', conrelid::regclass, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace;
";

/// The facts of a database.
pub fn facts(database: &Database) -> BTreeSet<String> {
    let questions = match database.engine {
        Engine::Sqlite => SQLITE,
        Engine::Mariadb => MARIADB,
        Engine::Postgresql => POSTGRESQL,
    };
    database.sql(questions).into_iter().filter(|fact| !fact.contains("\tbotsctl_")).collect()
}

/// Names of the tables, those of bots-ctl left out.
pub fn tables(database: &Database) -> Vec<String> {
    let is_table = |fact: &String| {
        let mut columns = fact.split('\t');
        (columns.next() == Some("table") && !fact.ends_with("\tS")).then(|| columns.next().map(str::to_owned))?
    };
    facts(database).iter().filter_map(is_table).collect()
}

/// The differences between two sets of facts.
pub fn difference(found: &BTreeSet<String>, expected: &BTreeSet<String>) -> String {
    let side = |sign: char, one: &BTreeSet<String>, other: &BTreeSet<String>| -> Vec<String> {
        one.difference(other).map(|fact| format!("{sign} {fact}")).collect()
    };
    [side('+', found, expected), side('-', expected, found)].concat().join("\n")
}

/// Checks that a database equals one created by Bots's own means.
pub fn expect_right(database: &Database) {
    let difference = difference(&facts(database), reference(database.engine));
    assert!(difference.is_empty(), "the schema differs from Bots's own:\n{difference}");
    assert_eq!(database.value("SELECT count(*) FROM auth_user WHERE is_superuser"), "1", "one admin");
    let migrations = database.sql("SELECT app, name FROM django_migrations");
    let different: BTreeSet<&String> = migrations.iter().collect();
    assert_eq!(migrations.len(), different.len(), "each migration is noted once: {migrations:?}");
    assert_eq!(different, applied(database.engine).iter().collect(), "all migrations are noted");
}

/// The password of the admin of [`complete`].
pub const ADMIN_PASSWORD: &str = "the admin's own 8 words";

/// A complete database, made once by `init-db`; tests work on copies of it.
pub fn complete(engine: Engine) -> Database {
    static MADE: [OnceLock<Database>; 3] = [const { OnceLock::new() }; 3];
    let made = MADE[engine as usize].get_or_init(|| {
        let database = Database::fresh(engine);
        let mut sandbox = database.sandbox();
        sandbox.set("SUPERUSER_PASSWORD", ADMIN_PASSWORD).run(&["init-db"]).expect_code(0);
        database
    });
    let copy = Database::fresh(engine);
    copy.become_copy_of(made);
    copy
}

/// The schema created by Bots's own means in an empty database: Django's `migrate`, and the SQL files as installed.
pub fn reference(engine: Engine) -> &'static BTreeSet<String> {
    &own_way(engine).0
}

/// The rows of `django_migrations` of that database.
fn applied(engine: Engine) -> &'static BTreeSet<String> {
    &own_way(engine).1
}

fn own_way(engine: Engine) -> &'static (BTreeSet<String>, BTreeSet<String>) {
    static MADE: [OnceLock<(BTreeSet<String>, BTreeSet<String>)>; 3] = [const { OnceLock::new() }; 3];
    MADE[engine as usize].get_or_init(|| {
        let database = Database::fresh(engine);
        make_by_bots(&database);
        (facts(&database), database.sql("SELECT app, name FROM django_migrations").into_iter().collect())
    })
}

/// Creates a database as described in Bots's documentation.
pub fn make_by_bots(database: &Database) {
    migrate_by_django(database, &[]).expect_code(0);
    for table in UNMANAGED {
        database.sql(&own_sql(database.engine, table));
    }
}

/// Django's `migrate` alone, without bots-ctl taking part.
pub fn migrate_by_django(database: &Database, more: &[&str]) -> Finished {
    migrate_in(&bare_django(database), more)
}

/// As [`migrate_by_django`]. Bots 3.3.1 has no migrations.
pub fn migrate_in(sandbox: &Sandbox, more: &[&str]) -> Finished {
    let python = python().display().to_string();
    let how: &[&str] = if is_bots_3() { &["--run-syncdb"] } else { &["--skip-checks"] };
    sandbox.run(&[&["exec", "--", &python, "-m", "django", "migrate", "--noinput"], how, more].concat())
}

/// An environment with this database and the variables of Django's own command line.
pub fn bare_django(database: &Database) -> Sandbox {
    let mut sandbox = Sandbox::new();
    // Makes the environment's files; the SQLite file that it makes as well is not looked at again.
    sandbox.run(&["init-db"]).expect_code(0);
    database.configure(&mut sandbox);
    sandbox.set("PYTHONPATH", sandbox.root().display().to_string());
    sandbox.set("DJANGO_SETTINGS_MODULE", "config.settings");
    sandbox
}

/// The statements that the installed Bots ships for one of its unmanaged tables.
pub fn own_sql(engine: Engine, table: &str) -> String {
    let names: &[&str] = match engine {
        Engine::Sqlite => &["sqlite", "sqlite3"],
        Engine::Mariadb => &["mysql"],
        Engine::Postgresql => &["postgresql", "postgresql_psycopg2"],
    };
    let mut files = names.iter().map(|name| format!("{table}.{name}.sql")).chain([format!("{table}.sql")]);
    let file = files.find_map(|name| Some(package().join("sql").join(name)).filter(|path| path.exists()));
    fs::read_to_string(file.expect("Bots ships it")).expect("readable")
}

/// Some of them, evenly spread.
pub fn sample<T: Clone>(all: &[T], few: usize) -> Vec<T> {
    let wanted = rounds(few).clamp(1, all.len().max(1));
    (0..wanted.min(all.len())).map(|number| all[(2 * number + 1) * all.len() / (2 * wanted)].clone()).collect()
}

/// A row that has to be there afterwards.
pub fn leave_rows(database: &Database) {
    database.sql(
        "INSERT INTO ccodetrigger (ccodeid, ccodeid_desc) VALUES ('kept', 'a row of the user');\
         INSERT INTO mutex (mutexk) VALUES (77)",
    );
}

/// Checks that the rows are as they were.
pub fn expect_rows(database: &Database) {
    assert_eq!(database.value("SELECT ccodeid_desc FROM ccodetrigger WHERE ccodeid = 'kept'"), "a row of the user");
    assert_eq!(database.value("SELECT mutexk FROM mutex WHERE mutexer = 0"), "77");
}
