//! `init-db` by many at once, and with an end at any moment.
//!
//! What differs from time to time is done once or twice. `BOTS_CTL_TEST_ROUNDS=20 tests/run.sh concurrent_init_db` starts eight at
//! once 20 times and kills 60 first initialisations per database, in about half an hour; 50 kills at each step.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::bots::expect_bots_works;
use crate::support::interruption::Interruption;
use crate::support::needs::{Need, needs};
use crate::support::other_version::{expect_adopted, make_other};
use crate::support::sandbox::{Finished, Sandbox, rounds, wait_until};
use crate::support::schema::{UNMANAGED, bare_django, difference, expect_right, facts, migrate_in, own_sql, reference};
use crate::support::schema::{expect_rows, leave_rows, sample};
use crate::support::servers::{Database, Engine, on_each_database};

on_each_database!(
    eight_concurrent_runs_create_one_database,
    waiting_run_continues_after_kill_of_other,
    next_run_repairs_kill_at_any_statement,
    next_run_repairs_kill_at_any_time,
    next_run_repairs_kill_before_first_table,
    next_run_repairs_kill_after_any_log_line,
    killed_python_is_reported_and_next_run_completes,
    next_run_completes_upgrade_killed_at_any_statement,
    next_run_completes_adoption_killed_at_any_statement,
    next_run_completes_or_explains_killed_bare_migrate,
    stop_of_init_db_lets_migrate_finish,
    stop_of_web_ui_lets_migrate_finish,
);

const REPLICAS: usize = 8;

/// How often they start together when the rounds are many.
const MOST_STARTS: usize = 20;

/// What replicas have in common.
const PASSWORD: &str = "the same for 8 of them";

/// Sandboxes of replicas: a home each, one database, one configured password.
fn replicas(database: &Database, count: usize) -> Vec<Sandbox> {
    let sandbox = || {
        let mut sandbox = database.sandbox();
        sandbox.set("SUPERUSER_PASSWORD", PASSWORD).set("BOTS_CTL_DB_CONNECT_TIMEOUT", "60");
        sandbox
    };
    (0..count).map(|_| sandbox()).collect()
}

fn eight_concurrent_runs_create_one_database(engine: Engine) {
    for _ in 0..rounds(1).min(MOST_STARTS) {
        let database = Database::fresh(engine);
        let sandboxes = replicas(&database, REPLICAS);
        let mut running: Vec<_> = sandboxes.iter().map(|sandbox| sandbox.start(&["init-db"])).collect();
        for replica in &mut running {
            assert_eq!(replica.wait_code(), 0, "{}", replica.report());
        }
        expect_right(&database);
        expect_bots_works(&sandboxes[REPLICAS - 1], PASSWORD);
    }
}

fn waiting_run_continues_after_kill_of_other(engine: Engine) {
    let database = Database::fresh(engine);
    let mut sandboxes = replicas(&database, 2);
    let interruption = Interruption::wait_after(&mut sandboxes[0], 9);
    let first = sandboxes[0].start(&["init-db"]);
    interruption.wait_reached(&first);
    let mut second = sandboxes[1].start(&["init-db"]);
    second.wait_stderr("another bots-ctl");
    first.signal(Signal::SIGKILL);
    assert_eq!(second.wait_code(), 0, "{}", second.report());
    expect_right(&database);
    expect_bots_works(&sandboxes[1], PASSWORD);
}

/// The steps of a first initialization.
struct First {
    statements: usize,
    lines: usize,
    time: Duration,
}

fn first(engine: Engine) -> &'static First {
    static MEASURED: [OnceLock<First>; 3] = [const { OnceLock::new() }; 3];
    MEASURED[engine as usize].get_or_init(|| {
        let database = Database::fresh(engine);
        let mut sandbox = database.sandbox();
        let counting = Interruption::kill_after(&mut sandbox, 0);
        let started = Instant::now();
        let finished = sandbox.run(&["init-db"]);
        finished.expect_code(0);
        let (statements, lines) = (counting.count(), finished.stderr.lines().count());
        assert!(statements > 30 && lines > 3, "{statements} statements, {finished:?}");
        First { statements, lines, time: started.elapsed() }
    })
}

/// The number of kills per test, unless a long run is requested.
const KILLS: usize = 1;

/// Kills a first initialisation in some way, and checks that the next run completes it.
fn kill_and_mend(engine: Engine, how: &str, kill: impl FnOnce(&mut Sandbox) -> Finished) {
    let database = Database::fresh(engine);
    let mut sandbox = database.sandbox();
    let killed = kill(&mut sandbox);
    let next = sandbox.run(&["init-db"]);
    assert_eq!(next.code(), 0, "after a kill {how}:\n{next:?}\nbefore:\n{killed:?}");
    expect_right(&database);
    expect_bots_works(&sandbox, &sandbox.admin_password());
}

