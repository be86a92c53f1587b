//! A mounted configuration that changes while services run: bots-ctl starts again with it when it is valid, and refuses it when it
//! is not.

use std::fs;
use std::io::Write;
use std::path::Path;

use bots_ctl::bots::config_source::ConfigFiles;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::bots::own_settings;
use crate::support::browser::Browser;
use crate::support::mounted::{Mount, another_web_ui, status, wait_refused};
use crate::support::needs::in_network_of;
use crate::support::pods::System;
use crate::support::process::{wait_descendant, web_process, write_program};
use crate::support::queue::Queue;
use crate::support::queue::with_queue;
use crate::support::sandbox::{Running, Sandbox, bots_bin_dir, free_port, http, wait_until};
use crate::support::users::in_mounts;
use crate::support::web_server::{start, web_server};

/// The bots.ini of a sandbox with other values.
fn ini(sandbox: &Sandbox, changes: &[(&str, &str, &str)]) -> String {
    let text = fs::read_to_string(sandbox.root().join("config/bots.ini")).expect("there is one");
    changes.iter().fold(text, |text, (section, key, value)| {
        bots_ctl::pycompat::configparser::set_value(&text, section, key, value).expect("it can be set")
    })
}

/// Waits until a service has another process than this one, and is ready.
fn wait_renewed(running: &Running, service: usize, before: &Value) -> Value {
    let renewed = || {
        let now = status(running)["services"][service].clone();
        (now["pid"].is_i64() && now["pid"] != before["pid"] && now["ready"] == true).then_some(now)
    };
    wait_until("it is ready with another process", renewed, || format!("{:#}\n{}", status(running), running.report()))
}

/// The number of the socket that listens on this port of this machine.
fn listening_inode(port: u16) -> String {
    let sockets = fs::read_to_string("/proc/net/tcp").expect("it is there");
    let listening = |line: &&str| line.contains(&format!(":{port:04X} ")) && line.contains(" 0A ");
    let line = sockets.lines().find(listening).expect("it listens");
    line.split_whitespace().nth(9).expect("it has a number").to_owned()
}

/// The state of the environment according to a page of the web UI.
fn environment_text(sandbox: &Sandbox) -> String {
    let mut browser = Browser::start();
    let base = format!("http://localhost:{}", sandbox.web_port);
    browser.log_in(&base, "admin", &sandbox.admin_password()).unwrap_or_else(|why| panic!("{why}"));
    browser.visit(&base);
    browser.text()
}

