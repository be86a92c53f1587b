//! Results of EDI files, from Bots's tables to `/status` and the terminal, for each database.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::support::demo_translation::Demo;
use crate::support::results::{eager, file_row, no_and_yes, run_row, wait_results};
use crate::support::sandbox::{Sandbox, wait_until};
use crate::support::servers::{Database, Engine, on_each_database};

on_each_database! {
    results_show_runs_and_times_without_edi_content,
    long_run_history_is_read_up_to_its_limit,
    run_summary_counts_add_up,
    start_times_are_truncated_to_seconds,
}

fn results_show_runs_and_times_without_edi_content(engine: Engine) {
    let database = Database::fresh(engine);
    let mut sandbox = database.sandbox();
    eager(&mut sandbox);
    let demo = Demo::install(sandbox);
    let web = demo.sandbox.webserver();
    let empty = wait_results(&web, "the tables were read", Value::is_object);
    assert_eq!((&empty["runs"], &empty["routes"][0]["name"]), (&serde_json::json!([]), &"demo_orders".into()));
    let begin = seconds_now();
    demo.drop_in("input");
    assert_eq!(demo.engine(&[]), 0);
    let first = wait_results(&web, "the run is told", |results| results["routes"][0]["sent"] == 5);
    let run = &first["runs"][0];
    assert_eq!(
        (&run["kind"], &run["received"], &run["done"], &run["sent"]),
        (&"new".into(), &3.into(), &3.into(), &5.into())
    );
    // Whatever the zone in which Bots notes times. Databases cut fractions off.
    let started = run["started"].as_u64().expect("a time");
    assert!((begin - 1..=seconds_now()).contains(&started), "{begin} {run}");
    assert!(run["seconds"].as_u64().is_some_and(|took| took <= seconds_now() - begin + 1), "{run}");
    demo.drop_in("bad");
    assert_eq!(demo.engine(&[]), 2);
    let failed = wait_results(&web, "the error is told", |results| results["routes"][0]["received"] == 4);
    let (run, route) = (&failed["runs"][0], &failed["routes"][0]);
    assert_eq!(
        (&run["errors"], &run["failed"], &failed["locked"]),
        (&1.into(), &true.into(), &false.into()),
        "{failed}"
    );
    assert_eq!(
        (&route["state"], &route["errors"], &route["done"]),
        (&"error".into(), &1.into(), &3.into()),
        "{failed}"
    );
    let table = demo.sandbox.run(&["status"]).stdout;
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let line = words.iter().find(|line| line.first() == Some(&"demo_orders")).unwrap_or_else(|| panic!("{table}"));
    assert_eq!(line[line.len() - 5..], ["error", "4", "5", "1", "0"], "{table}");
    for path in ["/", "/status", "/metrics"] {
        let body = web.health(path).expect("it listens").body;
        assert!(body.contains("demo_orders"), "{path}: {body}");
        for content in ["PO-1001", "ORDERS", "NORTH STAR", "batch.edi"] {
            assert!(!body.contains(content), "{content} is in {path}: {body}");
        }
    }
}

fn run_summary_counts_add_up(engine: Engine) {
    let database = Database::fresh(engine);
    let demo = Demo::install(database.sandbox());
    // No step processes the translated files of the route.
    database.sql("UPDATE routes SET tochannel_id = NULL;");
    demo.drop_in("input");
    demo.drop_in("bad");
    let run = demo.sandbox.engine(&[]);
    let told = "the run received 4 files, finished 0, had errors in 1, left 3 stuck, sent 0, in ";
    assert!(run.expect_code(2).stderr.contains(told), "{run:?}");
    assert!(run.stderr.contains("; bots-ctl files --errors lists them with the reasons"), "{run:?}");
}

