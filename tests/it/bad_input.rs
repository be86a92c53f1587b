//! Bad input gets one clear error on standard error, the right exit code, and leaves nothing half-written.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use bots_ctl::pycompat::configparser::set_value;
use walkdir::WalkDir;

use crate::support::bots::{is_bots_3, own_settings, package};
use crate::support::process::finish;
use crate::support::sandbox::{Finished, Sandbox, bots_bin_dir, free_port};
use crate::support::users::{as_user, as_user_of_bots, give_to_user, in_mounts, open_to_all};

/// The message of a rejected command for each error, after checks of the common rules.
fn faults(refused: &Finished, code: i32) -> Vec<&str> {
    refused.expect_code(code);
    for sign in ["Traceback", "panicked at", "Error {", "Some(", "Os {", "Kind::", "  File \""] {
        assert!(!refused.stderr.contains(sign), "{sign:?} in\n{}", refused.stderr);
    }
    assert_eq!(refused.stdout, "");
    refused.stderr.lines().filter_map(|line| line.strip_prefix("bots-ctl: ")).collect()
}

/// Exactly one fault, and these words in it.
fn one_fault(refused: &Finished, code: i32, words: &[&str]) {
    let faults = faults(refused, code);
    assert_eq!(faults.len(), 1, "{}", refused.stderr);
    assert_words(&refused.stderr, words);
}

fn assert_words(text: &str, words: &[&str]) {
    for words in words {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
}

/// No temporary files, and no unwanted database.
fn assert_nothing_half_written(home: &Path) {
    let names = WalkDir::new(home).into_iter().flatten().map(|entry| entry.path().display().to_string());
    let wrong: Vec<String> = names.filter(|name| name.ends_with(".tmp") || name.ends_with("/botsdb")).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// A HOME in which `config/NAME` holds this text.
fn with_config(name: &str, text: impl AsRef<[u8]>) -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.root().join("config")).expect("made");
    fs::write(sandbox.root().join("config").join(name), text).expect("written");
    sandbox
}

/// A HOME with this bots-ctl.toml, and its path.
fn with_toml(text: &str) -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    let path = sandbox.home.path().join(".bots/bots-ctl.toml");
    fs::create_dir_all(sandbox.home.path().join(".bots")).expect("made");
    fs::write(&path, text).expect("written");
    (sandbox, path.display().to_string())
}

#[apply(test)]
fn unknown_flag_error_suggests_known_flag() {
    let sandbox = Sandbox::new();
    one_fault(&sandbox.run(&["webserver", "--instal"]), 64, &["'--instal'", "'--install'"]);
    one_fault(&sandbox.run(&["config", "shwo"]), 64, &["'shwo'", "'show'"]);
    one_fault(&sandbox.run(&["webserver", "surplus"]), 64, &["'surplus'"]);
    one_fault(&sandbox.run(&["exec"]), 64, &["<PROGRAM>"]);
    assert!(!sandbox.home.path().join(".bots").exists());
}

#[apply(test)]
fn invalid_flag_value_error_lists_valid_values() {
    let sandbox = Sandbox::new();
    one_fault(&sandbox.run(&["healthcheck", "--check", "redy"]), 64, &["'redy'", "live, ready, startup"]);
    one_fault(&sandbox.run(&["install", "--with", "oracle"]), 64, &["'oracle'", "mysql, postgresql"]);
    one_fault(&sandbox.run(&["completions", "cmd"]), 64, &["'cmd'", "bash"]);
    one_fault(&sandbox.run(&["webserver", "--port", "http"]), 64, &["--port: \"http\"", "from 1 to 65535"]);
    one_fault(&sandbox.run(&["webserver", "--health-addr", "9180"]), 64, &["--health-addr: \"9180\"", "0.0.0.0:9180"]);
    one_fault(&sandbox.run(&["init-db", "--log-level", "loud"]), 64, &["--log-level: \"loud\"", "error, warn, info"]);
    assert!(!sandbox.home.path().join(".bots").exists());
}

#[apply(test)]
fn unknown_key_error_names_line_and_suggests_key() {
    let (sandbox, path) = with_toml("[stop]\ndrain = \"1s\"\n\n[health]\nadr = \"0.0.0.0:1\"\n");
    let words = format!("{path}:5: unknown key health.adr; did you mean health.addr?");
    one_fault(&sandbox.run(&["webserver"]), 78, &[&words]);
    let (sandbox, path) = with_toml("colour = \"green\"\n");
    one_fault(&sandbox.run(&["init-db"]), 78, &[&format!("{path}:1: unknown key colour"), "config show"]);
    assert!(!sandbox.root().exists());
}

