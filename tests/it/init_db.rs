//! `init-db` on each database: the created schema, the messages, and that Bots works with it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::bots::{can_log_in, expect_bots_works};
use crate::support::process::finish;
use crate::support::process::json;
use crate::support::sandbox::{Sandbox, binary, python, some_or_all, wait_gone};
use crate::support::schema::{ADMIN_PASSWORD, complete, expect_right, facts, tables};
use crate::support::servers::{Database, Engine, on_each_database};
use crate::support::users::in_mounts;

on_each_database!(
    init_db_completes_empty_database_and_engine_runs,
    web_ui_accepts_configured_superuser,
    a_second_run_changes_nothing_and_starts_no_python,
    check_names_missing_tables_and_changes_nothing,
    check_of_complete_database_succeeds,
    json_output_is_one_object,
    superuser_is_created_and_updated,
    superuser_with_weak_password_is_rejected,
);

/// Writes down each start of Python.
const COUNTING_PYTHON: &str = "#!/bin/sh\necho started >>\"$HOME/starts\"\nexec REAL \"$@\"\n";

fn init_db_completes_empty_database_and_engine_runs(engine: Engine) {
    let database = Database::fresh(engine);
    let sandbox = database.sandbox();
    let made = sandbox.run(&["init-db"]);
    made.expect_code(0);
    assert_eq!(made.stdout, "", "what it says is log");
    expect_right(&database);
    expect_bots_works(&sandbox, &sandbox.admin_password());
    assert_eq!(database.value("SELECT count(*) FROM mutex"), "0", "the engine has ended in order");
    assert_eq!(database.value("SELECT count(*) FROM report"), "1", "the engine has written its report");
}

fn web_ui_accepts_configured_superuser(engine: Engine) {
    let database = complete(engine);
    let mut sandbox = database.sandbox();
    sandbox.set("SUPERUSER_USERNAME", "second").set("SUPERUSER_PASSWORD", "a password with 8 words & more");
    sandbox.run(&["init-db", "--superuser"]).expect_code(0);
    let _web = sandbox.webserver();
    assert!(can_log_in(&sandbox, "second", "a password with 8 words & more"));
    assert!(!can_log_in(&sandbox, "second", "another password"));
    assert!(!can_log_in(&sandbox, "bots", "botsbots"));
}

fn a_second_run_changes_nothing_and_starts_no_python(engine: Engine) {
    let database = Database::fresh(engine);
    let mut sandbox = database.sandbox();
    let real = python().display().to_string();
    sandbox.set("SUPERUSER_PASSWORD", ADMIN_PASSWORD);
    sandbox.stand_in("python3", &COUNTING_PYTHON.replace("REAL", &real));
    sandbox.run(&["init-db"]).expect_code(0);
    let starts = || fs::read_to_string(sandbox.home.path().join("starts")).unwrap_or_default();
    let (first_starts, first) = (starts(), rows(&database));
    assert!(!first_starts.is_empty(), "Python is not counted");
    sandbox.run(&["init-db"]).expect_code(0);
    assert_eq!(starts(), first_starts, "Python was started to find that nothing is left to do");
    // As a service would start it, with a secret in its environment that services do not get.
    sandbox.run(&["exec", "--", &binary().display().to_string(), "init-db"]).expect_code(0);
    assert_eq!(starts(), first_starts, "Python was started for what is known one process further up");
    assert_eq!(rows(&database), first);
    expect_right(&database);
    expect_bots_works(&sandbox, ADMIN_PASSWORD);
}

/// How many rows each table has, those of bots-ctl too.
fn rows(database: &Database) -> BTreeMap<String, String> {
    let names = tables(database).into_iter();
    names.map(|name| (name.clone(), database.value(&format!("SELECT count(*) FROM {name}")))).collect()
}

