//! The job queue's port under clients of every kind: silent, slow, greedy, and those that send rubbish.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::support::queue::Queue;
use crate::support::queue::{ask_v6, expect_bound_to_loopback_alone};
use crate::support::random::Random;
use crate::support::sandbox::{DEADLINE, Running, raw_http};

/// Bots's own server answers one client at a time; one that is silent blocks all others.
#[apply(test)]
fn silent_slow_and_greedy_clients_do_not_block_others() {
    let queue = Queue::new();
    let running = queue.start();
    let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, queue.port)).expect("it listens");
    let silent: Vec<TcpStream> = (0..50).map(|_| connect()).collect();
    let mut slow = connect();
    slow.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n<").expect("sent");
    let begin = Instant::now();
    assert_eq!(queue.ask("q.addjob(['isup'], 5), q.listjobs()"), "(0, 0)");
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    let huge = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(100_000));
    let refused = raw_http(queue.port, huge.as_bytes()).unwrap_or_default();
    assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 413"), "{refused}");
    let bomb = "<!DOCTYPE x [<!ENTITY a 'a'>]><methodCall><methodName>&a;</methodName></methodCall>";
    let bomb = format!("POST / HTTP/1.0\r\nContent-Length: {}\r\n\r\n{bomb}", bomb.len());
    assert!(raw_http(queue.port, bomb.as_bytes()).is_some_and(|answer| answer.contains("entities")));
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut slow, &mut answer).expect("it ends");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    drop(silent);
    running.wait_ready();
}

/// The maximum growth of the process's memory for any input.
const ROOM: u64 = 8 * 1024 * 1024;

/// Requests with bytes changed, doubled, dropped and cut off; heads that lie about what follows. The queue answers or
/// closes, and goes on.
#[apply(test)]
fn malformed_requests_neither_block_queue_nor_leak_memory() {
    let queue = Queue::new();
    let running = queue.start();
    assert_eq!(queue.ask("q.addjob(['isup'], 5)"), "0");
    let before = memory(&running);
    let call = "<?xml version='1.0'?><methodCall><methodName>addjob</methodName><params><param><value><array><data>\
                <value><string>isup</string></value></data></array></value></param><param><value><int>5</int></value>\
                </param></params></methodCall>";
    let head = |length: &str| format!("POST /RPC2 HTTP/1.1\r\nHost: x\r\n{length}\r\nContent-Type: text/xml\r\n\r\n");
    let whole = head(&format!("Content-Length: {}", call.len())) + call;
    let mut random = Random(7);
    for _ in 0..1500 {
        let mut request = whole.clone().into_bytes();
        for _ in 0..=random.below(6) {
            // One that is empty has nothing left to change.
            let place = random.below(request.len().max(1)).min(request.len());
            match random.below(5) {
                0 if place < request.len() => request[place] = u8::try_from(random.below(256)).expect("a byte"),
                1 if place < request.len() => drop(request.remove(place)),
                2 => request.insert(place, b"<>&;/!?\"=\r\n: 0"[random.below(14)]),
                3 => request.truncate(place + 1),
                _ => request.extend_from_within(place..),
            }
        }
        send(queue.port, &request);
    }
    let deep = "<value><array><data>".repeat(3000);
    let lies = [
        head("Content-Length: 99999999999999999999") + call,
        head("Content-Length: -1") + call,
        head("Transfer-Encoding: chunked") + "ffffffffffffffff\r\n" + call,
        head("Transfer-Encoding: chunked") + &"1\r\nx\r\n".repeat(70_000) + "0\r\n\r\n",
        head(&format!("Content-Length: {}", deep.len())) + &deep,
        head(&"X: y\r\n".repeat(5000)) + call,
        "x".repeat(100_000),
        "\0".repeat(1000),
    ];
    for lie in lies {
        send(queue.port, lie.as_bytes());
    }
    assert_eq!(queue.ask("q.addjob(['isup'], 5), q.listjobs()"), "(0, 0)", "{}", running.report());
    running.wait_ready();
    assert!(memory(&running) < before + ROOM, "{before} {}", memory(&running));
}

#[apply(test)]
fn queue_listens_only_on_both_loopback_addresses() {
    let queue = Queue::new();
    let _running = queue.start();
    expect_bound_to_loopback_alone(queue.port);
    let call = "<methodCall><methodName>listjobs</methodName></methodCall>";
    let request = format!("POST / HTTP/1.0\r\nContent-Length: {}\r\n\r\n{call}", call.len());
    assert!(ask_v6(queue.port, &request).contains("<i4>0</i4>"));
}

/// Sends bytes and waits until the connection is closed; how, does not matter.
fn send(port: u16, bytes: &[u8]) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    let is_late = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!is_late, "no end after {:?}", String::from_utf8_lossy(bytes));
}

/// Resident bytes.
fn memory(running: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it is there");
    line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") * 1024
}