#[apply(test)]
fn init_db_reports_all_type_errors_with_lines() {
    let text = "[webserver]\nport = true\n[log]\nlevel = 5\n[database]\ninit_skip = \"perhaps\"\nport = 80.5\n\
                [health]\ninterval = \"0s\"\n[superuser]\npassword = 12345678\n";
    let (sandbox, path) = with_toml(text);
    let refused = sandbox.run(&["init-db"]);
    // The sandbox sets PORT, which decides before the file does.
    let expected = [
        format!("{path}:4: log.level: \"5\" is invalid: expected a string"),
        format!("{path}:6: database.init_skip: \"perhaps\" is invalid: expected true or false"),
        format!("{path}:7: database.port: \"80.5\" is invalid: expected an integer"),
        format!("{path}:9: health.interval: \"0s\" is invalid: expected a duration longer than zero"),
        format!("{path}:11: superuser.password: (hidden) is invalid: expected a string"),
    ];
    let mut found = faults(&refused, 78);
    found.sort_unstable();
    let mut expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[apply(test)]
fn list_setting_rejects_values_of_other_types() {
    for value in ["[true]", "2026-11-23", "[[\"a\"]]", "[{ a = 1 }]"] {
        let (sandbox, path) = with_toml(&format!("[django]\nallowed_hosts = {value}\n"));
        let words = format!("{path}:2: django.allowed_hosts");
        one_fault(&sandbox.run(&["config", "show"]), 78, &[&words, "expected an array of strings"]);
    }
}

#[apply(test)]
fn toml_syntax_errors_name_their_lines() {
    let (sandbox, path) = with_toml("[health]\naddr = \n[stop]\ndrain = \"1s\ntimeout = 3\n");
    let refused = sandbox.run(&["webserver"]);
    let faults = faults(&refused, 78);
    for line in [2, 4] {
        let place = format!("{path}:{line}: ");
        assert!(faults.iter().any(|fault| fault.starts_with(&place) && fault.len() > place.len()), "{faults:?}");
    }
    assert!(!sandbox.root().exists());
}

#[apply(test)]
fn init_db_fails_on_unreadable_configuration_file() {
    let (sandbox, path) = with_toml("[stop]\ndrain = \"1s\"\n");
    give_to_user(sandbox.home.path());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("ours");
    let refused = finish(as_user(&sandbox.command(&["init-db"])));
    one_fault(&refused, 78, &[&format!("cannot read the configuration file {path}: Permission denied")]);
}

#[apply(test)]
fn init_db_fails_on_configuration_file_not_in_utf8() {
    let (sandbox, path) = with_toml("");
    fs::write(&path, b"[stop]\ndrain = \"\xff\"\n").expect("written");
    one_fault(&sandbox.run(&["init-db"]), 78, &[&path, "UTF-8"]);
}

#[apply(test)]
fn start_fails_if_named_configuration_file_is_missing() {
    let mut sandbox = Sandbox::new();
    let refused = sandbox.run(&["webserver", "--config", "/nowhere/bots-ctl.toml"]);
    one_fault(&refused, 78, &["cannot read the configuration file /nowhere/bots-ctl.toml: No such file"]);
    sandbox.set("BOTS_CTL_CONFIG", "/nowhere/other.toml");
    one_fault(&sandbox.run(&["init-db"]), 78, &["cannot read the configuration file /nowhere/other.toml"]);
    assert!(!sandbox.home.path().join(".bots").exists());
}

/// Manifests and compose files set variables to nothing to switch them off.
#[apply(test)]
fn empty_variable_counts_as_unset() {
    let mut sandbox = Sandbox::new();
    fs::write(sandbox.home.path().join("bots-ctl.toml"), "not_for_us = 1\n").expect("written");
    for name in ["BOTS_CTL_CONFIG", "BOTS_CTL_CONFIG_SOURCE", "DB_PORT", "DB_ENGINE", "DB_PASSWORD_FILE", "BOTSENV"] {
        sandbox.set(name, "");
    }
    sandbox.run(&["config", "show"]).expect_code(0);
}

#[apply(test)]
fn missing_secret_file_error_names_its_setting() {
    let mut sandbox = Sandbox::new();
    sandbox.set("DB_PASSWORD_FILE", "/nowhere/password");
    one_fault(&sandbox.run(&["init-db"]), 78, &["DB_PASSWORD_FILE", "cannot read /nowhere/password: No such file"]);
    sandbox.set("DB_PASSWORD", "x");
    one_fault(&sandbox.run(&["init-db"]), 78, &["DB_PASSWORD and DB_PASSWORD_FILE are both set"]);
    let (sandbox, path) = with_toml("[django]\nsecret_key_file = \"/nowhere/key\"\n");
    one_fault(&sandbox.run(&["init-db"]), 78, &[&format!("{path}:2"), "django.secret_key_file", "/nowhere/key"]);
}

#[apply(test)]
fn start_rejects_invalid_health_address() {
    let mut sandbox = Sandbox::new();
    for wrong in ["9180", "0.0.0.0", "nowhere.example.com:1", "0.0.0.0:99999"] {
        sandbox.set("BOTS_CTL_HEALTH_ADDR", wrong);
        let words = format!("environment variable BOTS_CTL_HEALTH_ADDR: \"{wrong}\" is invalid: expected ADDRESS:PORT");
        one_fault(&sandbox.run(&["webserver"]), 78, &[&words]);
        one_fault(&sandbox.run(&["healthcheck"]), 2, &[&words]);
    }
    sandbox.set("BOTS_CTL_HEALTH_ADDR", "192.0.2.1:9180");
    one_fault(&sandbox.run(&["webserver"]), 69, &["cannot listen on 192.0.2.1:9180", "BOTS_CTL_HEALTH_ADDR"]);
    assert!(!sandbox.home.path().join(".bots").exists());
}

#[apply(test)]
fn missing_bots_error_suggests_install() {
    let mut sandbox = Sandbox::new();
    sandbox.unset("BOTS_BIN_DIR").set("PATH", "/usr/bin:/bin");
    for command in [&["webserver"][..], &["init-db"], &["config", "check"]] {
        let refused = sandbox.run(command);
        one_fault(&refused, 127, &["cannot find Bots", "`bots-ctl install`", "BOTS_BIN_DIR"]);
    }
    assert!(!sandbox.home.path().join(".bots").exists());
    sandbox.run(&["exec", "--", "true"]).expect_code(0);
}

#[apply(test)]
fn start_rejects_bots_bin_dir_without_bots() {
    let mut sandbox = Sandbox::new();
    let empty = tempfile::tempdir().expect("a temporary directory");
    sandbox.set("BOTS_BIN_DIR", empty.path().display().to_string());
    let words = format!("BOTS_BIN_DIR={}: there is no bots-webserver in it", empty.path().display());
    one_fault(&sandbox.run(&["webserver"]), 78, &[&words]);
    sandbox.set("BOTS_BIN_DIR", "venv/bin");
    one_fault(&sandbox.run(&["init-db"]), 78, &["BOTS_BIN_DIR: \"venv/bin\" is invalid: expected an absolute path"]);
    assert!(!sandbox.home.path().join(".bots").exists());
}

#[apply(test)]
fn settings_py_error_names_line_and_cause() {
    let cases = [
        ("A = 1\nB = (\n", 2, "SyntaxError: "),
        ("A = 1\n  B = 2\n", 2, "IndentationError: unexpected indent"),
        (
            "import os\n\nimport nothing_of_that_name\n",
            3,
            "ModuleNotFoundError: No module named 'nothing_of_that_name'",
        ),
        ("from os import nothing\n", 1, "ImportError: cannot import name 'nothing' from 'os'"),
        ("def host():\n    return 1 / 0\n\nHOST = host()\n", 2, "ZeroDivisionError: division by zero"),
        ("import os\nSECRET_KEY = os.environ['NO_SUCH_SECRET']\n", 2, "KeyError: 'NO_SUCH_SECRET'"),
        ("SECRET_KEY = open('/nowhere/secret').read()\n", 1, "FileNotFoundError: [Errno 2]"),
        ("import sys\nsys.exit('no thanks')\n", 2, "SystemExit: no thanks"),
    ];
    for (text, line, reason) in cases {
        let sandbox = with_config("settings.py", text);
        let refused = sandbox.run(&["init-db"]);
        let settings = sandbox.root().join("config/settings.py");
        one_fault(&refused, 78, &[&format!("{}:{line}: {reason}", settings.display())]);
        assert_eq!(fs::read_to_string(settings).expect("there"), text);
        assert_nothing_half_written(sandbox.home.path());
    }
}

#[apply(test)]
fn settings_py_error_names_imported_file_and_line() {
    let sandbox = with_config("settings.py", "from config.local import *\n");
    let local = sandbox.root().join("config/local.py");
    fs::write(&local, "A = 1\nB = undefined\n").expect("written");
    let words = format!("{}:2: NameError: name 'undefined' is not defined", local.display());
    one_fault(&sandbox.run(&["init-db"]), 78, &[&words]);
}

#[apply(test)]
fn init_db_rejects_settings_without_secret_key() {
    let sandbox = with_config("settings.py", own_settings().replace("SECRET_KEY = ", "NO_SECRET_KEY = "));
    let refused = sandbox.run(&["init-db"]);
    one_fault(&refused, 78, &["ImproperlyConfigured: ", "SECRET_KEY"]);
    assert_nothing_half_written(sandbox.home.path());
}

#[apply(test)]
fn debug_log_level_shows_python_traceback() {
    let mut sandbox = with_config("settings.py", "def host():\n    return 1 / 0\n\nHOST = host()\n");
    sandbox.set("LOG_LEVEL", "debug");
    let refused = sandbox.run(&["init-db"]);
    refused.expect_code(78);
    assert_words(&refused.stderr, &["Traceback (most recent call last)", "HOST = host()", "bots-ctl: "]);
}

#[apply(test)]
fn every_unknown_character_set_is_reported() {
    let template = fs::read_to_string(package().join("install/bots.ini")).expect("Bots ships a template");
    let changed = set_value(&template, "charsets", "unoc", "nonsense").expect("editable");
    let changed = set_value(&changed, "charsets", "unod", "rubbish").expect("editable");
    let sandbox = with_config("bots.ini", changed);
    let refused = sandbox.run(&["config", "check"]);
    for (key, name) in [("unoc", "nonsense"), ("unod", "rubbish")] {
        let expected = format!("[charsets] {key} = {name}: unknown character set");
        assert!(refused.code() != 0 && refused.stderr.contains(&expected), "{refused:?}");
    }
}

#[apply(test)]
fn certificate_that_is_none_is_reported_as_such() {
    let template = fs::read_to_string(package().join("install/bots.ini")).expect("Bots ships a template");
    let sandbox = Sandbox::new();
    let file = sandbox.home.path().join("certificate").display().to_string();
    fs::write(&file, "no certificate\n").expect("written");
    let both = ["ssl_certificate", "ssl_private_key"];
    let set = |text: String, key: &&str| set_value(&text, "webserver", key, &file).expect("editable");
    fs::create_dir_all(sandbox.root().join("config")).expect("made");
    fs::write(sandbox.root().join("config/bots.ini"), both.iter().fold(template, set)).expect("written");
    let words = ["ssl_certificate = ", "cannot load the certificate with its private key: "];
    one_fault(&sandbox.run(&["init-db"]), 78, &words);
}

#[apply(test)]
fn python_killed_while_settings_load_is_reported_with_its_signal() {
    let kill = "import os, sys\nprint('nearly there', file=sys.stderr, flush=True)\nos.kill(os.getpid(), 9)\n";
    let sandbox = with_config("settings.py", kill);
    for command in ["init-db", "webserver"] {
        one_fault(&sandbox.run(&[command]), 1, &["cannot read Bots's settings", "SIGKILL: nearly there"]);
    }
}

#[apply(test)]
fn web_ui_does_not_start_with_broken_settings_py() {
    let sandbox = with_config("settings.py", "import nothing_of_that_name\n");
    one_fault(&sandbox.run(&["webserver"]), 78, &["settings.py:1: ModuleNotFoundError"]);
}

#[apply(test)]
fn init_db_ignores_output_of_settings_py() {
    let noise =
        "import sys\nprint('hello from settings')\nprint('{\"fault\": \"not this\"}', end='')\nsys.stdout.flush()\n";
    let sandbox = with_config("settings.py", own_settings() + noise);
    for _ in 0..2 {
        let done = sandbox.run(&["init-db"]);
        done.expect_code(0);
        assert_eq!(done.stdout, "");
    }
    sandbox.run(&["config", "check"]).expect_code(0);
}

#[apply(test)]
fn init_db_ignores_output_of_settings_py_at_exit() {
    let noise = "import atexit\natexit.register(print, 'good bye from settings')\n";
    let sandbox = with_config("settings.py", own_settings() + noise);
    sandbox.run(&["init-db"]).expect_code(0);
}

#[apply(test)]
fn init_db_reports_several_bots_ini_errors_with_lines() {
    let text = "maxdays = 1\n[settings]\nport = 28081\nport = 28082\nno value here\n[settings]\n[open\n";
    let sandbox = with_config("bots.ini", text);
    let refused = sandbox.run(&["init-db"]);
    let faults = faults(&refused, 78);
    let ini = sandbox.root().join("config/bots.ini");
    for line in [1, 4, 6] {
        let place = format!("{}:{line}: ", ini.display());
        assert!(faults.iter().any(|fault| fault.starts_with(&place)), "line {line}: {faults:#?}");
    }
    assert_eq!(fs::read_to_string(ini).expect("there"), text);
    assert!(!sandbox.root().join("config/settings.py").exists());
    assert_nothing_half_written(sandbox.home.path());
}

#[apply(test)]
fn init_db_reports_all_missing_or_invalid_bots_ini_keys() {
    let sandbox = with_config("bots.ini", "[settings]\nport = many\n\n[webserver]\n[jobqueue]\nport = 99999\n");
    let refused = sandbox.run(&["init-db"]);
    let ini = sandbox.root().join("config/bots.ini").display().to_string();
    let needed =
        if is_bots_3() { "[settings] log_file_number is missing" } else { "[webserver] menu_all_routes is missing" };
    let words = [
        format!("{ini}: section [charsets] is missing"),
        format!("{ini}: {needed}"),
        format!("{ini}:2: [settings] port = many: expected a port number"),
        "[jobqueue] port = 99999: expected a port number".to_owned(),
    ];
    faults(&refused, 78);
    assert_words(&refused.stderr, &words.each_ref().map(String::as_str));
    assert_nothing_half_written(sandbox.home.path());
}

#[apply(test)]
fn bots_ini_encoding_error_names_line() {
    let sandbox = with_config("bots.ini", b"[settings]\n# caf\xe9\n");
    let words = format!("{}:2: the file is not UTF-8 text", sandbox.root().join("config/bots.ini").display());
    one_fault(&sandbox.run(&["init-db"]), 78, &[&words]);
}

#[apply(test)]
fn init_db_rejects_absolute_usersys_only_with_bots_3() {
    let sandbox = Sandbox::new();
    let template = fs::read_to_string(package().join("install/bots.ini")).expect("Bots ships a template");
    let usersys = sandbox.root().join("usersys");
    let before = "[directories]\n";
    let line = template.lines().position(|line| line == before.trim_end()).expect("it is there") + 2;
    let text = template.replace("\nusersys", "\n# usersys");
    let text = text.replace(before, &format!("{before}usersys = {}\n", usersys.display()));
    fs::create_dir_all(sandbox.root().join("config")).expect("made");
    fs::write(sandbox.root().join("config/bots.ini"), text).expect("written");
    let result = sandbox.run(&["init-db"]);
    match is_bots_3() {
        true => one_fault(&result, 78, &[&format!("bots.ini:{line}: [directories] usersys = "), "usersys = usersys"]),
        false => {
            result.expect_code(0);
        }
    }
}

#[apply(test)]
fn unwritable_home_error_names_owner_and_mode() {
    let sandbox = Sandbox::new();
    open_to_all(sandbox.home.path());
    fs::set_permissions(sandbox.home.path(), fs::Permissions::from_mode(0o555)).expect("ours");
    for command in ["init-db", "webserver"] {
        let refused = finish(as_user_of_bots(&sandbox.command(&[command])));
        let home = sandbox.home.path().display().to_string();
        one_fault(&refused, 78, &[&format!("{home}/.bots"), &format!("{home} is owned by "), "mode 0555", "fsGroup"]);
        if nix::unistd::geteuid().is_root() {
            assert_words(&refused.stderr, &["owned by 0:0", "runs as 10001:10001"]);
        }
    }
}

#[apply(test)]
fn unwritable_directory_error_names_owner_and_mode() {
    let sandbox = Sandbox::new();
    give_to_user(sandbox.home.path());
    finish(as_user_of_bots(&sandbox.command(&["init-db"]))).expect_code(0);
    for name in ["botssys", "usersys"] {
        let dir = sandbox.root().join(name);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o500)).expect("ours");
        let refused = finish(as_user_of_bots(&sandbox.command(&["init-db"])));
        one_fault(&refused, 78, &[&format!("cannot write to {}", dir.display()), "mode 0500", "fsGroup"]);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("ours");
        if nix::unistd::geteuid().is_root() {
            const OTHER: u32 = 12_345;
            chown(&dir, Some(OTHER), Some(OTHER)).expect("root may");
            let refused = finish(as_user_of_bots(&sandbox.command(&["init-db"])));
            let words = [&format!("cannot write to {}", dir.display()), "owned by 12345:12345", "mode 0755"];
            one_fault(&refused, 78, &words);
            let meta = fs::metadata(&dir).expect("it is there");
            assert_eq!((meta.uid(), meta.mode() & 0o777), (OTHER, 0o755), "it was not taken over");
            give_to_user(&dir);
        }
    }
}

