//! One engine at a time over all pods: network namespaces that share a database and a volume stand for the pods.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::support::clock::Clock;
use crate::support::needs::{Need, needs};
use crate::support::pods::{Amiss, System, real_engine};
use crate::support::sandbox::{Running, free_port, wait_until};
use crate::support::servers::{Database, Engine, Server, on_each_database};
use crate::support::users::open_to_all;

/// For an engine that is held in the middle of one of them.
const MESSAGES: usize = 20;

on_each_database! {
    engine_without_wait_exits_with_3_and_names_holder,
    engine_dies_with_killed_bots_ctl_and_is_recovered,
    routes_are_checked_before_python_starts,
    status_names_holder_of_running_engine,
}

mod on_servers {
    use super::{
        engine_is_killed_when_its_lease_is_taken, lease_is_renewed_until_all_run_processes_end,
        lease_stays_exclusive_after_connection_loss, routes_do_not_run_after_recovery_lost_the_lease,
        waiter_ends_session_of_vanished_holder_after_ttl,
    };

    crate::support::servers::on_each_server! {
        lease_stays_exclusive_after_connection_loss,
        waiter_ends_session_of_vanished_holder_after_ttl,
        engine_is_killed_when_its_lease_is_taken,
        routes_do_not_run_after_recovery_lost_the_lease,
        lease_is_renewed_until_all_run_processes_end,
    }
}

fn engine_without_wait_exits_with_3_and_names_holder(engine: Engine) {
    let system = System::new(engine);
    system.can_be_held();
    system.fill(MESSAGES);
    let mut first = system.start_held(MESSAGES / 2, &["engine", "--new"]);
    let refused = system.run(&["engine", "--lease-wait", "0"]);
    refused.expect_code(3);
    assert!(refused.stderr.contains("engine not started: "), "{refused:?}");
    assert!(refused.stderr.contains(&format!("(process {})", first.pid())), "{refused:?}");
    system.run(&["engine", "--lease-wait", "0", "--success-exit-codes", "3"]).expect_code(0);
    system.release();
    assert_eq!(first.wait_code(), 0, "{}", first.report());
    let sums = "SELECT value FROM botsctl_counter WHERE name IN ('run_busy', 'run_success') ORDER BY name";
    assert_eq!(system.database.sql(sums), ["2", "1"], "each run is counted");
    system.run(&["engine", "--lease-wait", "0"]).expect_code(0);
}

fn engine_dies_with_killed_bots_ctl_and_is_recovered(engine: Engine) {
    let system = System::new(engine);
    system.can_be_held();
    system.fill(MESSAGES);
    // Held: Bots sends the file again that it was killed with between sending and noting that.
    let mut first = system.start_held(MESSAGES / 2, &["engine", "--new"]);
    let real = wait_until("the engine is there", || real_engine(&first), || first.report());
    first.signal(Signal::SIGKILL);
    first.wait();
    wait_until("the engine is gone", || kill(real, None).is_err().then_some(()), || first.report());
    if engine != Engine::Sqlite {
        // Nobody can know that it has gone for good before its time is over.
        system.run(&["engine", "--lease-wait", "0"]).expect_code(3);
        system.age_lease(61);
    }
    let second = system.run(&["engine", "--new", "--success-exit-codes", "2"]);
    second.expect_code(0);
    assert_eq!((system.recoveries(), system.collect(MESSAGES)), (1, Amiss::default()), "{second:?}");
    let sums = "SELECT value FROM botsctl_counter WHERE name IN ('recoveries', 'run_interrupted') ORDER BY name";
    assert_eq!(system.database.sql(sums), ["1", "1"], "the next run has counted it");
}

