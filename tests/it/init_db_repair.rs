//! `init-db` on databases that are not whole: each thing that can be missing is named, and made again.

use std::collections::BTreeSet;

use crate::support::bots::expect_bots_works;
use crate::support::bots::is_bots_3;
use crate::support::sandbox::{Finished, Sandbox};
use crate::support::schema::{ADMIN_PASSWORD, UNMANAGED, complete, difference, expect_right, facts, reference, tables};
use crate::support::schema::{expect_rows, leave_rows, sample};
use crate::support::servers::{Database, Engine, on_each_database};

on_each_database!(
    each_missing_table_is_named,
    missing_engine_tables_are_recreated,
    recreated_table_continues_after_report_numbers,
    missing_django_table_is_recreated_or_named,
    each_missing_index_is_named_and_recreated,
    each_missing_column_is_named,
    missing_engine_columns_are_restored,
    missing_django_column_is_restored_or_named,
    each_missing_migration_row_is_named_and_restored,
    column_of_wrong_type_is_named_and_unchanged,
    unknown_not_null_column_gets_default,
);

/// Checks that `--check` fails and names this.
fn expect_named(sandbox: &Sandbox, name: &str) {
    let checked = sandbox.run(&["init-db", "--check"]);
    assert_eq!(checked.code(), 1, "{name} is missing: {checked:?}");
    assert!(names(&checked, name), "{name} is missing, but not named: {checked:?}");
}

fn names(finished: &Finished, name: &str) -> bool {
    finished.stdout.contains(name) || finished.stderr.contains(name)
}

/// Columns as (table, column), keys and columns of bots-ctl left out.
fn columns(database: &Database) -> Vec<(String, String)> {
    let column = |fact: &String| {
        let words: Vec<&str> = fact.split('\t').collect();
        let is_key = words[2].starts_with("id") || ["mutexk", "domein", "botskey"].contains(&words[2]);
        (words[0] == "column" && !is_key).then(|| (words[1].to_owned(), words[2].to_owned()))
    };
    facts(database).iter().filter_map(column).collect()
}

fn is_unmanaged(table: &str) -> bool {
    UNMANAGED.contains(&table)
}

fn rename_table(database: &Database, from: &str, to: &str) {
    database.sql(&format!("ALTER TABLE {from} RENAME TO {to}"));
}

fn each_missing_table_is_named(engine: Engine) {
    let database = complete(engine);
    let sandbox = database.sandbox();
    for table in tables(&database) {
        rename_table(&database, &table, "put_away");
        // Where that table is missing, so is each migration.
        expect_named(&sandbox, if table == "django_migrations" { "0001_initial" } else { &table });
        rename_table(&database, "put_away", &table);
    }
    sandbox.run(&["init-db", "--check"]).expect_code(0);
}

fn missing_engine_tables_are_recreated(engine: Engine) {
    let database = complete(engine);
    let sandbox = database.sandbox();
    leave_rows(&database);
    for table in UNMANAGED.into_iter().filter(|table| *table != "mutex") {
        database.sql(&format!("DROP TABLE {table}"));
        sandbox.run(&["init-db"]).expect_code(0);
        expect_right(&database);
    }
    expect_rows(&database);
    database.sql(&UNMANAGED.map(|table| format!("DROP TABLE {table}")).join(";"));
    sandbox.run(&["init-db"]).expect_code(0);
    expect_right(&database);
    expect_bots_works(&sandbox, ADMIN_PASSWORD);
}

fn recreated_table_continues_after_report_numbers(engine: Engine) {
    let database = complete(engine);
    let sandbox = database.sandbox();
    sandbox.run(&["init-db"]).expect_code(0);
    sandbox.engine(&["--new"]).expect_code(0);
    assert_eq!(database.value("SELECT count(*) FROM report"), "1");
    database.sql("DROP TABLE ta");
    sandbox.run(&["init-db"]).expect_code(0);
    sandbox.engine(&["--new"]).expect_code(0);
    assert_eq!(database.value("SELECT count(*) FROM report"), "2");
}

/// If the repair of a managed table is not safe, bots-ctl lists the defect and changes nothing.
fn expect_right_or_refused(database: &Database, sandbox: &Sandbox, name: &str) {
    let before = facts(database);
    let repaired = sandbox.run(&["init-db"]);
    match repaired.code() {
        0 => {
            expect_right(database);
            sandbox.engine(&["--new"]).expect_code(0);
        }
        1 => {
            assert!(repaired.stderr.contains(name), "{name}: {repaired:?}");
            assert_eq!(difference(&facts(database), &before), "", "{name} was refused, but something was changed");
        }
        code => panic!("{name}: {code}: {repaired:?}"),
    }
}

fn missing_django_table_is_recreated_or_named(engine: Engine) {
    let database = complete(engine);
    let original = complete(engine);
    let sandbox = database.sandbox();
    let all: Vec<String> = tables(&database).into_iter().filter(|table| !is_unmanaged(table)).collect();
    for table in sample(&all, 3) {
        match engine {
            Engine::Sqlite => database.sql(&format!("DROP TABLE {table}")),
            Engine::Mariadb => database.sql(&format!("SET FOREIGN_KEY_CHECKS = 0; DROP TABLE {table}")),
            Engine::Postgresql => database.sql(&format!("DROP TABLE {table} CASCADE")),
        };
        expect_right_or_refused(&database, &sandbox, &table);
        database.become_copy_of(&original);
    }
}

