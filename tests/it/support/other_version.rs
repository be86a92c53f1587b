//! A database created by the other version of Bots, and its expected state after the adoption.

use std::collections::BTreeSet;

use crate::support::bots::is_bots_3;
use crate::support::process::json;
use crate::support::schema::{UNMANAGED, bare_django, expect_rows, facts, leave_rows, migrate_in, own_sql, reference};
use crate::support::servers::{Database, Engine};

/// Differences of the engine's tables between 3.3.1 and 4.x, as (the one, the other).
pub const OLD_AND_NEW: [(&str, &str); 5] = [
    ("divtext varchar(35)", "divtext varchar(128)"),
    ("rsrv1 varchar(35)", "rsrv1 varchar(128)"),
    ("rsrv5 varchar(35)", "rsrv5 varchar(256)"),
    ("reference varchar(70)", "reference varchar(256)"),
    ("domein varchar(35) PRIMARY", "domein varchar(70) PRIMARY"),
];

pub const ONLY_OLD: &str = "statuse integer DEFAULT 0,";

/// A table of the engine as the other version has it.
pub fn other_sql(engine: Engine, table: &str) -> String {
    let own = own_sql(engine, table);
    let mut sql = own.split(';').find(|part| part.contains("CREATE TABLE")).expect("there is one").to_owned();
    for (old, new) in OLD_AND_NEW {
        sql = if is_bots_3() { sql.replace(old, new) } else { sql.replace(new, old) };
    }
    match (table, is_bots_3()) {
        ("ta", true) => {
            sql.replace(ONLY_OLD, "")
                + "; CREATE INDEX ta_parent ON ta (parent); CREATE INDEX ta_reference ON ta (reference)"
        }
        ("ta", false) => sql.replace("retransmit", &format!("{ONLY_OLD} retransmit")),
        _ => sql,
    }
}

/// A database of the other version, with rows and an admin.
pub fn make_other(database: &Database) {
    let django = bare_django(database);
    if is_bots_3() {
        migrate_in(&django, &[]).expect_code(0);
        database.sql(
            "ALTER TABLE routes ADD COLUMN dirmonitor boolean DEFAULT false NOT NULL;\
             ALTER TABLE channel ADD COLUMN debug integer;\
             INSERT INTO django_migrations (app, name, applied) VALUES ('bots', '0001_initial', CURRENT_TIMESTAMP);\
             INSERT INTO django_migrations (app, name, applied) VALUES ('bots', '0003_merge', CURRENT_TIMESTAMP)",
        );
        database.sql(&UNMANAGED.map(|table| format!("DROP TABLE {table}")).join(";"));
    } else {
        for what in [&["bots", "0001"][..], &["admin"], &["auth"], &["sessions"]] {
            migrate_in(&django, what).expect_code(0);
        }
        database.sql("DELETE FROM django_migrations WHERE app = 'bots'");
    }
    for table in UNMANAGED {
        database.sql(&other_sql(database.engine, table));
    }
    leave_rows(database);
    database.sql(&superuser("somebody", "no-password"));
}

/// Checks that nothing of the old one was lost, and that this Bots can work with it.
pub fn expect_adopted(database: &Database, old: &Database) {
    let engine = database.engine;
    let before: BTreeSet<_> = column_names(&facts(old));
    let users = old.sql("SELECT username, password FROM auth_user");
    let sandbox = database.sandbox();
    let found = facts(database);
    let lost: Vec<_> = before.difference(&column_names(&found)).cloned().collect();
    assert!(lost.is_empty(), "dropped: {lost:?}");
    let missing: Vec<_> = column_names(reference(engine)).difference(&column_names(&found)).cloned().collect();
    assert!(missing.is_empty(), "still missing: {missing:?}");
    if !is_bots_3() && engine != Engine::Sqlite {
        // Shorter columns would refuse what 4.x writes.
        let narrow: Vec<_> =
            reference(engine).difference(&found).filter(|fact| fact.starts_with("column\tta\t")).collect();
        assert!(narrow.is_empty(), "not as wide as Bots needs: {narrow:?}");
    }
    expect_rows(database);
    assert_eq!(database.sql("SELECT username, password FROM auth_user"), users);
    let again = json(sandbox.run(&["init-db", "--json"]).expect_code(0));
    assert_eq!(again["status"], "complete", "{again}");
    database.sql("DELETE FROM mutex");
    sandbox.engine(&["--new"]).expect_code(0);
    sandbox.webserver();
}

/// Tables and columns by name alone.
pub fn column_names(facts: &BTreeSet<String>) -> BTreeSet<String> {
    let columns = facts.iter().filter(|fact| fact.starts_with("column\t"));
    columns.map(|fact| fact.split('\t').skip(1).take(2).collect::<Vec<_>>().join(".")).collect()
}

/// The statement that makes a superuser with this hash of a password.
pub fn superuser(name: &str, hash: &str) -> String {
    format!(
        "INSERT INTO auth_user (username, password, is_superuser, is_staff, is_active, first_name, last_name, email, \
         date_joined) VALUES ('{name}', '{hash}', true, true, true, '', '', '', '2020-01-01 00:00:00')"
    )
}