fn next_run_repairs_kill_at_any_statement(engine: Engine) {
    let all: Vec<usize> = (1..=first(engine).statements).collect();
    for statement in sample(&all, KILLS) {
        kill_and_mend(engine, &format!("after statement {statement}"), |sandbox| {
            let interruption = Interruption::kill_after(sandbox, statement);
            let killed = sandbox.run(&["init-db"]);
            assert_eq!(killed.code(), 137, "statement {statement}: {killed:?}");
            interruption.remove(sandbox);
            killed
        });
    }
}

fn next_run_repairs_kill_before_first_table(engine: Engine) {
    let database = Database::fresh(engine);
    let directory = if engine == Engine::Mariadb { "mysql" } else { engine.word() };
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql").join(directory).join("init_progress.sql");
    database.sql(&fs::read_to_string(own).expect("readable"));
    database.sql(
        "INSERT INTO botsctl_init (id, step, first_run, finished, holder, ts) \
         VALUES (1, 'tables', 1, 0, '', CURRENT_TIMESTAMP)",
    );
    let sandbox = database.sandbox();
    sandbox.run(&["init-db"]).expect_code(0);
    expect_right(&database);
    expect_bots_works(&sandbox, &sandbox.admin_password());
}

fn next_run_repairs_kill_at_any_time(engine: Engine) {
    needs(Need::Time);
    let count = rounds(KILLS);
    for round in 0..count {
        // Not to wait for something, but to come at any moment of the part in which the database is changed.
        #[allow(clippy::cast_precision_loss, reason = "small numbers")]
        let moment = first(engine).time.mul_f64(0.3 + 0.7 * (round as f64 + 0.5) / count as f64);
        kill_and_mend(engine, &format!("after {moment:?}"), |sandbox| {
            let mut killed = sandbox.start(&["init-db"]);
            std::thread::sleep(moment);
            killed.signal(Signal::SIGKILL);
            Finished { status: killed.wait(), stdout: killed.stdout(), stderr: killed.stderr() }
        });
    }
}

fn next_run_repairs_kill_after_any_log_line(engine: Engine) {
    needs(Need::Time);
    let all: Vec<usize> = (1..first(engine).lines).collect();
    for line in sample(&all, KILLS) {
        kill_and_mend(engine, &format!("after line {line}"), |sandbox| {
            let mut killed = sandbox.start(&["init-db"]);
            let said = || (killed.stderr().lines().count() >= line).then_some(());
            wait_until("it has said so much", said, || killed.report());
            killed.signal(Signal::SIGKILL);
            Finished { status: killed.wait(), stdout: killed.stdout(), stderr: killed.stderr() }
        });
    }
}

/// A database of Bots 4.x as its first migration makes it, with rows.
fn make_old(database: &Database) {
    let sandbox = bare_django(database);
    for what in [&["bots", "0001"][..], &["admin"], &["auth"], &["sessions"]] {
        migrate_in(&sandbox, what).expect_code(0);
    }
    for table in UNMANAGED {
        database.sql(&own_sql(database.engine, table));
    }
    leave_rows(database);
}

fn next_run_completes_upgrade_killed_at_any_statement(engine: Engine) {
    needs(Need::Bots4);
    let old = Database::fresh(engine);
    make_old(&old);
    kill_at_statements(&old, |database, sandbox| {
        expect_right(database);
        expect_rows(database);
        expect_bots_works(sandbox, &sandbox.admin_password());
    });
}

fn next_run_completes_adoption_killed_at_any_statement(engine: Engine) {
    let old = Database::fresh(engine);
    make_other(&old);
    old.sql("DROP TABLE django_migrations");
    kill_at_statements(&old, |database, _| expect_adopted(database, &old));
}

/// Completes copies of a database, and kills that at statements of Django; the next run has to complete it.
fn kill_at_statements(old: &Database, expect: impl Fn(&Database, &Sandbox)) {
    let database = Database::fresh(old.engine);
    database.become_copy_of(old);
    let mut sandbox = database.sandbox();
    let interruption = Interruption::kill_after(&mut sandbox, 0);
    sandbox.run(&["init-db"]).expect_code(0);
    expect(&database, &sandbox);
    let all: Vec<usize> = (1..=interruption.count()).collect();
    for statement in sample(&all, KILLS) {
        database.become_copy_of(old);
        let interruption = Interruption::kill_after(&mut sandbox, statement);
        let killed = sandbox.run(&["init-db"]);
        assert_eq!(killed.code(), 137, "statement {statement}: {killed:?}");
        interruption.remove(&mut sandbox);
        let next = sandbox.run(&["init-db"]);
        assert_eq!(next.code(), 0, "after a kill at statement {statement}: {next:?}");
        expect(&database, &sandbox);
    }
}

