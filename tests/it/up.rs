//! `up` and `status`: several services in one process tree.

use std::fs;

use nix::sys::signal::{Signal, kill};

use crate::support::needs::{Need, needs, without_network};
use crate::support::queue::with_queue;
use crate::support::sandbox::{Running, Sandbox, bots_bin_dir, processes_with, wait_gone, wait_until};

const SERVICES: &str = "engine,dirmonitor,webserver,jobqueue";

#[apply(test)]
fn services_start_in_order_and_stop_in_reverse() {
    let (mut sandbox, _) = with_queue();
    sandbox.set("BOTS_CTL_UP_SERVICES", SERVICES).set("BOTS_CTL_DRAIN", "100ms").set("LOG_LEVEL", "debug");
    let mut up = sandbox.start(&["up"]);
    up.wait_ready();
    let ready = up.health("/health/ready").expect("it listens").body;
    assert!(ready.contains("\"jobqueue\":true,\"webserver\":true,\"dirmonitor\":true"), "{ready}");
    assert!(up.health("/health/live").expect("it listens").body.contains("\"engine\":true"));
    up.wait_stderr("next run in");
    // Runs and files may have been read too early, while the engine had the database locked.
    let without_problems =
        || Some(sandbox.run(&["status"])).filter(|table| table.stdout.starts_with("no problems\n\n"));
    let table = wait_until("all is well", without_problems, || up.report());
    table.expect_code(0);
    assert!(table.stdout.contains("; the next is in "), "{}", table.stdout);
    let rows: Vec<Vec<&str>> = table.stdout.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..3], ["SERVICE", "STATE", "READY"], "{}", table.stdout);
    assert_eq!(rows[1][..3], ["jobqueue", "running", "yes"], "{}", table.stdout);
    assert_eq!(rows[2][..3], ["webserver", "running", "yes"], "{}", table.stdout);
    assert_eq!(rows[3][..3], ["dirmonitor", "running", "yes"], "{}", table.stdout);
    assert_eq!(rows[4], ["engine", "waiting", "-", "-", "-", "0", "exit", "code", "0"], "{}", table.stdout);
    up.signal(Signal::SIGTERM);
    assert_eq!(up.wait_code(), 0, "{}", up.report());
    let log = up.stderr();
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text} is not in\n{log}"));
    assert!(at("the job queue is ready") < at("the web UI is ready"), "{log}");
    assert!(at("the web UI is ready") < at("engine exited"), "{log}");
    assert!(at("draining for 0.1 s") < at("webserver exited"), "{log}");
    assert!(at("webserver has stopped") < at("jobqueue has stopped"), "{log}");
    assert_eq!(processes_with(&sandbox.home.path().display().to_string()), []);
}

/// In a network of its own, since a new bots.ini has the usual ports.
#[apply(test)]
fn up_runs_all_services_on_fresh_machine() {
    needs(Need::Namespaces);
    let mut sandbox = Sandbox::new();
    sandbox.set("LOG_LEVEL", "info");
    let command = without_network(&sandbox.command(&["up"]));
    let up = Running::start(command, sandbox.home.path(), sandbox.health_port);
    for ready in ["the job queue is ready", "the web UI is ready", "the directory monitor is ready"] {
        up.wait_stderr(ready);
    }
    let ini = fs::read_to_string(sandbox.root().join("config/bots.ini")).expect("readable");
    assert!(ini.contains("enabled = True"), "{ini}");
}

#[apply(test)]
fn service_starts_after_previous_ones_are_ready() {
    let mut sandbox = Sandbox::prepared();
    let web = "#!/bin/sh\necho waiting\nwhile [ ! -e \"$HOME/go\" ]; do sleep 0.05; done\nexec ";
    let real = bots_bin_dir().join("bots-webserver");
    sandbox.stand_in("bots-webserver", &format!("{web}{} \"$@\"\n", real.display()));
    sandbox.stand_in("bots-engine", "#!/bin/sh\n[ -e \"$HOME/go\" ] && echo in turn || echo too early\n");
    let mut up = sandbox.start(&["up", "--services", "engine,webserver"]);
    wait_until("the web server has begun", || up.stdout().contains("waiting").then_some(()), || up.report());
    let status = || serde_json::from_str::<serde_json::Value>(&sandbox.run(&["status", "--json"]).stdout).ok();
    let has_web = |status: &serde_json::Value| status["services"][0]["pid"].is_i64();
    let status = wait_until("its process is known", || status().filter(has_web), || up.report());
    assert_eq!((&status["services"][1]["name"], &status["services"][1]["pid"]), (&"engine".into(), &().into()));
    fs::write(sandbox.home.path().join("go"), "").expect("written");
    wait_until("the engine has run", || up.stdout().contains("in turn").then_some(()), || up.report());
    up.signal(Signal::SIGTERM);
    assert_eq!(up.wait_code(), 0, "{}", up.report());
    assert!(!up.stdout().contains("too early"), "{}", up.report());
}

