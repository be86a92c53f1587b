//! The engine lease during network failures: connections cut at random moments, and a vanished node.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::network::Node;
use crate::support::pods::{Amiss, System};
use crate::support::pooler::{Cut, Proxy};
use crate::support::random::Random;
use crate::support::sandbox::{Running, rounds, wait_until};
use crate::support::servers::{Database, Engine, Server, on_each_server};
use crate::support::tcp_proxy::Link;

const FEW: usize = 20;

on_each_server! {
    lease_is_reacquired_exclusively_after_cut_connection,
    concurrent_engines_lose_nothing_on_cut_connections,
    lease_moves_to_standby_within_90_seconds_of_node_loss,
    dead_connection_of_waiting_engine_is_replaced,
}

/// An engine under a proxy, and the same database without it.
fn behind_a_proxy(engine: Engine) -> (System, Arc<Proxy>, String) {
    let database = Database::fresh(engine);
    let (proxy, direct) = (Arc::new(Proxy::before(database.server())), database.server().socket());
    (System::through(database, Some(&proxy.socket())), proxy, direct)
}

fn lease_is_reacquired_exclusively_after_cut_connection(engine: Engine) {
    let (mut system, proxy, direct) = behind_a_proxy(engine);
    let mut first = system.endless();
    let mut random = Random(3);
    for round in 1..=rounds(2) {
        let cut = if round % 2 == 1 { Cut::Both } else { Cut::ClientAlone };
        std::thread::sleep(Duration::from_millis(random.below(2000) as u64));
        assert!(proxy.cut(cut) > 0, "{}", first.report());
        let again = || {
            system.run_through(&direct, &["engine", "--lease-wait", "0"]).expect_code(3);
            (first.stderr().matches("reacquired the lock of the engine lease").count() >= round).then_some(())
        };
        wait_until("it has its lock again", again, || first.report());
        system.run_through(&direct, &["engine", "--lease-wait", "0"]).expect_code(3);
    }
    for _ in 0..2 {
        first.signal(Signal::SIGTERM);
    }
    assert_eq!(first.wait_code(), 137, "{}", first.report());
    assert_eq!(system.overlaps(), "");
}

/// In any phase: while it waits, checks, holds, records the result, or releases.
fn concurrent_engines_lose_nothing_on_cut_connections(engine: Engine) {
    let (system, proxy, _) = behind_a_proxy(engine);
    system.can_be_held();
    let mut random = Random(4);
    for round in 0..rounds(1) {
        system.fill(FEW);
        let cutter = Cutter::start(&proxy, u32::try_from(round).expect("small"));
        let mut first = system.start_held(random.below(FEW), &["engine", "--new"]);
        let mut second = system.start(&["engine", "--new"]);
        second.wait_stderr("engine lease is held by ");
        system.release();
        let codes = (first.wait_code(), second.wait_code());
        drop(cutter);
        let report = || format!("round {round}\n{}\n{}", first.report(), second.report());
        assert_eq!(codes, (0, 0), "{}", report());
        assert_eq!(system.collect(FEW), Amiss::default(), "{}", report());
        assert_eq!(system.recoveries(), 0, "{}", report());
    }
}

/// More messages than a login takes. On a busy machine it takes seconds, and a connection that is cut before it is made was
/// of no use.
const LOGIN: usize = 10;

/// Cuts connections at random moments until it is dropped.
struct Cutter(Arc<AtomicBool>);

impl Cutter {
    fn start(proxy: &Arc<Proxy>, seed: u32) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (told, proxy, mut random) = (Arc::clone(&is_over), Arc::clone(proxy), Random(seed));
        std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100 + random.below(900) as u64));
                proxy.cut_after([Cut::Both, Cut::ClientAlone][random.below(2)], LOGIN + random.below(20));
            }
        });
        Self(is_over)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// First while engines wait for another one, then as soon as an engine requests the lease.
fn dead_connection_of_waiting_engine_is_replaced(engine: Engine) {
    let database = Database::fresh(engine);
    let to = (Ipv4Addr::LOCALHOST, database.server().port).into();
    let link = Link::listen(0, move || Some(to));
    let mut system = System::on(database);
    let mut first = system.endless();
    let beyond = |wait| {
        let mut command = system.demo.sandbox.command(&["engine", "--lease-wait", wait]);
        command.env("DB_HOST", "127.0.0.1").env("DB_PORT", link.port.to_string()).env_remove("DB_OPTIONS");
        Running::start(command, system.demo.sandbox.home.path(), 0)
    };
    let mut second = beyond("2m");
    second.wait_stderr("engine lease is held by ");
    link.forget();
    for _ in 0..2 {
        first.signal(Signal::SIGTERM);
    }
    assert_eq!(first.wait_code(), 137, "{}", first.report());
    System::wait_working(&second);
    link.forget_at("botsctl_lease");
    let mut third = beyond("5s");
    assert_eq!(third.wait_code(), 69, "{}", third.report());
    assert!(third.stderr().contains("did not respond within 5 s"), "{}", third.report());
    for _ in 0..2 {
        second.signal(Signal::SIGTERM);
    }
    second.wait();
}

/// The network of a pod is cut while its engine runs: its session stays on the server.
fn lease_moves_to_standby_within_90_seconds_of_node_loss(engine: Engine) {
    let node = Node::new();
    let server = Arc::new(Server::start_for(engine, node.gateway()));
    let mut system = System::on(Database::on(&server));
    system.stand_in_endless();
    let mut there = system.demo.sandbox.command(&["engine"]);
    there.env("DB_HOST", node.gateway()).env("DB_PORT", server.port.to_string()).env_remove("DB_OPTIONS");
    let mut gone = Running::start(node.command(&there), system.demo.sandbox.home.path(), 0);
    System::wait_working(&gone);
    node.unplug();
    let unplugged = Instant::now();
    let mut next = system.start(&["engine", "--lease-wait", "2m"]);
    next.wait_stderr("engine lease is held by ");
    // Each has a minute.
    gone.wait_stderr("killing the engine");
    System::wait_working(&next);
    assert!(unplugged.elapsed() < Duration::from_secs(90), "{:?}\n{}", unplugged.elapsed(), next.report());
    assert!(next.stderr().contains("terminated the session of "), "{}", next.report());
    assert_eq!(system.overlaps(), "", "{}\n{}", gone.report(), next.report());
    assert_eq!(gone.wait_code(), 69, "{}", gone.report());
    for _ in 0..2 {
        next.signal(Signal::SIGTERM);
    }
    next.wait();
}