/// Kills a `migrate` without bots-ctl, whose settings are found by PYTHONPATH as well.
fn interrupt_bare(sandbox: &mut Sandbox, statement: usize) -> Interruption {
    let root = sandbox.root().display().to_string();
    let interruption = Interruption::kill_after(sandbox, statement);
    let both = format!("{root}:{}", sandbox.home.path().join("interruption").display());
    sandbox.set("PYTHONPATH", both);
    interruption
}

fn statements_of_bare_migrate(engine: Engine) -> usize {
    static COUNTED: [OnceLock<usize>; 3] = [const { OnceLock::new() }; 3];
    *COUNTED[engine as usize].get_or_init(|| {
        let database = Database::fresh(engine);
        let mut sandbox = bare_django(&database);
        let interruption = interrupt_bare(&mut sandbox, 0);
        migrate_in(&sandbox, &[]).expect_code(0);
        interruption.count()
    })
}

/// bots-ctl has no record of how this state arose, so with a server that keeps half a migration it may require manual
/// repair.
fn next_run_completes_or_explains_killed_bare_migrate(engine: Engine) {
    needs(Need::Time);
    let all: Vec<usize> = (1..=statements_of_bare_migrate(engine)).collect();
    for statement in sample(&all, KILLS) {
        let database = Database::fresh(engine);
        let mut sandbox = bare_django(&database);
        let interruption = interrupt_bare(&mut sandbox, statement);
        let killed = migrate_in(&sandbox, &[]);
        assert_eq!(killed.code(), 137, "statement {statement}: {killed:?}");
        interruption.remove(&mut sandbox);
        let before = facts(&database);
        let next = sandbox.run(&["init-db"]);
        match next.code() {
            0 => {
                expect_right(&database);
                expect_bots_works(&sandbox, &sandbox.admin_password());
            }
            1 if engine == Engine::Mariadb => {
                let told = ["CREATE TABLE", "ALTER TABLE", "DROP TABLE"].iter().any(|word| next.stderr.contains(word));
                assert!(told, "statement {statement}: no statement that a person should run: {next:?}");
                assert!(difference(&facts(&database), &before).lines().all(|fact| fact.starts_with('+')), "dropped");
            }
            code => panic!("statement {statement}: {code}: {next:?}"),
        }
    }
}

/// By the kernel, for want of memory.
fn killed_python_is_reported_and_next_run_completes(engine: Engine) {
    needs(Need::Time);
    let database = Database::fresh(engine);
    let mut sandbox = database.sandbox();
    let interruption = Interruption::end_python_after(&mut sandbox, 30);
    let failed = sandbox.run(&["init-db"]);
    failed.expect_code(1);
    let last = failed.stderr.lines().last().unwrap_or_default();
    for word in ["Django could not complete the", "SIGKILL", "rerun init-db"] {
        assert!(last.contains(word), "{last}");
    }
    interruption.remove(&mut sandbox);
    sandbox.run(&["init-db"]).expect_code(0);
    expect_right(&database);
    expect_bots_works(&sandbox, &sandbox.admin_password());
}

/// Stops a command twice while Django migrates, which goes on nevertheless; gives its exit code.
fn stop_while_migrating(engine: Engine, command: &str) -> i32 {
    let database = Database::fresh(engine);
    let mut sandbox = database.sandbox();
    let interruption = Interruption::wait_after(&mut sandbox, 9);
    let mut stopped = sandbox.start(&[command]);
    interruption.wait_reached(&stopped);
    stopped.signal(Signal::SIGTERM);
    stopped.wait_stderr("received SIGTERM; finishing the current change before exiting");
    let asked_again = || {
        stopped.signal(Signal::SIGINT);
        stopped.stderr().contains("received SIGINT; finishing the current change before exiting").then_some(())
    };
    wait_until("a later signal counts", asked_again, || stopped.report());
    interruption.let_go();
    let code = stopped.wait_code();
    assert_eq!(difference(&facts(&database), reference(engine)), "", "{}", stopped.report());
    interruption.remove(&mut sandbox);
    sandbox.run(&["init-db"]).expect_code(0);
    expect_right(&database);
    expect_bots_works(&sandbox, &sandbox.admin_password());
    code
}

fn stop_of_init_db_lets_migrate_finish(engine: Engine) {
    assert_eq!(stop_while_migrating(engine, "init-db"), 143);
}

/// A service that exits in order after a stop request has stopped successfully.
fn stop_of_web_ui_lets_migrate_finish(engine: Engine) {
    needs(Need::Time);
    assert_eq!(stop_while_migrating(engine, "webserver"), 0);
}