#[apply(test)]
fn web_ui_restarts_only_with_valid_changed_configuration() {
    let mut sandbox = Sandbox::prepared();
    let mount = Mount::of(&mut sandbox);
    let named = |text: &str| ini(&sandbox, &[("webserver", "environment_text", text)]);
    let (first, second) = (named("the first one"), named("the second one"));
    mount.mount(&[("bots.ini", &first)]);
    let mut web = sandbox.webserver();
    let before = status(&web)["services"][0].clone();

    // A new version with the same content is not a change.
    web.wait_stderr("the mounted configuration is in use");
    mount.mount(&[("bots.ini", &first)]);
    let judged = || (web.stderr().matches("the mounted configuration is in use").count() == 2).then_some(());
    wait_until("it was looked at again", judged, || web.report());
    assert_eq!(status(&web)["services"][0]["pid"], before["pid"]);

    // Each error is reported once with its location, and changes nothing.
    let broken = first.replacen("[settings]", "[settings", 1);
    let line = 1 + first.lines().position(|line| line == "[settings]").expect("it has this section");
    let toml = "[stop]\ntimeout = \"never\"\n";
    let faults = [
        (vec![("bots.ini", broken.as_str())], format!("{}:{line}: ", mount.file("bots.ini"))),
        (vec![("bots.ini", first.as_str()), ("settings.py", "x = (\n")], format!("{}:1: ", mount.file("settings.py"))),
        (vec![("bots.ini", first.as_str()), ("bots-ctl.toml", toml)], format!("{}:2: ", mount.file("bots-ctl.toml"))),
    ];
    for (reverted, (files, fault)) in (1..).zip(faults) {
        mount.mount(&files);
        wait_refused(&web, &fault);
        assert_eq!(web.health("/health/ready").expect("it listens").status, 200);
        let told = sandbox.run(&["status"]);
        told.expect_code(0);
        assert!(told.stdout.contains("mounted configuration rejected: ") && told.stdout.contains(&fault), "{told:?}");
        let errors = web.stderr().lines().filter(|line| line.contains("ERROR") && line.contains(&fault)).count();
        assert_eq!(errors, 1, "{}", web.report());
        for name in ["settings.py", "bots-ctl.toml"] {
            let _ = fs::remove_file(mount.file(name));
        }
        mount.mount(&[("bots.ini", &first)]);
        let accepted =
            || (web.stderr().matches("the mounted configuration is valid again").count() == reverted).then_some(());
        wait_until("it is no longer refused", accepted, || web.report());
    }
    assert_eq!(status(&web)["services"][0]["pid"], before["pid"]);
    assert_eq!(fs::read_to_string(sandbox.root().join("config/bots.ini")).expect("there"), first);

    // Mended it is picked up, by another process of the web UI and the same one of bots-ctl, which answers probes all the time.
    let listener = listening_inode(sandbox.health_port);
    mount.mount(&[("bots.ini", &second)]);
    let after = wait_renewed(&web, 0, &before);
    assert_eq!((&after["restarts"], &after["last_exit"]), (&0.into(), &Value::Null), "{after:#}");
    assert_eq!(listening_inode(sandbox.health_port), listener, "the listener was handed over");
    let metrics = web.health("/metrics").expect("it listens").body;
    for line in ["{outcome=\"applied\"} 4\n", "{outcome=\"refused\"} 3\n"] {
        assert!(metrics.contains(&format!("botsctl_config_reloads_total{line}")), "{metrics}");
    }
    assert_eq!(status(&web)["refused"], Value::Null);
    assert!(environment_text(&sandbox).contains("the second one"));

    // Gone it is not missed.
    for name in ["bots.ini", "..data"] {
        fs::remove_file(mount.file(name)).expect("it is there");
    }
    web.wait_stderr("is no longer mounted");
    assert_eq!(status(&web)["services"][0]["pid"], after["pid"]);
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
}

/// A helper of a user script has the stop timeout, as in a stop; an engine has no limit.
#[apply(test)]
fn reload_ends_leftovers_except_engines() {
    let helpers = "trap '' TERM; sleep 1001 & exec sleep 1002";
    let run = "echo working; while ! [ -e go ]; do sleep 0.1; done; echo run completed";
    let mut sandbox = Sandbox::prepared();
    let started = start(helpers) + &start("exec sleep 1003") + &start("exec ./bots-engine");
    sandbox.stand_in("bots-webserver", &web_server(&started, ""));
    write_program(&sandbox.root().join("bots-engine"), &format!("#!/bin/sh\ntrap 'echo cut' TERM\n{run}\n"), 0o755);
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1s");
    let mut web = sandbox.webserver();
    let left = ["sleep 1001", "sleep 1002", "sleep 1003"].map(|command| wait_descendant(&web, command));
    wait_until("the engine works", || web.report().contains("working").then_some(()), || web.report());
    let before = status(&web)["services"][0].clone();
    let mut reload = sandbox.start(&["reload"]);
    web.wait_stderr("for runs without a limit, for leftover processes of webserver to exit: ");
    let gone = |pid: &Pid| !Path::new(&format!("/proc/{pid}")).exists();
    wait_until("the helpers have ended", || left.iter().all(gone).then_some(()), || web.report());
    assert!(web.stderr().contains("killed sleep"), "{}", web.report());
    fs::write(sandbox.root().join("go"), "").expect("written");
    wait_renewed(&web, 0, &before);
    assert_eq!(reload.wait_code(), 0, "{}", reload.report());
    let report = web.report();
    assert!(report.contains("run completed") && !report.contains("cut"), "{report}");
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
}

