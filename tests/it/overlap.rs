//! Concurrent engines: real Bots, in separate pods, on each database. Each message is sent exactly once.
//!
//! `BOTS_CTL_TEST_ROUNDS=100 tests/run.sh overlap::` is the long form, of about half an hour.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::support::pods::{Amiss, System, real_engine};
use crate::support::random::Random;
use crate::support::sandbox::rounds;
use crate::support::servers::{Engine, on_each_database};

/// For an engine that is held in the middle of one of them.
const FEW: usize = 20;

/// Enough to keep an engine busy for a moment that can be hit.
const MESSAGES: usize = 60;

on_each_database! {
    second_engine_waits_and_nothing_is_sent_twice,
    waiting_engine_recovers_killed_one_once,
    engine_killed_at_any_time_loses_no_message,
    second_engine_without_lease_sends_twice,
}

fn second_engine_waits_and_nothing_is_sent_twice(engine: Engine) {
    let system = System::new(engine);
    system.can_be_held();
    let mut random = Random(0);
    for round in 0..rounds(2) {
        system.fill(FEW);
        let mut first = system.start_held(random.below(FEW), &["engine", "--new"]);
        let mut second = system.start(&["engine", "--new"]);
        second.wait_stderr("engine lease is held by ");
        system.release();
        let codes = (first.wait_code(), second.wait_code());
        let report = || format!("round {round}\n{}\n{}", first.report(), second.report());
        assert_eq!(codes, (0, 0), "{}", report());
        assert_eq!(system.collect(FEW), Amiss::default(), "{}", report());
        assert_eq!(system.recoveries(), 0, "{}", report());
        let told = format!("the run received {FEW} files, finished {FEW}, had errors in 0, left 0 stuck, sent {FEW}, ");
        assert!(first.stderr().contains(&told), "{}", report());
    }
}

/// In the middle of a file each time, while another engine waits.
fn waiting_engine_recovers_killed_one_once(engine: Engine) {
    let system = System::new(engine);
    system.can_be_held();
    let mut random = Random(1);
    for round in 0..rounds(2) {
        system.fill(FEW);
        let mut first = system.start_held(random.below(FEW), &["engine", "--new"]);
        let mut second = system.start(&["engine", "--new"]);
        second.wait_stderr("engine lease is held by ");
        kill(real_engine(&first).expect("it is held"), Signal::SIGKILL).expect("it is there");
        system.release();
        let codes = (first.wait_code(), second.wait_code());
        let report = || format!("round {round}\n{}\n{}", first.report(), second.report());
        // Bots may report the file in progress as an error, and sends it.
        assert!(codes.0 == 137 && [0, 2].contains(&codes.1), "{codes:?}, {}", report());
        assert!(second.stderr().contains("previous engine run was interrupted; recovering it first"));
        assert_eq!(system.collect(FEW), Amiss::default(), "{}", report());
        assert_eq!(system.recoveries(), round + 1, "{}", report());
    }
    system.run(&["engine", "--new"]).expect_code(0);
    assert_eq!(system.recoveries(), rounds(2), "nothing is left to recover");
}

/// Also while it takes files in or sends them. Bots marks a file after it has done something with it: the one it has in
/// hand at that moment may be taken in or sent again. None is lost.
fn engine_killed_at_any_time_loses_no_message(engine: Engine) {
    let system = System::new(engine);
    let mut random = Random(2);
    let mut killed = 0;
    while killed < rounds(1) {
        system.fill(MESSAGES);
        let mut first = system.start_busy(MESSAGES);
        std::thread::sleep(Duration::from_millis(random.below(500) as u64));
        if let Some(real) = real_engine(&first) {
            let _ = kill(real, Signal::SIGKILL);
        }
        // It may just have finished, or have been killed when nothing was left to do.
        killed += usize::from(first.wait_code() == 137);
        let before = system.recoveries();
        let next = system.run(&["engine", "--new"]);
        let report = || format!("kill {killed}\n{}\n{next:?}", first.report());
        assert!([0, 2].contains(&next.code()), "{}", report());
        let amiss = system.collect(MESSAGES);
        assert!(amiss.lost.is_empty() && amiss.damaged.is_empty(), "{amiss:?}, {}", report());
        assert!(amiss.doubled.len() <= 1, "{amiss:?}, {}", report());
        let is_told = next.stderr.contains("was interrupted; recovering it first");
        assert_eq!(system.recoveries() - before, usize::from(is_told), "{}", report());
    }
}

/// The problem is real: without bots-ctl, Bots sends twice.
fn second_engine_without_lease_sends_twice(engine: Engine) {
    let system = System::new(engine);
    system.can_be_held();
    system.fill(FEW);
    let mut first = system.hold(FEW / 2, || system.start_bare_engine(&[]));
    let mut second = system.start_bare_engine(&[]);
    second.wait();
    system.release();
    first.wait();
    let told = second.report();
    assert!(told.contains("crashrecovery"), "{told}");
    let amiss = system.collect(FEW);
    assert!(!amiss.doubled.is_empty(), "{amiss:?}\n{}\n{told}", first.report());
}