#[apply(test)]
fn unusable_home_error_asks_for_writable_directory() {
    let sandbox = Sandbox::new();
    let mut at_root = sandbox.command(&["init-db"]);
    at_root.env("HOME", "/");
    one_fault(&finish(as_user_of_bots(&at_root)), 78, &["/.bots", "/ is owned by", "HOME"]);
    for command in ["init-db", "config check", "healthcheck --standalone"] {
        let mut relative = sandbox.command(&command.split(' ').collect::<Vec<_>>());
        relative.env("HOME", "relative/home");
        let code = if command.starts_with("healthcheck") { 2 } else { 78 };
        one_fault(
            &finish(relative),
            code,
            &["HOME=relative/home is relative", "absolute path of a writable directory"],
        );
    }
    if nix::unistd::geteuid().is_root() {
        for home in [None, Some("")] {
            let mut unset = sandbox.command(&["init-db"]);
            match home {
                Some(home) => unset.env("HOME", home),
                None => unset.env_remove("HOME"),
            };
            one_fault(&finish(as_user_of_bots(&unset)), 78, &["HOME", "10001", "set HOME to a writable directory"]);
        }
    }
}

#[apply(test)]
fn init_db_reports_read_only_volume() {
    let sandbox = Sandbox::new();
    let script = "mount --bind \"$HOME\" \"$HOME\" && mount -o remount,bind,ro \"$HOME\" && exec \"$0\" \"$@\"";
    let refused = finish(in_mounts(script, &sandbox.command(&["init-db"])));
    let words = format!("{}/.bots", sandbox.home.path().display());
    one_fault(&refused, 78, &[&words, "Read-only file system", "mount a writable volume", "HOME"]);
}

