//! Which processes receive a secret in a running system, and where none may appear.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::process::write_program;
use crate::support::queue::add_with;
use crate::support::queue::with_queue;
use crate::support::sandbox::{Running, Sandbox, free_port, wait_until};

/// The secrets of every process of Bots, since settings.py reads them.
const OF_BOTS: [(&str, &str); 2] = [
    ("DB_PASSWORD", "database-Pa55word"),
    ("DJANGO_SECRET_KEY", "django-Secr3t-key-of-more-than-fifty-characters-for-django"),
];

/// What bots-ctl keeps to itself. The URL is that of SQLite, which takes no password.
const OURS: [(&str, &str); 3] = [
    ("SUPERUSER_PASSWORD", "superuser-Pa55word"),
    ("BOTS_CTL_JOBQUEUE_TOKEN", "token-that-nobody-knows"),
    ("BOTS_CTL_DATABASE_URL", "sqlite:///DATABASE"),
];

/// A task, and an engine, that writes down its environment.
const TELLING: &str = "#!/bin/sh\nenv > \"FILE.part\" && mv \"FILE.part\" \"FILE\"\n";

/// Writes the same in settings.py, for each process that loads it.
const TELLING_SETTINGS: &str = "
import os
with open('FILE-%d' % os.getpid(), 'w') as _file:
    _file.writelines('%s=%s\\n' % variable for variable in os.environ.items())
";

/// A system with a secret of each kind: those of Bots in files, and the others in variables.
fn with_secrets() -> (Sandbox, u16) {
    let (mut sandbox, _) = with_queue();
    let (home, network_port) = (sandbox.home.path().to_owned(), free_port());
    for name in ["job", "engine"] {
        let script = TELLING.replace("FILE", &home.join(format!("seen-by-{name}")).display().to_string());
        match name {
            "job" => write_program(&home.join("task"), &script, 0o755),
            _ => drop(sandbox.stand_in("bots-engine", &script)),
        }
    }
    let settings = sandbox.root().join("config/settings.py");
    let telling = TELLING_SETTINGS.replace("FILE", &home.join("seen-by-settings").display().to_string());
    let text = fs::read_to_string(&settings).expect("it is there");
    fs::write(&settings, text.replacen("\nimport os\n", &telling, 1)).expect("written");
    sandbox.set_ini("jobqueue", "authorized_tasks", &home.join("task").display().to_string());
    for (name, value) in OF_BOTS {
        fs::write(home.join(name), format!("{value}\n")).expect("written");
        sandbox.set(&format!("{name}_FILE"), home.join(name).display().to_string());
    }
    let database = sandbox.root().join("botssys/sqlitedb/botsdb").display().to_string();
    for (name, value) in OURS {
        sandbox.set(name, value.replace("/DATABASE", &database));
    }
    sandbox.set("BOTS_CTL_JOBQUEUE_ADDR", format!("127.0.0.1:{network_port}"));
    sandbox.set("LOG_LEVEL", "trace");
    (sandbox, network_port)
}

#[apply(test)]
fn secrets_reach_only_processes_that_need_them() {
    let (sandbox, network_port) = with_secrets();
    let mut up = sandbox.start(&["up", "--services", "webserver,jobqueue"]);
    up.wait_ready();
    let web = up.descendants().into_iter().find(|(_, command)| command.contains("bots-webserver")).expect("it runs").0;
    expect_needed_alone("the web UI", &fs::read(format!("/proc/{web}/environ")).expect("it runs"), 0);

    let (token, task) = (OURS[1].1, sandbox.home.path().join("task").display().to_string());
    for (name, words) in [("job", vec![task.as_str()]), ("engine", vec!["bots-engine", "--new"])] {
        assert_eq!(add_with(token, network_port, &words, 5).as_deref(), Some("0"), "{}", up.report());
        expect_needed_alone(name, &seen(sandbox.home.path(), name, &up), b'\n');
    }
    let all = fs::read_dir(sandbox.home.path()).expect("readable").flatten();
    let settings = all.filter(|entry| entry.file_name().to_string_lossy().starts_with("seen-by-settings"));
    let settings: Vec<Vec<u8>> = settings.map(|entry| fs::read(entry.path()).expect("readable")).collect();
    assert!(settings.len() > 1, "that of the start, and the web UI");
    settings.iter().for_each(|seen| expect_needed_alone("settings.py", seen, b'\n'));
    // As a person starts one.
    fs::remove_file(sandbox.home.path().join("seen-by-engine")).expect("it was there");
    let exec = sandbox.run(&["exec", "--", "sh", "-c", "env; bots-engine --new"]);
    exec.expect_code(0);
    expect_needed_alone("an engine of exec", &seen(sandbox.home.path(), "engine", &up), b'\n');
    let given = variables(exec.stdout.as_bytes(), b'\n');
    assert!(OF_BOTS.iter().chain(&OURS[..2]).all(|(name, value)| given.get(*name).is_some_and(|is| is == value)));

    expect_shown_nowhere(&sandbox, &up);
    up.signal(Signal::SIGTERM);
    assert_eq!(up.wait_code(), 0, "{}", up.report());
    expect_in_none(&[("the log", up.report())]);
}

/// The environment that a process has written down.
fn seen(home: &Path, name: &str, running: &Running) -> Vec<u8> {
    let file = home.join(format!("seen-by-{name}"));
    wait_until(&format!("{name} runs"), || fs::read(&file).ok(), || running.report())
}

fn variables(environment: &[u8], end: u8) -> BTreeMap<String, String> {
    let lines = environment.split(|byte| *byte == end).map(String::from_utf8_lossy);
    lines.filter_map(|line| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))).collect()
}

/// The secrets of Bots are there, by their values alone, and no other.
fn expect_needed_alone(who: &str, environment: &[u8], end: u8) {
    let found = variables(environment, end);
    for (name, value) in OF_BOTS {
        assert_eq!(found.get(name).map(String::as_str), Some(value), "{who} needs {name}");
        assert!(!found.contains_key(&format!("{name}_FILE")), "{who} would have two answers for {name}");
    }
    for (name, value) in OURS {
        let is_there = found.contains_key(name) || found.contains_key(&format!("{name}_FILE"));
        assert!(!is_there && !found.values().any(|other| other == value), "{who} has {name}");
    }
}

/// Not in an argument, and not in any response of the listener.
fn expect_shown_nowhere(sandbox: &Sandbox, up: &Running) {
    let mut shown = up.descendants();
    let own = fs::read(format!("/proc/{}/cmdline", up.pid())).expect("it runs");
    shown.push((up.pid(), String::from_utf8_lossy(&own).into_owned()));
    let mut shown: Vec<(&str, String)> = shown.into_iter().map(|(_, command)| ("an argument", command)).collect();
    for path in ["/", "/status", "/metrics", "/health/live", "/health/ready", "/health/startup"] {
        let answer = up.health(path).expect("it listens");
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        shown.push((path, answer.head + &answer.body));
    }
    for command in [&["config", "show"][..], &["status"], &["job", "list"]] {
        let done = sandbox.run(command);
        shown.push(("a command", done.expect_code(0).stdout.clone() + &done.stderr));
    }
    expect_in_none(&shown);
}

fn expect_in_none(shown: &[(&str, String)]) {
    for (place, text) in shown {
        for (name, secret) in OF_BOTS.iter().chain(&OURS[..2]) {
            assert!(!text.contains(secret), "{name} is in {place}:\n{text}");
        }
    }
}
