//! The status page in a real browser: its content in each state, on a desktop and on a phone.
//!
//! With `STATUS_PAGE_PICTURES=DIRECTORY` it also saves a screenshot of each state, light and dark, wide and narrow.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::support::browser::Browser;
use crate::support::queue::with_queue;
use crate::support::results::{eager, file_row, run_row, wait_results};
use crate::support::sandbox::{Running, Sandbox, http, wait_until};
use crate::support::servers::{Database, Engine, sqlite};

/// The page of a bots-ctl, in as many browsers as are wanted.
struct Page {
    browsers: Vec<(String, Browser)>,
    pictures: Option<PathBuf>,
}

impl Page {
    fn open(running: &Running) -> Self {
        let pictures = std::env::var_os("STATUS_PAGE_PICTURES").map(PathBuf::from);
        let looks: &[(bool, bool)] = match pictures {
            Some(_) => &[(false, false), (false, true), (true, false), (true, true)],
            None => &[(true, true)],
        };
        let look = |&(telephone, dark): &(bool, bool)| {
            let browser = Browser::looking(telephone, dark);
            browser.visit(&format!("http://127.0.0.1:{}/", running.health_port));
            let name = format!("{}-{}", if telephone { "narrow" } else { "wide" }, if dark { "dark" } else { "light" });
            (name, browser)
        };
        Self { browsers: looks.iter().map(look).collect(), pictures }
    }

    /// Waits until each shows these texts; then nothing sticks out to the side, and nothing was refused by the policy.
    fn wait(&self, state: &str, texts: &[&str]) {
        for (name, browser) in &self.browsers {
            let shown = || texts.iter().all(|text| browser.text().contains(text)).then_some(());
            wait_until(&format!("{state} is shown"), shown, || format!("{texts:?} in\n{}", browser.text()));
            let [wide, screen, styled] = [
                "return document.documentElement.scrollWidth",
                "return document.documentElement.clientWidth",
                "return getComputedStyle(document.body).fontVariantLigatures && document.styleSheets[0].cssRules.length",
            ]
            .map(|script| browser.script(script).as_u64().expect("a number"));
            assert!(wide <= screen && styled > 0, "{state}: {wide} > {screen}, {styled}");
            let fits = "const e = document.getElementById('routes-table'); return e.scrollWidth <= e.clientWidth";
            assert_eq!(browser.script(fits), true, "{state}: the table of routes fits");
            if let Some(directory) = &self.pictures {
                fs::create_dir_all(directory).expect("made");
                browser.screenshot(&directory.join(format!("{state}-{name}.png")));
                browser.script("window.scrollTo(0, 700)");
                browser.screenshot(&directory.join(format!("{state}-{name}-below.png")));
                browser.script("window.scrollTo(0, 0)");
            }
        }
    }
}

#[apply(test)]
fn page_shows_500_routes_drain_and_lost_connection() {
    let database = Database::fresh(Engine::Sqlite);
    let mut sandbox = database.sandbox();
    eager(&mut sandbox);
    sandbox.set("BOTS_CTL_DRAIN", "1h");
    sandbox.run(&["init-db"]).expect_code(0);
    database.sql(&history());
    let mut web = sandbox.webserver();
    wait_results(&web, "it was read", |results| results["routes"].as_array().is_some_and(|all| all.len() == 500));
    let status = web.health("/status").expect("it listens").body;
    assert!(status.len() < 100_000, "{}", status.len());
    let page = Page::open(&web);
    let healthy = [
        "● Ready",
        "● running",
        "✓ database",
        "500 routes, 3 with errors",
        "Of the last 50 runs none failed, 2 had errors in some files.",
        "Show all 500",
    ];
    page.wait("routes", &["✕ error, ", "▲ stuck, "]);
    page.wait("healthy", &healthy);
    let (_, browser) = &page.browsers[0];
    let rows = || browser.script("return document.querySelectorAll('#routes tr').length");
    assert_eq!(rows(), 50);
    let first = browser.script("return document.querySelector('#routes th').textContent");
    assert!(first.as_str().is_some_and(|name| name.starts_with("bad_")), "{first}");
    browser
        .script("const e = document.getElementById('wanted'); e.value = 'R0017'; e.dispatchEvent(new Event('input'))");
    assert_eq!(rows(), 1);
    browser.script("const e = document.getElementById('wanted'); e.value = ''; e.dispatchEvent(new Event('input'))");
    browser.script("document.getElementById('more').click()");
    assert_eq!(rows(), 500);
    // A name is a text, whatever it looks like.
    assert_eq!(browser.script("return document.querySelectorAll('#routes img').length"), 0);
    web.signal(Signal::SIGTERM);
    page.wait("draining", &["▽ Stopping", "webserver is stopping"]);
    web.signal(Signal::SIGTERM);
    web.wait();
    page.wait("lost", &["✕ Connection lost. What is shown is "]);
}

