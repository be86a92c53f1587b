//! `install`: a private Bots that is complete or not there at all.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::needs::{Need, needs};
use crate::support::process::{wait_descendant, write_program};
use crate::support::sandbox::{Sandbox, processes_with};

/// A sandbox without a Bots.
fn without_bots() -> Sandbox {
    let mut sandbox = Sandbox::new();
    sandbox.unset("BOTS_BIN_DIR");
    // The pip settings of the tests name the index; the rest of the environment is cleared.
    for (name, value) in std::env::vars().filter(|(name, _)| name.starts_with("PIP_") || name.ends_with("_CERT_FILE")) {
        sandbox.set(&name, value);
    }
    sandbox
}

#[apply(test)]
fn interrupted_installation_is_unusable_until_next_install() {
    needs(Need::Time);
    let sandbox = without_bots();
    let mut killed = sandbox.start(&["install"]);
    killed.wait_stderr("installing bots-3.3.1");
    killed.signal(Signal::SIGKILL);
    killed.wait();
    assert!(sandbox.home.path().join(".bots/venv/bin").exists(), "it was interrupted in the middle");
    let unusable = sandbox.run(&["init-db"]);
    unusable.expect_code(127);
    assert!(unusable.stderr.contains("run `bots-ctl install`"), "{}", unusable.stderr);

    let mut stopped = sandbox.start(&["install"]);
    stopped.wait_stderr("installing build tools");
    stopped.signal(Signal::SIGTERM);
    assert_eq!(stopped.wait_code(), 143, "{}", stopped.report());
    sandbox.run(&["init-db"]).expect_code(127);

    sandbox.run(&["install"]).expect_code(0);
    sandbox.run(&["init-db"]).expect_code(0);
    let again = sandbox.run(&["install"]);
    again.expect_code(0);
    assert!(again.stderr.contains("Bots is installed in") && !again.stderr.contains("(1/3)"), "{}", again.stderr);
}

/// As a compiler of pip, which would write to the directory of the next attempt.
#[apply(test)]
fn interrupted_installation_leaves_no_process() {
    let mut sandbox = without_bots();
    let python = sandbox.home.path().join("python");
    let script = "#!/bin/sh\ncase \"$*\" in\n*venv*) setsid sleep 1017 & wait ;;\n*) echo 3011 ;;\nesac\n";
    write_program(&python, script, 0o755);
    sandbox.set("BOTS_CTL_PYTHON", python.display().to_string());
    let mut installing = sandbox.start(&["install"]);
    wait_descendant(&installing, "sleep 1017");
    installing.signal(Signal::SIGTERM);
    assert_eq!(installing.wait_code(), 143, "{}", installing.report());
    assert!(installing.stderr().contains("run install again to complete it"), "{}", installing.report());
    assert_eq!(processes_with("sleep 1017"), []);
}

#[apply(test)]
fn install_reports_unreachable_package_index() {
    let mut sandbox = without_bots();
    sandbox.unset("PIP_FIND_LINKS").set("PIP_NO_INDEX", "1");
    let failed = sandbox.run(&["install"]);
    failed.expect_code(69);
    assert!(failed.stderr.contains("the package index is unreachable"), "{}", failed.stderr);
    assert!(!failed.stderr.contains("Traceback"), "{}", failed.stderr);
    sandbox.run(&["init-db"]).expect_code(127);
}

#[apply(test)]
fn install_rejects_unsupported_python_before_writing() {
    let mut sandbox = without_bots();
    let python = sandbox.home.path().join("python");
    fs::write(&python, "#!/bin/sh\necho 3009\n").expect("written");
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("made executable");
    sandbox.set("BOTS_CTL_PYTHON", python.display().to_string());
    let failed = sandbox.run(&["install"]);
    failed.expect_code(78);
    assert!(failed.stderr.contains("is Python 3.9, but Bots 3.3.1 needs 3.10 to 3.13"), "{}", failed.stderr);
    assert!(!sandbox.home.path().join(".bots/venv").exists());
    fs::write(&python, "#!/bin/sh\necho 'no module named encodings' >&2; kill -SEGV $$\n").expect("written");
    let crashed = sandbox.run(&["install"]);
    crashed.expect_code(78);
    let expected = "is not a usable Python: it ended with signal SIGSEGV: no module named encodings";
    assert!(crashed.stderr.contains(expected), "{}", crashed.stderr);
    sandbox.set("BOTS_CTL_PYTHON", "no-such-python");
    let missing = sandbox.run(&["install"]);
    missing.expect_code(78);
    assert!(
        missing.stderr.contains("no-such-python") && missing.stderr.contains("BOTS_CTL_PYTHON"),
        "{}",
        missing.stderr
    );
}

