//! Related lines share an ID: those of an engine run, and those of a request.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::demo_translation::Demo;
use crate::support::queue::ask_v6;
use crate::support::queue::pods;
use crate::support::sandbox::{Running, Sandbox, raw_http, wait_until};

/// The lines of a JSON log that are there so far; the last one may not be whole yet.
fn records(text: &str) -> Vec<Value> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[apply(test)]
fn all_lines_of_engine_run_have_its_run_id() {
    let mut demo = Demo::new();
    demo.sandbox.set("LOG_FORMAT", "json");
    let runs = ["input", "bad"].map(|folder| {
        demo.drop_in(folder);
        let done = demo.sandbox.run(&["engine"]);
        let (own, bots) = (records(&done.stderr), records(&done.stdout));
        let names: BTreeSet<String> = own.iter().chain(&bots).map(|line| line["run_id"].to_string()).collect();
        assert!(names.len() == 1 && !names.contains("null"), "{names:?}\n{done:?}");
        assert!(bots.iter().all(|line| line["service"] == "engine") && !bots.is_empty(), "{bots:?}");
        let summary = own.iter().find(|line| line["reports"] == 1).unwrap_or_else(|| panic!("{own:?}"));
        let level = (&summary["level"], &summary["severity_number"], &summary["service"]);
        assert_eq!(level, (&"INFO".into(), &9.into(), &"bots-ctl".into()), "{summary}");
        let error = bots.iter().find(|line| line["level"] == "ERROR");
        assert!(error.is_none_or(|line| line["severity_number"] == 17), "{error:?}");
        (names, summary["bots_run"].as_u64().expect("the number of Bots's report"))
    });
    assert!(runs[0].0 != runs[1].0 && runs[0].1 < runs[1].1, "{runs:?}");
}

#[apply(test)]
fn each_scheduled_engine_run_has_a_separate_run_id() {
    let mut sandbox = Sandbox::prepared();
    sandbox.set("BOTS_CTL_ENGINE_INTERVAL", "1s").set("LOG_FORMAT", "json");
    let up = sandbox.start(&["up", "--services", "engine"]);
    let names = || -> BTreeSet<String> {
        records(&up.stdout()).iter().map(|line| line["run_id"].as_str().expect("a name").to_owned()).collect()
    };
    wait_until("it has run twice", || (names().len() >= 2).then_some(()), || up.report());
}

#[apply(test)]
fn request_id_is_the_same_in_both_pods() {
    let (mut queue, mut other, relay_port, _) = pods();
    queue.sandbox.set("LOG_FORMAT", "json");
    other.set("LOG_FORMAT", "json").set("LOG_LEVEL", "debug");
    let queue = (queue.start(), queue);
    let web = other.webserver();
    let call = |task: &str| {
        let call = format!(
            "<methodCall><methodName>addjob</methodName><params><param><value><array><data><value><string>{task}</string>\
             </value></data></array></value></param><param><value><int>5</int></value></param></params></methodCall>"
        );
        let length = call.len();
        move |header: &str| format!("POST / HTTP/1.0\r\nContent-Length: {length}\r\n{header}\r\n{call}")
    };
    let task = queue.1.task.display().to_string();
    let answer = ask_v6(relay_port, &call(&task)(""));
    assert!(answer.contains("<i4>0</i4>"), "{answer}");
    let name_of = |text: &str, message: &str| {
        let line =
            records(text).into_iter().find(|line| line["message"].as_str().is_some_and(|m| m.starts_with(message)));
        line.and_then(|line| Some(line["request_id"].as_str()?.to_owned()))
    };
    let told = |by: &Running, message: &str| wait_until(message, || name_of(&by.stderr(), message), || by.report());
    assert_eq!(told(&queue.0, "job 1 with priority 5"), told(&web, "relayed addjob"), "{}", queue.0.report());
    // The name that a caller gives is kept.
    let refused = raw_http(relay_port, call("/bin/touch")("X-Request-Id: from-outside\r\n").as_bytes());
    assert!(refused.is_some_and(|answer| answer.contains("<i4>3</i4>")), "{}", queue.0.report());
    assert_eq!(told(&queue.0, "rejected a job whose program is not allowed"), "from-outside", "{}", queue.0.report());
    let started = || {
        let lines = records(&queue.0.stderr());
        let about = |what: &str| {
            lines.iter().find(|line| line["message"].as_str().is_some_and(|m| m.starts_with(what))).cloned()
        };
        Some((about("starting job 1")?, about("job 1 finished")?))
    };
    let (started, ended) = wait_until("the job has run", started, || queue.0.report());
    assert!(started["run_id"].is_string() && started["run_id"] == ended["run_id"], "{started} {ended}");
    let is_named = |line: &Value| line["job"] == 1 && line["run_id"] == started["run_id"];
    let printed = || records(&queue.0.stdout()).iter().any(is_named).then_some(());
    wait_until("what it has printed has its name", printed, || queue.0.report());
}
