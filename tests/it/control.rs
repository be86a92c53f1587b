//! `reload` and `restart`: the effect of a user's request on the running bots-ctl, and the result of the command.

use std::fs;

use serde_json::Value;

use crate::support::bots::without_bots;
use crate::support::mounted::{Mount, status};
use crate::support::needs::{Need, needs};
use crate::support::queue::with_queue;
use crate::support::sandbox::{Running, Sandbox, bots_bin_dir, wait_until};
use crate::support::users::{as_user, open_to_all};

fn service(running: &Running, name: &str) -> Value {
    let services = status(running)["services"].clone();
    services.as_array().and_then(|all| all.iter().find(|one| one["name"] == name).cloned()).unwrap_or_default()
}

#[apply(test)]
fn reload_applies_edited_bots_ini_and_rejects_invalid_one() {
    let sandbox = Sandbox::prepared();
    let web = sandbox.webserver();
    let before = service(&web, "webserver")["pid"].clone();
    sandbox.set_ini("webserver", "environment_text", "edited");
    let reloaded = sandbox.run(&["reload"]);
    reloaded.expect_code(0);
    let lines: Vec<&str> = reloaded.stdout.lines().collect();
    let expected = [
        "the configuration is valid; restarting the services with it",
        "the services are ready with the current configuration",
    ];
    assert_eq!(lines, expected, "{}", web.report());
    // The command has waited, so nothing else has to.
    let after = service(&web, "webserver");
    assert!(after["pid"] != before && after["ready"] == true, "{after}");
    sandbox.set_ini("settings", "maxdays", "many");
    let refused = sandbox.run(&["reload"]);
    refused.expect_code(78);
    assert!(
        refused.stderr.contains("configuration rejected; keeping the previous one: ")
            && refused.stderr.contains("maxdays")
    );
    assert_eq!(service(&web, "webserver")["pid"], after["pid"]);
    sandbox.set_ini("settings", "maxdays", "30");
    sandbox.run(&["restart"]).expect_code(0);
    assert_ne!(service(&web, "webserver")["pid"], after["pid"]);
}

#[apply(test)]
fn failed_reload_is_reported_and_rolled_back() {
    let mut sandbox = Sandbox::prepared();
    let mount = Mount::of(&mut sandbox);
    let ini = sandbox.root().join("config/bots.ini");
    let script = format!(
        "#!/bin/sh\ngrep -q doomed {} && exit 3\nexec {} \"$@\"\n",
        ini.display(),
        bots_bin_dir().join("bots-webserver").display()
    );
    sandbox.stand_in("bots-webserver", &script);
    sandbox.set("BOTS_CTL_RESTART", "never").set("BOTS_CTL_RELOAD_ENABLED", "false");
    let web = sandbox.webserver();
    let text = fs::read_to_string(&ini).expect("there");
    let doomed = bots_ctl::pycompat::configparser::set_value(&text, "webserver", "environment_text", "doomed");
    mount.mount(&[("bots.ini", &doomed.expect("it can be set"))]);
    let failed = sandbox.run(&["reload"]);
    failed.expect_code(1);
    let words = ["webserver has ended with exit code 3", "restoring the previous configuration"];
    assert!(words.iter().all(|word| failed.stderr.contains(word)), "{}\n{}", failed.stderr, web.report());
    web.wait_ready();
    assert_eq!(fs::read_to_string(&ini).expect("there"), text);
}

#[apply(test)]
fn restart_replaces_only_the_named_service() {
    let (sandbox, _) = with_queue();
    let up = sandbox.start(&["up", "--services", "jobqueue,webserver"]);
    up.wait_ready();
    let (web, queue) = (service(&up, "webserver"), service(&up, "jobqueue"));
    let restarted = sandbox.run(&["restart", "webserver"]);
    restarted.expect_code(0);
    let after = service(&up, "webserver");
    assert!(
        restarted.stdout.contains(&format!("webserver was restarted as process {}", after["pid"])),
        "{restarted:?}"
    );
    assert_ne!(after["pid"], web["pid"]);
    assert_eq!(service(&up, "jobqueue")["pid"], queue["pid"]);
    up.wait_stderr("restart of webserver requested");
    for (name, words) in [
        ("jobqueue", "jobqueue is part of the running bots-ctl, not a separate process; bots-ctl reload restarts it"),
        ("dirmonitor", "dirmonitor is not running here; running services: jobqueue, webserver"),
        ("queue", "expected one of webserver, jobqueue, dirmonitor"),
        ("engine", "engine runs are scheduled, each as a new process; bots-ctl engine starts one now"),
    ] {
        let refused = sandbox.run(&["restart", name]);
        refused.expect_code(64);
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    // Of the queue alone it is all of bots-ctl.
    drop(up);
    let alone = sandbox.start(&["jobqueue"]);
    alone.wait_ready();
    sandbox.run(&["restart", "jobqueue"]).expect_code(0);
}

/// The address may be wrong because of them.
#[apply(test)]
fn absent_listener_is_explained_by_errors_of_the_configuration() {
    let mut sandbox = without_bots();
    let toml = sandbox.home.path().join("bots-ctl.toml");
    fs::write(&toml, "[log]\nlevel = \"loud\"\n").expect("written");
    sandbox.set("BOTS_CTL_CONFIG", toml.display().to_string());
    for (command, code) in
        [(&["reload"][..], 78), (&["restart", "webserver"], 78), (&["status"], 78), (&["healthcheck"], 2)]
    {
        let failed = sandbox.run(command);
        failed.expect_code(code);
        assert!(failed.stderr.contains("bots-ctl.toml:2: log.level"), "{command:?}: {failed:?}");
        assert_eq!(failed.stderr.lines().count(), 1, "{command:?}: {failed:?}");
    }
    let watching = sandbox.start(&["status", "--watch"]);
    let shown = || watching.stdout().contains("bots-ctl.toml:2: log.level").then_some(());
    wait_until("the error is shown", shown, || watching.report());
}

#[apply(test)]
fn control_requests_of_other_users_are_rejected() {
    let away = without_bots().run(&["reload"]);
    away.expect_code(69);
    assert!(away.stderr.contains("no bots-ctl with a health listener on port"), "{}", away.stderr);
    needs(Need::Root);
    let sandbox = Sandbox::prepared();
    open_to_all(sandbox.home.path());
    let web = sandbox.webserver();
    let before = service(&web, "webserver")["pid"].clone();
    let refused = as_user(&sandbox.command(&["restart", "webserver"])).output().expect("it runs");
    assert_eq!(refused.status.code(), Some(64));
    let words = "this bots-ctl runs as user 0, and accepts requests of that user and root only";
    assert!(String::from_utf8_lossy(&refused.stderr).contains(words), "{refused:?}");
    web.wait_stderr("rejected a request of user 10001");
    assert_eq!(service(&web, "webserver")["pid"], before);
}