/// `docs/status-page.png` is its picture `day-wide-light`.
#[apply(test)]
fn a_day_of_some_routes_with_a_rejected_order() {
    let (mut sandbox, _) = with_queue();
    eager(&mut sandbox);
    sandbox.set("TZ", "UTC");
    sqlite(&sandbox.root().join("botssys/sqlitedb/botsdb").display().to_string(), &day());
    let up = sandbox.start(&["up", "--services", "jobqueue,webserver"]);
    up.wait_ready();
    wait_results(&up, "it was read", |results| results["routes"].as_array().is_some_and(|all| all.len() == 5));
    let page = Page::open(&up);
    for (name, browser) in &page.browsers {
        if name.starts_with("wide") {
            browser.resize(1024, 1280);
        }
    }
    page.wait(
        "day",
        &["1 problem", "route orders_edifact_to_erp: 1 file with errors", REASON, "5 routes, 1 with errors"],
    );
}

#[apply(test)]
fn page_shows_empty_system_and_lost_database() {
    let (mut sandbox, _) = with_queue();
    eager(&mut sandbox);
    for (section, path) in [("dirmonitor1", sandbox.home.path().to_owned()), ("dirmonitor2", "/nowhere/in".into())] {
        sandbox.set_ini(section, "path", &path.display().to_string());
        sandbox.set_ini(section, "route", "orders");
    }
    let up = sandbox.start(&["up", "--services", "jobqueue,webserver,dirmonitor"]);
    up.wait_ready();
    wait_results(&up, "it was read", |results| results.is_object());
    let page = Page::open(&up);
    let directories = ["1 directory watched, 1 with errors.", "✕ /nowhere/in/* for route orders: "];
    page.wait(
        "problems",
        &["3 problems", "not watched: /nowhere/in/*", "create or mount the directory", "route orders does not exist"],
    );
    let empty = ["● Ready", "Queue: 0 waiting, 0 running", "Engine: no run at the moment", "No engine has run yet."];
    page.wait("empty", &[&empty[..], &["No route is active.", "Environment default", "SQLite database "]].concat());
    let (_, browser) = &page.browsers[0];
    let header = browser
        .script("return [document.getElementById('count').textContent, document.querySelector('#system a').href]");
    let web = format!("http://127.0.0.1:{}/", sandbox.web_port);
    assert_eq!(header, serde_json::json!(["3 problems", web]));
    page.wait("directories", &directories);
    let file = sandbox.root().join("botssys/sqlitedb/botsdb");
    fs::rename(&file, file.with_extension("away")).expect("the file is there");
    page.wait("database-down", &["▲ Not ready", "✕ database: ", "the file does not exist", "As of "]);
}

#[apply(test)]
fn page_shows_crash_loop_of_service() {
    let mut sandbox = Sandbox::prepared();
    eager(&mut sandbox);
    sandbox.stand_in("bots-webserver", "#!/bin/sh\necho 'ERROR cannot start'\nexit 3\n");
    sandbox.set("BOTS_CTL_RESTART_LIMIT", "100").set("BOTS_CTL_RESTART_INITIAL_DELAY", "200ms");
    let web = sandbox.start(&["webserver"]);
    web.wait_health("/health/startup", 200);
    let page = Page::open(&web);
    page.wait("crash-loop", &["▲ Not ready", "↻ restarting", "exit code 3", "webserver is restarting"]);
}