/// Also those that decide what bots-ctl itself is; and nothing of the way is left to processes.
#[apply(test)]
fn reload_applies_keys_of_bots_ctl_toml() {
    let mut sandbox = Sandbox::prepared();
    let mount = Mount::of(&mut sandbox);
    let mut web = sandbox.webserver();
    let before = status(&web)["services"][0].clone();
    assert_eq!(web.health("/").expect("it listens").status, 200);
    mount.mount(&[(
        "bots-ctl.toml",
        "[health]\nstatus_page = false\n[django]\nallowed_hosts = [\"edi.example.com\"]\n",
    )]);
    wait_renewed(&web, 0, &before);
    assert_eq!(web.health("/").expect("it listens").status, 404);
    let answer = http(sandbox.web_port, "GET", "/login/").expect("it answers");
    assert_eq!(answer.status, 400, "localhost is no longer among the hosts: {}", answer.body);
    let environment = fs::read(format!("/proc/{}/environ", web_process(&web))).expect("it runs");
    assert!(!String::from_utf8_lossy(&environment).contains("_BOTS_CTL_STATE"));
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
}

/// The next start knows the validated files, and checks the rest itself.
#[apply(test)]
fn reload_rejects_invalid_change_during_another_reload() {
    let mut sandbox = Sandbox::prepared();
    let mount = Mount::of(&mut sandbox);
    sandbox.set("BOTS_CTL_RELOAD_DRAIN", "1s");
    let _other = another_web_ui(&sandbox);
    let web = sandbox.webserver();
    let before = status(&web)["services"][0].clone();
    let valid = ini(&sandbox, &[("webserver", "environment_text", "the valid one")]);
    mount.mount(&[("bots.ini", &valid), ("bots-ctl.toml", "[django]\ntime_zone = \"Europe/Berlin\"\n")]);
    web.wait_stderr("draining the web UI for 1 s, since other replicas share its volume");
    mount.mount(&[("bots.ini", "no section\n"), ("bots-ctl.toml", "[stop]\ntimeout = \"never\"\n")]);
    wait_renewed(&web, 0, &before);
    for fault in ["bots.ini:1: ", "bots-ctl.toml:2: "] {
        wait_refused(&web, &mount.file(fault));
    }
    assert!(environment_text(&sandbox).contains("the valid one"));
}

#[apply(test)]
fn reload_applies_new_port_unless_it_is_in_use() {
    let mut sandbox = Sandbox::prepared();
    let mount = Mount::of(&mut sandbox);
    let web = {
        let mut command = sandbox.command(&["webserver"]);
        command.env_remove("PORT");
        Running::start(command, sandbox.home.path(), sandbox.health_port)
    };
    web.wait_ready();
    let before = status(&web)["services"][0].clone();
    let health = sandbox.health_port;
    mount.mount(&[("bots.ini", &ini(&sandbox, &[("webserver", "port", &health.to_string())]))]);
    wait_refused(&web, &format!("cannot serve the web UI on port {health}: the health listener has it"));
    let taken = std::net::TcpListener::bind(("0.0.0.0", 0)).expect("there is a free one");
    let port = taken.local_addr().expect("bound").port();
    let other = ini(&sandbox, &[("webserver", "port", &port.to_string())]);
    mount.mount(&[("bots.ini", &other)]);
    wait_refused(&web, &format!("cannot serve the web UI on port {port}: another program uses it"));
    assert_ne!(fs::read_to_string(sandbox.root().join("config/bots.ini")).expect("there"), other, "it was put back");
    assert_eq!(status(&web)["services"][0]["pid"], before["pid"]);
    drop(taken);
    mount.mount(&[("bots.ini", &(other + "\n"))]);
    wait_renewed(&web, 0, &before);
    assert_eq!(http(port, "GET", "/login/").expect("it answers").status, 200);
    web.wait_stderr(&format!("the web UI is ready on http://localhost:{port} after"));
}

#[apply(test)]
fn single_web_ui_reloads_without_drain() {
    let mut sandbox = Sandbox::prepared();
    let mount = Mount::of(&mut sandbox);
    sandbox.set("BOTS_CTL_RELOAD_DRAIN", "1h");
    let web = sandbox.webserver();
    let before = status(&web)["services"][0].clone();
    mount.mount(&[("bots.ini", &ini(&sandbox, &[("webserver", "environment_text", "changed")]))]);
    wait_renewed(&web, 0, &before);
}

