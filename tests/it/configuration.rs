//! `config show`, `config check`, help, completions, and the documentation of settings.

use std::fs;
use std::process::Command;

use bots_ctl::pycompat::configparser::set_value;
use serde_json::Value;

use crate::support::bots::{is_bots_3, own_settings, package};
use crate::support::process::finish;
use crate::support::sandbox::{Sandbox, assert_same_tree, tree_state};
use crate::support::users::{as_user_of_bots, give_to_user};

/// Runs `config check` and verifies that HOME is unchanged.
fn check_changes_nothing(sandbox: &Sandbox) {
    let before = tree_state(sandbox.home.path());
    let checked = finish(sandbox.command(&["config", "check"]));
    checked.expect_code(0);
    assert!(checked.stdout.ends_with("the configuration is valid\n"), "{checked:?}");
    assert_same_tree(sandbox.home.path(), &before);
}

/// The line of `config show` about a key, in words.
fn shown(output: &str, key: &str) -> Vec<String> {
    let line = output.lines().find(|line| line.split_whitespace().next() == Some(key));
    line.unwrap_or_else(|| panic!("no {key} in\n{output}")).split_whitespace().map(str::to_owned).collect()
}

#[apply(test)]
fn config_show_names_origin_of_each_value() {
    let mut sandbox = Sandbox::new();
    let toml = sandbox.home.path().join("my.toml");
    let text = "[stop]\ndrain = \"7s\"\n[health]\ninterval = 3\n[django]\nallowed_hosts = [\"a\", \"b\"]\n[database]\npassword_file = \"PW\"\n";
    fs::write(sandbox.home.path().join("pw"), "hush\n").expect("written");
    fs::write(&toml, text.replace("PW", &sandbox.home.path().join("pw").display().to_string())).expect("written");
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "9s").set("DJANGO_SECRET_KEY", "hush-hush");
    let args = ["config", "show", "--config", &toml.display().to_string(), "--log-level", "debug"];
    let done = sandbox.run(&args);
    done.expect_code(0);
    let toml = toml.display();
    let pw = sandbox.home.path().join("pw").display().to_string();
    let expected = [
        ("stop.drain", format!("7s {toml}:2")),
        ("health.interval", format!("3 {toml}:4")),
        ("django.allowed_hosts", format!("a,b {toml}:6")),
        ("stop.timeout", "9s environment BOTS_CTL_STOP_TIMEOUT".to_owned()),
        ("django.secret_key", "(hidden) environment DJANGO_SECRET_KEY".to_owned()),
        ("database.password", format!("(hidden) database.password_file = {pw}")),
        ("log.level", "debug --log-level".to_owned()),
        ("environment.name", "default default".to_owned()),
        ("database.host", "- default".to_owned()),
        ("superuser.password", "- default".to_owned()),
    ];
    for (key, words) in expected {
        assert_eq!(shown(&done.stdout, key)[1..].join(" "), words, "{key}");
    }
    assert!(!done.stdout.contains("hush"), "{}", done.stdout);
}

#[apply(test)]
fn config_show_includes_values_of_bots_ini() {
    let mut sandbox = Sandbox::new();
    sandbox.set("PORT", "");
    sandbox.run(&["config", "show", "webserver.port"]).expect_code(0);
    let sandbox_ini = sandbox.root().join("config/bots.ini");
    fs::create_dir_all(sandbox_ini.parent().expect("it has one")).expect("made");
    let ini = "[settings]\nmaxdays = 42\n[webserver]\nport = 22301\n[mine]\nftp_password = hush\nforged = a\n  b\nmenu_changepassword = True\n[sftp]\npassphrase = hush\npwd = hush\napi_key = hush\nprivate_key = hush\nurl = ftp://me:hush@host/in\n";
    fs::write(&sandbox_ini, ini).expect("written");
    let place = sandbox_ini.display();
    let shown_all = sandbox.run(&["config", "show"]).expect_code(0).stdout.clone();
    for (key, words) in [
        ("webserver.port", format!("22301 {place}:4")),
        ("bots.ini:webserver.port", format!("22301 {place}:4")),
        ("bots.ini:settings.maxdays", format!("42 {place}:2")),
        ("bots.ini:mine.ftp_password", format!("(hidden) {place}:6")),
        ("bots.ini:mine.forged", format!("a\\nb {place}:7")),
        ("bots.ini:mine.menu_changepassword", format!("True {place}:9")),
        ("bots.ini:sftp.passphrase", format!("(hidden) {place}:11")),
        ("bots.ini:sftp.url", format!("ftp://(hidden)@host/in {place}:15")),
    ] {
        assert_eq!(shown(&shown_all, key)[1..].join(" "), words, "{key}");
    }
    let json = sandbox.run(&["config", "show", "--json"]).expect_code(0).stdout.clone();
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["webserver.port"], serde_json::json!({"value": "22301", "origin": format!("{place}:4")}));
    assert_eq!(json["database.host"], serde_json::json!({"value": null, "origin": "default"}));
    assert!(!json.to_string().contains("hush"), "{json}");

    let mount = tempfile::tempdir().expect("a temporary directory");
    fs::write(mount.path().join("bots.ini"), "[webserver]\nport = 22302\n").expect("written");
    sandbox.set("BOTS_CTL_CONFIG_SOURCE", mount.path().display().to_string());
    let one = |sandbox: &Sandbox, key: &str| sandbox.run(&["config", "show", key]).expect_code(0).stdout.clone();
    assert_eq!(one(&sandbox, "webserver.port"), "22302\n");
    sandbox.set("PORT", "22303");
    assert_eq!(one(&sandbox, "PORT"), "22303\n");
    let unknown = sandbox.run(&["config", "show", "webserver.prot"]);
    unknown.expect_code(64);
    assert!(unknown.stderr.contains("did you mean webserver.port?"), "{}", unknown.stderr);
    fs::write(mount.path().join("bots.ini"), "port = 22302\n").expect("written");
    sandbox.run(&["config", "show"]).expect_code(78);
}

