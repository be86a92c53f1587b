//! `engine`: one run, let finish whatever comes, and its exit code.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::demo_translation::Demo;
use crate::support::sandbox::{Finished, Sandbox, wait_until};

/// Copies of one message, so that the engine is busy for a while.
const MESSAGES: usize = 300;

/// One run of the engine by its own command, one at a time on this machine.
fn run(sandbox: &Sandbox, args: &[&str]) -> Finished {
    sandbox.run(&[&["engine"], args].concat())
}

#[apply(test)]
fn engine_command_returns_exit_codes_of_bots() {
    let demo = Demo::new();
    run(&demo.sandbox, &[]).expect_code(0);
    demo.drop_in("input");
    run(&demo.sandbox, &["--new", "demo_orders"]).expect_code(0);
    assert!(fs::read_dir(demo.output()).expect("there").count() > 0);
    demo.drop_in("bad");
    run(&demo.sandbox, &["--new"]).expect_code(2);
    run(&demo.sandbox, &["--resend", "--rereceive", "--automaticretrycommunication"]).expect_code(0);
    run(&demo.sandbox, &["--cleanup"]).expect_code(0);
}

#[apply(test)]
fn success_exit_codes_become_0() {
    let mut demo = Demo::new();
    demo.drop_in("bad");
    run(&demo.sandbox, &["--success-exit-codes", "2,3"]).expect_code(0);
    demo.drop_in("bad");
    run(&demo.sandbox, &["--success-exit-codes", "3"]).expect_code(2);
    demo.drop_in("bad");
    demo.sandbox.set("BOTS_CTL_SUCCESS_EXIT_CODES", "2");
    run(&demo.sandbox, &[]).expect_code(0);
    let refused = run(&demo.sandbox, &["--success-exit-codes", "two"]).expect_code(64).stderr.clone();
    assert!(
        refused.contains("--success-exit-codes: \"two\" is invalid: expected exit codes from 0 to 255"),
        "{refused}"
    );
}

#[apply(test)]
fn request_for_help_runs_no_engine() {
    let sandbox = Sandbox::new();
    for words in [&["engine", "?"] as &[&str], &["engine", "--new", "--", "--help"], &["engine", "--", "-h"]] {
        let shown = sandbox.run(words);
        assert!(shown.expect_code(0).stdout.contains("Usage: bots-engine "), "{words:?}: {shown:?}");
        assert!(!sandbox.root().exists(), "{words:?}");
    }
}

#[apply(test)]
fn engine_rejects_invalid_arguments_before_python_starts() {
    let sandbox = Sandbox::new();
    for (words, said) in [
        (["engine", "--newe"], "--newe"),
        (["engine", "-c/somewhere"], "-c"),
        (["engine", ""], "a route has an empty name"),
    ] {
        let refused = sandbox.run(&words);
        refused.expect_code(64);
        assert!(refused.stderr.contains(said), "{refused:?}");
    }
    let refused = sandbox.run(&["engine", "--", "--clean"]);
    refused.expect_code(64);
    assert_eq!(refused.stderr, "bots-ctl: --clean is not an option of the engine; did you mean --cleanup?\n");
    assert!(!sandbox.root().exists(), "nothing was made");
}

#[apply(test)]
fn bots_engine_name_accepts_arguments_of_bots() {
    let demo = Demo::new();
    let shell = |line: &str| demo.sandbox.run(&["shell", "-c", line]);
    assert!(shell("readlink $(command -v bots-engine)").expect_code(0).stdout.contains("bots-ctl"));
    assert!(shell("bots-engine --help").expect_code(0).stdout.contains("Usage: bots-engine [-cDIRECTORY]"));
    demo.drop_in("input");
    let done = shell("bots-engine -c$BOTS_CONFIG_DIR --new demo_orders");
    done.expect_code(0);
    assert!(fs::read_dir(demo.output()).expect("there").count() > 0, "{done:?}");
    // Callers of an engine expect the unchanged lines of Bots.
    let is_plain = |line: &str| !line.starts_with('{') && !line.starts_with("engine |");
    assert!(done.stderr.lines().chain(done.stdout.lines()).all(is_plain), "{done:?}");
    demo.drop_in("bad");
    shell("bots-engine").expect_code(2);
    shell("bots-engine --nwe").expect_code(64);
    let refused = shell("bots-engine -c/nowhere");
    assert!(refused.expect_code(78).stderr.contains("-c/nowhere: there is no such directory"), "{refused:?}");
}

#[apply(test)]
fn stop_signal_lets_engine_finish_its_run() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut demo = busy();
        // The run has to be waited for, however long it takes.
        demo.sandbox.set("BOTS_CTL_ENGINE_STOP_TIMEOUT", "1h");
        let mut engine = demo.sandbox.start(&["engine", "--new"]);
        wait_until("it has taken files", || taken(&demo).then_some(()), || engine.report());
        engine.signal(signal);
        engine.wait_stderr("the engine finishes its run");
        assert_eq!(engine.wait_code(), 0, "{}", engine.report());
        let once = fs::metadata(Path::new(MESSAGE).with_file_name("../expected/PO-1001.txt")).expect("there").len();
        let all = fs::metadata(demo.output().join("PO-1001.txt")).expect("the engine has written").len();
        assert_eq!(all, once * MESSAGES as u64, "every message went out once\n{}", engine.report());
    }
}

#[apply(test)]
fn next_run_recovers_run_killed_at_stop_timeout() {
    let mut demo = busy();
    demo.sandbox.set("BOTS_CTL_ENGINE_STOP_TIMEOUT", "1ms");
    let mut engine = demo.sandbox.start(&["engine", "--new"]);
    wait_until("it has taken files", || taken(&demo).then_some(()), || engine.report());
    engine.signal(Signal::SIGTERM);
    assert_eq!(engine.wait_code(), 137, "{}", engine.report());
    let recovered = demo.sandbox.run(&["engine", "--new"]);
    // A file that was being translated at that moment is one that Bots may report as an error.
    assert!([0, 2].contains(&recovered.code()), "{recovered:?}");
    let told = format!("{}{}", recovered.stdout, recovered.stderr);
    assert!(told.contains("crashrecovery"), "{told}");
}

#[apply(test)]
fn used_engine_port_error_names_process() {
    let demo = Demo::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let port = listener.local_addr().expect("it has one").port();
    demo.sandbox.set_ini("settings", "port", &port.to_string());
    let refused = demo.sandbox.run(&["engine", "--new"]);
    let told =
        format!("engine not started: port {port} on 127.0.0.1, which engines of Bots use as a lock, is in use by ");
    assert!(refused.expect_code(3).stderr.contains(&told), "{refused:?}");
    assert!(refused.stderr.contains(&format!("(process {})", std::process::id())), "{refused:?}");
    drop(listener);
    demo.sandbox.run(&["engine", "--new"]).expect_code(0);
}

const MESSAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/demo/input/single.edi");

fn busy() -> Demo {
    let demo = Demo::new();
    for number in 0..MESSAGES {
        fs::copy(MESSAGE, demo.input().join(format!("{number}.edi"))).expect("copied");
    }
    demo
}

fn taken(demo: &Demo) -> bool {
    fs::read_dir(demo.input()).is_ok_and(|left| left.count() < MESSAGES)
}

#[apply(test)]
fn an_idle_run_logs_one_line() {
    let run = Sandbox::prepared().run(&["engine"]);
    let lines: Vec<&str> = run.expect_code(0).stderr.lines().chain(run.stdout.lines()).collect();
    assert!(lines.len() == 1 && lines[0].contains("the run received 0 files"), "{run:?}");
}