/// What no check can know: a web UI that ends with a configuration which is valid.
#[apply(test)]
fn failed_reload_is_rolled_back_on_all_replicas() {
    let mut sandbox = Sandbox::prepared();
    let mount = Mount::of(&mut sandbox);
    let script = format!(
        "#!/bin/sh\ngrep -q doomed {} && exit 3\nexec {} \"$@\"\n",
        sandbox.root().join("config/bots.ini").display(),
        bots_bin_dir().join("bots-webserver").display()
    );
    sandbox.stand_in("bots-webserver", &script);
    sandbox.set("BOTS_CTL_RESTART", "never").set("BOTS_CTL_RELOAD_DRAIN", "10ms");
    let named = |text: &str| ini(&sandbox, &[("webserver", "environment_text", text)]);
    let (doomed, sound) = (named("doomed"), named("sound"));
    let in_use = || fs::read_to_string(sandbox.root().join("config/bots.ini")).expect("there");
    let before = in_use();
    let web = sandbox.webserver();
    let next = Running::start(System::command(&sandbox.command(&["webserver"])), sandbox.home.path(), 0);
    next.wait_stderr("the web UI is ready on");

    mount.mount(&[("bots.ini", &doomed), ("added.txt", "new")]);
    // Either may be the first.
    let refused =
        "the services failed to start with it: webserver exited unexpectedly: exit code 3; correct it, or delete ";
    for pod in [&web, &next] {
        pod.wait_stderr(refused);
    }
    wait_refused(&web, refused);
    web.wait_ready();
    assert_eq!(in_use(), before, "{}\n{}", web.report(), next.report());
    assert!(!sandbox.root().join("config/added.txt").exists());
    let started = sandbox.run(&["init-db"]);
    started.expect_code(0);
    assert!(
        started.stderr.contains("ignoring the mounted configuration: the services failed to start with it"),
        "{}",
        started.stderr
    );
    assert_eq!(in_use(), before);

    // Of a process that died while it renamed the kept files.
    fs::create_dir(sandbox.root().join("..bots-ctl-before-reload-0000.1-00000000.tmp")).expect("made");
    let old = status(&web)["services"][0].clone();
    fs::remove_file(mount.file("added.txt")).expect("it is there");
    mount.mount(&[("bots.ini", &sound)]);
    let new = wait_renewed(&web, 0, &old);
    assert_ne!(new["pid"], old["pid"]);
    assert!(status(&web)["refused"].as_array().is_none_or(Vec::is_empty), "{:#}", status(&web));
    let is_left = || {
        fs::read_dir(sandbox.root())
            .expect("there")
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().contains(".bots-ctl-before-reload"))
    };
    wait_until("nothing is kept", || (!is_left()).then_some(()), || web.report());
}

/// Probes with `exec` read the mounted file, which may name an address that is not in use.
#[apply(test)]
fn healthcheck_finds_listener_whose_new_address_is_rejected() {
    let mut sandbox = Sandbox::prepared();
    let mount = Mount::of(&mut sandbox);
    // Not as a variable, which would override the file.
    sandbox.set("BOTS_CTL_HEALTH_ADDR", "");
    let own = |port: u16| format!("[health]\naddr = \"127.0.0.1:{port}\"\n");
    mount.mount(&[("bots-ctl.toml", &own(sandbox.health_port))]);
    let web = sandbox.webserver();
    let new = free_port();
    mount.mount(&[("bots-ctl.toml", &own(new)), ("bots.ini", "no section\n")]);
    wait_refused(&web, "bots.ini:1: ");
    sandbox.run(&["healthcheck"]).expect_code(0);
    sandbox.run(&["status"]).expect_code(0);
    let reloaded = sandbox.run(&["reload"]);
    reloaded.expect_code(78);
    assert!(reloaded.stderr.contains("bots.ini:1: "), "{}", reloaded.stderr);
}

/// A database file, which no check opens, may be none. A new process does not use the mounted bots-ctl.toml either.
#[apply(test)]
fn reload_whose_preparation_fails_is_rolled_back() {
    let mut sandbox = Sandbox::prepared();
    let mount = Mount::of(&mut sandbox);
    let in_use = || fs::read_to_string(sandbox.root().join("config/settings.py")).expect("there");
    let before = in_use();
    let web = sandbox.webserver();
    let file = sandbox.home.path().join("broken");
    fs::write(&file, "this is no database, although it is long enough for one\n".repeat(100)).expect("written");
    let settings = format!("{}DATABASES['default']['NAME'] = {:?}\n", own_settings(), file.display().to_string());
    let zone = || {
        let shown = sandbox.run(&["config", "show", "django.time_zone"]);
        shown.expect_code(0);
        shown.stdout
    };
    let zone_before = zone();
    mount.mount(&[("settings.py", &settings), ("bots-ctl.toml", "[django]\ntime_zone = \"Asia/Tokyo\"\n")]);
    assert_eq!(zone(), "Asia/Tokyo\n");
    wait_refused(&web, "the services failed to start with it: ");
    web.wait_ready();
    assert_eq!(in_use(), before);
    assert_eq!(zone(), zone_before);
    assert!(sandbox.root().join("config/bots-ctl.toml").is_file(), "empty, for the next start");
}