#[apply(test)]
fn flags_override_environment_and_file() {
    let mut sandbox = Sandbox::new();
    let dir = sandbox.home.path().join(".bots");
    fs::create_dir(&dir).expect("made");
    fs::write(
        dir.join("bots-ctl.toml"),
        "[log]\nlevel = \"error\"\n[environment]\nconfig_dir = \"/srv/toml/config\"\n",
    )
    .expect("written");
    let show = |sandbox: &Sandbox, flags: &[&str]| {
        let done = sandbox.run(&[&["config", "show"], flags].concat());
        done.expect_code(0);
        ["log.level", "environment.config_dir"].map(|key| shown(&done.stdout, key)[1].clone())
    };
    assert_eq!(show(&sandbox, &[]), ["error", "/srv/toml/config"]);
    sandbox.set("LOG_LEVEL", "warn").set("BOTS_CONFIG_DIR", "/srv/variable/config");
    assert_eq!(show(&sandbox, &[]), ["warn", "/srv/variable/config"]);
    assert_eq!(
        show(&sandbox, &["--log-level", "debug", "--config-dir", "/srv/flag/config"]),
        ["debug", "/srv/flag/config"]
    );
    sandbox.unset("LOG_LEVEL").unset("BOTS_CONFIG_DIR");
    fs::remove_file(dir.join("bots-ctl.toml")).expect("there");
    sandbox.set("BOTSENV", "second");
    let config_dir = sandbox.home.path().join(".bots/env/second/config").display().to_string();
    assert_eq!(show(&sandbox, &[]), ["info", &config_dir]);
}

#[apply(test)]
fn mounted_bots_ctl_toml_overrides_file_in_home() {
    let mut sandbox = Sandbox::new();
    let mount = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(sandbox.home.path().join(".bots")).expect("made");
    fs::write(sandbox.home.path().join(".bots/bots-ctl.toml"), "[log]\nlevel = \"error\"\n").expect("written");
    fs::write(mount.path().join("bots-ctl.toml"), "[log]\nlevel = \"warn\"\n").expect("written");
    sandbox.set("BOTS_CTL_CONFIG_SOURCE", mount.path().display().to_string());
    let done = sandbox.run(&["config", "show"]);
    let place = format!("{}:2", mount.path().join("bots-ctl.toml").display());
    assert_eq!(shown(&done.stdout, "log.level")[1..], ["warn".to_owned(), place]);
}

#[apply(test)]
fn config_check_reports_errors_of_all_layers() {
    let mut sandbox = Sandbox::new();
    let toml = sandbox.home.path().join("my.toml");
    fs::write(&toml, "[stop]\ndrain = \"soon\"\ntimout = \"1s\"\n").expect("written");
    sandbox.set("BOTS_CTL_HEALTH_ADDR", "here").set("DB_PORT", "tcp://10.0.0.1:3306").set("BOTSENV", "../up");
    let refused = sandbox.run(&["config", "check", "--config", &toml.display().to_string(), "--log-level", "loud"]);
    refused.expect_code(78);
    let (drain, timeout) =
        (format!("{}:2: stop.drain", toml.display()), format!("{}:3: unknown key stop.timout", toml.display()));
    for words in [
        &drain,
        &timeout,
        "stop.timeout?",
        "BOTS_CTL_HEALTH_ADDR",
        "DB_PORT",
        "enableServiceLinks",
        "BOTSENV",
        "--log-level",
    ] {
        assert!(refused.stderr.contains(words), "no {words:?} in\n{}", refused.stderr);
    }
    assert_eq!(refused.stderr.lines().count(), 6, "{}", refused.stderr);
}