fn check_names_missing_tables_and_changes_nothing(engine: Engine) {
    let database = Database::fresh(engine);
    if engine == Engine::Sqlite {
        database.sql("CREATE TABLE mine (number integer); INSERT INTO mine VALUES (1)");
    }
    let (before, files) = (facts(&database), content(&database));
    let sandbox = database.sandbox();
    let checked = sandbox.run(&["init-db", "--check", "--json"]);
    checked.expect_code(1);
    let answer = json(&checked);
    assert_eq!(answer["status"], "incomplete", "{answer}");
    let missing = answer["missing"].to_string();
    for name in ["ta", "mutex", "persist", "uniek", "routes", "channel", "auth_user"] {
        assert!(missing.contains(name), "{name} is missing, but not in {missing}");
    }
    let told = sandbox.run(&["init-db", "--check"]);
    told.expect_code(1);
    assert!(format!("{}{}", told.stdout, told.stderr).contains("mutex"), "{told:?}");
    assert_eq!(facts(&database), before);
    assert_eq!(content(&database), files);
}

fn check_of_complete_database_succeeds(engine: Engine) {
    let database = complete(engine);
    let (sandbox, before) = (database.sandbox(), content(&database));
    let checked = sandbox.run(&["init-db", "--check", "--json"]);
    checked.expect_code(0);
    let answer = json(&checked);
    assert_eq!(answer["status"], "complete", "{answer}");
    assert_eq!(answer["missing"], Value::Array(Vec::new()), "{answer}");
    sandbox.run(&["init-db", "--check"]).expect_code(0);
    assert_eq!(content(&database), before);
}

/// The bytes of all files of a SQLite database; nothing for a server.
fn content(database: &Database) -> BTreeMap<String, Vec<u8>> {
    if database.server.is_some() {
        return BTreeMap::new();
    }
    let dir = Path::new(&database.name).parent().expect("it is in a directory");
    let files = fs::read_dir(dir).expect("readable").flatten();
    files
        .map(|file| (file.file_name().to_string_lossy().into_owned(), fs::read(file.path()).expect("readable")))
        .collect()
}

fn json_output_is_one_object(engine: Engine) {
    let database = Database::fresh(engine);
    let sandbox = database.sandbox();
    let made = sandbox.run(&["init-db", "--json"]);
    made.expect_code(0);
    let answer = json(&made);
    assert_eq!(answer["status"], "done", "{answer}");
    let steps = answer["steps"].as_array().expect("a list of steps");
    assert!(!steps.is_empty(), "{answer}");
    for step in steps {
        assert!(step["step"].is_string() && step["seconds"].is_number(), "{step}");
    }
    let about = answer["database"].as_str().expect("a text");
    assert!(!made.stdout.contains("p@ss:w") && !made.stderr.contains("p@ss:w"), "{made:?}");
    assert!(about.contains("bots") || about.contains("Bots"), "{about}");
    let again = json(sandbox.run(&["init-db", "--json"]).expect_code(0));
    assert_eq!(again["status"], "complete", "{again}");
    for key in ["steps", "missing", "findings", "warnings", "conversion", "errors"] {
        assert!(again[key].is_array() || answer[key].is_array(), "{key} in {again}");
    }
}

fn superuser_is_created_and_updated(engine: Engine) {
    let database = complete(engine);
    let mut sandbox = database.sandbox();
    let question = "SELECT email, password FROM auth_user WHERE username = 'edi.boss'";
    let superuser = |sandbox: &Sandbox| sandbox.run(&["init-db", "--superuser"]).expect_code(0).status;
    sandbox.set("SUPERUSER_USERNAME", "edi.boss").set("SUPERUSER_EMAIL", "one@example.com");
    sandbox.set("SUPERUSER_PASSWORD", "first long 'password'");
    superuser(&sandbox);
    let first = database.value(question);
    assert!(first.contains("one@example.com") && first.contains("pbkdf2_"), "{first}");
    superuser(&sandbox);
    assert_eq!(database.value(question), first, "a second time changes nothing");
    let file = sandbox.home.path().join("password");
    fs::write(&file, "second long \"password\"\n").expect("written");
    sandbox.unset("SUPERUSER_PASSWORD").set("SUPERUSER_PASSWORD_FILE", file.display().to_string());
    sandbox.set("SUPERUSER_EMAIL", "two@example.com");
    superuser(&sandbox);
    let second = database.value(question);
    assert!(second.contains("two@example.com") && second != first, "{second}");
    assert_eq!(database.value("SELECT count(*) FROM auth_user WHERE username = 'edi.boss'"), "1");
    assert_eq!(database.value("SELECT count(*) FROM auth_user WHERE is_superuser"), "2", "the first admin stays");
}