#[apply(test)]
fn init_db_reports_volume_remounted_read_only() {
    let sandbox = Sandbox::new();
    sandbox.run(&["init-db"]).expect_code(0);
    let script = "dir=\"$HOME/.bots/env/default/botssys\"; mount --bind \"$dir\" \"$dir\" && \
                  mount -o remount,bind,ro \"$dir\" && exec \"$0\" \"$@\"";
    let refused = finish(in_mounts(script, &sandbox.command(&["init-db"])));
    let dir = sandbox.root().join("botssys").display().to_string();
    one_fault(&refused, 78, &[&format!("cannot write to {dir}"), "ead-only file system", "mount a writable volume"]);
}

#[apply(test)]
fn init_db_reports_full_volume_and_succeeds_after_resize() {
    let sandbox = Sandbox::new();
    let script = "
        mount -t tmpfs -o size=\"$SIZE\" tmpfs \"$HOME\" || exit 90
        \"$0\" \"$@\"; code=$?
        find \"$HOME\" -name '*.tmp' | grep . && exit 91
        mount -o remount,size=200m tmpfs \"$HOME\" || exit 92
        \"$0\" \"$@\" >/dev/null 2>&1 || exit 93
        exit $code";
    let started_with = |size: &str| {
        let mut command = in_mounts(script, &sandbox.command(&["init-db"]));
        command.env("SIZE", size);
        finish(command)
    };
    let root = sandbox.root().display().to_string();
    one_fault(&started_with("12k"), 78, &["No space left on device", "free space", &root]);
    // Enough for the files, and not for the database.
    one_fault(&started_with("100k"), 1, &["database or disk is full", &root]);
}

