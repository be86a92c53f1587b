//! `files`: received files, their results and the reasons of failures.

use serde_json::Value;

use crate::support::demo_translation::Demo;
use crate::support::results::file_row;
use crate::support::sandbox::{Finished, Sandbox};
use crate::support::servers::{Database, Engine, on_each_database};

on_each_database! {
    files_lists_results_and_error_reasons,
}

fn json(finished: &Finished) -> Vec<Value> {
    finished.expect_code(0);
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

/// Which files `files` lists with these flags.
fn names(sandbox: &Sandbox, flags: &[&str]) -> Vec<String> {
    let listed = json(&sandbox.run(&[&["files", "--json"], flags].concat()));
    listed
        .iter()
        .map(|file| file["name"].as_str().expect("a name").rsplit('/').next().unwrap_or_default().into())
        .collect()
}

fn files_lists_results_and_error_reasons(engine: Engine) {
    let database = Database::fresh(engine);
    let demo = Demo::install(database.sandbox());
    let none = demo.sandbox.run(&["files"]);
    none.expect_code(0);
    assert_eq!(none.stdout, "no such files in the last 1d\n");
    demo.drop_in("input");
    assert_eq!(demo.engine(&[]), 0);
    demo.drop_in("bad");
    assert_eq!(demo.engine(&[]), 2);
    // As Bots leaves a file that no step took further; the other one is of last week.
    let newest: i64 = database.value("SELECT max(idta) FROM ta").parse().expect("a number");
    let week_ago = match engine {
        Engine::Sqlite => "datetime('now', '-8 days')",
        Engine::Mariadb => "now() - interval 8 day",
        Engine::Postgresql => "now() - interval '8 days'",
    };
    database.sql(&file_row(newest + 50_000, newest, 2, "other", "CURRENT_TIMESTAMP"));
    database.sql(&file_row(newest + 50_001, newest, 1, "old", week_ago));

    let all = json(&demo.sandbox.run(&["files", "--json"]));
    assert_eq!(all.iter().filter(|file| file["state"] == "done").count(), 3, "{all:#?}");
    let failed = all.iter().find(|file| file["state"] == "error").unwrap_or_else(|| panic!("{all:#?}"));
    assert!(failed["error"].as_str().is_some_and(|error| !error.is_empty()), "{failed}");
    assert_eq!(failed["route"], "demo_orders");
    assert_eq!(all[0]["state"], "stuck", "the newest is the first: {all:#?}");

    assert_eq!(names(&demo.sandbox, &["--errors"]).len(), 2);
    assert_eq!(names(&demo.sandbox, &["--errors", "--since", "30d"]).len(), 3);
    // A route is an argument of a prepared statement, whose answer has another form.
    let of_route: Vec<Value> = all.iter().filter(|file| file["route"] == "demo_orders").cloned().collect();
    assert_eq!(of_route.len(), 4, "{all:#?}");
    assert_eq!(json(&demo.sandbox.run(&["files", "--json", "--route", "demo_orders"])), of_route);
    assert_eq!(names(&demo.sandbox, &["--limit", "2"]).len(), 2);

    let table = demo.sandbox.run(&["files", "--errors"]).stdout;
    assert!(table.starts_with("RECEIVED "), "{table}");
    let reason = failed["error"].as_str().and_then(|error| error.lines().next()).expect("it has one");
    let line = table.lines().find(|line| line.contains("demo_orders")).unwrap_or_else(|| panic!("{table}"));
    assert!(line.contains("error") && line.ends_with(reason.trim()), "{table}");
    assert!(table.lines().any(|line| line.contains("other") && line.contains("stuck")), "{table}");
}

#[apply(test)]
fn files_errors_name_the_remedy() {
    let refused = Sandbox::prepared().run(&["files", "--since", "soon"]);
    refused.expect_code(64);
    assert!(refused.stderr.contains("--since soon: expected an age such as 30m, 12h or 7d"), "{refused:?}");
    let fresh = Sandbox::new().run(&["files"]);
    assert!([69, 78].contains(&fresh.code()), "{fresh:?}");
    assert!(fresh.stderr.contains("init-db"), "{fresh:?}");
}