fn superuser_with_weak_password_is_rejected(engine: Engine) {
    let database = complete(engine);
    let mut sandbox = database.sandbox();
    for password in ["", "botsbots", "admin", "changeme", "password"] {
        sandbox.set("SUPERUSER_USERNAME", "weak").set("SUPERUSER_PASSWORD", password);
        let refused = sandbox.run(&["init-db", "--superuser"]);
        assert_eq!(refused.code(), 78, "{password:?}: {refused:?}");
        assert!(refused.stderr.contains("SUPERUSER_PASSWORD"), "{refused:?}");
    }
    assert_eq!(database.value("SELECT count(*) FROM auth_user WHERE username = 'weak'"), "0");
}

#[apply(test)]
fn web_ui_does_not_start_if_database_cannot_be_opened() {
    let mut sandbox = Sandbox::new();
    sandbox.set("DB_NAME", "/nowhere/at/all/botsdb");
    let failed = sandbox.run(&["webserver"]);
    assert_ne!(failed.code(), 0, "{failed:?}");
    assert!(failed.stderr.contains("/nowhere/at/all"), "{failed:?}");
    wait_gone(&sandbox.root().display().to_string());
    assert!(crate::support::sandbox::http(sandbox.web_port, "GET", "/login/").is_none());
}

#[apply(test)]
fn web_ui_with_db_init_skip_leaves_database_unchanged() {
    let database = complete(Engine::Sqlite);
    database.sql("DROP TABLE persist");
    let mut sandbox = database.sandbox();
    sandbox.set("DB_INIT_SKIP", "true");
    let web = sandbox.start(&["webserver"]);
    web.wait_health("/health/live", 200);
    let asked =
        || crate::support::sandbox::http(sandbox.web_port, "GET", "/login/").filter(|answer| answer.status == 200);
    crate::support::sandbox::wait_until("the web UI is ready", asked, || web.report());
    assert!(!tables(&database).contains(&"persist".to_owned()), "{}", web.report());
    drop(web);
    sandbox.set("DB_INIT_SKIP", "false");
    let _web = sandbox.webserver();
    expect_right(&database);
}

#[apply(test)]
fn invalid_options_and_variables_are_rejected_by_name() {
    for args in [&["init-db", "--wait", "soon"][..], &["init-db", "--wait=-1"], &["init-db", "--nonsense"]] {
        assert_eq!(Sandbox::new().run(args).code(), 64, "{args:?}");
    }
    let nonsense = [
        ("DB_OPTIONS", "no JSON"),
        ("DB_OPTIONS", "[1]"),
        ("BOTS_CTL_DATABASE_URL", "no URL"),
        ("BOTS_CTL_DATABASE_URL", "oracle://localhost/bots"),
        ("BOTS_CTL_DB_CONNECT_TIMEOUT", "soon"),
        ("BOTS_CTL_ALLOW_DEFAULT_PASSWORD", "perhaps"),
    ];
    for (name, value) in nonsense {
        let mut sandbox = Sandbox::new();
        let refused = sandbox.set(name, value).run(&["init-db"]);
        assert_eq!(refused.code(), 78, "{name}={value}: {refused:?}");
        assert!(refused.stderr.contains(name), "{refused:?}");
    }
}

