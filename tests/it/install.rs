//! `install`: a private Bots that is complete or not there at all.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;

use crate::support::needs::{Need, needs};
use crate::support::sandbox::Sandbox;

/// A sandbox without a Bots.
fn without_bots() -> Sandbox {
    let mut sandbox = Sandbox::new();
    sandbox.unset("BOTS_BIN_DIR");
    // The tests' own pip settings say how to reach an index; the rest of the environment stays out.
    for (name, value) in std::env::vars().filter(|(name, _)| name.starts_with("PIP_") || name.ends_with("_CERT_FILE")) {
        sandbox.set(&name, value);
    }
    sandbox
}

#[apply(test)]
fn an_interrupted_installation_is_not_used_and_is_completed_by_the_next() {
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

#[apply(test)]
fn an_index_that_cannot_be_reached_is_told() {
    let mut sandbox = without_bots();
    sandbox.unset("PIP_FIND_LINKS").set("PIP_NO_INDEX", "1");
    let failed = sandbox.run(&["install"]);
    failed.expect_code(69);
    assert!(failed.stderr.contains("the package index cannot be reached"), "{}", failed.stderr);
    assert!(!failed.stderr.contains("Traceback"), "{}", failed.stderr);
    sandbox.run(&["init-db"]).expect_code(127);
}

#[apply(test)]
fn a_python_that_bots_cannot_run_on_is_refused_before_anything_is_made() {
    let mut sandbox = without_bots();
    let python = sandbox.home.path().join("python");
    fs::write(&python, "#!/bin/sh\necho 3009\n").expect("written");
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("made executable");
    sandbox.set("BOTS_CTL_PYTHON", python.display().to_string());
    let failed = sandbox.run(&["install"]);
    failed.expect_code(78);
    assert!(failed.stderr.contains("is Python 3.9, but Bots 3.3.1 runs on 3.10 to 3.13"), "{}", failed.stderr);
    assert!(!sandbox.home.path().join(".bots/venv").exists());
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
fn somebody_elses_directory_is_left_alone() {
    let mut sandbox = without_bots();
    let dir = sandbox.home.path().join("precious");
    fs::create_dir_all(dir.join("bin")).expect("made");
    fs::write(dir.join("pyvenv.cfg"), "home = /usr/bin\n").expect("written");
    fs::write(dir.join("letter"), "dear").expect("written");
    sandbox.set("BOTS_CTL_INSTALL_DIR", dir.display().to_string());
    let refused = sandbox.run(&["install"]);
    refused.expect_code(78);
    assert!(refused.stderr.contains("holds something else"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(dir.join("letter")).expect("it is there"), "dear");
}
