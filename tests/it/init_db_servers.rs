//! `init-db` and database servers: connections, waits, and error messages.

use std::fs;
use std::sync::Arc;

use crate::support::bots::expect_bots_works;
use crate::support::bots::{is_bots_3, own_settings};
use crate::support::interruption::Interruption;
use crate::support::needs::{Need, needs};
use crate::support::process::finish;
use crate::support::process::wrapped;
use crate::support::sandbox::{Finished, Sandbox, python, wait_until};
use crate::support::schema::{ADMIN_PASSWORD, complete, expect_right, facts};
use crate::support::schema::{expect_rows, leave_rows};
use crate::support::servers::{Database, Engine, PASSWORD, Server, USER, on_each_server};

on_each_server!(
    wrong_password_fails_at_once_without_being_shown,
    password_is_read_from_file,
    permanent_login_failure_is_reported_at_once_with_remedy,
    init_db_retries_at_connection_limit_and_names_it,
    one_connection_is_enough_to_inspect_a_database,
    user_with_protocol_characters_logs_in_or_is_rejected,
    unknown_database_fails_at_once_and_is_named,
    missing_create_privilege_is_reported,
    read_only_user_suffices_for_complete_database,
    init_db_waits_for_server_that_starts_later,
    unreachable_server_is_named,
    init_db_does_not_wait_on_a_terminal,
    init_db_completes_after_server_restart,
    connection_by_unix_socket_works,
    server_that_requires_tls_gets_tls,
    certificate_of_other_authority_is_rejected,
    certificate_for_other_host_is_rejected,
    django_engine_names_are_accepted,
    user_settings_py_overrides_variables,
    matching_database_url_is_accepted,
    url_of_another_database_is_rejected,
    web_ui_does_not_start_with_wrong_database_password,
);

/// Seconds in which something could be tried again that must not be.
const PATIENCE: &str = "3";

/// Checks that the command failed, that its message has these words, and not the password.
fn expect_failure(finished: &Finished, words: &[&str]) {
    finished.expect_code(1);
    for word in words {
        assert!(finished.stderr.contains(word), "no {word:?} in {}", finished.stderr);
    }
    for secret in ["p@ss:w", "wrong-secret", "Traceback"] {
        assert!(!finished.stderr.contains(secret) && !finished.stdout.contains(secret), "{finished:?}");
    }
}

/// As [`expect_failure`], for what no second try would mend.
fn expect_failure_at_once(finished: &Finished, words: &[&str]) {
    expect_failure(finished, words);
    assert!(!finished.stderr.contains("retrying for up to"), "{}", finished.stderr);
}

fn wrong_password_fails_at_once_without_being_shown(engine: Engine) {
    let database = Database::fresh(engine);
    let mut sandbox = database.sandbox();
    sandbox.set("DB_PASSWORD", "wrong-secret").set("BOTS_CTL_DB_CONNECT_TIMEOUT", PATIENCE);
    expect_failure_at_once(&sandbox.run(&["init-db"]), &["o'Bots", "password"]);
    expect_failure_at_once(&sandbox.run(&["init-db", "--check"]), &["password"]);
    sandbox.unset("DB_PASSWORD");
    expect_failure_at_once(&sandbox.run(&["init-db"]), &["password"]);
    sandbox.set("DB_PASSWORD", PASSWORD);
    sandbox.run(&["init-db"]).expect_code(0);
    expect_right(&database);
    expect_bots_works(&sandbox, &sandbox.admin_password());
}

fn password_is_read_from_file(engine: Engine) {
    let database = Database::fresh(engine);
    let mut sandbox = database.sandbox();
    let file = sandbox.home.path().join("secret");
    fs::write(&file, format!("{PASSWORD}\n")).expect("written");
    sandbox.unset("DB_PASSWORD").set("DB_PASSWORD_FILE", file.display().to_string());
    sandbox.run(&["init-db"]).expect_code(0);
    expect_right(&database);
    expect_bots_works(&sandbox, &sandbox.admin_password());
}

