//! Engines outside the lease: those that bots-ctl did not start, and the wait for an active one.

use nix::sys::signal::{Signal, killpg};

use crate::support::pods::{Amiss, System};
use crate::support::random::Random;
use crate::support::sandbox::{rounds, wait_until};
use crate::support::servers::{Engine, on_each_database};

/// For an engine that takes its time with each of them.
const MESSAGES: usize = 15;

on_each_database! {
    engine_waits_for_foreign_engine_and_names_it,
    idle_foreign_engine_does_not_count_as_crashed,
    killed_foreign_engine_is_recovered_after_progress_timeout,
    own_engine_killed_at_start_is_recovered_at_once,
}

/// At a random moment of its run, which `BOTS_CTL_TEST_ROUNDS=20` tries at twenty.
fn engine_waits_for_foreign_engine_and_names_it(engine: Engine) {
    let mut system = System::new(engine);
    // Long enough for the next engine to find it at work, also on a machine that is busy.
    system.slow_down(1.5);
    system.demo.sandbox.set("BOTS_CTL_ENGINE_PROGRESS_TIMEOUT", "1h");
    let mut random = Random(7);
    for round in 0..rounds(1) {
        system.fill(MESSAGES);
        let mut other = system.start_bare_engine(&["--new"]);
        system.wait_taken(MESSAGES, &other);
        std::thread::sleep(std::time::Duration::from_millis(random.below(2000) as u64));
        let refused = system.run(&["engine", "--new", "--lease-wait", "2s"]);
        let mut next = system.start(&["engine", "--new"]);
        let codes = (other.wait_code(), next.wait_code());
        let report = || format!("round {round}\n{}\n{refused:?}\n{}", other.report(), next.report());
        assert_eq!((codes, refused.code()), ((0, 0), 3), "{}", report());
        let named = "an engine that bots-ctl did not start ";
        // Within its wait that one may have seen no new row.
        assert!(refused.stderr.contains(&format!("engine not started: {named}")), "{}", report());
        assert!(next.stderr().contains(&format!("{named}is running (run ")), "{}", report());
        assert_eq!((system.collect(MESSAGES), system.recoveries()), (Amiss::default(), 0), "{}", report());
    }
}

fn idle_foreign_engine_does_not_count_as_crashed(engine: Engine) {
    let system = System::new(engine);
    system.can_be_held();
    system.fill(MESSAGES);
    let mut other = system.hold(MESSAGES / 2, || system.start_bare_engine(&["--new"]));
    for _ in 0..2 {
        let refused = system.run(&["engine", "--new", "--lease-wait", "0"]);
        assert_eq!(refused.code(), 3, "{refused:?}");
        assert!(refused.stderr.contains("an engine that bots-ctl did not start may be running (run "), "{refused:?}");
    }
    let mut next = system.start(&["engine", "--new"]);
    next.wait_stderr("counts as interrupted");
    system.release();
    assert_eq!((other.wait_code(), next.wait_code()), (0, 0), "{}\n{}", other.report(), next.report());
    assert_eq!((system.collect(MESSAGES), system.recoveries()), (Amiss::default(), 0), "{}", next.report());
}

fn killed_foreign_engine_is_recovered_after_progress_timeout(engine: Engine) {
    let mut system = System::new(engine);
    system.can_be_held();
    system.demo.sandbox.set("BOTS_CTL_ENGINE_PROGRESS_TIMEOUT", "3s");
    system.fill(MESSAGES);
    let mut other = system.hold(MESSAGES / 2, || system.start_bare_engine(&["--new"]));
    other.signal(Signal::SIGKILL);
    other.wait();
    system.release();
    let next = system.run(&["engine", "--new", "--success-exit-codes", "2"]);
    assert_eq!((next.code(), system.collect(MESSAGES)), (0, Amiss::default()), "{next:?}");
    assert!(next.stderr.contains("may be running (run "), "{next:?}");
    assert!(next.stderr.contains("was interrupted; recovering it first"), "{next:?}");
    assert_eq!(system.recoveries(), 1, "{next:?}");
}

/// The row in `mutex` has its mark from the start. The kill comes before files are received, since a file in progress
/// may be sent twice.
fn own_engine_killed_at_start_is_recovered_at_once(engine: Engine) {
    let system = System::new(engine);
    system.hold_routes();
    system.fill(MESSAGES);
    let mut first = system.start(&["engine", "--new"]);
    let has_row = || (system.database.value("SELECT count(*) FROM mutex") == "1").then_some(());
    wait_until("its row is there", has_row, || first.report());
    killpg(first.pid(), Signal::SIGKILL).expect("it runs");
    first.wait();
    system.release();
    let next = system.run(&["engine", "--new", "--success-exit-codes", "2"]);
    assert_eq!((next.code(), system.collect(MESSAGES)), (0, Amiss::default()), "{next:?}");
    assert!(!next.stderr.contains("may be running"), "{next:?}");
}

/// Beside SQLite the lock of a file shows that a holder lives; the row is as old as the run.
#[apply(test)]
fn lease_wait_on_sqlite_ends_however_old_the_lease_row() {
    let mut system = System::new(Engine::Sqlite);
    let mut first = system.endless();
    system.age_lease(70);
    let refused = system.run(&["engine", "--lease-wait", "1s"]);
    refused.expect_code(3);
    assert!(refused.stderr.contains("engine not started: ") && !refused.stderr.contains("heartbeat"), "{refused:?}");
    let _web = system.demo.sandbox.webserver();
    let status = || system.demo.sandbox.run(&["status"]).stdout;
    let told = format!("(process {}) for ", first.pid());
    wait_until("status tells of it", || status().contains(&told).then_some(()), status);
    for _ in 0..2 {
        first.signal(Signal::SIGTERM);
    }
    assert_eq!(first.wait_code(), 137, "{}", first.report());
}