fn routes_are_checked_before_python_starts(engine: Engine) {
    let system = System::new(engine);
    system.database.sql("UPDATE routes SET idroute = 'dormant', active = (1 = 0) WHERE 1 = 0");
    let refused = system.run(&["engine", "demo_order", "nonsense"]);
    refused.expect_code(64);
    let lines: Vec<&str> = refused.stderr.lines().collect();
    assert_eq!(
        lines,
        [
            "bots-ctl: there is no route demo_order; did you mean demo_orders? Active routes: demo_orders",
            "bots-ctl: there is no route nonsense; active routes: demo_orders",
        ]
    );
    system.run(&["engine", "--allow-unknown-routes", "nonsense"]).expect_code(0);
    system.run(&["engine", "demo_orders"]).expect_code(0);
    system.database.sql("UPDATE routes SET active = (1 = 0)");
    let refused = system.run(&["engine", "demo_orders"]);
    refused.expect_code(64);
    assert_eq!(refused.stderr, "bots-ctl: route demo_orders is not active; active routes: none\n");
    system.database.sql("DROP TABLE routes".to_owned().as_str());
    let refused = system.run(&["engine", "demo_orders"]);
    refused.expect_code(1);
    assert!(refused.stderr.contains("lacks tables of Bots: run bots-ctl init-db first"), "{refused:?}");
}

fn status_names_holder_of_running_engine(engine: Engine) {
    let mut system = System::new(engine);
    let _web = system.demo.sandbox.webserver();
    let mut first = system.endless();
    let told = format!("(process {}) for ", first.pid());
    let status = || system.demo.sandbox.run(&["status"]).stdout;
    wait_until("status tells of it", || status().contains(&told).then_some(()), status);
    first.signal(Signal::SIGKILL);
    first.wait();
    if engine != Engine::Sqlite {
        system.age_lease(61);
    }
    wait_until("status forgets it", || (!status().contains("engine running")).then_some(()), status);
}

/// The sessions of bots-ctl in this database that hold a lock, by the server's numbers.
fn lock_holders(system: &System) -> Vec<String> {
    let server = system.database.server();
    match system.database.engine {
        Engine::Mariadb => {
            let query = "SELECT id FROM information_schema.processlist WHERE command = 'Sleep' AND db = ";
            server.sql(None, &format!("{query}{}", system.database.engine.text(&system.database.name)))
        }
        _ => server.sql(
            Some(&system.database.name),
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM \
             pg_database WHERE datname = current_database())",
        ),
    }
}

fn cut(system: &System, session: &str) {
    let server = system.database.server();
    match system.database.engine {
        Engine::Mariadb => server.sql(None, &format!("KILL {session}")),
        _ => server.sql(None, &format!("SELECT pg_terminate_backend({session})")),
    };
}

fn lease_stays_exclusive_after_connection_loss(engine: Engine) {
    let mut system = System::new(engine);
    let mut first = system.endless();
    let sessions = lock_holders(&system);
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    cut(&system, &sessions[0]);
    wait_until("it is cut", || lock_holders(&system).is_empty().then_some(()), || first.report());
    system.run(&["engine", "--lease-wait", "0"]).expect_code(3);
    first.wait_stderr("reacquired the lock of the engine lease");
    assert_eq!(lock_holders(&system).len(), 1, "{}", first.report());
    system.run(&["engine", "--lease-wait", "0"]).expect_code(3);
    first.signal(Signal::SIGTERM);
    first.signal(Signal::SIGTERM);
    first.wait();
}

/// A node that is gone has not closed its connection: to the server, its session is as good as any.
fn waiter_ends_session_of_vanished_holder_after_ttl(engine: Engine) {
    let mut system = System::new(engine);
    let mut ghost = system.endless();
    let sessions = lock_holders(&system);
    killpg(Pid::from_raw(ghost.pid().as_raw()), Signal::SIGSTOP).expect("it is there");
    system.demo.sandbox.stand_in("bots-engine", "#!/bin/sh\necho done\n");
    system.run(&["engine", "--lease-wait", "0"]).expect_code(3);
    system.age_lease(70);
    let mut others = [(); 2].map(|()| system.start(&["engine", "--lease-wait", "30"]));
    // Without a wait as well: a schedule must not find it busy forever.
    let next = system.run(&["engine", "--lease-wait", "0"]);
    assert!([0, 3].contains(&next.code()), "{next:?}");
    let codes = others.each_mut().map(Running::wait_code);
    let reports = || format!("{next:?}\n{}\n{}", others[0].report(), others[1].report());
    assert_eq!(codes, [0, 0], "{}", reports());
    assert!(reports().contains("terminated the session of "), "{}", reports());
    assert!(!lock_holders(&system).contains(&sessions[0]));
    // Back from the dead it finds that its lease is over, and ends its engine.
    killpg(Pid::from_raw(ghost.pid().as_raw()), Signal::SIGCONT).expect("it is there");
    assert_eq!(ghost.wait_code(), 69, "{}", ghost.report());
    assert!(ghost.stderr().contains("killing the engine"), "{}", ghost.report());
}

