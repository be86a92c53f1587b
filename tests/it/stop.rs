//! A stop at an awkward moment: while something waits, hangs, or is being translated.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::bots::without_bots;
use crate::support::demo_translation::Demo;
use crate::support::process::web_process;
use crate::support::sandbox::{Running, Sandbox, python, wait_until};

/// Logs in and starts the engine as the button in the UI does; on 4.x the answer comes when the engine has ended.
const PRESS_RUN: &str = r#"
import re, sys, urllib.parse, urllib.request
from http.cookiejar import CookieJar
base, password = sys.argv[1:]
browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
page = browser.open(base + "/login/").read().decode()
token = re.search(r'csrfmiddlewaretoken[^>]*value=["\']([^"\']+)', page).group(1)
form = {"csrfmiddlewaretoken": token, "username": "admin", "password": password}
home = browser.open(base + "/login/", urllib.parse.urlencode(form).encode()).geturl()
prefix = "/bots" if "/bots/" in home else ""
browser.open(base + prefix + "/runengine/?clparameter=--new")
"#;

/// Copies of one message, so that the engine is busy for a while.
const MESSAGES: usize = 300;

#[apply(test)]
fn an_engine_that_the_web_ui_has_started_finishes_its_run() {
    let mut demo = Demo::new();
    demo.sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1h");
    let message = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/demo/input/single.edi");
    for number in 0..MESSAGES {
        fs::copy(message, demo.input().join(format!("{number}.edi"))).expect("copied");
    }
    let mut web = demo.sandbox.webserver();
    let base = format!("http://127.0.0.1:{}", demo.sandbox.web_port);
    let mut press = std::process::Command::new(python());
    press.args(["-c", PRESS_RUN, &base, &demo.sandbox.admin_password()]);
    let pressed = Running::start(press, demo.sandbox.home.path(), demo.sandbox.health_port);
    let engine = || web.descendants().into_iter().find(|(_, command)| command.contains("bots-engine"));
    wait_until(
        "the engine has taken files",
        || engine().filter(|_| taken(&demo)),
        || format!("{}\n{}", web.report(), pressed.report()),
    );
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
    let output = demo.output().join("PO-1001.txt");
    let once = fs::metadata(Path::new(message).with_file_name("../expected/PO-1001.txt")).expect("there").len();
    let all = fs::metadata(output).expect("the engine has written").len();
    assert_eq!(all, once * MESSAGES as u64, "every message went out once\n{}", web.report());
    assert_eq!(locks(&demo), "0", "the engine has ended in order");
}

fn taken(demo: &Demo) -> bool {
    fs::read_dir(demo.input()).is_ok_and(|left| left.count() < MESSAGES)
}

/// Rows of the engine's own lock: one stays behind when it is killed.
fn locks(demo: &Demo) -> String {
    let script =
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM mutex').fetchone()[0])";
    let database = demo.sandbox.root().join("botssys/sqlitedb/botsdb");
    let counted =
        std::process::Command::new(python()).args(["-c", script]).arg(database).output().expect("Python runs");
    String::from_utf8_lossy(&counted.stdout).trim().to_owned()
}

#[apply(test)]
fn waiting_for_another_initialiser_can_be_stopped() {
    let sandbox = Sandbox::new();
    sandbox.run(&["init-db"]).expect_code(0);
    let database = sandbox.root().join("botssys/sqlitedb/botsdb");
    fs::remove_file(&database).expect("it is there");
    let lock = File::options().write(true).open(database.with_file_name("botsdb.init-lock")).expect("it is there");
    lock.lock().expect("nobody else has it");
    let mut waiting = sandbox.start(&["init-db"]);
    waiting.wait_stderr("another bots-ctl initialises");
    waiting.signal(Signal::SIGTERM);
    assert_eq!(waiting.wait_code(), 143, "{}", waiting.report());
    let mut web = sandbox.start(&["webserver"]);
    web.wait_stderr("another bots-ctl initialises");
    assert_eq!(web.wait_health("/health/startup", 503).status, 503);
    assert_eq!(web.wait_health("/health/live", 200).status, 200);
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
    drop(lock);
    sandbox.run(&["init-db"]).expect_code(0);
}

