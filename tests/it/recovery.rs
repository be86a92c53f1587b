//! Files that a killed engine had taken, and that Bots's own recovery would forget. Real Bots, on each database.

use std::process::Command;

use nix::sys::signal::{Signal, kill};

use crate::support::pods::{Amiss, System, real_engine};
use crate::support::sandbox::{Finished, Running, python, wait_until};
use crate::support::servers::{Engine, on_each_database};

/// For an engine that is held in the middle of one of them.
const FEW: usize = 12;

on_each_database! {
    a_run_of_other_routes_recovers_all_routes_first,
    killed_recovery_is_recovered_by_next_run,
    deleted_report_begins_no_recovery_again,
    recovery_is_abandoned_after_ten_kills,
}

/// Bots would recover the routes alone that the next run is for, and forget the others for good.
fn a_run_of_other_routes_recovers_all_routes_first(engine: Engine) {
    let system = System::new(engine);
    system.can_be_held();
    system.fill(FEW);
    let mut first = system.start_held(FEW / 2, &["engine", "demo_orders"]);
    kill_engine(&mut first);
    system.release();
    let next = other_routes(&system);
    assert_eq!((next.code(), system.collect(FEW)), (0, Amiss::default()), "{next:?}");
    assert_eq!(system.recoveries(), 1, "{next:?}");
    assert!(next.stderr.contains("of all routes"), "{next:?}");
    let told = format!("the run received {FEW} files, finished {FEW}, ");
    assert!(next.stderr.contains(&told), "{next:?}");
    // Nothing is left to recover, so the next one is as short as ever.
    let last = other_routes(&system);
    assert!(last.code() == 0 && !last.stderr.contains("was interrupted"), "{last:?}");
}

/// Bots marks the run that it recovers as done before it begins: another recovery would take up that recovery alone.
fn killed_recovery_is_recovered_by_next_run(engine: Engine) {
    let system = System::new(engine);
    system.can_be_held();
    system.fill(FEW);
    let mut running = system.start_held(2, &["engine", "--new"]);
    for message in [5, 8] {
        kill_engine(&mut running);
        system.release();
        running = system.start_held(message, &["engine", "--new"]);
    }
    kill_engine(&mut running);
    system.release();
    let last = system.run(&["engine", "--new", "--success-exit-codes", "2"]);
    assert_eq!((last.code(), system.collect(FEW)), (0, Amiss::default()), "{last:?}");
    assert_eq!(system.recoveries(), 1, "{last:?}");

    // Files that arrive later are recovered automatically.
    system.fill(FEW);
    let mut running = system.start_held(3, &["engine", "--new"]);
    kill_engine(&mut running);
    system.release();
    let last = system.run(&["engine", "--new", "--success-exit-codes", "2"]);
    assert_eq!((last.code(), system.collect(FEW)), (0, Amiss::default()), "{last:?}");
    assert_eq!(system.recoveries(), 2, "{last:?}");
}

/// The web UI deletes reports with the rows of their files, and leaves the rows of their runs. So does Bots at times.
fn deleted_report_begins_no_recovery_again(engine: Engine) {
    let system = System::new(engine);
    system.can_be_held();
    system.fill(FEW);
    let mut running = system.start_held(2, &["engine", "--new"]);
    kill_engine(&mut running);
    system.release();
    system.run(&["engine", "--new"]).expect_code(0);
    assert_eq!((system.recoveries(), system.collect(FEW)), (1, Amiss::default()));
    system.fill(FEW);
    system.run(&["engine", "--new"]).expect_code(0);
    assert_eq!(system.collect(FEW), Amiss::default());
    for which in ["type = 'crashrecovery'", "idta > 0"] {
        system.database.sql(&format!(
            "DELETE FROM filereport WHERE reportidta IN (SELECT idta FROM report WHERE {which}); \
             DELETE FROM report WHERE {which}"
        ));
        let next = system.run(&["engine", "--new"]);
        assert!(next.code() == 0 && !next.stderr.contains("recovering"), "{which}: {next:?}");
        assert_eq!((system.recoveries(), system.collect(FEW).lost.len()), (0, FEW), "{which}: {next:?}");
    }
}

/// A file for which the engine runs out of memory kills each recovery, and must not block new files forever.
fn recovery_is_abandoned_after_ten_kills(engine: Engine) {
    let system = System::new(engine);
    system.can_be_held();
    system.fill(FEW);
    for kills in [0, 1, 10] {
        if kills == 10 {
            system.database.sql("UPDATE botsctl_recovery SET attempts = attempts + 8");
        }
        let mut running = system.start_held(2, &["engine", "--new"]);
        assert_eq!(running.stderr().contains("recovering it first"), kills > 0, "{}", running.report());
        kill_engine(&mut running);
        system.release();
    }
    let abandoned = system.run(&["engine", "--new"]);
    assert!(abandoned.stderr.contains("0 of its recoveries failed and 10 were killed; giving up"), "{abandoned:?}");
    assert!(abandoned.code() == 0 && system.recoveries() == 0, "{abandoned:?}");
    let open = "SELECT count(*) FROM ta WHERE script = 0 AND status = 1 AND statust = 0";
    assert_eq!(system.database.value(open), "1", "status and figures tell of it");
    system.collect(FEW);
    system.fill(FEW);
    let next = system.run(&["engine", "--new"]);
    assert!(next.code() == 0 && !next.stderr.contains("recovering"), "{next:?}");
    assert_eq!(system.collect(FEW), Amiss::default(), "{next:?}");
}

