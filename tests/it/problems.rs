//! Problems and their remedies, at the beginning of `status` and of the status page.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::demo_translation::Demo;
use crate::support::queue::with_queue;
use crate::support::results::eager;
use crate::support::sandbox::{Running, Sandbox, wait_until};
use crate::support::servers::{Database, Engine, on_each_database};

on_each_database! {
    process_error_is_a_problem_until_a_run_succeeds,
    failed_files_are_problems_until_rereceived_or_deleted,
}

/// All problems, once they are as they should be.
fn wait_problems(running: &Running, what: &str, are_right: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let asked = || {
        let status: Value = serde_json::from_str(&running.health("/status")?.body).ok()?;
        let problems = status["problems"].as_array()?.clone();
        are_right(&problems).then_some(problems)
    };
    wait_until(what, asked, || format!("{:?}\n{}", running.health("/status"), running.report()))
}

/// Whether there is one of this kind whose text has this in it.
fn has(problems: &[Value], kind: &str, part: &str) -> bool {
    let is_it = |problem: &Value| problem["problem"].as_str().is_some_and(|text| text.contains(part));
    problems.iter().any(|problem| problem["kind"] == kind && is_it(problem))
}

fn check(sandbox: &Sandbox, code: i32, first_line: &str) -> String {
    let checked = sandbox.run(&["status", "--check"]);
    let text = checked.expect_code(code).stdout.clone();
    assert!(text.starts_with(first_line), "{text}");
    text
}

fn failed_files_are_problems_until_rereceived_or_deleted(engine: Engine) {
    let database = Database::fresh(engine);
    let mut sandbox = database.sandbox();
    eager(&mut sandbox);
    let demo = Demo::install(sandbox);
    let mut web = demo.sandbox.webserver();
    wait_problems(&web, "all is well", <[Value]>::is_empty);
    check(&demo.sandbox, 0, "no problems\n");
    demo.drop_in("bad");
    assert_eq!(demo.engine(&[]), 2);
    database.sql("UPDATE routes SET tochannel_id = NULL;");
    // Files of the same names, as from a partner that always sends the same.
    for _ in 0..2 {
        demo.drop_in("input");
        assert_eq!(demo.engine(&[]), 2);
    }
    let stuck = |files: u8| format!("route demo_orders: {files} files stuck");
    let problems = wait_problems(&web, "both are told", |problems| has(problems, "files_stuck", &stuck(6)));
    assert!(has(&problems, "file_errors", "route demo_orders: 1 file with errors"), "{problems:#?}");
    let file = &problems.iter().find(|problem| problem["kind"] == "file_errors").expect("it is there")["files"][0];
    assert!(file["name"].as_str().is_some_and(|name| name.ends_with("segment-count.edi")), "{file}");
    let reason = file["reason"].as_str().expect("Bots has said why");
    let text = check(&demo.sandbox, 1, "2 problems\n1. route demo_orders: 1 file with errors (");
    assert!(text.contains(reason) && text.contains("bots-ctl files --errors --route demo_orders"), "{text}");
    demo.sandbox.run(&["status"]).expect_code(0);
    // As the web UI marks files that are to be received again.
    database.sql("UPDATE routes SET tochannel_id = 'demo_out';");
    let newest = database.value("SELECT max(idta) FROM report");
    let again = "UPDATE filereport SET retransmit = 1 WHERE statust = 2 AND reportidta";
    database.sql(&format!("{again} = {newest};"));
    assert_eq!(demo.engine(&["--rereceive"]), 0);
    let problems = wait_problems(&web, "those are through", |problems| has(problems, "files_stuck", &stuck(3)));
    assert_eq!(problems.len(), 2, "{problems:#?}");
    database.sql(&format!("{again} < {newest};"));
    assert_eq!(demo.engine(&["--rereceive"]), 0);
    wait_problems(&web, "all are through", |problems| problems.len() == 1);
    // A process that starts reads it all anew.
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
    let web = demo.sandbox.webserver();
    let problems = wait_problems(&web, "only one is left", |problems| !problems.is_empty());
    assert!(problems.len() == 1 && has(&problems, "file_errors", "1 file with errors"), "{problems:#?}");
    // As the web UI deletes entries that a person has handled.
    database.sql("DELETE FROM filereport WHERE statust = 1;");
    wait_problems(&web, "nothing is left", <[Value]>::is_empty);
}