#[apply(test)]
fn up_stops_all_services_when_one_ends_for_good() {
    let (mut sandbox, _) = with_queue();
    sandbox.set("BOTS_CTL_RESTART", "never");
    let mut up = sandbox.start(&["up", "--services", "webserver,jobqueue"]);
    up.wait_ready();
    let web = || up.descendants().into_iter().find(|(_, command)| command.contains("bots-webserver"));
    let (web, _) = wait_until("the web UI runs", web, || up.report());
    kill(web, Signal::SIGKILL).expect("it is there");
    assert_eq!(up.wait_code(), 137, "{}", up.report());
    assert!(up.stderr().contains("webserver exited unexpectedly: signal SIGKILL"), "{}", up.stderr());
    assert!(up.stderr().contains("jobqueue has stopped"), "{}", up.stderr());
}

#[apply(test)]
fn up_omits_and_reports_disabled_services() {
    let sandbox = Sandbox::prepared();
    let mut up = sandbox.start(&["up"]);
    up.wait_ready();
    assert!(
        up.stderr().contains("not starting jobqueue and dirmonitor: [jobqueue] enabled is not True"),
        "{}",
        up.stderr()
    );
    let names: Vec<String> = sandbox
        .run(&["status"])
        .stdout
        .lines()
        .skip_while(|line| !line.starts_with("SERVICE"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.contains("  "))
        .filter_map(|l| l.split(' ').next().map(str::to_owned))
        .collect();
    assert_eq!(names, ["webserver", "engine"]);
    up.signal(Signal::SIGTERM);
    assert_eq!(up.wait_code(), 0, "{}", up.report());
    let refused = sandbox.run(&["up", "--services", "jobqueue"]);
    refused.expect_code(78);
    assert!(refused.stderr.contains("[jobqueue] enabled is not True"), "{}", refused.stderr);
    sandbox.run(&["up", "--services", "web"]).expect_code(64);
}

#[apply(test)]
fn scheduled_engine_runs_repeatedly() {
    let mut sandbox = Sandbox::prepared();
    sandbox.set("BOTS_CTL_ENGINE_INTERVAL", "1s").set("LOG_LEVEL", "debug");
    let mut up = sandbox.start(&["up", "--services", "engine"]);
    let runs = || (up.stderr().matches("engine exited: exit code 0").count() >= 2).then_some(());
    wait_until("it has run twice", runs, || up.report());
    up.signal(Signal::SIGTERM);
    assert_eq!(up.wait_code(), 0, "{}", up.report());
}

#[apply(test)]
fn second_stop_signal_skips_drain() {
    let (mut sandbox, _) = with_queue();
    sandbox.set("BOTS_CTL_DRAIN", "1h");
    let mut up = sandbox.start(&["up", "--services", "webserver,jobqueue"]);
    up.wait_ready();
    up.signal(Signal::SIGTERM);
    up.wait_stderr("draining for 3600 s");
    up.wait_health("/health/ready", 503);
    up.wait_health("/health/live", 200);
    up.insist(Signal::SIGTERM, "stopping webserver with SIGINT");
    assert_eq!(up.wait_code(), 0, "{}", up.report());
}

#[apply(test)]
fn services_end_when_bots_ctl_is_killed() {
    let (sandbox, _) = with_queue();
    let mut up = sandbox.start(&["up", "--services", "webserver,jobqueue"]);
    up.wait_ready();
    let below = up.descendants();
    assert_eq!(below.len(), 1, "{below:?}");
    up.signal(Signal::SIGKILL);
    up.wait();
    wait_gone(&sandbox.root().display().to_string());
}

#[apply(test)]
fn status_fails_if_bots_ctl_does_not_run() {
    let sandbox = Sandbox::new();
    let refused = sandbox.run(&["status"]);
    refused.expect_code(69);
    assert!(refused.stderr.starts_with("bots-ctl: cannot query bots-ctl on 127.0.0.1:"), "{}", refused.stderr);
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
}

#[apply(test)]
fn status_watch_prints_only_changes() {
    let mut sandbox = Sandbox::prepared();
    sandbox.set("BOTS_CTL_HEALTH_INTERVAL", "100ms");
    sandbox.run(&["status", "--watch", "--interval", "0s"]).expect_code(64);
    let mut watch = sandbox.start(&["status", "--watch", "--interval", "50ms"]);
    let says = |watch: &Running, text: &str| {
        wait_until(&format!("{text} is told"), || watch.stdout().contains(text).then_some(()), || watch.report());
    };
    says(&watch, "cannot query bots-ctl on 127.0.0.1:");
    let web = sandbox.webserver();
    says(&watch, "webserver  running  yes");
    let database = sandbox.root().join("botssys/sqlitedb/botsdb");
    fs::rename(&database, database.with_extension("away")).expect("the file is there");
    says(&watch, ". not ready: cannot open the SQLite database");
    drop(web);
    wait_until(
        "its end is told",
        || watch.stdout().trim_end().ends_with("sets that address").then_some(()),
        || watch.report(),
    );
    // One block a change, not one a look.
    let blocks = watch.stdout().matches("SERVICE ").count();
    assert!(blocks < 20, "{}", watch.stdout());
    watch.signal(Signal::SIGINT);
    assert_eq!(watch.wait_code(), 130, "{}", watch.report());
}