#[apply(test)]
fn init_db_rejects_config_directory_python_cannot_import() {
    let mut sandbox = Sandbox::new();
    sandbox.set("BOTS_CONFIG_DIR", "config");
    one_fault(&sandbox.run(&["init-db"]), 78, &["BOTS_CONFIG_DIR: \"config\" is invalid: expected an absolute path"]);
    let dotted = sandbox.home.path().join("env/my.config").display().to_string();
    sandbox.set("BOTS_CONFIG_DIR", dotted.clone());
    one_fault(&sandbox.run(&["init-db"]), 78, &[&dotted, "Python package", "BOTS_CONFIG_DIR"]);
    sandbox.set("BOTS_CONFIG_DIR", "/");
    one_fault(&sandbox.run(&["init-db"]), 78, &["Python package"]);
    assert!(!sandbox.home.path().join("env").exists());
    sandbox.set("BOTS_CONFIG_DIR", sandbox.home.path().join("env/my-config/").display().to_string());
    sandbox.run(&["init-db"]).expect_code(0);
    assert!(sandbox.home.path().join("env/usersys/__init__.py").exists());
}

#[apply(test)]
fn directories_that_path_cannot_name_are_rejected() {
    let mut sandbox = Sandbox::new();
    let config = sandbox.home.path().join("a:b/config").display().to_string();
    sandbox.set("BOTS_CONFIG_DIR", config.clone());
    let expected = format!("BOTS_CONFIG_DIR={config}: it must not contain ':', which separates directories in PATH");
    let commands: [&[&str]; 4] = [&["init-db"], &["config", "check"], &["engine"], &["exec", "--", "bots-engine"]];
    for command in commands {
        one_fault(&sandbox.run(command), 78, &[&expected]);
    }
    assert!(!sandbox.home.path().join("a:b").exists());

    sandbox.unset("BOTS_CONFIG_DIR");
    let programs = sandbox.home.path().join("c:d");
    symlink(bots_bin_dir(), &programs).expect("linked");
    sandbox.set("BOTS_BIN_DIR", programs.display().to_string());
    one_fault(&sandbox.run(&["exec", "--", "true"]), 78, &["BOTS_BIN_DIR=", "/c:d: it must not contain ':'"]);
}

