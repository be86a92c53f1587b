//! `init-db` and a database that works until a certain file comes: a warning, with the remedy.

use crate::support::bots::expect_bots_works;
use crate::support::fuse::Fuse;
use crate::support::sandbox::Sandbox;
use crate::support::servers::{Database, Engine};

#[apply(test)]
fn narrow_charset_warning_lists_conversion_statements() {
    let database = Database::fresh(Engine::Mariadb.needed());
    let sandbox = database.sandbox();
    let name = Engine::Mariadb.quoted(&database.name);
    let alter = format!("ALTER DATABASE {name} CHARACTER SET utf8mb4");
    for narrow in ["utf8mb3", "latin1"] {
        database.sql(&format!("ALTER DATABASE {name} CHARACTER SET {narrow}"));
        let checked = sandbox.run(&["init-db", "--check"]);
        for words in [&format!("uses {narrow}, which cannot store every file name"), &alter] {
            assert!(checked.expect_code(1).stderr.contains(words), "{words}: {checked:?}");
        }
    }
    let made = sandbox.run(&["init-db"]);
    assert!(made.expect_code(0).stderr.contains("uses latin1, which cannot store every file name"), "{made:?}");
    let web = sandbox.webserver();
    web.wait_stderr("uses latin1, which cannot store every file name");
    drop(web);
    let checked = sandbox.run(&["init-db", "--check"]);
    let statements: String = checked.expect_code(0).stdout.lines().filter(|line| line.starts_with("ALTER ")).collect();
    assert!(statements.starts_with(&alter) && statements.contains("ADD CONSTRAINT"), "{checked:?}");
    database.sql(&statements);
    let checked = sandbox.run(&["init-db", "--check"]);
    assert!(checked.expect_code(0).stderr.is_empty() && !checked.stdout.contains("ALTER"), "{checked:?}");
    expect_bots_works(&sandbox, &sandbox.admin_password());
}

#[apply(test)]
fn init_db_warns_of_sqlite_on_shared_file_system() {
    let mut sandbox = Sandbox::new();
    let fuse = Fuse::mount(sandbox.home.path());
    sandbox.run(&["init-db"]).expect_code(0);
    let checked = sandbox.run(&["init-db", "--check"]);
    assert!(!checked.expect_code(0).stderr.contains("is on "), "{checked:?}");
    sandbox.set("DB_NAME", fuse.mounted.join("botsdb").display().to_string());
    for arguments in [&["init-db"][..], &["init-db", "--check"]] {
        let warned = sandbox.run(arguments);
        assert!(
            warned.expect_code(0).stderr.contains("botsdb is on fuse, where SQLite's locks are unreliable"),
            "{warned:?}"
        );
    }
}