/// Between the lock and its row, a process looks as one that is gone.
#[apply(test)]
fn process_that_has_just_acquired_the_lock_is_not_terminated() {
    let mut system = System::new(Engine::Postgresql.needed());
    let mut first = system.endless();
    let key = system.database.value(
        "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND granted \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    );
    for _ in 0..2 {
        first.signal(Signal::SIGTERM);
    }
    first.wait();
    system.demo.sandbox.stand_in("bots-engine", "#!/bin/sh\necho done\n");
    system.age_lease(70);
    let (server, name) = (Arc::clone(system.database.server()), system.database.name.clone());
    let locking = format!("SELECT 1 FROM pg_advisory_lock({key}); SELECT pg_sleep(2)");
    let slow = std::thread::spawn(move || server.try_sql(Some(&name), &locking));
    wait_until("it has the lock", || (!lock_holders(&system).is_empty()).then_some(()), String::new);
    let next = system.run(&["engine", "--lease-wait", "1m"]);
    assert!(next.stderr.contains("engine lease is held by another bots-ctl; waiting"), "{next:?}");
    assert!(next.code() == 0 && !next.stderr.contains("terminated"), "{next:?}");
    slow.join().expect("no panic").expect("its session has come to its end");
}

/// An engine on PostgreSQL that has the lease, and waits for a table that another session has locked.
struct BlockedEngine<'a> {
    system: &'a System,
    engine: Running,
    locker: std::thread::JoinHandle<Result<Vec<String>, String>>,
}

impl<'a> BlockedEngine<'a> {
    const SESSIONS: &'static str =
        "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND";
    const LOCKS: &'static str = "query LIKE '%pg_sleep(99)%'";
    const WAITS: &'static str = "application_name = 'bots-ctl' AND wait_event_type = 'Lock'";

    fn start(system: &'a System) -> Self {
        let (server, name) = (Arc::clone(system.database.server()), system.database.name.clone());
        let locker =
            std::thread::spawn(move || server.try_sql(Some(&name), "BEGIN; LOCK TABLE mutex; SELECT pg_sleep(99)"));
        let has = |which: &str| (Self::sql(system, "SELECT 1", which) == ["1"]).then_some(());
        wait_until("it is locked", || has(Self::LOCKS), String::new);
        let engine = system.start(&["engine"]);
        wait_until("it waits", || has(Self::WAITS), || engine.report());
        Self { system, engine, locker }
    }

    fn sql(system: &System, select: &str, which: &str) -> Vec<String> {
        system.database.server().sql(Some(&system.database.name), &format!("{select} {} {which}", Self::SESSIONS))
    }

    /// Unlocks the table, after the connection of the engine was cut if that is asked for.
    fn unlock(self, cuts_engine: bool) -> Running {
        for which in [Self::WAITS].into_iter().filter(|_| cuts_engine).chain([Self::LOCKS]) {
            Self::sql(self.system, "SELECT pg_terminate_backend(pid)", which);
        }
        assert!(self.locker.join().expect("no panic").is_err());
        self.engine
    }
}

/// Otherwise engines of all pods would wait until the lease expires.
#[apply(test)]
fn stop_between_lease_and_run_releases_the_lease() {
    let system = System::new(Engine::Postgresql.needed());
    let blocked = BlockedEngine::start(&system);
    blocked.engine.signal(Signal::SIGTERM);
    let mut engine = blocked.unlock(false);
    assert_eq!(engine.wait_code(), 143, "{}", engine.report());
    system.run(&["engine", "--lease-wait", "0"]).expect_code(0);
}