#[apply(test)]
fn config_check_creates_nothing_in_empty_home() {
    check_changes_nothing(&Sandbox::new());
}

#[apply(test)]
fn config_check_changes_nothing_in_used_home() {
    let sandbox = Sandbox::new();
    sandbox.run(&["init-db"]).expect_code(0);
    check_changes_nothing(&sandbox);
    // The files that Bots creates at every start.
    for name in ["data", "logging"] {
        let _ = fs::remove_dir_all(sandbox.root().join("botssys").join(name));
    }
    check_changes_nothing(&sandbox);
}

#[apply(test)]
fn config_check_changes_nothing_in_user_usersys() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.root().join("usersys/mappings")).expect("made");
    fs::write(sandbox.root().join("usersys/mappings/mine.py"), "MINE = 1\n").expect("written");
    check_changes_nothing(&sandbox);
}

#[apply(test)]
fn config_check_keeps_empty_usersys_empty() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.root().join("usersys")).expect("made");
    check_changes_nothing(&sandbox);
}

#[apply(test)]
fn config_check_keeps_relocated_usersys_empty() {
    let sandbox = Sandbox::new();
    let (config, elsewhere) = (sandbox.root().join("config"), sandbox.home.path().join("elsewhere"));
    fs::create_dir_all(&config).expect("made");
    fs::create_dir_all(&elsewhere).expect("made");
    fs::create_dir_all(sandbox.root().join("mine")).expect("made");
    let template = fs::read_to_string(package().join("install/bots.ini")).expect("Bots ships a template");
    // Bots 3 cannot import an absolute one.
    let absolute = (!is_bots_3()).then(|| elsewhere.display().to_string());
    for place in ["mine".to_owned()].into_iter().chain(absolute) {
        let text = set_value(&template, "directories", "usersys", &place).expect("it can be set");
        fs::write(config.join("bots.ini"), text).expect("written");
        check_changes_nothing(&sandbox);
    }
}

#[apply(test)]
fn failed_config_check_of_user_changes_nothing() {
    let sandbox = Sandbox::new();
    give_to_user(sandbox.home.path());
    finish(as_user_of_bots(&sandbox.command(&["init-db"]))).expect_code(0);
    check_changes_nothing(&sandbox);
    let made = fs::read_to_string(sandbox.root().join("config/settings.py")).expect("it was made");
    let faulty = format!("FIRST = 1\n{made}").replace("# >>> bots-ctl", "import nothing_of_that_name\n# >>> bots-ctl");
    fs::write(sandbox.root().join("config/settings.py"), &faulty).expect("written");
    let before = tree_state(sandbox.home.path());
    finish(as_user_of_bots(&sandbox.command(&["config", "check"]))).expect_code(78);
    assert_same_tree(sandbox.home.path(), &before);
}

#[apply(test)]
fn config_check_reports_settings_and_bots_ini_errors_together() {
    let sandbox = Sandbox::new();
    let config = sandbox.root().join("config");
    fs::create_dir_all(&config).expect("made");
    let template = fs::read_to_string(package().join("install/bots.ini")).expect("Bots ships a template");
    let line = template.lines().position(|line| line == "port = 28081").expect("it is there") + 1;
    fs::write(config.join("bots.ini"), template.replace("port = 28081", "port = many")).expect("written");
    fs::write(config.join("settings.py"), "import os\nimport nothing_of_that_name\n").expect("written");
    let refused = finish(sandbox.command(&["config", "check"]));
    refused.expect_code(78);
    let ini = format!("bots-ctl: {}:{line}: [settings] port = many", config.join("bots.ini").display());
    let settings = format!("bots-ctl: {}:2: ModuleNotFoundError", config.join("settings.py").display());
    for words in [&ini, &settings] {
        assert!(refused.stderr.contains(words), "no {words:?} in\n{}", refused.stderr);
    }
}

#[apply(test)]
fn config_check_errors_name_original_paths() {
    let sandbox = Sandbox::new();
    let config = sandbox.root().join("config");
    fs::create_dir_all(&config).expect("made");
    for (name, text, place) in [
        ("settings.py", "A = 1\nB = (\n", "settings.py:2: SyntaxError"),
        (
            "settings.py",
            "from config.local import B\n",
            "settings.py:1: ModuleNotFoundError: No module named 'config.local'",
        ),
        ("bots.ini", "[settings]\nport 1\n x\nport = 1\nport = 1\n", "bots.ini:5: "),
    ] {
        fs::write(config.join(name), text).expect("written");
        let refused = finish(sandbox.command(&["config", "check"]));
        refused.expect_code(78);
        let words = format!("bots-ctl: {}/{place}", config.display());
        assert!(refused.stderr.contains(&words), "no {words:?} in\n{}", refused.stderr);
        fs::remove_file(config.join(name)).expect("there");
    }
}