fn permanent_login_failure_is_reported_at_once_with_remedy(engine: Engine) {
    let database = Database::fresh(engine);
    let server = database.server();
    let (accounts, refusals): (&[&str], &[(&str, &str)]) = match engine {
        Engine::Mariadb => (
            &[
                "SET GLOBAL secure_auth = 0, disconnect_on_expired_password = 1",
                "CREATE USER old IDENTIFIED VIA mysql_old_password USING '7ab2cc2e1fa51eb3'",
                "CREATE USER locked IDENTIFIED BY 'another-secret' ACCOUNT LOCK",
                "CREATE USER expired IDENTIFIED BY 'another-secret' PASSWORD EXPIRE",
                "CREATE USER hourly IDENTIFIED BY 'another-secret' WITH MAX_UPDATES_PER_HOUR 1 MAX_CONNECTIONS_PER_HOUR 1",
            ],
            &[
                (
                    "old",
                    "by mysql_old_password, which bots-ctl does not support; switch the account to mysql_native_password",
                ),
                ("locked", "ACCOUNT UNLOCK"),
                ("expired", "IDENTIFIED BY"),
                ("hourly", "ALTER USER ... WITH"),
            ],
        ),
        _ => (
            &["CREATE ROLE by_gss LOGIN", "CREATE ROLE unable PASSWORD 'another-secret'"],
            &[("by_gss", "by GSSAPI, which bots-ctl does not support"), ("unable", "not permitted to log in")],
        ),
    };
    accounts.iter().for_each(|statement| drop(server.sql(None, statement)));
    let mut sandbox = database.sandbox();
    sandbox.set("DB_PASSWORD", "another-secret").set("BOTS_CTL_DB_CONNECT_TIMEOUT", PATIENCE);
    for (user, remedy) in refusals {
        sandbox.set("DB_USER", *user);
        sandbox.run(&["init-db", "--check"]);
        let refused = sandbox.run(&["init-db", "--check"]);
        expect_failure_at_once(&refused, &[remedy]);
        assert!(!refused.stderr.contains("sqlx"), "{refused:?}");
    }
}

fn init_db_retries_at_connection_limit_and_names_it(engine: Engine) {
    let database = Database::fresh(engine);
    database.server().sql(
        None,
        match engine {
            Engine::Mariadb => "CREATE USER none_free IDENTIFIED BY 'another-secret' WITH MAX_USER_CONNECTIONS 1",
            _ => "CREATE ROLE none_free LOGIN PASSWORD 'another-secret' CONNECTION LIMIT 0",
        },
    );
    let mut sandbox = database.sandbox();
    sandbox.set("DB_USER", "none_free").set("DB_PASSWORD", "another-secret");
    let held = (engine == Engine::Mariadb)
        .then(|| sandbox.start(&["exec", "--", &python().display().to_string(), "-c", HOLD_CONNECTION]));
    if let Some(held) = &held {
        held.wait_stderr("connected");
    }
    expect_failure(
        &sandbox.run(&["init-db", "--check", "--wait", "1"]),
        &["raise the limit", "retrying for up to 1 s"],
    );
}

/// Connects to MariaDB with the settings of the variables, and keeps the connection.
const HOLD_CONNECTION: &str = "import os, sys, MySQLdb, time\n\
    names = {'host': 'HOST', 'user': 'USER', 'passwd': 'PASSWORD'}\n\
    made = MySQLdb.connect(port=int(os.environ['DB_PORT']), **{k: os.environ['DB_' + v] for k, v in names.items()})\n\
    print('connected', file=sys.stderr)\n\
    time.sleep(600)";

fn one_connection_is_enough_to_inspect_a_database(engine: Engine) {
    let database = complete(engine);
    database.server().sql(
        None,
        match engine {
            Engine::Mariadb => "CREATE USER one_only IDENTIFIED BY 'another-secret' WITH MAX_USER_CONNECTIONS 1",
            _ => "CREATE ROLE one_only LOGIN PASSWORD 'another-secret' CONNECTION LIMIT 1",
        },
    );
    database.grant("SELECT", "one_only");
    let mut sandbox = database.sandbox();
    sandbox.set("DB_USER", "one_only").set("DB_PASSWORD", "another-secret").set("BOTS_CTL_DB_CONNECT_TIMEOUT", "0");
    for command in ["init-db", "init-db --check", "files", "healthcheck --standalone --check startup"] {
        let arguments: Vec<&str> = command.split(' ').collect();
        // The server may not have noticed the end of the connection before.
        let run = || Some(sandbox.run(&arguments)).filter(|done| !done.stderr.contains("raise the limit"));
        wait_until(command, run, String::new).expect_code(0);
    }
    // A run of Bots needs another one.
    let refused = sandbox.set("BOTS_CTL_DB_CONNECT_TIMEOUT", "1").run(&["engine"]);
    assert_eq!(refused.expect_code(69).stderr.matches("raise the limit").count(), 2, "{refused:?}");
}