#[apply(test)]
fn next_start_finishes_interrupted_rollback() {
    let mut sandbox = Sandbox::prepared();
    let mount = Mount::of(&mut sandbox);
    let config = sandbox.root().join("config/bots.ini");
    let before = fs::read_to_string(&config).expect("there");
    let failed = ini(&sandbox, &[("webserver", "environment_text", "failed")]);
    let own = |zone: &str| format!("[django]\ntime_zone = \"{zone}\"\n");
    mount.mount(&[("bots.ini", &failed), ("bots-ctl.toml", &own("Asia/Tokyo"))]);
    let source = Path::new(&mount.file("bots.ini")).parent().expect("a directory").to_path_buf();
    let digest = hex::encode(ConfigFiles::read(&source).expect("readable").digest());
    let kept = sandbox.root().join(format!(".bots-ctl-before-reload-{}", &digest[..16]));
    fs::create_dir(&kept).expect("made");
    fs::copy(&config, kept.join("bots.ini")).expect("copied");
    fs::copy(sandbox.root().join("config/settings.py"), kept.join("settings.py")).expect("copied");
    fs::write(kept.join("bots-ctl.toml"), own("Europe/Berlin")).expect("written");
    fs::write(&config, &failed).expect("written");
    fs::write(sandbox.root().join("config/bots-ctl.toml"), own("Asia/Tokyo")).expect("written");
    fs::write(sandbox.root().join(".bots-ctl-refused-reload"), format!("{digest}\nthe reason\n")).expect("written");
    for command in ["config show django.time_zone", "init-db", "config show django.time_zone"] {
        let ended = sandbox.run(&command.split(' ').collect::<Vec<_>>());
        ended.expect_code(0);
        assert!(command == "init-db" || ended.stdout == "Europe/Berlin\n", "{}", ended.stdout);
    }
    assert_eq!(fs::read_to_string(&config).expect("there"), before);
    assert!(!kept.exists());
}

/// A web UI that exits uncleanly when it is told to stop has not failed with the configuration.
#[apply(test)]
fn stop_during_trial_of_reload_keeps_configuration() {
    let mut sandbox = Sandbox::prepared();
    let mount = Mount::of(&mut sandbox);
    let script = format!(
        "#!/bin/sh\ngrep -q slow {} || exec {} \"$@\"\ntrap 'exit 5' INT TERM\necho it waits\nwhile :; do sleep 0.1; done\n",
        sandbox.root().join("config/bots.ini").display(),
        bots_bin_dir().join("bots-webserver").display()
    );
    sandbox.stand_in("bots-webserver", &script);
    let mut web = sandbox.webserver();
    mount.mount(&[("bots.ini", &ini(&sandbox, &[("webserver", "environment_text", "slow")]))]);
    wait_until("it is on trial", || web.stdout().contains("it waits").then_some(()), || web.report());
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 5, "{}", web.report());
    assert!(!sandbox.root().join(".bots-ctl-refused-reload").exists(), "{}", web.report());
}

/// A stop takes precedence, and the next start finds the mounted files.
#[apply(test)]
fn next_start_applies_reload_interrupted_by_stop() {
    let mut sandbox = Sandbox::prepared();
    let mount = Mount::of(&mut sandbox);
    sandbox.set("BOTS_CTL_RELOAD_DRAIN", "1h");
    let _other = another_web_ui(&sandbox);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut web = sandbox.webserver();
        let before = web_process(&web);
        mount.mount(&[("bots.ini", &ini(&sandbox, &[("webserver", "environment_text", signal.as_str())]))]);
        web.wait_stderr("draining the web UI for 3600 s");
        let answer = web.wait_health("/health/ready", 503);
        assert!(answer.body.contains("webserver is restarting"), "{}", answer.body);
        assert_eq!(web.health("/health/live").expect("it listens").status, 200);
        assert_eq!(http(sandbox.web_port, "GET", "/login/").expect("it serves still").status, 200);
        assert_eq!(web_process(&web), before);
        web.signal(signal);
        let code = web.wait_code();
        assert!(code == 0 || signal == Signal::SIGKILL, "{}", web.report());
        drop(web);
        let _next = sandbox.webserver();
        let page = environment_text(&sandbox);
        assert!(page.contains(signal.as_str()), "{page}");
    }
}