fn long_run_history_is_read_up_to_its_limit(engine: Engine) {
    let database = Database::fresh(engine);
    let mut sandbox = database.sandbox();
    eager(&mut sandbox);
    sandbox.run(&["init-db"]).expect_code(0);
    let (now, no_and_yes) = ("CURRENT_TIMESTAMP", no_and_yes(engine));
    let mut rows = String::new();
    for (run, route) in [(10, "far"), (300_000, "early"), (345_000, "late"), (450_000, "late")] {
        rows += &run_row(run, "new", 1, 0, now, no_and_yes);
        rows += &file_row(run + 1, run, 3, route, now);
        rows += &format!(
            "INSERT INTO ta (idta, status, statust, script, idroute) VALUES ({run}, 1, 3, 0, ''), \
                          ({}, 520, 3, 5, '{route}');\n",
            run + 2
        );
    }
    // A run that was broken off, and left no lock.
    rows += "INSERT INTO ta (idta, status, statust, script) VALUES (455000, 1, 0, 0);\n";
    database.sql(&rows);
    let web = sandbox.webserver();
    let told = wait_results(&web, "it was read", Value::is_object);
    let route =
        |name: &str| told["routes"].as_array().expect("a list").iter().find(|route| route["name"] == name).cloned();
    let expected = serde_json::json!({"received": 2, "done": 2, "sent": 2, "inactive": true, "state": "done"});
    let late = route("late").unwrap_or_else(|| panic!("{told}"));
    for name in ["received", "done", "sent", "inactive", "state"] {
        assert_eq!(late[name], expected[name], "{told}");
    }
    assert!(route("early").is_some() && route("far").is_none(), "{told}");
    assert_eq!((&told["lost_runs"], told["runs"].as_array().map(Vec::len)), (&1.into(), Some(4)), "{told}");
    // The files of an active engine are not counted.
    database.sql(&format!(
        "BEGIN;\nINSERT INTO mutex (mutexk) VALUES (1);\n{}{}COMMIT;\n",
        run_row(460_000, "new", 0, 2, now, no_and_yes),
        file_row(460_001, 460_000, 1, "late", now) + &file_row(460_002, 460_000, 2, "late", now)
    ));
    let locked = wait_results(&web, "the lock is told", |results| results["locked"] == true);
    assert_eq!(locked["runs"].as_array().map(Vec::len), Some(5), "{locked}");
    database.sql("INSERT INTO ta (idta, status, statust, script) VALUES (460003, 220, 3, 1); DELETE FROM mutex;");
    let over =
        |results: &Value| results["routes"].as_array().is_some_and(|all| all.iter().any(|route| route["stuck"] == 1));
    let told = wait_results(&web, "the run is over", over);
    let late = told["routes"].as_array().expect("a list").iter().find(|route| route["name"] == "late").cloned();
    let late = late.expect("it is there");
    assert_eq!((&late["errors"], &late["received"], &late["state"]), (&1.into(), &4.into(), &"stuck".into()), "{told}");
}

fn start_times_are_truncated_to_seconds(engine: Engine) {
    let database = Database::fresh(engine);
    let mut sandbox = database.sandbox();
    eager(&mut sandbox);
    sandbox.run(&["init-db"]).expect_code(0);
    let late_in_its_second = match engine {
        Engine::Postgresql => "date_trunc('hour', now()) + interval '0.9 second'",
        Engine::Mariadb => "CONCAT(DATE_FORMAT(NOW(), '%Y-%m-%d %H'), ':00:00.9')",
        Engine::Sqlite => "strftime('%Y-%m-%d %H:00:00.900000', 'now')",
    };
    database.sql(&run_row(10, "new", 1, 0, late_in_its_second, no_and_yes(engine)));
    let web = sandbox.webserver();
    let told = wait_results(&web, "the run is told", |results| results["runs"][0].is_object());
    let started = told["runs"][0]["started"].as_u64().unwrap_or_else(|| panic!("{told}"));
    assert_eq!(started % 3600, 0, "{told}");
}

#[apply(test)]
fn results_stay_visible_during_database_outage() {
    let mut sandbox = Sandbox::prepared();
    eager(&mut sandbox);
    sandbox.run(&["init-db"]).expect_code(0);
    let file = sandbox.root().join("botssys/sqlitedb/botsdb");
    let web = sandbox.webserver();
    wait_results(&web, "it was read", |results| results["error"].is_null() && results.is_object());
    let away = file.with_extension("away");
    fs::rename(&file, &away).expect("the file is there");
    let told = wait_results(&web, "the trouble is told", |results| results["error"].is_string());
    assert!(told["error"].as_str().is_some_and(|why| why.contains("the file does not exist")), "{told}");
    assert_eq!(web.health("/health/live").expect("it listens").status, 200);
    web.wait_health("/health/ready", 503);
    // The next program that opens it creates an empty file.
    fs::write(&file, "").expect("written");
    let is_told = || {
        let ready = web.health("/health/ready")?;
        (ready.status == 503 && ready.body.contains("is empty: it was removed or never initialized")).then_some(())
    };
    wait_until("an empty one is none", is_told, || web.report());
    fs::remove_file(&file).expect("it is there");
    let table = sandbox.run(&["status"]).expect_code(1).stdout.clone();
    assert!(table.contains("runs and routes are as of ") && table.contains("not ready: "), "{table}");
    fs::rename(&away, &file).expect("the file is there");
    wait_results(&web, "it was read again", |results| results["error"].is_null());
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}
