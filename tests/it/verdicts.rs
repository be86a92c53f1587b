//! A check, a start and a reload are one judgement: a list of broken configurations, in `tests/fixtures/broken_configurations.toml`,
//! gets the same faults from each, and nothing is written.

use std::collections::BTreeMap;
use std::fs;

use bots_ctl::pycompat::configparser::set_value;
use serde::Deserialize;

use crate::support::bots::{is_bots_3, own_settings};
use crate::support::mounted::{Mount, status, wait_refused};
use crate::support::sandbox::{Finished, Sandbox, assert_same_tree, some_or_all, tree_state, wait_until};

/// Every command that runs Bots with the configuration.
const STARTS: [&[&str]; 6] =
    [&["webserver"], &["jobqueue"], &["dirmonitor"], &["engine", "--new"], &["init-db"], &["up"]];

/// Commands that look and change nothing.
const LOOKS: [&[&str]; 2] = [&["init-db", "--check"], &["dirmonitor", "--dry-run"]];

#[derive(Deserialize)]
struct Cases {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(default)]
    ini: BTreeMap<String, String>,
    ini_text: Option<String>,
    settings: Option<String>,
    toml: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    words: Vec<String>,
    bots: Option<u8>,
}

impl Case {
    /// Those for this version of Bots.
    fn all() -> Vec<Self> {
        let text = include_str!("../fixtures/broken_configurations.toml");
        let Cases { case } = toml::from_str(text).expect("the list can be read");
        let version = if is_bots_3() { 3 } else { 4 };
        case.into_iter().filter(|case| case.bots.is_none_or(|bots| bots == version)).collect()
    }

    /// The mounted files.
    fn files(&self, sandbox: &Sandbox) -> Vec<(&'static str, String)> {
        let mut files = Vec::new();
        if let Some(text) = &self.ini_text {
            files.push(("bots.ini", text.clone()));
        } else if !self.ini.is_empty() {
            let text = fs::read_to_string(sandbox.root().join("config/bots.ini")).expect("there is one");
            let changed = self.ini.iter().fold(text, |text, (name, value)| {
                let (section, key) = name.split_once('.').expect("a section and a key");
                set_value(&text, section, key, value).expect("it can be set")
            });
            files.push(("bots.ini", changed));
        }
        files.extend(self.settings.iter().map(|line| ("settings.py", format!("{}{line}\n", own_settings()))));
        files.extend(self.toml.iter().map(|text| ("bots-ctl.toml", text.clone())));
        files
    }

    fn mount(&self, mount: &Mount, sandbox: &Sandbox) {
        let files = self.files(sandbox);
        for name in ["bots.ini", "settings.py", "bots-ctl.toml"] {
            let _ = fs::remove_file(mount.file(name));
        }
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        mount.mount(&files);
    }
}

/// An environment in which all services are in use.
fn sandbox() -> (Sandbox, Mount) {
    let mut sandbox = Sandbox::prepared();
    sandbox.set_ini("jobqueue", "enabled", "True");
    sandbox.run(&["init-db"]).expect_code(0);
    let mount = Mount::of(&mut sandbox);
    sandbox.set("LOG_LEVEL", "info");
    (sandbox, mount)
}

fn faults(refused: &Finished) -> Vec<String> {
    refused.stderr.lines().filter(|line| line.starts_with("bots-ctl: ")).map(str::to_owned).collect()
}

#[apply(test)]
fn start_rejects_what_config_check_rejects() {
    let cases = Case::all();
    assert!(cases.len() >= 40, "{}", cases.len());
    for (index, case) in cases.iter().enumerate() {
        let (mut sandbox, mount) = sandbox();
        case.mount(&mount, &sandbox);
        for (name, value) in &case.env {
            sandbox.set(name, value.clone());
        }
        let home = sandbox.home.path().join(".bots");
        let before = tree_state(&home);
        let checked = sandbox.run(&["config", "check"]);
        assert_eq!(checked.status.code(), Some(78), "without {:?}: {checked:?}", case.words);
        let expected = faults(&checked);
        for words in &case.words {
            assert!(expected.iter().any(|fault| fault.contains(words)), "no {words:?} in {expected:#?}");
        }
        // Each start takes a second.
        let starts = STARTS.iter().chain(&LOOKS);
        let count = some_or_all(usize::from(index % 3 == 0), STARTS.len() + LOOKS.len());
        for start in starts.cycle().skip(index / 3).take(count) {
            let refused = sandbox.run(start);
            assert_eq!(
                (refused.status.code(), faults(&refused)),
                (Some(78), expected.clone()),
                "{start:?}\n{refused:?}"
            );
        }
        assert_same_tree(&home, &before);
    }
}

#[apply(test)]
fn reload_rejects_what_config_check_rejects() {
    let (sandbox, mount) = sandbox();
    let running = sandbox.start(&["up"]);
    let is_ready = || running.health("/health/ready").is_some_and(|answer| answer.status == 200).then_some(());
    wait_until("all are ready", is_ready, || running.report());
    let web =
        || status(&running)["services"].as_array()?.iter().find(|one| one["name"] == "webserver")?["pid"].as_i64();
    let before = web();
    let files = || ["bots.ini", "settings.py"].map(|name| fs::read(sandbox.root().join("config").join(name)).ok());
    let config = files();
    let cases = Case::all();
    for case in cases.iter().filter(|case| case.env.is_empty()) {
        case.mount(&mount, &sandbox);
        for words in &case.words {
            wait_refused(&running, words);
        }
        assert!(files() == config, "it was written");
    }
    assert_eq!(web(), before, "{}", running.report());
}

#[apply(test)]
fn read_only_commands_write_nothing() {
    let (sandbox, mount) = sandbox();
    mount.mount(&[("bots.ini", &fs::read_to_string(sandbox.root().join("config/bots.ini")).expect("there is one"))]);
    let fresh = Sandbox::new();
    for sandbox in [&sandbox, &fresh] {
        let home = sandbox.home.path().join(".bots");
        let before = tree_state(&home);
        for look in LOOKS.iter().chain([&["config", "check"][..], &["status"], &["healthcheck"]].iter()) {
            sandbox.run(look);
            assert_same_tree(&home, &before);
        }
    }
}
