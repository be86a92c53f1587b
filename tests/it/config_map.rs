//! The ConfigMap of the manifests, `k3s/base/config`, mounted for the Bots under test, whichever version that is.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::browser::Browser;
use crate::support::sandbox::{Sandbox, python};

const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/k3s/base/config");

/// A sandbox with the ConfigMap mounted, and the directory that is its mount.
fn mounted() -> (Sandbox, tempfile::TempDir) {
    let mount = tempfile::tempdir().expect("a temporary directory");
    for name in ["bots.ini", "settings.py"] {
        fs::copy(Path::new(FILES).join(name), mount.path().join(name)).expect("copied");
    }
    let mut sandbox = Sandbox::new();
    sandbox.set("BOTS_CTL_CONFIG_SOURCE", mount.path().display().to_string());
    (sandbox, mount)
}

fn setting(sandbox: &Sandbox, name: &str) -> String {
    let question = format!("from config import settings; print(settings.{name})");
    sandbox.run(&["exec", "--", &python().display().to_string(), "-c", &question]).expect_code(0).stdout.clone()
}

#[apply(test)]
fn web_ui_runs_with_config_map_of_manifests() {
    let (sandbox, _mount) = mounted();
    let running = sandbox.webserver();
    let mut browser = Browser::start();
    let base = format!("http://localhost:{}", sandbox.web_port);
    browser.log_in(&base, "admin", &sandbox.admin_password()).unwrap_or_else(|why| panic!("{why}"));
    assert!(!browser.open_routes(&base).is_empty(), "{}", running.report());
    sandbox.run(&["config", "check"]).expect_code(0);
}

#[apply(test)]
fn environment_variables_complete_config_map_settings() {
    let (mut sandbox, _mount) = mounted();
    sandbox.set("TZ", "Asia/Tokyo").set("ALLOWED_HOSTS", "edi.example.com").set("ADMIN_EMAIL", "edi@example.com");
    sandbox.set("EMAIL_HOST", "mail.example.com").set("EMAIL_PORT", "587").set("EMAIL_USE_TLS", "true");
    sandbox.run(&["init-db"]).expect_code(0);
    for (name, expected) in [
        ("TIME_ZONE", "Asia/Tokyo"),
        ("ALLOWED_HOSTS", "['edi.example.com']"),
        ("MANAGERS", "(('admin', 'edi@example.com'),)"),
        ("EMAIL_HOST", "mail.example.com"),
        ("EMAIL_PORT", "587"),
        ("EMAIL_USE_TLS", "True"),
    ] {
        assert_eq!(setting(&sandbox, name).trim(), expected, "{name}");
    }
}

/// Another pod on the same volume never sees the file without what bots-ctl adds to it.
#[apply(test)]
fn mounted_settings_py_gets_managed_block_and_updates() {
    let (sandbox, mount) = mounted();
    sandbox.run(&["init-db"]).expect_code(0);
    let path = sandbox.root().join("config/settings.py");
    let completed = fs::read_to_string(&path).expect("it is there");
    assert!(completed.contains("def _bots_ctl(") && completed.contains("ADMIN_EMAIL"), "{completed}");
    let inode = || fs::metadata(&path).expect("it is there").ino();
    let before = inode();
    sandbox.run(&["init-db"]).expect_code(0);
    assert_eq!(inode(), before, "nothing changed, so nothing was written");

    let changed = fs::read_to_string(mount.path().join("settings.py")).expect("it is there");
    let changed = changed.replacen("import os\n", "import os\nCHANGED = True\n", 1);
    fs::write(mount.path().join("settings.py"), changed).expect("written");
    sandbox.run(&["init-db"]).expect_code(0);
    assert_eq!(setting(&sandbox, "CHANGED").trim(), "True");
}

/// An engine that is started from a prepared environment is bots-ctl again.
#[apply(test)]
fn engine_of_exec_reads_secret_key_from_file() {
    let (mut sandbox, _mount) = mounted();
    let key = tempfile::NamedTempFile::new().expect("made");
    fs::write(key.path(), "0123456789abcdef0123456789abcdef").expect("written");
    sandbox.set("DJANGO_SECRET_KEY_FILE", key.path().display().to_string());
    sandbox.run(&["init-db"]).expect_code(0);
    let config = format!("-c{}", sandbox.root().join("config").display());
    sandbox.run(&["exec", "--", "bots-engine", &config, "--new"]).expect_code(0);
}