/// Indexes that belong to no constraint, as (table, index).
fn indexes(database: &Database) -> Vec<(String, String)> {
    let question = match database.engine {
        Engine::Sqlite => {
            "SELECT tbl_name, name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY name"
        }
        Engine::Mariadb => {
            "SELECT DISTINCT s.table_name, s.index_name FROM information_schema.statistics s
             WHERE s.table_schema = database() AND s.seq_in_index = 1 AND s.index_name <> 'PRIMARY' AND s.table_name NOT LIKE 'botsctl%'
             AND NOT EXISTS (SELECT 1 FROM information_schema.key_column_usage k WHERE k.table_schema = database()
                 AND k.table_name = s.table_name AND k.column_name = s.column_name
                 AND k.referenced_table_name IS NOT NULL) ORDER BY 2"
        }
        Engine::Postgresql => {
            "SELECT i.tablename, i.indexname FROM pg_indexes i WHERE schemaname = 'public'
             AND NOT EXISTS (SELECT 1 FROM pg_constraint c WHERE c.conname = i.indexname) ORDER BY 2"
        }
    };
    let pair = |line: String| line.split_once('\t').map(|(table, name)| (table.to_owned(), name.to_owned()));
    database.sql(question).into_iter().filter_map(pair).filter(|(table, _)| !table.starts_with("botsctl")).collect()
}

/// Missing ones pile up, so that one repair has to make all of them.
fn each_missing_index_is_named_and_recreated(engine: Engine) {
    let database = complete(engine);
    let sandbox = database.sandbox();
    leave_rows(&database);
    let all = indexes(&database);
    assert!(all.len() > 5, "{all:?}");
    for (table, index) in &all {
        let name = engine.quoted(index);
        database.sql(&match engine {
            Engine::Mariadb => format!("ALTER TABLE {table} DROP INDEX {name}"),
            _ => format!("DROP INDEX {name}"),
        });
        let checked = sandbox.run(&["init-db", "--check"]);
        assert_eq!(checked.code(), 1, "{index} is missing: {checked:?}");
        let named = names(&checked, index) || names(&checked, &format!("index on {table} ("));
        assert!(named, "{index} is missing, but not named: {checked:?}");
    }
    sandbox.run(&["init-db"]).expect_code(0);
    expect_right(&database);
    expect_rows(&database);
    expect_bots_works(&sandbox, ADMIN_PASSWORD);
}

fn rename_column(database: &Database, table: &str, from: &str, to: &str) {
    let [from, to] = [from, to].map(|name| database.engine.quoted(name));
    database.sql(&format!("ALTER TABLE {table} RENAME COLUMN {from} TO {to}"));
}

fn each_missing_column_is_named(engine: Engine) {
    let database = complete(engine);
    let sandbox = database.sandbox();
    for (table, column) in sample(&columns(&database), 16) {
        rename_column(&database, &table, &column, "put_away");
        expect_named(&sandbox, &column);
        rename_column(&database, &table, "put_away", &column);
    }
    sandbox.run(&["init-db", "--check"]).expect_code(0);
}

/// Takes a column away, and the indexes that hold it.
fn drop_column(database: &Database, table: &str, column: &str) {
    if database.engine == Engine::Sqlite {
        let indexes = database.sql(&format!(
            "SELECT m.name FROM sqlite_master m, pragma_index_info(m.name) i
             WHERE m.type = 'index' AND m.sql IS NOT NULL AND m.tbl_name = '{table}' AND i.name = '{column}'"
        ));
        for index in indexes {
            database.sql(&format!("DROP INDEX {index}"));
        }
    }
    let column = database.engine.quoted(column);
    database.sql(&format!("ALTER TABLE {table} DROP COLUMN {column}"));
}

fn missing_engine_columns_are_restored(engine: Engine) {
    let database = complete(engine);
    let sandbox = database.sandbox();
    leave_rows(&database);
    let all: Vec<_> =
        columns(&database).into_iter().filter(|(table, column)| is_unmanaged(table) && column != "mutexer").collect();
    assert!(all.len() > 40, "{all:?}");
    for (table, column) in &all {
        // SQLite cannot add a column whose default is the time.
        if !(engine == Engine::Sqlite && column == "ts") {
            drop_column(&database, table, column);
        }
    }
    sandbox.run(&["init-db"]).expect_code(0);
    expect_right(&database);
    expect_rows(&database);
    database.sql("DELETE FROM mutex");
    expect_bots_works(&sandbox, ADMIN_PASSWORD);
}