#[apply(test)]
fn install_rejects_foreign_directory_and_keeps_its_files() {
    let mut sandbox = without_bots();
    let dir = sandbox.home.path().join("precious");
    fs::create_dir_all(dir.join("bin")).expect("made");
    fs::write(dir.join("pyvenv.cfg"), "home = /usr/bin\n").expect("written");
    fs::write(dir.join("letter"), "dear").expect("written");
    sandbox.set("BOTS_CTL_INSTALL_DIR", dir.display().to_string());
    let refused = sandbox.run(&["install"]);
    refused.expect_code(78);
    assert!(refused.stderr.contains("is not an installation of bots-ctl"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(dir.join("letter")).expect("it is there"), "dear");
}

/// A source tree with what makes a Bots 4.x of it for bots-ctl, and its only program.
fn source_tree(dir: &Path) {
    let project = "[project]\nname = \"bots-ediint\"\nversion = \"4.0\"\ndependencies = [\"Django>=4\", \"lxml\"]\n\
                   [project.scripts]\nbots-webserver = \"bots:start\"\n\
                   [build-system]\nrequires = [\"pdm-backend\"]\nbuild-backend = \"pdm.backend\"\n\
                   [tool.pdm.build]\nincludes = [\"bots\"]\n";
    fs::create_dir_all(dir.join("bots/migrations")).expect("made");
    for (name, text) in [
        ("pyproject.toml", project),
        ("bots/__init__.py", ""),
        ("bots/botsinit.py", ""),
        ("bots/botsglobal.py", "version = '4.0'\n"),
        ("bots/migrations/__init__.py", ""),
    ] {
        fs::write(dir.join(name), text).expect("written");
    }
}

#[apply(test)]
fn install_from_source_tree_provides_bots_4() {
    let mut sandbox = without_bots();
    let source = sandbox.home.path().join("source");
    fs::create_dir_all(&source).expect("made");
    let from = source.display().to_string();
    let refused = sandbox.run(&["install", "--from", &from]);
    refused.expect_code(78);
    assert!(refused.stderr.contains("no source tree of Bots 4.x"), "{}", refused.stderr);
    assert!(!sandbox.home.path().join(".bots/venv").exists());
    source_tree(&source);
    let installed = sandbox.run(&["install", "--from", &from]);
    installed.expect_code(0);
    assert!(!installed.stderr.contains("Django 2.2"), "{}", installed.stderr);
    let versions = sandbox.run(&["version"]).stdout;
    assert!(versions.contains("Bots 4.0\n") && versions.contains("Django 5."), "{versions}");
    // The tree has changed, and a later command keeps the version.
    fs::write(source.join("bots/botsglobal.py"), "version = '4.1'\n").expect("written");
    sandbox.run(&["install", "--from", &from]).expect_code(0);
    sandbox.run(&["install"]).expect_code(0);
    assert!(sandbox.run(&["version"]).stdout.contains("Bots 4.1\n"));
    // Without an index pip fails before it changes a file.
    sandbox.unset("PIP_FIND_LINKS").set("PIP_NO_INDEX", "1");
    let failed = sandbox.run(&["install", "--with", "postgresql"]);
    failed.expect_code(69);
    assert!(failed.stderr.contains(".bots/venv is as it was before"), "{}", failed.stderr);
    assert!(sandbox.run(&["version"]).stdout.contains("Bots 4.1\n"));
    sandbox.run(&["install"]).expect_code(0);
}

#[apply(test)]
fn failed_change_of_bots_4_is_never_replaced_by_another_version() {
    let sandbox = without_bots();
    let dir = sandbox.home.path().join(".bots/venv");
    fs::create_dir_all(dir.join("bin")).expect("made");
    fs::write(dir.join("bots-ctl-complete"), "bots-4.txt 00000000\npostgresql-4.txt 00000000\n").expect("written");
    // The pip of this installation fails in the middle.
    let python = dir.join("bin/python");
    fs::write(&python, format!("#!/bin/sh\n: > {}/bin/new\necho ERROR: no >&2\nexit 1\n", dir.display()))
        .expect("written");
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("made executable");
    let failed = sandbox.run(&["install", "--with", "mysql"]);
    failed.expect_code(1);
    assert!(!failed.stderr.contains("as it was before"), "{}", failed.stderr);
    for _ in 0..2 {
        let refused = sandbox.run(&["install"]);
        refused.expect_code(78);
        let expected =
            format!("the unfinished installation in {} was Bots 4.x: run bots-ctl install --from", dir.display());
        assert!(refused.stderr.contains(&expected), "{}", refused.stderr);
        assert!(python.exists());
    }
    // The driver that was installed is installed again, the one that failed is not.
    let source = sandbox.home.path().join("source");
    source_tree(&source);
    let started = sandbox.start(&["install", "--from", &source.display().to_string()]);
    started.wait_stderr("installing bots-4, postgresql-4 (3/3)");
}