#[apply(test)]
fn reload_applies_last_of_several_changes() {
    let mut sandbox = Sandbox::prepared();
    let mount = Mount::of(&mut sandbox);
    let named = |text: &str| ini(&sandbox, &[("webserver", "environment_text", text)]);
    let versions: Vec<String> = ["one", "two", "three", "four"].iter().map(|name| named(name)).collect();
    mount.mount(&[("bots.ini", &versions[0])]);
    let mut web = sandbox.start(&["webserver"]);
    web.wait_health("/health/ping", 200);
    mount.mount(&[("bots.ini", &versions[1])]);
    web.wait_ready();
    let in_use = |version: &String| {
        let is_in_use =
            || fs::read_to_string(sandbox.root().join("config/bots.ini")).is_ok_and(|text| text == *version);
        wait_until("it was taken over", || is_in_use().then_some(()), || web.report());
    };
    in_use(&versions[1]);
    mount.mount(&[("bots.ini", &versions[2])]);
    mount.mount(&[("bots.ini", &versions[3]), ("last.txt", "the fourth one")]);
    let is_started = || {
        let log = web.stderr();
        let (_, after) = log.split_once("/last.txt")?;
        after.contains("the web UI is ready").then_some(())
    };
    wait_until("it is started with the last one", is_started, || web.report());
    web.wait_ready();
    in_use(&versions[3]);
    assert_eq!(status(&web)["services"][0]["restarts"], 0);
    assert!(environment_text(&sandbox).contains("four"), "{}", web.report());
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
}

#[apply(test)]
fn reload_restarts_web_ui_in_backoff_at_once() {
    let mut sandbox = Sandbox::prepared();
    sandbox.stand_in("bots-webserver", "#!/bin/sh\n[ -e \"$HOME/mended\" ] || exit 9\nexec sleep 1000\n");
    let mount = Mount::of(&mut sandbox);
    sandbox.set("BOTS_CTL_RESTART_INITIAL_DELAY", "1h").set("BOTS_CTL_RESTART_MAX_DELAY", "1h");
    let web = sandbox.start(&["webserver"]);
    web.wait_stderr("restarting in");
    fs::write(sandbox.home.path().join("mended"), "").expect("written");
    mount.mount(&[("bots.ini", &ini(&sandbox, &[("webserver", "environment_text", "mended")]))]);
    let runs = || status(&web)["services"][0]["pid"].is_i64().then_some(());
    wait_until("it runs", runs, || web.report());
}

#[apply(test)]
fn reload_waits_for_running_job_and_keeps_queued_jobs() {
    let mut queue = Queue::new();
    let mount = Mount::of(&mut queue.sandbox);
    let running = queue.start();
    let waiting = queue.task("wait");
    assert_eq!(queue.ask(&format!("q.addjob({waiting}, 5)")), "0");
    wait_until("it runs", || (queue.lines("started") == ["wait"]).then_some(()), || running.report());
    let port = free_port();
    let changed = ini(&queue.sandbox, &[("jobqueue", "port", &port.to_string()), ("settings", "maxruntime", "7")]);
    mount.mount(&[("bots.ini", &changed)]);
    running.wait_stderr("waiting for job 1 to finish; starting no further jobs");
    let settings = queue.sandbox.root().join("config/settings.py");
    let text = fs::read_to_string(&settings).expect("there is one");
    fs::write(&settings, text + "\nTIME_ZONE = 'Asia/Tokyo'\n").expect("written after its validation");
    // The queue accepts jobs in the meantime.
    assert_eq!(queue.ask(&format!("q.addjob({}, 5)", queue.task("after"))), "0");
    assert_eq!(running.health("/health/ready").expect("it listens").status, 200);
    assert_eq!(queue.lines("started"), ["wait"]);
    fs::write(queue.task.with_file_name("go"), "").expect("written");
    wait_until("both have run", || (queue.lines("ran") == ["wait", "after"]).then_some(()), || running.report());
    running.wait_stderr(&format!("the job queue is ready on port {port}"));
    running.wait_ready();
    let cache = fs::read(queue.sandbox.root().join(".bots-ctl-settings-cache.json")).expect("it is there");
    let cached: Value = serde_json::from_slice(&cache).expect("JSON");
    assert_eq!(cached["django"]["time_zone"], "Asia/Tokyo", "the settings of the next start");
    let mut running = running;
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait_code(), 0, "{}", running.report());
    assert_eq!(queue.lines("started"), ["wait", "after"], "each ran once");
}