fn process_error_is_a_problem_until_a_run_succeeds(engine: Engine) {
    let database = Database::fresh(engine);
    let mut sandbox = database.sandbox();
    eager(&mut sandbox);
    let demo = Demo::install(sandbox);
    let web = demo.sandbox.webserver();
    // Nothing listens there.
    database.sql("UPDATE channel SET type = 'ftp', host = '127.0.0.1', port = 1 WHERE idchannel = 'demo_in';");
    assert_eq!(demo.engine(&[]), 2);
    let problems = wait_problems(&web, "it is told", |problems| has(problems, "process_error", "demo_orders: "));
    assert_eq!(problems.len(), 1, "{problems:#?}");
    database.sql("UPDATE channel SET type = 'file' WHERE idchannel = 'demo_in';");
    assert_eq!(demo.engine(&[]), 0);
    wait_problems(&web, "a run was well", <[Value]>::is_empty);
}

#[apply(test)]
fn missing_channel_directory_and_inactive_route_are_problems() {
    let mut demo = Demo::install(with_queue().0);
    eager(&mut demo.sandbox);
    let queue = demo.sandbox.start(&["jobqueue"]);
    queue.wait_ready();
    wait_problems(&queue, "all is well", <[Value]>::is_empty);
    let away = demo.input().with_extension("away");
    fs::rename(demo.input(), &away).expect("it is there");
    let told = |problems: &[Value]| {
        has(problems, "directory", "channel demo_in of route demo_orders cannot read files: cannot read ")
    };
    wait_problems(&queue, "the directory is missing", told);
    fs::rename(&away, demo.input()).expect("it is there");
    wait_problems(&queue, "it is back", <[Value]>::is_empty);
    let off =
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('UPDATE routes SET active = 0'); c.commit()";
    let file = demo.sandbox.root().join("botssys/sqlitedb/botsdb").display().to_string();
    demo.sandbox.run(&["exec", "--", "python3", "-c", off, &file]).expect_code(0);
    demo.drop_in("input");
    let told = |problems: &[Value]| has(problems, "route", "route demo_orders is not active: 3 files wait in ");
    wait_problems(&queue, "files wait for a route that is not active", told);
}

#[apply(test)]
fn failing_routes_directories_and_jobs_are_problems() {
    let (mut sandbox, _) = with_queue();
    eager(&mut sandbox);
    let input = sandbox.home.path().join("in");
    fs::create_dir(&input).expect("made");
    for (section, path) in [("dirmonitor1", input.display().to_string()), ("dirmonitor2", "/nowhere/in".to_owned())] {
        sandbox.set_ini(section, "path", &path);
        sandbox.set_ini(section, "route", "orders");
    }
    let up = sandbox.start(&["up", "--services", "jobqueue,dirmonitor"]);
    up.wait_ready();
    let problems = wait_problems(&up, "the routes were read", |problems| has(problems, "route", "orders"));
    assert!(has(&problems, "directory", "not watched: /nowhere/in/* for route orders: "), "{problems:#?}");
    assert!(has(&problems, "route", "route orders does not exist: files would wait in "), "{problems:#?}");
    fs::write(input.join("a.edi"), "UNB").expect("written");
    let problems = wait_problems(&up, "its job has failed", |problems| has(problems, "job", "job 1 (bots-engine "));
    assert!(has(&problems, "job", " ended with exit code 64: usage error"), "{problems:#?}");
    let shown = sandbox.run(&["job", "show", "latest"]).expect_code(0).stdout.clone();
    assert!(shown.contains("exit code  64: usage error\n"), "{shown}");
    let text = check(&sandbox, 1, "4 problems\n1. not watched: /nowhere/in/* for route orders: ");
    assert!(text.contains("\n   bots-ctl job show 1 prints the end of its output; "), "{text}");
}
