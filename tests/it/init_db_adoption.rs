//! `init-db` on databases that others have made: Bots's own means, its other version, an interrupted start.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::bots::{can_log_in, expect_bots_works};
use crate::support::bots::{is_bots_3, package, package_of};
use crate::support::interruption::Interruption;
use crate::support::needs::without_network;
use crate::support::other_version::{column_names, expect_adopted, make_other, superuser};
use crate::support::process::finish;
use crate::support::process::json;
use crate::support::schema::{
    ADMIN_PASSWORD, complete, difference, expect_right, facts, make_by_bots, own_sql, reference,
};
use crate::support::schema::{expect_rows, leave_rows};
use crate::support::servers::{Database, Engine, on_each_database};

on_each_database!(
    database_made_by_bots_is_complete,
    database_of_other_bots_version_is_adopted,
    database_without_migrations_table_is_adopted,
    empty_tables_without_defaults_are_repaired,
    duplicate_migration_rows_are_harmless,
    foreign_tables_survive_repeated_first_start,
    rows_added_between_two_starts_are_kept,
    default_account_is_a_finding_until_password_changes,
);

fn database_made_by_bots_is_complete(engine: Engine) {
    let database = Database::fresh(engine);
    make_by_bots(&database);
    leave_rows(&database);
    let sandbox = database.sandbox();
    sandbox.run(&["init-db"]).expect_code(0);
    expect_right(&database);
    expect_rows(&database);
    sandbox.run(&["init-db", "--check"]).expect_code(0);
    database.sql("DELETE FROM mutex");
    expect_bots_works(&sandbox, &sandbox.admin_password());
}

fn database_of_other_bots_version_is_adopted(engine: Engine) {
    let database = Database::fresh(engine);
    match std::env::var("BOTS_OTHER_BIN_DIR") {
        // The other version of Bots, if it is available.
        Ok(other) => {
            let mut sandbox = database.sandbox();
            sandbox.set("BOTS_BIN_DIR", other);
            sandbox.run(&["init-db"]).expect_code(0);
            leave_rows(&database);
        }
        Err(_) => make_other(&database),
    }
    adopt(&database);
}

/// As in the database that 3.3.1 brings along.
fn database_without_migrations_table_is_adopted(engine: Engine) {
    let database = Database::fresh(engine);
    make_other(&database);
    database.sql("DROP TABLE django_migrations");
    adopt(&database);
}

fn adopt(database: &Database) {
    let old = Database::fresh(database.engine);
    old.become_copy_of(database);
    database.sandbox().run(&["init-db"]).expect_code(0);
    expect_adopted(database, &old);
}

/// The schema of Django's `--run-syncdb` for 3.3.1's models, and that of an interrupted old script.
fn empty_tables_without_defaults_are_repaired(engine: Engine) {
    let database = complete(engine);
    database.sql("DROP TABLE ta");
    let own = own_sql(engine, "ta");
    let create = own.split(';').find(|part| part.contains("CREATE TABLE")).expect("there is one");
    let bare = create.lines().map(without_default).collect::<Vec<_>>().join("\n");
    assert!(!bare.contains("DEFAULT"), "{bare}");
    database.sql(&bare);
    let sandbox = database.sandbox();
    let checked = sandbox.run(&["init-db", "--check"]);
    checked.expect_code(1);
    assert!(format!("{}{}", checked.stdout, checked.stderr).contains("ta"), "{checked:?}");
    sandbox.run(&["init-db"]).expect_code(0);
    expect_right(&database);
    sandbox.engine(&["--new"]).expect_code(0);
}

fn without_default(line: &str) -> String {
    match line.split_once(" DEFAULT ") {
        Some((before, _)) => format!("{before}{}", if line.trim_end().ends_with(',') { "," } else { "" }),
        None => line.to_owned(),
    }
}

/// The old script, run by several replicas at once, left such rows.
fn duplicate_migration_rows_are_harmless(engine: Engine) {
    let database = complete(engine);
    database.sql("INSERT INTO django_migrations (app, name, applied) SELECT app, name, applied FROM django_migrations");
    let sandbox = database.sandbox();
    sandbox.run(&["init-db"]).expect_code(0);
    sandbox.run(&["init-db", "--check"]).expect_code(0);
    assert_eq!(difference(&facts(&database), reference(engine)), "");
}

fn foreign_tables_survive_repeated_first_start(engine: Engine) {
    let database = Database::fresh(engine);
    database.sql("CREATE TABLE mine (number integer)");
    let before = facts(&database);
    let mut sandbox = database.sandbox();
    let interruption = Interruption::kill_after(&mut sandbox, 25);
    assert_eq!(sandbox.run(&["init-db"]).code(), 137);
    interruption.remove(&mut sandbox);
    sandbox.run(&["init-db"]).expect_code(0);
    assert_eq!(difference(&before, &facts(&database)).lines().filter(|fact| fact.starts_with('+')).count(), 0);
    database.sql("DROP TABLE mine");
    expect_right(&database);
}

fn rows_added_between_two_starts_are_kept(engine: Engine) {
    let database = Database::fresh(engine);
    let mut sandbox = database.sandbox();
    let interruption = Interruption::kill_after(&mut sandbox, 25);
    assert_eq!(sandbox.run(&["init-db"]).code(), 137);
    interruption.remove(&mut sandbox);
    // The engine's tables are created at the beginning or at the end; if they are missing, another process creates one.
    database.sql("CREATE TABLE IF NOT EXISTS persist (domein varchar(35), botskey varchar(35), content text)");
    database.sql("INSERT INTO persist (domein, botskey, content) VALUES ('kept', 'kept', 'a row of the user')");
    let next = sandbox.run(&["init-db"]);
    assert!([0, 1].contains(&next.code()), "{next:?}");
    assert_eq!(database.value("SELECT content FROM persist WHERE domein = 'kept'"), "a row of the user", "{next:?}");
}