#[apply(test)]
fn init_db_rejects_mount_point_as_config_directory() {
    let mut sandbox = Sandbox::new();
    give_to_user(sandbox.home.path());
    sandbox.set("BOTS_CONFIG_DIR", "/config");
    let refused = finish(as_user_of_bots(&sandbox.command(&["init-db"])));
    one_fault(&refused, 78, &["/config"]);
    if package().join("config").is_dir() {
        assert_words(&refused.stderr, &["BOTS_CONFIG_DIR=/config", "bots.config", "/srv/bots/config"]);
    }
}

#[apply(test)]
fn same_named_packages_on_pythonpath_are_never_imported() {
    let mut sandbox = Sandbox::new();
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    for name in ["config", "usersys"] {
        fs::create_dir(elsewhere.path().join(name)).expect("made");
        fs::write(elsewhere.path().join(name).join("__init__.py"), "").expect("written");
    }
    fs::write(elsewhere.path().join("config/settings.py"), own_settings()).expect("written");
    sandbox.set("PYTHONPATH", elsewhere.path().display().to_string());
    let started = sandbox.run(&["init-db"]);
    if started.code() != 0 {
        return one_fault(&started, 78, &[&elsewhere.path().display().to_string(), "PYTHONPATH"]);
    }
    let config_dir = sandbox.root().join("config").display().to_string();
    let question = "import sys; from bots import botsinit, botsglobal; botsinit.generalinit(sys.argv[1]); \
                    import usersys; from django.conf import settings; \
                    print(sys.modules[settings.SETTINGS_MODULE].__file__, usersys.__file__, \
                    botsglobal.ini.get('directories', 'usersysabs'), botsglobal.ini.get('directories', 'config'))";
    let answer = sandbox.run(&["exec", "--", "python", "-c", question, &config_dir]);
    answer.expect_code(0);
    let root = sandbox.root().display().to_string();
    for place in answer.stdout.split_whitespace() {
        assert!(place.starts_with(&root), "{place} in {}", answer.stdout);
    }
}