/// Children of a queue are bots-ctl again, which would apply the mounted files at their start.
#[apply(test)]
fn engine_uses_current_configuration_after_rejected_reload() {
    let mut queue = Queue::new();
    let mount = Mount::of(&mut queue.sandbox);
    let running = queue.start();
    mount.mount(&[("bots.ini", "no section\n"), ("bots-ctl.toml", "[engine]\nlease_wait = \"never\"\n")]);
    for fault in ["bots.ini:1: ", "bots-ctl.toml:2: engine.lease_wait"] {
        wait_refused(&running, &mount.file(fault));
    }
    let config = format!("-c{}", queue.sandbox.root().join("config").display());
    assert_eq!(queue.ask(&format!("q.addjob(['bots-engine', '{config}', '--new'], 5)")), "0");
    running.wait_stderr("job 1 finished after");
    assert!(running.stderr().contains("exit code 0"), "{}", running.report());
    queue.sandbox.run(&["healthcheck"]).expect_code(0);
}

#[apply(test)]
fn job_queue_stops_on_signal_during_pending_reload() {
    let mut queue = Queue::new();
    let mount = Mount::of(&mut queue.sandbox);
    let mut running = queue.start();
    let waiting = queue.task("wait");
    assert_eq!(queue.ask(&format!("q.addjob({waiting}, 5)")), "0");
    wait_until("it runs", || (queue.lines("started") == ["wait"]).then_some(()), || running.report());
    mount.mount(&[("bots.ini", &ini(&queue.sandbox, &[("settings", "maxruntime", "7")]))]);
    running.wait_stderr("waiting for job 1 to finish; starting no further jobs");
    running.signal(Signal::SIGTERM);
    running.wait_stderr(" s for job 1 to finish");
    fs::write(queue.task.with_file_name("go"), "").expect("written");
    assert_eq!(running.wait_code(), 0, "{}", running.report());
    assert_eq!(running.stderr().matches("the job queue is active").count(), 1, "{}", running.report());
}

#[apply(test)]
fn up_reload_restarts_each_service_once() {
    let (mut sandbox, _) = with_queue();
    let mount = Mount::of(&mut sandbox);
    sandbox.set("BOTS_CTL_UP_SERVICES", "jobqueue,webserver,dirmonitor");
    let mut up = sandbox.start(&["up"]);
    up.wait_ready();
    let before = status(&up);
    let watched = sandbox.home.path().display().to_string();
    let changed = ini(&sandbox, &[("dirmonitor7", "path", &watched), ("dirmonitor7", "route", "a_route")]);
    mount.mount(&[("bots.ini", &changed), ("settings.py", &own_settings())]);
    wait_renewed(&up, 1, &before["services"][1]);
    let watches = || status(&up)["monitor"]["directories"].to_string().contains(&watched).then_some(());
    wait_until("the directory is watched", watches, || up.report());
    up.wait_ready();
    for once_each in ["the directory monitor is ready", "the job queue is active", "the web UI is ready"] {
        assert_eq!(up.stderr().matches(once_each).count(), 2, "{}", up.report());
    }
    up.signal(Signal::SIGTERM);
    assert_eq!(up.wait_code(), 0, "{}", up.report());
}