#[apply(test)]
fn settings_that_hang_can_be_stopped() {
    let sandbox = Sandbox::new();
    let config = sandbox.root().join("config");
    fs::create_dir_all(&config).expect("made");
    let reached = sandbox.home.path().join("reached");
    let text = format!("import time\nopen({:?}, 'w').close()\ntime.sleep(3600)\n", reached.display().to_string());
    fs::write(config.join("settings.py"), text).expect("written");
    for (args, code) in [(vec!["webserver"], 0), (vec!["init-db"], 143), (vec!["config", "check"], 2)] {
        let mut hanging = sandbox.start(&args);
        wait_until("settings.py is being imported", || reached.exists().then_some(()), || hanging.report());
        hanging.signal(Signal::SIGTERM);
        assert_eq!(hanging.wait_code(), code, "{args:?}\n{}", hanging.report());
        fs::remove_file(&reached).expect("it is there");
    }
}

#[apply(test)]
fn a_migration_is_finished_before_the_end() {
    let sandbox = Sandbox::new();
    let mut first = sandbox.start(&["init-db"]);
    first.wait_stderr("running Django's migrate");
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait_code(), 143, "{}", first.report());
    assert!(first.stderr().contains("the database is completed first"), "{}", first.stderr());
    let second = sandbox.run(&["init-db"]);
    second.expect_code(0);
    assert!(second.stderr.is_empty() || second.stderr.contains("is complete"), "{}", second.stderr);
}

/// A web server that has a request to finish when it is asked to stop: for a second, or without end where `endless` lies beside it.
const BUSY_WEB_SERVER: &str = r#"#!/usr/bin/env python3
import http.server, os, signal, sys, time
endless = os.path.join(os.path.dirname(os.path.abspath(__file__)), "endless")
def stop(number, frame):
    signal.signal(number, signal.SIG_IGN)
    print("finishing a request", file=sys.stderr, flush=True)
    time.sleep(3600 if os.path.exists(endless) else 1)
    os._exit(0)
signal.signal(signal.SIGINT, stop)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()
    do_GET = do_HEAD
    def log_message(self, *arguments):
        pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// A sandbox whose web server has started a command of a shell.
fn with_started(command: &str) -> Sandbox {
    let mut sandbox = Sandbox::prepared();
    let start = format!("import subprocess; subprocess.Popen(['sh', '-c', {command:?}])\nclass Handler");
    sandbox.stand_in("bots-webserver", &BUSY_WEB_SERVER.replacen("class Handler", &start, 1));
    sandbox
}

fn started(web: &Running, command: &str) -> Pid {
    crate::support::process::wait_descendant(web, command)
}

#[apply(test)]
fn a_stop_has_one_deadline_whatever_is_left() {
    let deaf = "trap '' TERM; sleep 1001 & exec setsid sleep 1002";
    let mut sandbox = with_started(deaf);
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "6s").set("BOTS_CTL_GRACE_PERIOD", "6s");
    let mut web = sandbox.webserver();
    let left = [started(&web, "sleep 1001"), started(&web, "sleep 1002")];
    let begin = Instant::now();
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}\n{}", begin.elapsed(), web.report());
    assert!(left.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()), "{}", web.report());
    assert!(!web.stderr().contains("stopping may take"), "{}", web.report());
}

#[apply(test)]
fn what_a_service_leaves_in_its_group_is_asked_to_end() {
    for command in ["exec sleep 1001", "kill -STOP $$; exec sleep 1001", "exec setsid sleep 1001"] {
        let mut sandbox = with_started(command);
        sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1h");
        let mut web = sandbox.webserver();
        web.signal(Signal::SIGTERM);
        assert_eq!(web.wait_code(), 0, "{command}\n{}", web.report());
    }
}

#[apply(test)]
fn an_engine_in_the_group_of_a_service_is_not_asked_to_end() {
    let mut sandbox = with_started("exec ./bots-engine");
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1h");
    let engine = sandbox.root().join("bots-engine");
    let script = "#!/bin/sh\ntrap 'echo cut' TERM\nwhile ! [ -e go ]; do sleep 0.1; done\nsleep 1\necho finished\n";
    crate::support::process::write_program(&engine, script, 0o755);
    let mut web = sandbox.webserver();
    web.signal(Signal::SIGTERM);
    web.wait_stderr("waiting for the processes it left");
    fs::write(engine.with_file_name("go"), "").expect("written");
    assert_eq!(web.wait_code(), 0, "{}", web.report());
    assert!(web.report().contains("finished") && !web.report().contains("cut"), "{}", web.report());
}