#[apply(test)]
fn mistyped_command_error_suggests_command() {
    let mut sandbox = Sandbox::new();
    sandbox.set("BOTS_CTL_ENTRYPOINT", "true");
    for (slip, meant) in [("websrver", "webserver"), ("healtcheck", "healthcheck"), ("initdb2", "initdb")] {
        let words = format!("there is no command and no program named {slip}; did you mean {meant}?");
        one_fault(&sandbox.run(&[slip]), 127, &[&words]);
        one_fault(&sandbox.run(&["help", slip]), 64, &[&format!("there is no command {slip}; did you mean {meant}?")]);
    }
    let words = "there is no command and no program named nosuchprogram; bots-ctl --help lists the commands";
    one_fault(&sandbox.run(&["nosuchprogram", "--flag"]), 127, &[words]);
    one_fault(&sandbox.run(&["exec", "--", "nosuchprogram"]), 127, &["nosuchprogram"]);
    let file = sandbox.home.path().join("file");
    fs::write(&file, "just text\n").expect("written");
    let file = file.display().to_string();
    one_fault(&sandbox.run(&["exec", "--", &file]), 126, &[&file]);
    one_fault(&sandbox.run(&[&file]), 126, &[&file]);
}

#[apply(test)]
fn error_messages_escape_control_characters() {
    let mut sandbox = Sandbox::new();
    let name = "no\nbots-ctl: forged \u{1b}[31m\u{9b}2J\u{202e}";
    let shown = r"no\nbots-ctl: forged \u{1b}[31m\u{9b}2J\u{202e}";
    one_fault(&sandbox.run(&["exec", "--", name]), 127, &[shown]);
    one_fault(&sandbox.run(&["up", "--services", name]), 64, &[shown]);
    sandbox.set("BOTS_BIN_DIR", format!("/opt/{name}"));
    one_fault(&sandbox.run(&["init-db"]), 78, &[shown]);
}

#[apply(test)]
fn secrets_appear_in_no_output_and_no_file() {
    const SECRETS: [&str; 3] =
        ["database-Pa55word", "django-Secr3t-key-of-fifty-characters-or-more-for-django", "superuser-Pa55word"];
    let mut outputs = Vec::new();
    let mut sandbox = Sandbox::new();
    for (name, secret) in ["DB_PASSWORD", "DJANGO_SECRET_KEY", "SUPERUSER_PASSWORD"].into_iter().zip(SECRETS) {
        sandbox.set(name, secret);
    }
    sandbox.set("LOG_LEVEL", "trace");
    for command in
        [&["config", "show"][..], &["config", "check"], &["init-db"], &["init-db"], &["healthcheck", "--standalone"]]
    {
        let done = sandbox.run(command);
        done.expect_code(0);
        outputs.push(done);
    }
    sandbox.set("DB_ENGINE", "mysql").set("DB_HOST", "127.0.0.1").set("DB_NAME", "edi").set("DB_USER", "bots");
    outputs.push(sandbox.run(&["init-db"]));
    sandbox.set("DB_ENGINE", "oracle");
    outputs.push(sandbox.run(&["init-db"]));
    sandbox.set("DB_PORT", "many").set("DB_PASSWORD_FILE", "/nowhere");
    outputs.push(sandbox.run(&["config", "show"]));
    for entry in WalkDir::new(sandbox.home.path()).into_iter().flatten().filter(|entry| entry.file_type().is_file()) {
        let content = fs::read(entry.path()).unwrap_or_default();
        let content = String::from_utf8_lossy(&content);
        assert!(!SECRETS.iter().any(|secret| content.contains(secret)), "a secret in {}", entry.path().display());
    }

    let [password, key, superuser] = SECRETS;
    for text in [
        format!(
            "[database]\npassword = \"{password}\"\n[django]\nsecret_key = [\"{key}\"]\n[superuser]\npasword = \"{superuser}\"\n"
        ),
        format!(
            "[database]\npassword = {password}\n[django]\nsecret_key = \"{key}\n[superuser]\npassword = \"{superuser}\"x\n"
        ),
    ] {
        let (sandbox, _) = with_toml(&text);
        let refused = sandbox.run(&["config", "show", "--log-level", "trace"]);
        refused.expect_code(78);
        outputs.push(refused);
    }
    for Finished { stdout, stderr, .. } in outputs {
        for secret in SECRETS {
            assert!(!stdout.contains(secret) && !stderr.contains(secret), "{secret} in\n{stdout}\n{stderr}");
        }
    }
}