/// In a separate file system that is too small at the beginning, in the middle or at the end, and is then enlarged.
#[apply(test)]
fn init_db_reports_full_disk_and_completes_after_resize() {
    const FULL_THEN_ROOM: &str = r#"mount -t tmpfs -o size="$SIZE" none "$VOLUME" || exit 99
"$0" "$@"; first=$?
echo "-- more room" >&2
mount -o remount,size=50m none "$VOLUME"
"$0" "$@" || exit 98
cp "$VOLUME/botsdb" "$VOLUME.copy"
exit "$first""#;
    for size in ["120k", "8k", "32k", "240k"].into_iter().take(some_or_all(1, 4)) {
        let mut database = Database::fresh(Engine::Sqlite);
        let mut sandbox = database.sandbox();
        let volume = sandbox.home.path().join("volume");
        fs::create_dir(&volume).expect("made");
        sandbox.set("VOLUME", volume.display().to_string()).set("SIZE", size);
        sandbox.set("DB_NAME", volume.join("botsdb").display().to_string());
        let finished = finish(in_mounts(FULL_THEN_ROOM, &sandbox.command(&["init-db"])));
        assert_eq!(finished.code(), 1, "{size}: {finished:?}");
        let told = finished.stderr.split("-- more room").next().expect("the first part");
        assert!(told.contains("full") && told.contains("botsdb"), "{size}: {told}");
        assert!(!told.contains("Traceback"), "{size}: {told}");
        database.name = volume.with_extension("copy").display().to_string();
        expect_right(&database);
        sandbox.set("DB_NAME", &database.name);
        expect_bots_works(&sandbox, &sandbox.admin_password());
    }
}

/// As the engine locks it for each of its transactions.
#[apply(test)]
fn check_waits_for_locked_sqlite_file() {
    const LOCKED: &str = "import sqlite3, sys\n\
         connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
         connection.execute('BEGIN EXCLUSIVE')\n\
         print('locked', flush=True)\n\
         sys.stdin.read()\n\
         connection.execute('COMMIT')\n";
    let database = complete(Engine::Sqlite);
    let sandbox = database.sandbox();
    let mut locking = Command::new(python());
    locking.args(["-c", LOCKED, &database.name]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut locking = locking.spawn().expect("Python starts");
    let mut line = String::new();
    BufReader::new(locking.stdout.take().expect("piped")).read_line(&mut line).expect("it is locked");
    sandbox.run(&["init-db", "--check"]).expect_code(1).stderr.find("locked").expect("told so");
    let mut checking = sandbox.start(&["init-db", "--check"]);
    drop(locking.stdin.take());
    assert_eq!(checking.wait_code(), 0, "{}", checking.report());
    assert!(locking.wait().expect("it ends").success());
}

#[apply(test)]
fn read_only_sqlite_file_suffices_if_complete() {
    const READ_ONLY: &str = r#"mount --bind "$VOLUME" "$VOLUME" && mount -o remount,bind,ro "$VOLUME" || exit 99
exec "$0" "$@""#;
    let database = complete(Engine::Sqlite);
    let mut sandbox = database.sandbox();
    let volume = Path::new(&database.name).parent().expect("it is in a directory");
    sandbox.set("VOLUME", volume.display().to_string());
    let run = |args: &[&str]| finish(in_mounts(READ_ONLY, &sandbox.command(args)));
    run(&["init-db", "--check"]).expect_code(0);
    run(&["init-db"]).expect_code(0);
    database.sql("DROP TABLE persist");
    let refused = run(&["init-db"]);
    refused.expect_code(1);
    assert!(refused.stderr.contains("read-only") || refused.stderr.contains("Read-only"), "{refused:?}");
    assert!(!refused.stderr.contains("Traceback"), "{refused:?}");
    sandbox.run(&["init-db"]).expect_code(0);
    expect_right(&database);
    expect_bots_works(&sandbox, ADMIN_PASSWORD);
}
