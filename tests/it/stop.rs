//! A stop at an awkward moment: while something waits, hangs, or is being translated.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::bots::without_bots;
use crate::support::demo_translation::Demo;
use crate::support::process::{text, web_process};
use crate::support::sandbox::{Running, Sandbox, binary, python, wait_until};
use crate::support::web_server::{start, web_server};

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
fn stop_lets_engine_started_by_web_ui_finish() {
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
fn stop_signal_ends_wait_for_init_db_lock() {
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
fn stop_signal_ends_hanging_settings_import() {
    let sandbox = Sandbox::new();
    let config = sandbox.root().join("config");
    fs::create_dir_all(&config).expect("made");
    let reached = sandbox.home.path().join("reached");
    let text = format!("import time\nopen({:?}, 'w').close()\ntime.sleep(3600)\n", reached.display().to_string());
    fs::write(config.join("settings.py"), text).expect("written");
    for (args, code) in [
        (vec!["webserver"], 0),
        (vec!["init-db"], 143),
        (vec!["config", "check"], 143),
        (vec!["dirmonitor", "--dry-run"], 143),
        (vec!["healthcheck", "--standalone"], 143),
    ] {
        let mut hanging = sandbox.start(&args);
        wait_until("settings.py is being imported", || reached.exists().then_some(()), || hanging.report());
        hanging.signal(Signal::SIGTERM);
        assert_eq!(hanging.wait_code(), code, "{args:?}\n{}", hanging.report());
        fs::remove_file(&reached).expect("it is there");
    }
}

#[apply(test)]
fn stop_signal_lets_migration_finish() {
    let sandbox = Sandbox::new();
    let mut first = sandbox.start(&["init-db"]);
    first.wait_stderr("running Django's migrate");
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait_code(), 143, "{}", first.report());
    assert!(first.stderr().contains("finishing the current change before exiting"), "{}", first.stderr());
    let second = sandbox.run(&["init-db"]);
    second.expect_code(0);
    assert!(second.stderr.is_empty() || second.stderr.contains("is complete"), "{}", second.stderr);
}

/// Only the schema change is finished, and nothing is begun after it.
#[apply(test)]
fn stop_signal_during_schema_change_ends_command_after_it() {
    let sandbox = Sandbox::new();
    let mut demo = sandbox.start(&["demo"]);
    demo.wait_stderr("running Django's migrate");
    demo.signal(Signal::SIGTERM);
    assert_eq!(demo.wait_code(), 143, "{}", demo.report());
    let removed = sandbox.run(&["demo", "--remove"]);
    removed.expect_code(0);
    assert_eq!(removed.stdout, "nothing to do\n", "{}", demo.report());
}

/// Setup of a web server with a request in progress at the stop: for a second, or forever if the file `endless` exists.
const BUSY: &str = r#"
def stop(number, frame):
    signal.signal(number, signal.SIG_IGN)
    print("finishing a request", file=sys.stderr, flush=True)
    time.sleep(3600 if os.path.exists(os.path.join(here, "endless")) else 1)
    os._exit(0)
signal.signal(signal.SIGINT, stop)
"#;

/// A sandbox whose web server has started a command of a shell.
fn with_started(command: &str) -> Sandbox {
    let mut sandbox = Sandbox::prepared();
    sandbox.stand_in("bots-webserver", &web_server(&(BUSY.to_owned() + &start(command)), ""));
    sandbox
}

fn started(web: &Running, command: &str) -> Pid {
    crate::support::process::wait_descendant(web, command)
}

#[apply(test)]
fn stop_timeout_covers_service_and_its_leftovers() {
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
    assert!(!web.stderr().contains("a stop may take"), "{}", web.report());
}

#[apply(test)]
fn stop_sends_sigterm_to_leftovers_of_service() {
    for command in ["exec sleep 1001", "kill -STOP $$; exec sleep 1001", "exec setsid sleep 1001"] {
        let mut sandbox = with_started(command);
        sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1h");
        let mut web = sandbox.webserver();
        web.signal(Signal::SIGTERM);
        assert_eq!(web.wait_code(), 0, "{command}\n{}", web.report());
    }
}

#[apply(test)]
fn stop_sends_no_sigterm_to_engine_of_service() {
    let mut sandbox = with_started("exec ./bots-engine");
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1h");
    let engine = sandbox.root().join("bots-engine");
    let script =
        "#!/bin/sh\ntrap 'echo cut' TERM\nwhile ! [ -e go ]; do sleep 0.1; done\nsleep 1\necho run completed\n";
    crate::support::process::write_program(&engine, script, 0o755);
    let mut web = sandbox.webserver();
    web.signal(Signal::SIGTERM);
    web.wait_stderr("for leftover processes of");
    fs::write(engine.with_file_name("go"), "").expect("written");
    assert_eq!(web.wait_code(), 0, "{}", web.report());
    assert!(web.report().contains("run completed") && !web.report().contains("cut"), "{}", web.report());
}

#[apply(test)]
fn stop_continues_suspended_processes() {
    let mut sandbox = with_started("true");
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1h");
    let mut web = sandbox.webserver();
    kill(web_process(&web), Signal::SIGSTOP).expect("it is there");
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
    sandbox.stand_in("bots-engine", "#!/bin/sh\necho working; kill -STOP $$; echo run completed\n");
    let mut engine = sandbox.start(&["engine"]);
    let works = || engine.report().contains("working").then_some(());
    wait_until("the engine works", works, || engine.report());
    engine.signal(Signal::SIGTERM);
    engine.wait_code();
    assert!(engine.report().contains("run completed"), "{}", engine.report());
}

#[apply(test)]
fn repeated_stop_signals_at_once_count_as_one() {
    let mut sandbox = Sandbox::prepared();
    sandbox.stand_in("bots-webserver", &web_server(BUSY, ""));
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
fn later_stop_signal_ends_wait_and_is_logged() {
    let mut sandbox = Sandbox::prepared();
    let program = sandbox.stand_in("bots-webserver", &web_server(BUSY, ""));
    fs::write(program.with_file_name("endless"), "").expect("written");
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1h");
    let mut web = sandbox.webserver();
    web.signal(Signal::SIGTERM);
    let is_stopping = || web.report().contains("finishing a request").then_some(());
    wait_until("it finishes a request", is_stopping, || web.report());
    web.insist(Signal::SIGINT, "received SIGINT again; no longer waiting");
    assert_eq!(web.wait_code(), 137, "{}", web.report());
}

#[apply(test)]
fn engine_finishes_run_after_repeated_stop_signals() {
    let mut sandbox = Sandbox::prepared();
    sandbox.stand_in("bots-engine", "#!/bin/sh\necho working; sleep 1; echo run completed\n");
    let mut engine = sandbox.start(&["engine"]);
    let works = || engine.report().contains("working").then_some(());
    wait_until("the engine works", works, || engine.report());
    engine.signal(Signal::SIGTERM);
    engine.wait_stderr("the engine finishes its run");
    engine.signal(Signal::SIGINT);
    engine.signal(Signal::SIGTERM);
    engine.wait_code();
    assert!(engine.report().contains("run completed") && !engine.report().contains("again"), "{}", engine.report());
}

/// The engine that a script has started finishes its run: the script ends at once, or later than two stop signals count as one.
#[apply(test)]
fn exec_lets_engine_finish_run_after_stop_of_script() {
    let loop_of_runs = "while :; do bots-engine --new; sleep 300; done";
    let slow_end = "trap 'sleep 2.5; exit 143' TERM; bots-engine --new & wait";
    for (script, program) in
        [(loop_of_runs, "bots-engine"), (slow_end, "bots-engine"), (loop_of_runs, "bots-ctl engine")]
    {
        let mut sandbox = Sandbox::prepared();
        let run = "trap 'echo cut' TERM; echo working; while ! [ -e go ]; do sleep 0.1; done; echo run completed";
        sandbox.stand_in("bots-engine", &format!("#!/bin/sh\ncd \"$HOME\"; {run}\n"));
        sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1h").set("LOG_LEVEL", "info");
        let script = script.replace("bots-engine", &program.replace("bots-ctl", &text(&binary())));
        let mut running = sandbox.start(&["exec", "--", "sh", "-c", &script]);
        let works = || running.report().contains("working").then_some(());
        wait_until("the engine works", works, || running.report());
        running.signal(Signal::SIGTERM);
        running.wait_stderr("waiting up to 3600 s for");
        fs::write(sandbox.home.path().join("go"), "").expect("written");
        assert_eq!(running.wait_code(), 143, "{script}\n{}", running.report());
        let report = running.report();
        assert!(report.contains("run completed") && !report.contains("cut"), "{script}\n{report}");
        assert!(!report.contains("no longer waiting"), "{script}\n{report}");
    }
}

#[apply(test)]
fn leftovers_stop_cleanly_after_repeated_stop_signals() {
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