#[apply(test)]
fn job_commands_report_unreachable_queue() {
    let mut sandbox = Sandbox::new();
    let place = format!("127.0.0.1:{}", free_port());
    sandbox.set("BOTS_CTL_JOBQUEUE_URL", format!("http://{place}"));
    let commands: [&[&str]; 4] =
        [&["job", "add", "bots-engine"], &["job", "list"], &["job", "clear"], &["job", "show", "1"]];
    for command in commands {
        one_fault(&sandbox.run(command), 69, &[&format!("cannot reach the job queue on {place}")]);
    }
    for wrong in [&["job", "add"][..], &["job", "add", "-p", "10", "x"], &["job", "show", "0"], &["job", "show"]] {
        sandbox.run(wrong).expect_code(64);
    }
    sandbox.set("BOTS_CTL_JOBQUEUE_URL", "bots-jobqueue:28083");
    one_fault(&sandbox.run(&["job", "list"]), 78, &["BOTS_CTL_JOBQUEUE_URL", "http://bots-jobqueue:28083"]);
    assert!(!sandbox.home.path().join(".bots").exists());
}

#[apply(test)]
fn start_reports_missing_database_directory() {
    let mut sandbox = Sandbox::new();
    let missing = sandbox.home.path().join("nowhere");
    sandbox.set("DB_NAME", missing.join("botsdb").display().to_string());
    let place = format!("the directory {} does not exist", missing.display());
    one_fault(&sandbox.run(&["init-db"]), 1, &[&place, "DB_NAME"]);
    one_fault(&sandbox.run(&["webserver"]), 69, &[&place, "DB_NAME"]);
}

/// Replaces a file with a special file, and returns the expected message.
fn put_special(kind: &str, path: &Path) -> &'static str {
    let _ = fs::remove_file(path);
    match kind {
        "FIFO" => {
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("made");
            "it is a FIFO, not a regular file"
        }
        "device" => {
            symlink("/dev/zero", path).expect("linked");
            "it is a device, not a regular file"
        }
        "link" => {
            symlink("/nowhere/file", path).expect("linked");
            "it is a symbolic link to /nowhere/file, which does not exist"
        }
        _ => {
            fs::File::create(path).and_then(|file| file.set_len(300 << 20)).expect("made");
            "the file has 300 MiB; the limit is 16 MiB"
        }
    }
}

#[apply(test)]
fn init_db_rejects_special_and_oversized_input_files() {
    for kind in ["FIFO", "device", "link", "large"] {
        let mut sandbox = Sandbox::prepared();
        let file = sandbox.home.path().join("special");
        let said = put_special(kind, &file);
        let path = file.display().to_string();
        sandbox.set("BOTS_CTL_CONFIG", &path);
        one_fault(&sandbox.run(&["init-db"]), 78, &[&path, said]);
        sandbox.unset("BOTS_CTL_CONFIG").set("DB_PASSWORD_FILE", &path);
        let said_of_secret = if kind == "large" { "larger than 64 KiB" } else { said };
        one_fault(&sandbox.run(&["init-db"]), 78, &["DB_PASSWORD_FILE", &path, said_of_secret]);
        sandbox.unset("DB_PASSWORD_FILE");
        let source = sandbox.home.path().join("mounted");
        fs::create_dir(&source).expect("made");
        put_special(kind, &source.join("partners.csv"));
        sandbox.set("BOTS_CTL_CONFIG_SOURCE", source.display().to_string());
        one_fault(&sandbox.run(&["init-db"]), 78, &["mounted/partners.csv", said]);
        sandbox.unset("BOTS_CTL_CONFIG_SOURCE");
        for name in ["settings.py", "bots.ini"] {
            put_special(kind, &sandbox.root().join("config").join(name));
            one_fault(&sandbox.run(&["init-db"]), 78, &[name, said]);
        }
    }
}

/// What bots-ctl keeps of Bots's settings is read by the thread that receives signals.
#[apply(test)]
fn init_db_ignores_special_file_as_settings_cache() {
    for kind in ["FIFO", "device"] {
        let sandbox = Sandbox::prepared();
        put_special(kind, &sandbox.root().join(".bots-ctl-settings-cache.json"));
        sandbox.run(&["init-db"]).expect_code(0);
    }
}