/// A connection that was cut is replaced, but not the lease: a recovery would change the run of the new holder.
#[apply(test)]
fn nothing_is_recovered_after_lease_was_lost_with_its_connection() {
    let system = System::new(Engine::Postgresql.needed());
    system.database.sql("INSERT INTO mutex (mutexk, mutexer) VALUES (1, 1)");
    let blocked = BlockedEngine::start(&system);
    give_lease_away(&system);
    let mut engine = blocked.unlock(true);
    assert_eq!(engine.wait_code(), 69, "{}", engine.report());
    let lost = "lost the engine lease: somebody else holds it now";
    assert!(engine.stderr().contains(lost), "{}", engine.report());
    assert!(!engine.stderr().contains("recovering it first"), "{}", engine.report());
}

fn engine_is_killed_when_its_lease_is_taken(engine: Engine) {
    let mut system = System::new(engine);
    let mut first = system.endless();
    give_lease_away(&system);
    assert_eq!(first.wait_code(), 69, "{}", first.report());
    assert!(first.stderr().contains("lost the engine lease: somebody else holds it now"), "{}", first.report());
    assert_eq!(first.descendants(), []);
}

/// An engine that has left something behind which does not end when it is asked to, and the pid of that.
fn start_stubborn(system: &mut System, condition: &str, args: &[&str]) -> (Running, Pid) {
    system.demo.sandbox.set("BOTS_CTL_ENGINE_STOP_TIMEOUT", "1h");
    // It has left its group before its parent ends.
    let leave = "trap '' TERM\nsetsid sh -c ': >left; exec sleep 1000' &\nuntil [ -e left ]; do sleep 0.01; done\n";
    let script = format!("#!/bin/sh\n{condition} || exec echo it ran\ncd \"$HOME\"\n{leave}");
    system.demo.sandbox.stand_in("bots-engine", &script);
    let engine = system.start(args);
    engine.wait_stderr("waiting up to 3600 s for ");
    let left = engine.descendants().into_iter().find(|(_, command)| command.contains("sleep 1000"));
    let (left, _) = left.unwrap_or_else(|| panic!("{}", engine.report()));
    (engine, left)
}

fn lease_is_renewed_until_all_run_processes_end(engine: Engine) {
    let mut system = System::new(engine);
    let (mut first, left) = start_stubborn(&mut system, "true", &["engine"]);
    let renewed = || system.database.value("SELECT renewed FROM botsctl_lease WHERE name = 'engine'");
    let before = renewed();
    wait_until("it is renewed", || (renewed() != before).then_some(()), || first.report());
    system.run(&["engine", "--lease-wait", "0"]).expect_code(3);
    // And nothing is left when the lease is.
    give_lease_away(&system);
    assert_eq!(first.wait_code(), 69, "{}", first.report());
    assert!(kill(left, None).is_err(), "{}", first.report());
}

fn routes_do_not_run_after_recovery_lost_the_lease(engine: Engine) {
    let mut system = System::new(engine);
    system.demo.sandbox.set("BOTS_CTL_ENGINE_PROGRESS_TIMEOUT", "0s");
    // As an engine leaves it that was killed.
    system.database.sql("INSERT INTO mutex (mutexk) VALUES (1)");
    let is_recovery = r#"[ "${2:-}" = --cleanup ]"#;
    let (mut engine, left) = start_stubborn(&mut system, is_recovery, &["engine", "demo_orders"]);
    give_lease_away(&system);
    kill(left, Signal::SIGKILL).expect("it is there");
    assert_eq!(engine.wait_code(), 69, "{}", engine.report());
    assert!(!engine.stdout().contains("it ran"), "{}", engine.report());
}

fn give_lease_away(system: &System) {
    system.database.sql("UPDATE botsctl_lease SET owner = 'somebody', holder = 'somebody else'");
}

/// The server is up but does not respond, as behind a network that drops all packets.
#[apply(test)]
fn engine_is_killed_before_unrenewed_lease_expires() {
    let server = Arc::new(Server::start(Engine::Mariadb));
    let mut system = System::on(Database::on(&server));
    let mut engine = system.endless();
    server.stop();
    assert_eq!(engine.wait_code(), 69, "{}", engine.report());
    assert!(engine.stderr().contains("no renewal for 4"), "{}", engine.report());
}