/// The database that the installed Bots brings along, as a copy.
fn bundled() -> Database {
    copy_of(&package().join("install/botsdb"))
}

fn copy_of(file: &Path) -> Database {
    let database = Database::fresh(Engine::Sqlite);
    fs::copy(file, &database.name).expect("Bots ships one");
    database
}

/// Where Bots's own bundled database differs from its own SQL files, by which it makes all others.
fn differences_of_bundled() -> [&'static str; 2] {
    if is_bots_3() {
        ["+ column\tta\tbotskey\tVARCHAR(64)\t0\t''\t0", "- column\tta\tbotskey\tVARCHAR(35)\t0\t''\t0"]
    } else {
        ["+ column\tuniek\tdomein\tVARCHAR(70)\t1\tNULL\t1", "- column\tuniek\tdomein\tVARCHAR(35)\t1\tNULL\t1"]
    }
}

#[apply(test)]
fn bundled_database_has_expected_columns() {
    // Django's own tables in the one of 3.3.1 are those of a much older Django.
    let of_bots = |fact: &String| {
        let mut words = fact.split('\t');
        words.next() == Some("column") && words.next().is_some_and(|table| !table.starts_with(['d', 'a']))
    };
    let columns = |database: &Database| facts(database).into_iter().filter(of_bots).collect::<BTreeSet<_>>();
    let found = difference(&columns(&complete(Engine::Sqlite)), &columns(&bundled()));
    assert_eq!(found.lines().collect::<Vec<_>>(), differences_of_bundled());
}

fn default_account_is_a_finding_until_password_changes(engine: Engine) {
    let hash = bundled().value("SELECT password FROM auth_user WHERE username = 'bots'");
    let database = complete(engine);
    database.sql(&superuser("bots", &hash));
    let mut sandbox = database.sandbox();
    let checked = sandbox.run(&["init-db", "--check", "--json"]);
    checked.expect_code(1);
    let answer = json(&checked);
    assert!(answer["findings"].to_string().contains("bots"), "{answer}");
    assert_eq!(answer["missing"], serde_json::json!([]), "{answer}");
    let refused = sandbox.run(&["webserver"]);
    assert_ne!(refused.code(), 0, "{refused:?}");
    assert!(refused.stderr.contains("BOTS_CTL_ALLOW_DEFAULT_PASSWORD"), "{refused:?}");
    sandbox.set("BOTS_CTL_ALLOW_DEFAULT_PASSWORD", "true");
    let web = sandbox.webserver();
    assert!(can_log_in(&sandbox, "bots", "botsbots"));
    drop(web);
    sandbox.unset("BOTS_CTL_ALLOW_DEFAULT_PASSWORD");
    sandbox.set("SUPERUSER_USERNAME", "bots").set("SUPERUSER_PASSWORD", "not well known at all");
    sandbox.run(&["init-db", "--superuser"]).expect_code(0);
    let checked = sandbox.run(&["init-db", "--check", "--json"]);
    assert_eq!(json(checked.expect_code(0))["findings"], serde_json::json!([]), "{checked:?}");
    let _web = sandbox.webserver();
    assert!(!can_log_in(&sandbox, "bots", "botsbots"));
    assert!(can_log_in(&sandbox, "bots", "not well known at all"));
}

/// In a separate network namespace: a machine with only loopback.
#[apply(test)]
fn default_account_is_tolerated_only_without_network() {
    let hash = bundled().value("SELECT password FROM auth_user WHERE username = 'bots'");
    let database = complete(Engine::Sqlite);
    database.sql(&superuser("bots", &hash));
    let sandbox = database.sandbox();
    let refused = sandbox.run(&["init-db"]);
    assert!(refused.expect_code(1).stderr.contains("BOTS_CTL_ALLOW_DEFAULT_PASSWORD"), "{refused:?}");
    let alone = |args: &[&str]| finish(without_network(&sandbox.command(args)));
    let tolerated = alone(&["init-db"]);
    assert!(tolerated.expect_code(0).stderr.contains("no other machine can reach this one"), "{tolerated:?}");
    assert!(alone(&["init-db", "--check"]).expect_code(1).stdout.contains("finding: "));
}

/// Also that of the other version, if it is available.
#[apply(test)]
fn the_bundled_database_is_adopted() {
    expect_bundled_adopted(&bundled());
    if let Ok(other) = std::env::var("BOTS_OTHER_BIN_DIR") {
        let package = package_of(&Path::new(&other).join("python"));
        expect_bundled_adopted(&copy_of(&package.join("install/botsdb")));
    }
}

fn expect_bundled_adopted(database: &Database) {
    let users = database.sql("SELECT username, password, email, date_joined FROM auth_user");
    leave_rows(database);
    let mut sandbox = database.sandbox();
    sandbox.set("BOTS_CTL_ALLOW_DEFAULT_PASSWORD", "true");
    sandbox.run(&["init-db"]).expect_code(0);
    assert_eq!(database.sql("SELECT username, password, email, date_joined FROM auth_user"), users);
    expect_rows(database);
    let (found, wanted) = (column_names(&facts(database)), column_names(reference(Engine::Sqlite)));
    let missing: Vec<_> = wanted.difference(&found).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let again = json(sandbox.run(&["init-db", "--json"]).expect_code(0));
    assert_eq!(again["status"], "complete", "{again}");
    database.sql("DELETE FROM mutex");
    sandbox.set("SUPERUSER_PASSWORD", ADMIN_PASSWORD).run(&["init-db", "--superuser"]).expect_code(0);
    expect_bots_works(&sandbox, ADMIN_PASSWORD);
}