/// Such a recovery leaves the tables as they were.
#[apply(test)]
fn recovery_that_fails_before_its_first_row_counts() {
    let mut system = System::new(Engine::Sqlite);
    system.can_be_held();
    system.fill(FEW);
    let mut running = system.start_held(2, &["engine", "--new"]);
    kill_engine(&mut running);
    system.release();
    let (python, database) = (python().display().to_string(), &system.database.name);
    let delete = format!("c = sqlite3.connect({database:?}); c.execute('DELETE FROM mutex'); c.commit()");
    let script = format!("#!{python}\nimport sqlite3, sys\n{delete}\nsys.exit(1)\n");
    system.demo.sandbox.stand_in("bots-engine", &script);
    for recovery in 1..=3 {
        let failed = system.run(&["engine", "--new"]);
        assert!(failed.code() == 69 && failed.stderr.contains("recovering it first"), "{recovery}: {failed:?}");
    }
    let abandoned = system.run(&["engine", "--new"]);
    assert!(abandoned.stderr.contains("3 of its recoveries failed and 0 were killed; giving up"), "{abandoned:?}");
}

/// As with a disk that fills up in the middle of a run: from some row on nothing can be written to the database, and Bots
/// ends in order.
#[apply(test)]
fn next_run_recovers_run_failed_by_database() {
    let system = System::new(Engine::Sqlite);
    system.fill(FEW);
    let is_full = "BEGIN SELECT RAISE(ABORT, 'disk is full'); END";
    let triggers = [
        format!("CREATE TRIGGER full_ta BEFORE INSERT ON ta WHEN (SELECT MAX(idta) FROM ta) > 40 {is_full}"),
        format!("CREATE TRIGGER full_report BEFORE INSERT ON report {is_full}"),
    ];
    triggers.iter().for_each(|trigger| make(&system, trigger));
    let failed = system.run(&["engine", "--new"]);
    // Bots's own code is 2, as for errors in files. The caller of the run has to retry.
    failed.expect_code(69);
    assert!(failed.stderr.contains("the run did not finish: its database failed"), "{failed:?}");
    assert_eq!(system.database.value("SELECT count(*) FROM mutex"), "0", "Bots would not recover it: {failed:?}");
    system.database.sql("DROP TRIGGER full_ta; DROP TRIGGER full_report");
    let next = system.run(&["engine", "--new", "--success-exit-codes", "2"]);
    assert_eq!(next.code(), 0, "{next:?}");
    // Bots reports the file in progress.
    let errors = system.database.value("SELECT infilename FROM filereport WHERE statust = 1");
    assert!(errors.ends_with("/9.edi"), "{errors}");
    let amiss = Amiss { lost: vec!["PO-0009".to_owned()], ..Amiss::default() };
    assert_eq!(system.collect(FEW), amiss, "{next:?}");
    assert!(next.stderr.contains("previous engine run failed; recovering it first"));
    let last = system.run(&["engine", "--new"]);
    assert!(last.code() == 0 && !last.stderr.contains("recovering it first"), "{last:?}");
}

/// New files must not wait forever.
#[apply(test)]
fn recovery_is_abandoned_after_three_failures() {
    let system = System::new(Engine::Sqlite);
    make(&system, "CREATE TRIGGER broken BEFORE INSERT ON report BEGIN SELECT RAISE(ABORT, 'no'); END");
    system.fill(FEW);
    for recovery in 0..=3 {
        let failed = system.run(&["engine", "--new"]);
        failed.expect_code(69);
        assert_eq!(failed.stderr.contains("recovering it first"), recovery > 0, "{failed:?}");
    }
    let given_up = system.run(&["engine", "--new"]);
    assert!(given_up.stderr.contains("3 of its recoveries failed and 0 were killed; giving up"), "{given_up:?}");
    assert!(!given_up.stderr.contains("recovering it first"), "{given_up:?}");
    system.database.sql("DROP TRIGGER broken");
    let next = system.run(&["engine", "--new"]);
    assert!(next.code() == 0 && !next.stderr.contains("recover"), "{next:?}");
    assert_eq!(system.collect(FEW), Amiss::default(), "what was sent is not sent again");
    let open = "SELECT count(*) FROM ta WHERE script = 0 AND status = 1 AND statust = 0";
    assert_eq!(system.database.value(open), "1", "status and figures tell of it");
}

/// Makes a trigger, whose text has more than one statement in it.
fn make(system: &System, trigger: &str) {
    let script = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute(sys.argv[2])";
    let made = Command::new(python()).args(["-c", script, &system.database.name, trigger]).output().expect("it runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// After a stop request during the recovery, it does not start the requested routes, and does not report them as done.
#[apply(test)]
fn stop_during_recovery_skips_requested_routes() {
    let system = System::new(Engine::Sqlite);
    system.can_be_held();
    system.fill(FEW);
    let mut first = system.start_held(2, &["engine", "demo_orders"]);
    kill_engine(&mut first);
    system.release();
    let mut second = system.start_held(5, &["engine", "demo_orders"]);
    second.signal(Signal::SIGTERM);
    second.wait_stderr("the engine finishes its run");
    system.release();
    assert_eq!(second.wait_code(), 3, "{}", second.report());
    assert!(second.stderr().contains("stopping before running the requested routes"), "{}", second.report());
    assert_eq!((system.recoveries(), system.collect(FEW)), (1, Amiss::default()), "{}", second.report());
}

fn other_routes(system: &System) -> Finished {
    system.run(&["engine", "--allow-unknown-routes", "--success-exit-codes", "2", "another"])
}

fn kill_engine(engine: &mut Running) {
    kill(real_engine(engine).expect("it is held"), Signal::SIGKILL).expect("it is there");
    assert_eq!(engine.wait_code(), 137, "{}", engine.report());
    wait_until("all of it is gone", || engine.descendants().is_empty().then_some(()), || engine.report());
}