#[apply(test)]
fn page_sends_security_headers_and_can_be_disabled() {
    let mut sandbox = Sandbox::prepared();
    let web = sandbox.webserver();
    let [first, second] = [0, 1].map(|_| web.health("/").expect("it listens"));
    assert_eq!((first.status, http(sandbox.health_port, "POST", "/").map(|answer| answer.status)), (200, Some(405)));
    let head = first.head.to_lowercase();
    for header in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'; script-src 'nonce-",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
    ] {
        assert!(head.contains(header), "{head}");
    }
    assert_ne!(first.body, second.body, "a nonce is good for one answer");
    // The page in a browser without JavaScript.
    assert!(first.body.contains(": ready\n\n") && first.body.contains("webserver"), "{}", first.body);
    drop(web);
    sandbox.set("BOTS_CTL_STATUS_PAGE", "off");
    let web = sandbox.webserver();
    assert_eq!(web.health("/").map(|answer| answer.status), Some(404));
    assert_eq!(web.health("/status").map(|answer| answer.status), Some(200));
}

/// The route of the rejected file.
const ORDERS: &str = "orders_edifact_to_erp";

/// Bots's reason for a rejected file.
const REASON: &str = "[P03]: Partner \"9521000000018\" is unknown";

/// Five routes and two days of runs; the last file of a route was rejected.
fn day() -> String {
    let routes = ["despatch_advice_to_partners", "invoices_erp_to_edifact", ORDERS, "orders_x12_to_erp", "prices"];
    let mut rows: String = routes.map(route_row).concat();
    for run in 0..50 {
        let number = 1000 + run * 100;
        let at = format!("datetime('now', '-{} minutes')", (50 - run) * 30);
        let (files, errors) = (1 + (run * run + run) % 17, i64::from(run == 48));
        rows += &run_row(number, "new", files, errors, &at, ["0", "1"]);
        for (file, route) in (number + 1..=number + files).zip(routes.iter().cycle()) {
            rows += &(file_row(file, number, 3, route, &at) + &sent_row(file, route, &at));
        }
        if errors > 0 {
            rows += &file_row(number + 50, number, 1, ORDERS, &at);
            let (file, name) = (number + 50, "PO-4711.edi");
            rows +=
                &format!("UPDATE filereport SET infilename = '{name}', errortext = '{REASON}' WHERE idta = {file};\n");
        }
    }
    rows
}

fn sent_row(number: i64, route: &str, at: &str) -> String {
    format!(
        "INSERT INTO ta (idta, idroute, status, statust, script, ts) VALUES ({number}, '{route}', 520, 3, 1, {at});\n"
    )
}

/// 500 active routes and a day of runs, three routes of which had trouble.
fn history() -> String {
    let mut rows = String::new();
    for number in 0..497 {
        rows += &route_row(&format!("r{number:04}"));
    }
    let bad = ["bad_<img src=x onerror=alert(1)>", "bad_orders", "bad_desadv"];
    for name in bad {
        rows += &route_row(name);
    }
    for run in 0..60 {
        let (number, minutes) = (1000 + run * 100, (60 - run) * 20);
        let at = format!("datetime('now', '-{minutes} minutes')");
        let kind = if run == 40 { "crashrecovery" } else { "new" };
        let (files, errors) = (run * run % 23, i64::from(run % 19 == 7) * 2);
        rows += &run_row(number, kind, files, errors, &at, ["0", "1"]);
        for file in 0..files {
            rows += &file_row(number + 1 + file, number, 3, &format!("r{:04}", run * 7 + file), &at);
        }
        for file in 0..errors {
            rows += &file_row(number + 50 + file, number, 1 + file, bad[usize::from(file == 1)], &at);
        }
    }
    rows + &file_row(9000, 8000, 1, bad[2], "datetime('now', '-5 minutes')")
        + &sent_row(9001, "r0000", "datetime('now')")
}

fn route_row(name: &str) -> String {
    format!(
        "INSERT INTO routes (idroute, seq, active, fromeditype, frommessagetype, toeditype, tomessagetype, alt, testindicator, \
         translateind, defer, zip_incoming, zip_outgoing, notindefaultrun) \
         VALUES ('{name}', 1, 1, '', '', '', '', '', '', 1, 0, 0, 0, 0);\n"
    )
}