#[apply(test)]
fn disabled_reload_ignores_configuration_changes() {
    let mut sandbox = Sandbox::prepared();
    let mount = Mount::of(&mut sandbox);
    sandbox.set("BOTS_CTL_RELOAD_ENABLED", "false");
    let web = sandbox.webserver();
    mount.mount(&[("bots.ini", "nothing that could be read")]);
    let uptime = || status(&web)["services"][0]["uptime"].as_u64().filter(|seconds| *seconds >= 2);
    wait_until("a hundred looks could have been made", uptime, || web.report());
    assert_eq!(status(&web)["refused"], Value::Null);
    kill(web_process(&web), Signal::SIGTERM).expect("it is there");
}

/// All mounted files are applied, or none.
#[apply(test)]
fn reload_keeps_old_configuration_on_full_volume() {
    let (mut sandbox, _) = with_queue();
    let mount = Mount::of(&mut sandbox);
    let own_volume = "cd \"$HOME/.bots/env/default\" && cp -a config kept && mount -t tmpfs -o size=128k none config \
                      && cp -a kept/. config && exec \"$0\" \"$@\"";
    let command = in_mounts(own_volume, &sandbox.command(&["dirmonitor"]));
    let mut monitor = Running::start(command, sandbox.home.path(), sandbox.health_port);
    monitor.wait_ready();
    let config = Path::new("/proc").join(monitor.pid().to_string()).join("root");
    let config = config.join(sandbox.root().join("config").strip_prefix("/").expect("it is absolute"));
    let in_use = || fs::read_to_string(config.join("bots.ini")).expect("it is there");
    let before = in_use();
    let small = "one page";
    fs::write(config.join("a.txt"), small).expect("there is room");
    // Room for the small file, and for no other one.
    let mut filler = fs::File::create(config.join("filler")).expect("there is room");
    while filler.write_all(&[0; 4096]).is_ok() {}
    fs::remove_file(config.join("a.txt")).expect("it is there");
    let changed = before.replace("[settings]", "[settings]\n# changed");
    mount.mount(&[("a.txt", small), ("bots.ini", &changed)]);
    wait_refused(&monitor, "No space left on device");
    assert_eq!(in_use(), before);
    assert!(!config.join("a.txt").exists());
    fs::remove_file(config.join("filler")).expect("it is there");
    drop(filler);
    mount.mount(&[("a.txt", small), ("bots.ini", &(changed.clone() + "\n"))]);
    wait_until("it is taken over", || (in_use() == changed.clone() + "\n").then_some(()), || monitor.report());
    assert_eq!(fs::read_to_string(config.join("a.txt")).expect("it is there"), small);
    monitor.signal(Signal::SIGTERM);
    assert_eq!(monitor.wait_code(), 0, "{}", monitor.report());
}

/// Two pods on one volume: at every moment one of them takes requests.
#[apply(test)]
fn reload_restarts_web_ui_replicas_one_at_a_time() {
    let mut sandbox = Sandbox::prepared();
    let mount = Mount::of(&mut sandbox);
    sandbox.set("BOTS_CTL_RELOAD_DRAIN", "2s").set("BOTS_CTL_HEALTH_INTERVAL", "50ms");
    // Each has separate ports in a separate network, so it is queried from within.
    let start = || {
        let command = System::command(&sandbox.command(&["webserver"]));
        Running::start(command, sandbox.home.path(), sandbox.health_port)
    };
    let pods = [start(), start()];
    let ask = |pod: &Running| {
        let told = in_network_of(pod.pid(), &sandbox.command(&["status", "--json"])).output().expect("it can be run");
        serde_json::from_slice::<Value>(&told.stdout).map(|status| status["services"][0].clone()).unwrap_or_default()
    };
    let report = || format!("{}\n{}", pods[0].report(), pods[1].report());
    for pod in &pods {
        wait_until("it is ready", || (ask(pod)["ready"] == true).then_some(()), report);
    }
    let before = [ask(&pods[0]), ask(&pods[1])];
    mount.mount(&[("bots.ini", &ini(&sandbox, &[("webserver", "environment_text", "changed")]))]);
    let renewed = || {
        let now = [ask(&pods[0]), ask(&pods[1])];
        assert!(now.iter().any(|pod| pod["ready"] == true), "{now:#?}\n{}", report());
        let is_renewed = |(now, before): (&Value, &Value)| now["ready"] == true && now["pid"] != before["pid"];
        now.iter().zip(&before).all(is_renewed).then_some(())
    };
    wait_until("both are ready again", renewed, report);
}