/// Bots 3.3.1's engine does not pass options on.
#[apply(test)]
fn search_path_option_reaches_init_db_and_engine() {
    let database = Database::fresh(Engine::Postgresql.needed());
    database.sql("CREATE SCHEMA edi; REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    let mut sandbox = database.sandbox();
    sandbox.set("DB_OPTIONS", r#"{"options": "-c search_path=edi"}"#);
    sandbox.run(&["init-db"]).expect_code(0);
    sandbox.set_engine_port();
    sandbox.run(&["engine"]).expect_code(0);
    assert_eq!(database.value("SELECT count(*) FROM edi.report"), "1");
}

/// What bots-ctl cannot do and Django's clients can.
#[apply(test)]
fn multiple_hosts_and_bracketed_address_are_rejected() {
    // Its driver is asked first.
    needs(Need::PostgreSql);
    let mut sandbox = Sandbox::new();
    sandbox.set("DB_ENGINE", "postgresql").set("DB_NAME", "bots").set("DB_USER", "bots").set("DB_PASSWORD", "secret");
    for (host, words) in [("one,two", "bots-ctl connects to a single host"), ("[::1]", "without brackets")] {
        let refused = sandbox.set("DB_HOST", host).run(&["init-db"]);
        assert!(refused.expect_code(78).stderr.contains(words), "{refused:?}");
    }
}

/// PostgreSQL's login puts names between commas and equal signs, which its driver does not escape.
fn user_with_protocol_characters_logs_in_or_is_rejected(engine: Engine) {
    let database = complete(engine);
    database.server().create_user("n=a,b=c", "another-secret");
    database.grant("SELECT", "n=a,b=c");
    let mut sandbox = database.sandbox();
    sandbox.set("DB_USER", "n=a,b=c").set("DB_PASSWORD", "another-secret").set("BOTS_CTL_DB_CONNECT_TIMEOUT", PATIENCE);
    let checked = sandbox.run(&["init-db", "--check"]);
    if engine == Engine::Mariadb {
        checked.expect_code(0);
    } else {
        let told = checked.expect_code(78).stderr.contains("use an account name without commas and equals signs");
        assert!(told, "{checked:?}");
    }
}

fn unknown_database_fails_at_once_and_is_named(engine: Engine) {
    let database = Database::fresh(engine);
    let mut sandbox = database.sandbox();
    sandbox.set("DB_NAME", "").set("BOTS_CTL_DB_CONNECT_TIMEOUT", PATIENCE);
    let nameless = sandbox.run(&["init-db"]);
    assert!(nameless.expect_code(78).stderr.contains("DB_NAME"), "{nameless:?}");
    sandbox.set("DB_NAME", "nowhere at all");
    expect_failure_at_once(&sandbox.run(&["init-db"]), &["nowhere at all"]);
    expect_failure_at_once(&sandbox.run(&["init-db", "--check"]), &["nowhere at all"]);
    if engine == Engine::Mariadb {
        // The server names a missing database only to accounts that may list all databases; it denies others access.
        let user = database.server().create_user("sees all", "another-secret");
        database.server().sql(None, &format!("GRANT SELECT ON *.* TO {user}"));
        sandbox.set("DB_USER", "sees all").set("DB_PASSWORD", "another-secret");
        expect_failure_at_once(&sandbox.run(&["init-db"]), &["nowhere at all"]);
    }
}

/// A user who can connect, with these rights on all existing objects.
fn other_user(database: &Database, rights: &str) -> Sandbox {
    let server = database.server();
    let name = format!("reader of {}", database.name.split('"').nth(1).expect("numbered"));
    server.create_user(&name, "another-secret");
    database.grant(rights, &name);
    let mut sandbox = database.sandbox();
    sandbox.set("DB_USER", name).set("DB_PASSWORD", "another-secret").set("BOTS_CTL_DB_CONNECT_TIMEOUT", PATIENCE);
    sandbox
}

fn missing_create_privilege_is_reported(engine: Engine) {
    let database = Database::fresh(engine);
    let sandbox = other_user(&database, "SELECT, INSERT, UPDATE, DELETE");
    let refused = sandbox.run(&["init-db"]);
    let remedy = if engine == Engine::Postgresql { "grant it CREATE ON SCHEMA public" } else { "denied" };
    expect_failure_at_once(&refused, &["denied", remedy]);
    assert!(facts(&database).is_empty(), "{:?}", facts(&database));
    let owner = database.sandbox();
    owner.run(&["init-db"]).expect_code(0);
    expect_right(&database);
    expect_bots_works(&owner, &owner.admin_password());
}

fn read_only_user_suffices_for_complete_database(engine: Engine) {
    let database = complete(engine);
    let sandbox = other_user(&database, "SELECT");
    sandbox.run(&["init-db", "--check"]).expect_code(0);
    sandbox.run(&["init-db"]).expect_code(0);
    database.sql("DROP TABLE persist");
    let checked = sandbox.run(&["init-db", "--check"]);
    checked.expect_code(1);
    assert!(format!("{}{}", checked.stdout, checked.stderr).contains("persist"), "{checked:?}");
    expect_failure_at_once(&sandbox.run(&["init-db"]), &["denied"]);
    let owner = database.sandbox();
    owner.run(&["init-db"]).expect_code(0);
    expect_right(&database);
    expect_bots_works(&owner, ADMIN_PASSWORD);
}

fn init_db_waits_for_server_that_starts_later(engine: Engine) {
    let server = Arc::new(Server::start(engine));
    let database = Database::on(&server);
    server.stop();
    let sandbox = database.sandbox();
    let mut waiting = sandbox.start(&["init-db", "--wait", "100"]);
    waiting.wait_stderr("retrying for up to");
    assert!(waiting.stderr().contains(&server.port.to_string()), "{}", waiting.stderr());
    server.resume();
    assert_eq!(waiting.wait_code(), 0, "{}", waiting.report());
    expect_right(&database);
    expect_bots_works(&sandbox, &sandbox.admin_password());
}

fn unreachable_server_is_named(engine: Engine) {
    let database = Database::fresh(engine);
    let mut sandbox = database.sandbox();
    let port = crate::support::sandbox::free_port().to_string();
    sandbox.set("DB_PORT", &port);
    expect_failure(&sandbox.run(&["init-db", "--wait", "0"]), &["127.0.0.1", &port]);
    expect_failure(&sandbox.run(&["init-db", "--wait", "1"]), &["127.0.0.1", &port]);
    sandbox.set("BOTS_CTL_DB_CONNECT_TIMEOUT", "0");
    expect_failure(&sandbox.run(&["init-db", "--check"]), &["127.0.0.1", &port]);
    sandbox.set("DB_HOST", "no-such-host.invalid");
    expect_failure(&sandbox.run(&["init-db"]), &["no-such-host.invalid"]);
}

/// Runs a command on a terminal; its output is one text.
const ON_TERMINAL: &str = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";

fn init_db_does_not_wait_on_a_terminal(engine: Engine) {
    let mut sandbox = Database::fresh(engine).sandbox();
    sandbox.set("DB_PORT", crate::support::sandbox::free_port().to_string());
    let python = python().display().to_string();
    let shown = finish(wrapped(&sandbox.command(&["init-db"]), &python, &["-c", ON_TERMINAL]));
    assert!(shown.expect_code(1).stdout.contains("cannot open the"), "{shown:?}");
    assert!(!shown.stdout.contains("retrying for up to"), "{shown:?}");
    let waiting = sandbox.start(&["init-db"]);
    waiting.wait_stderr("retrying for up to 60 s");
}

/// Neither for the active nor for the waiting process, in any namespace.
fn init_db_completes_after_server_restart(engine: Engine) {
    let server = Arc::new(Server::start(engine));
    for statement in [2, 20, 60] {
        let database = Database::on(&server);
        let [mut working, mut other] = [database.sandbox(), database.sandbox()];
        working.set("SUPERUSER_PASSWORD", ADMIN_PASSWORD);
        other.set("SUPERUSER_PASSWORD", ADMIN_PASSWORD);
        let interruption = Interruption::wait_after(&mut working, statement);
        let mut broken = working.start(&["init-db", "--wait", "100"]);
        interruption.wait_reached(&broken);
        let mut waiting = other.start(&["init-db", "--wait", "100"]);
        waiting.wait_stderr("another bots-ctl");
        server.stop();
        waiting.wait_stderr("retrying for up to");
        interruption.let_go();
        server.resume();
        let code = broken.wait_code();
        assert!([0, 1].contains(&code), "{code}: {}", broken.report());
        assert_eq!(waiting.wait_code(), 0, "statement {statement}: {}", waiting.report());
        interruption.remove(&mut working);
        working.run(&["init-db"]).expect_code(0);
        expect_right(&database);
        expect_bots_works(&working, ADMIN_PASSWORD);
    }
}

fn connection_by_unix_socket_works(engine: Engine) {
    let database = Database::fresh(engine);
    let mut sandbox = database.sandbox();
    sandbox.set("DB_HOST", database.server().socket());
    if engine == Engine::Mariadb {
        // There the name of the socket is sufficient.
        sandbox.unset("DB_PORT");
    }
    sandbox.run(&["init-db"]).expect_code(0);
    expect_right(&database);
    expect_bots_works(&sandbox, &sandbox.admin_password());
    if engine == Engine::Mariadb {
        let options = serde_json::json!({ "unix_socket": database.server().socket() });
        sandbox.unset("DB_HOST").set("DB_OPTIONS", options.to_string());
        database.sql("DROP TABLE persist");
        sandbox.run(&["init-db"]).expect_code(0);
        expect_right(&database);
    }
}

/// The database's user may come by TLS only, from here on.
fn want_tls(database: &Database) -> Sandbox {
    let (engine, server) = (database.engine, database.server());
    let user = engine.quoted(USER);
    match engine {
        Engine::Mariadb => server.sql(None, &format!("ALTER USER {user}@'%' REQUIRE SSL")),
        _ => server.sql(None, &format!("GRANT needs_tls TO {user}")),
    };
    database.sandbox()
}

fn tls_options(engine: Engine, authority: &str) -> String {
    match engine {
        Engine::Mariadb => serde_json::json!({ "ssl": { "ca": authority } }).to_string(),
        _ => serde_json::json!({ "sslmode": "verify-ca", "sslrootcert": authority }).to_string(),
    }
}

/// The server's certificate names 127.0.0.1; it listens on another address as well.
fn certificate_for_other_host_is_rejected(engine: Engine) {
    let database = complete(engine);
    let authority = database.server().authority().display().to_string();
    let strict = match engine {
        Engine::Mariadb => serde_json::json!({ "ssl_mode": "VERIFY_IDENTITY", "ssl": { "ca": authority } }),
        _ => serde_json::json!({ "sslmode": "verify-full", "sslrootcert": authority }),
    };
    let mut sandbox = database.sandbox();
    sandbox.set("BOTS_CTL_DB_CONNECT_TIMEOUT", PATIENCE).set("DB_OPTIONS", strict.to_string());
    sandbox.run(&["init-db", "--check"]).expect_code(0);
    sandbox.set("DB_HOST", "127.0.0.2");
    expect_failure_at_once(&sandbox.run(&["init-db", "--check"]), &["certificate", "DB_OPTIONS"]);
    sandbox.set("DB_OPTIONS", tls_options(engine, &authority));
    sandbox.run(&["init-db", "--check"]).expect_code(0);
}

fn server_that_requires_tls_gets_tls(engine: Engine) {
    let database = Database::on(&Arc::new(Server::start(engine)));
    let mut sandbox = want_tls(&database);
    let without = if engine == Engine::Mariadb { "{}" } else { r#"{"sslmode": "disable"}"# };
    sandbox.set("DB_OPTIONS", without);
    sandbox.set("BOTS_CTL_DB_CONNECT_TIMEOUT", PATIENCE);
    expect_failure_at_once(&sandbox.run(&["init-db"]), &["o'Bots"]);
    let authority = database.server().authority().display().to_string();
    sandbox.set("DB_OPTIONS", tls_options(engine, &authority));
    sandbox.run(&["init-db"]).expect_code(0);
    expect_right(&database);
    expect_bots_works(&sandbox, &sandbox.admin_password());
}

fn certificate_of_other_authority_is_rejected(engine: Engine) {
    let database = Database::fresh(engine);
    let mut sandbox = database.sandbox();
    let other = if engine == Engine::Mariadb { Engine::Postgresql } else { Engine::Mariadb };
    let authority = other.server().authority().display().to_string();
    sandbox.set("DB_OPTIONS", tls_options(engine, &authority)).set("BOTS_CTL_DB_CONNECT_TIMEOUT", PATIENCE);
    expect_failure_at_once(&sandbox.run(&["init-db"]), &["certificate"]);
    assert!(facts(&database).is_empty());
}

fn django_engine_names_are_accepted(engine: Engine) {
    let database = complete(engine);
    let mut sandbox = database.sandbox();
    let names: &[&str] = match engine {
        Engine::Mariadb => &["django.db.backends.mysql", "mariadb"],
        _ => &["django.db.backends.postgresql", "django.db.backends.postgresql_psycopg2", "postgres"],
    };
    for name in names {
        sandbox.set("DB_ENGINE", *name);
        sandbox.run(&["init-db", "--check"]).expect_code(0);
    }
    sandbox.set("DB_ENGINE", "django.db.backends.oracle");
    sandbox.run(&["init-db"]).expect_code(78);
}

fn user_settings_py_overrides_variables(engine: Engine) {
    let (database, other) = (Database::fresh(engine), Database::fresh(engine));
    // The variables name another database.
    let sandbox = other.sandbox();
    let config = sandbox.root().join("config");
    fs::create_dir_all(&config).expect("made");
    let backend = if engine == Engine::Mariadb { "mysql" } else { "postgresql" };
    let old_name = if is_bots_3() && engine == Engine::Postgresql { "_psycopg2" } else { "" };
    let databases = serde_json::json!({"default": {
        "ENGINE": format!("django.db.backends.{backend}{old_name}"),
        "NAME": database.name, "USER": database.user, "PASSWORD": database.password,
        "HOST": "127.0.0.1", "PORT": database.server().port,
    }});
    fs::write(config.join("settings.py"), format!("{}\nDATABASES = {databases}\n", own_settings())).expect("written");
    sandbox.run(&["init-db"]).expect_code(0);
    expect_right(&database);
    assert!(facts(&other).is_empty());
    sandbox.run(&["init-db", "--check"]).expect_code(0);
    sandbox.engine(&["--new"]).expect_code(0);
}

/// Everything but letters and digits as %XX.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn url(database: &Database, port: u16, name: &str) -> String {
    let scheme = if database.engine == Engine::Mariadb { "mysql" } else { "postgresql" };
    let (user, password) = (encoded(&database.user), encoded(&database.password));
    format!("{scheme}://{user}:{password}@127.0.0.1:{port}/{}", encoded(name))
}

fn matching_database_url_is_accepted(engine: Engine) {
    let database = Database::fresh(engine);
    let mut sandbox = database.sandbox();
    let file = sandbox.home.path().join("url");
    fs::write(&file, url(&database, database.server().port, &database.name)).expect("written");
    sandbox.set("BOTS_CTL_DATABASE_URL_FILE", file.display().to_string());
    sandbox.run(&["init-db"]).expect_code(0);
    expect_right(&database);
    expect_bots_works(&sandbox, &sandbox.admin_password());
}

fn url_of_another_database_is_rejected(engine: Engine) {
    let (database, other) = (Database::fresh(engine), Database::fresh(engine));
    let mut sandbox = database.sandbox();
    let port = database.server().port;
    let sqlite = "sqlite:///somewhere/botsdb".to_owned();
    for url in [url(&database, port, &other.name), url(&database, port + 1, &database.name), sqlite] {
        sandbox.set("BOTS_CTL_DATABASE_URL", &url);
        for args in [&["init-db"][..], &["init-db", "--check"], &["webserver"]] {
            let refused = sandbox.run(args);
            assert_eq!(refused.code(), 78, "{args:?} with {url}: {refused:?}");
            assert!(refused.stderr.contains("BOTS_CTL_DATABASE_URL"), "{refused:?}");
            assert!(!refused.stderr.contains("p%40ss") && !refused.stderr.contains("p@ss:w"), "{refused:?}");
        }
    }
    assert!(facts(&database).is_empty() && facts(&other).is_empty());
}

fn web_ui_does_not_start_with_wrong_database_password(engine: Engine) {
    let database = Database::fresh(engine);
    let mut sandbox = database.sandbox();
    sandbox.set("DB_PASSWORD", "wrong-secret");
    let failed = sandbox.run(&["webserver"]);
    assert_ne!(failed.code(), 0, "{failed:?}");
    assert!(failed.stderr.contains("password") && !failed.stderr.contains("wrong-secret"), "{failed:?}");
    crate::support::sandbox::wait_gone(&sandbox.root().display().to_string());
    assert!(crate::support::sandbox::http(sandbox.web_port, "GET", "/login/").is_none());
    // Rows of the user are never in the way.
    sandbox.set("DB_PASSWORD", PASSWORD);
    sandbox.run(&["init-db"]).expect_code(0);
    leave_rows(&database);
    let web = sandbox.webserver();
    drop(web);
    expect_rows(&database);
}