#[apply(test)]
fn a_service_that_is_stopped_goes_on_when_it_is_to_end() {
    let mut sandbox = with_started("true");
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1h");
    let mut web = sandbox.webserver();
    kill(web_process(&web), Signal::SIGSTOP).expect("it is there");
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
    sandbox.stand_in("bots-engine", "#!/bin/sh\necho working; kill -STOP $$; echo finished\n");
    let mut engine = sandbox.start(&["engine"]);
    let works = || engine.report().contains("working").then_some(());
    wait_until("the engine works", works, || engine.report());
    engine.signal(Signal::SIGTERM);
    engine.wait_code();
    assert!(engine.report().contains("finished"), "{}", engine.report());
}

#[apply(test)]
fn a_stop_signal_that_comes_twice_at_once_is_one_request() {
    let mut sandbox = Sandbox::prepared();
    sandbox.stand_in("bots-webserver", BUSY_WEB_SERVER);
    let mut web = sandbox.webserver();
    web.signal(Signal::SIGTERM);
    let is_stopping = || web.report().contains("finishing a request").then_some(());
    wait_until("it finishes a request", is_stopping, || web.report());
    // GNU timeout signals its child and its own group; a terminal that closes is two signals as well.
    for again in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        web.signal(again);
    }
    assert_eq!(web.wait_code(), 0, "{}", web.report());
    assert!(!web.stderr().contains("again"), "{}", web.report());
}

#[apply(test)]
fn a_later_stop_signal_does_not_wait_and_is_logged() {
    let mut sandbox = Sandbox::prepared();
    let program = sandbox.stand_in("bots-webserver", BUSY_WEB_SERVER);
    fs::write(program.with_file_name("endless"), "").expect("written");
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1h");
    let mut web = sandbox.webserver();
    web.signal(Signal::SIGTERM);
    let is_stopping = || web.report().contains("finishing a request").then_some(());
    wait_until("it finishes a request", is_stopping, || web.report());
    let insisted = || {
        web.signal(Signal::SIGINT);
        web.stderr().contains("asked to stop again by SIGINT: not waiting any longer").then_some(())
    };
    wait_until("a later signal counts", insisted, || web.report());
    assert_eq!(web.wait_code(), 137, "{}", web.report());
}

#[apply(test)]
fn an_engine_finishes_its_run_when_a_stop_signal_comes_twice_at_once() {
    let mut sandbox = Sandbox::prepared();
    sandbox.stand_in("bots-engine", "#!/bin/sh\necho working; sleep 1; echo finished\n");
    let mut engine = sandbox.start(&["engine"]);
    let works = || engine.report().contains("working").then_some(());
    wait_until("the engine works", works, || engine.report());
    engine.signal(Signal::SIGTERM);
    engine.wait_stderr("the engine finishes its run");
    engine.signal(Signal::SIGINT);
    engine.signal(Signal::SIGTERM);
    engine.wait_code();
    assert!(engine.report().contains("finished") && !engine.report().contains("again"), "{}", engine.report());
}

#[apply(test)]
fn what_a_program_leaves_ends_in_order_when_a_stop_signal_comes_twice_at_once() {
    let sandbox = without_bots();
    let leftover = "trap 'sleep 1; echo in order; exit' TERM; echo set; while :; do sleep 0.1; done";
    let program = format!("({leftover}) & trap 'exit 3' TERM; echo $$; wait; wait");
    let mut running = sandbox.start(&["exec", "--", "sh", "-c", &program]);
    let both = || (running.stdout().lines().count() == 2).then_some(());
    wait_until("the trap is set", both, || running.report());
    running.signal(Signal::SIGTERM);
    let printed = running.stdout();
    let pid = printed.lines().find(|line| *line != "set").expect("a number");
    let ended = || (!Path::new("/proc").join(pid).exists()).then_some(());
    wait_until("the program has ended", ended, || running.report());
    running.signal(Signal::SIGINT);
    assert_eq!(running.wait_code(), 3, "{}", running.report());
    assert!(running.stdout().ends_with("in order\n"), "{}", running.report());
}
