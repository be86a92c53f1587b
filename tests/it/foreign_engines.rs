//! Engines beside the lease: those that bots-ctl did not start, and the wait for one that runs.

use crate::pods::System;
use crate::sandbox::wait_until;
use crate::servers::Engine;

/// Beside SQLite the lock of a file shows that a holder lives; the row is as old as the run.
#[apply(test)]
fn on_sqlite_a_wait_ends_however_long_the_other_engine_has_run() {
    let mut system = System::new(Engine::Sqlite);
    let mut first = system.endless();
    system.age_lease(70);
    let refused = system.run(&["engine", "--lease-wait", "1s"]);
    refused.expect_code(3);
    assert!(refused.stderr.contains("nothing was run: ") && !refused.stderr.contains("sign of life"), "{refused:?}");
    let _web = system.demo.sandbox.webserver();
    let status = || system.demo.sandbox.run(&["status"]).stdout;
    let told = format!("(process {}) for ", first.pid());
    wait_until("status tells of it", || status().contains(&told).then_some(()), status);
    for _ in 0..2 {
        first.signal(nix::sys::signal::Signal::SIGTERM);
    }
    assert_eq!(first.wait_code(), 137, "{}", first.report());
}