/// It would be news to the user, and wrong: nothing of theirs was made.
#[apply(test)]
fn config_check_output_omits_temporary_copy() {
    let sandbox = Sandbox::new();
    let valid = finish(sandbox.command(&["config", "check"]));
    valid.expect_code(0);
    assert_eq!(valid.stderr, "");
    fs::create_dir_all(sandbox.root().join("config")).expect("made");
    fs::write(sandbox.root().join("config/settings.py"), "import nothing_of_that_name\n").expect("written");
    let refused = finish(sandbox.command(&["config", "check"]));
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
}

#[apply(test)]
fn config_check_accepts_configuration_that_starts() {
    let sandbox = Sandbox::new();
    let config = sandbox.root().join("config");
    fs::create_dir_all(config.join("extra")).expect("made");
    fs::write(config.join("extra/__init__.py"), "").expect("written");
    fs::write(config.join("extra/values.py"), "ZONE = 'Asia/Tokyo'\n").expect("written");
    fs::write(config.join("settings.py"), own_settings() + "from config.extra.values import ZONE as TIME_ZONE\n")
        .expect("written");
    sandbox.run(&["init-db"]).expect_code(0);
    check_changes_nothing(&sandbox);
}

#[apply(test)]
fn completion_scripts_pass_syntax_check_of_shells() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish"] {
        let done = sandbox.run(&["completions", shell]);
        done.expect_code(0);
        assert!(done.stdout.contains("bots-ctl") && done.stdout.contains("healthcheck"), "{}", done.stdout);
        assert_eq!(done.stderr, "");
        let script = sandbox.home.path().join(shell);
        fs::write(&script, done.stdout).expect("written");
        if let Ok(checked) = Command::new(shell).arg("-n").arg(&script).output() {
            assert!(checked.status.success(), "{shell}: {}", String::from_utf8_lossy(&checked.stderr));
        }
    }
    assert!(!sandbox.home.path().join(".bots").exists());
}

#[apply(test)]
fn man_output_has_pages_for_commands_and_subcommands() {
    let manual = Sandbox::new().run(&["completions", "man"]);
    manual.expect_code(0);
    for page in ["bots-ctl", "bots-ctl-engine", "bots-ctl-init-db", "bots-ctl-job-add", "bots-ctl-config-check"] {
        assert!(manual.stdout.contains(&format!(".TH {page} 1")), "{page} is not in {}", manual.stdout);
    }
}

#[apply(test)]
fn every_command_has_help_with_an_example() {
    let sandbox = Sandbox::new();
    let overview = sandbox.run(&["--help"]);
    overview.expect_code(0);
    let listed = overview.stdout.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let listed =
        listed.take_while(|line| !line.is_empty()).filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let mut commands: Vec<Vec<&str>> = listed.filter_map(|line| Some(vec![line.split_whitespace().next()?])).collect();
    assert!(commands.len() >= 14, "{commands:?}");
    commands.retain(|command| *command != ["shell"]);
    commands.extend([
        vec!["config", "show"],
        vec!["config", "check"],
        vec!["job", "add"],
        vec!["job", "list"],
        vec!["job", "clear"],
        vec!["job", "show"],
    ]);
    let helps = commands.iter().map(|command| (command.join(" "), sandbox.run(&[&command[..], &["--help"]].concat())));
    let without: Vec<String> = helps
        .filter(|(_, help)| help.code() != 0 || !is_help(&help.stdout))
        .map(|(command, help)| format!("{command}: {}{}", help.stdout, help.stderr))
        .collect();
    assert!(without.is_empty(), "no help with an example:\n{}", without.join("\n"));
    assert!(!sandbox.home.path().join(".bots").exists());
}

fn is_help(text: &str) -> bool {
    let has_example = ["Example:\n  bots-ctl ", "Examples:\n  bots-ctl "].iter().any(|start| text.contains(start));
    text.contains("Usage: bots-ctl") && has_example
}

#[apply(test)]
fn shell_command_has_help_with_example() {
    let help = Sandbox::new().run(&["shell", "--help"]);
    help.expect_code(0);
    assert!(is_help(&help.stdout), "{}", help.stdout);
}

#[apply(test)]
fn help_overview_lists_all_exit_codes() {
    let sandbox = Sandbox::new();
    let overview = sandbox.run(&["--help"]).stdout;
    let words: Vec<&str> = overview.split_whitespace().collect();
    for code in bots_ctl::exit::Kind::ALL.map(|kind| kind.code().to_string()) {
        assert!(words.contains(&code.as_str()), "{code} is not in\n{overview}");
    }
}