/// When the clocks of the Netherlands go back, an hour has each local time twice. The two turns that could be taken for an
/// hour's leap are its beginning and its end.
#[apply(test)]
fn lease_survives_end_of_summer_time() {
    const TURNS: [u64; 2] = [1_919_289_600, 1_919_293_200];
    let dir = tempfile::tempdir().expect("made");
    open_to_all(dir.path());
    let clock = Clock::new(dir.path().join("clock"));
    let mut environment = Vec::from(clock.variables());
    environment.push(("TZ", "CET-1CEST,M3.5.0,M10.5.0/3".into()));
    let server = Arc::new(Server::start_in(Engine::Mariadb, environment));
    assert_eq!(server.sql(None, "SELECT @@system_time_zone LIKE 'CE%', @@time_zone"), ["1\tSYSTEM"]);
    let mut system = System::on(Database::on(&server));
    for turn in TURNS {
        let set = |moment: u64| clock.set(moment.cast_signed() - seconds_since_1970().cast_signed());
        set(turn - 30);
        let mut first = system.endless();
        let acquired: u64 = system
            .database
            .value("SELECT acquired DIV 1000 FROM botsctl_lease WHERE name = 'engine'")
            .parse()
            .expect("there");
        assert!(acquired.abs_diff(turn) < 120, "{acquired} is not near {turn}");
        set(turn + 1);
        let second = system.run(&["engine", "--lease-wait", "2s"]);
        second.expect_code(3);
        assert!(!second.stderr.contains("terminated the session of "), "{second:?}");
        for _ in 0..2 {
            first.signal(Signal::SIGTERM);
        }
        assert_eq!(first.wait_code(), 137, "{}", first.report());
    }
    assert_eq!(system.overlaps(), "");
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs()
}

#[apply(test)]
fn pgbouncer_works_only_with_session_pooling() {
    let database = Database::fresh(Engine::Postgresql);
    let server = database.server();
    let (dir, port) = (tempfile::tempdir().expect("made"), free_port());
    let plain = "plain";
    server.sql(None, &format!("CREATE ROLE pooled LOGIN SUPERUSER PASSWORD '{plain}'"));
    server.sql(None, "CREATE DATABASE pooled OWNER pooled");
    let socket = server.socket();
    for (mode, code) in [("statement", 78), ("transaction", 78), ("session", 0)] {
        let config = format!(
            "[databases]\npooled = host={socket} port={} user=pooled password={plain}\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\npool_mode = {mode}\nunix_socket_dir =\n",
            server.port
        );
        fs::write(dir.path().join("pgbouncer.ini"), config).expect("written");
        needs(Need::Pgbouncer);
        let mut bouncer = crate::support::servers::as_nobody("/usr/sbin/pgbouncer");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("changed");
        let mut bouncer = bouncer.arg(dir.path().join("pgbouncer.ini")).spawn().expect("see tests/run.sh");
        let answers = || std::net::TcpStream::connect(("127.0.0.1", port)).ok();
        wait_until("it listens", answers, String::new);
        let mut sandbox = crate::support::sandbox::Sandbox::new();
        sandbox.set("DB_ENGINE", "postgresql").set("DB_NAME", "pooled").set("DB_USER", "pooled");
        sandbox.set("DB_PASSWORD", plain).set("DB_HOST", "127.0.0.1").set("DB_PORT", port.to_string());
        let initialised = sandbox.run(&["init-db"]);
        sandbox.set_engine_port();
        let done = sandbox.run(&["engine"]);
        kill(Pid::from_raw(bouncer.id().try_into().expect("a pid")), Signal::SIGKILL).expect("it runs");
        bouncer.wait().expect("it ends");
        for done in [initialised, done] {
            done.expect_code(code);
            assert!(code == 0 || done.stderr.contains("behind a proxy that pools transactions"), "{done:?}");
        }
    }
}

/// SQLite counts its transactions in the head of the file, and flushes four times for each.
#[apply(test)]
fn engine_run_uses_two_sqlite_transactions() {
    let mut system = System::new(Engine::Sqlite);
    system.demo.sandbox.stand_in("bots-engine", "#!/bin/sh\n");
    let transactions = || {
        let head = fs::read(&system.database.name).expect("read");
        u32::from_be_bytes(head[24..28].try_into().expect("four bytes"))
    };
    for _ in 0..2 {
        let before = transactions();
        system.run(&["engine"]).expect_code(0);
        assert_eq!(transactions() - before, 2);
    }
}
