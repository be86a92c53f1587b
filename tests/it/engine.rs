//! `engine`: one run, let finish whatever comes, and its exit code.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::demo::Demo;
use crate::sandbox::{Finished, Sandbox, engine_turn, wait_until};

/// Copies of one message, so that the engine is busy for a while.
const MESSAGES: usize = 300;

/// One run of the engine by its own command, one at a time on this machine.
fn run(sandbox: &Sandbox, args: &[&str]) -> Finished {
    let _turn = engine_turn();
    sandbox.run(&[&["engine"], args].concat())
}

#[test]
fn its_exit_codes_are_the_engines() {
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

#[test]
fn a_run_is_finished_whatever_asks_to_stop() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let _turn = engine_turn();
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

#[test]
fn a_run_that_takes_too_long_is_killed_and_recovered_by_the_next() {
    let _turn = engine_turn();
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