fn missing_django_column_is_restored_or_named(engine: Engine) {
    let database = complete(engine);
    let original = complete(engine);
    let sandbox = database.sandbox();
    let in_key: BTreeSet<String> = reference(engine)
        .iter()
        .filter(|fact| !fact.starts_with("column") && !fact.starts_with("table"))
        .cloned()
        .collect();
    let free = |(table, column): &(String, String)| {
        !is_unmanaged(table)
            && !in_key.iter().any(|fact| fact.contains(table.as_str()) && fact.contains(column.as_str()))
    };
    let all: Vec<_> = columns(&database).into_iter().filter(free).collect();
    for (table, column) in sample(&all, 3) {
        drop_column(&database, &table, &column);
        expect_right_or_refused(&database, &sandbox, &column);
        database.become_copy_of(&original);
    }
}

fn each_missing_migration_row_is_named_and_restored(engine: Engine) {
    let database = complete(engine);
    let original = complete(engine);
    let sandbox = database.sandbox();
    let all: Vec<(String, String)> = database
        .sql("SELECT app, name FROM django_migrations ORDER BY id")
        .iter()
        .filter_map(|line| line.split_once('\t').map(|(app, name)| (app.to_owned(), name.to_owned())))
        .collect();
    for (app, name) in &all {
        database.sql(&format!("DELETE FROM django_migrations WHERE app = '{app}' AND name = '{name}'"));
        expect_named(&sandbox, name);
        database.sql(&format!(
            "INSERT INTO django_migrations (app, name, applied) VALUES ('{app}', '{name}', CURRENT_TIMESTAMP)"
        ));
    }
    // The statements that changed the database; their objects exist.
    let own: Vec<_> = all.iter().filter(|(app, _)| is_bots_3() || app == "bots").cloned().collect();
    for (app, name) in sample(&own, 3) {
        database.become_copy_of(&original);
        leave_rows(&database);
        database.sql(&format!("DELETE FROM django_migrations WHERE app = '{app}' AND name = '{name}'"));
        sandbox.run(&["init-db"]).expect_code(0);
        expect_right(&database);
        expect_rows(&database);
    }
    for statement in [
        "DELETE FROM django_migrations WHERE app = 'bots'",
        "DELETE FROM django_migrations",
        "DROP TABLE django_migrations",
    ] {
        database.become_copy_of(&original);
        leave_rows(&database);
        database.sql(statement);
        sandbox.run(&["init-db"]).expect_code(0);
        expect_right(&database);
        expect_rows(&database);
    }
    expect_bots_works(&sandbox, ADMIN_PASSWORD);
}

fn column_of_wrong_type_is_named_and_unchanged(engine: Engine) {
    let database = complete(engine);
    let sandbox = database.sandbox();
    match engine {
        Engine::Sqlite => database.sql(
            "DROP TABLE persist; CREATE TABLE persist (domein VARCHAR(35), botskey INTEGER, content TEXT, \
             ts timestamp NOT NULL DEFAULT (datetime('now','localtime')), PRIMARY KEY (domein, botskey))",
        ),
        Engine::Mariadb => database.sql("ALTER TABLE persist MODIFY botskey integer"),
        Engine::Postgresql => database.sql("ALTER TABLE persist ALTER botskey TYPE integer USING 0"),
    };
    let before = facts(&database);
    expect_named(&sandbox, "botskey");
    let left = sandbox.run(&["init-db"]);
    left.expect_code(1);
    assert!(left.stderr.contains("persist") && left.stderr.contains("botskey"), "{left:?}");
    assert_eq!(difference(&facts(&database), &before), "");
}

/// As a newer Bots makes one: no INSERT of this Bots gives it a value.
fn unknown_not_null_column_gets_default(engine: Engine) {
    let database = complete(engine);
    leave_rows(&database);
    database.sql("CREATE TABLE of_old AS SELECT * FROM ccodetrigger; DELETE FROM ccodetrigger");
    database.sql("ALTER TABLE ccodetrigger ADD COLUMN newer integer NOT NULL DEFAULT 5");
    match engine {
        // What no statement of SQLite makes: a column of a table that is there, without a default.
        Engine::Sqlite => {
            let create = database.value("SELECT sql FROM sqlite_master WHERE name = 'ccodetrigger'");
            database.sql(&format!("DROP TABLE ccodetrigger; {}", create.replace(" DEFAULT 5", "")))
        }
        Engine::Mariadb | Engine::Postgresql => {
            database.sql("ALTER TABLE ccodetrigger ALTER COLUMN newer DROP DEFAULT")
        }
    };
    let columns = "ccodeid, ccodeid_desc";
    database.sql(&format!(
        "INSERT INTO ccodetrigger ({columns}, newer) SELECT {columns}, 7 FROM of_old; DROP TABLE of_old"
    ));
    let sandbox = database.sandbox();
    expect_named(&sandbox, "newer");
    sandbox.run(&["init-db"]).expect_code(0);
    expect_rows(&database);
    assert_eq!(database.value("SELECT newer FROM ccodetrigger"), "7");
    database.sql("INSERT INTO ccodetrigger (ccodeid, ccodeid_desc) VALUES ('later', 'written by this Bots')");
    assert_eq!(database.value("SELECT newer FROM ccodetrigger WHERE ccodeid = 'later'"), "0");
    sandbox.run(&["init-db", "--check"]).expect_code(0);
}
