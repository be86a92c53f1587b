//! `jobqueue --backend python`: Bots's own program under supervision. Bots 3 has no queue that works.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use nix::sys::signal::Signal;

use crate::support::needs::{Need, needs};
use crate::support::queue::with_queue;
use crate::support::sandbox::{Sandbox, python};

/// A queue that has started an engine: a process in its group that runs until the file `done` exists.
const BUSY_QUEUE: &str = r#"#!/usr/bin/env python3
import os, subprocess, sys, xmlrpc.server
here = os.path.dirname(os.path.abspath(__file__))
wait = f"while [ ! -e '{here}/done' ]; do sleep 0.05; done; echo finished > '{here}/finished'"
subprocess.Popen(["bots-engine", "-c", wait], executable="/bin/sh")
server = xmlrpc.server.SimpleXMLRPCServer(("localhost", int(os.environ["QUEUE_PORT"])), logRequests=False)
server.register_function(lambda: 0, "listjobs")
server.serve_forever()
"#;

/// An environment where Bots's own queue does the work.
fn with_python_queue() -> (Sandbox, u16) {
    let (mut sandbox, port) = with_queue();
    sandbox.set("BOTS_CTL_JOBQUEUE_BACKEND", "python");
    (sandbox, port)
}

#[apply(test)]
fn python_queue_runs_answers_and_stops() {
    needs(Need::Bots4);
    let (sandbox, port) = with_python_queue();
    for command in ["jobqueue", "jobqueueserver"] {
        let mut queue = sandbox.start(&[command]);
        queue.wait_ready();
        let ready = queue.health("/health/ready").expect("it listens");
        assert!(ready.body.contains("\"jobqueue\":true"), "{}", ready.body);
        let script = format!(
            "import xmlrpc.client; print(xmlrpc.client.ServerProxy('http://localhost:{port}').addjob(['bots-engine', 'x'], 5))"
        );
        let asked = std::process::Command::new(python()).args(["-c", &script]).output().expect("Python runs");
        assert_eq!(String::from_utf8_lossy(&asked.stdout), "0\n", "{}", String::from_utf8_lossy(&asked.stderr));
        queue.signal(Signal::SIGTERM);
        assert_eq!(queue.wait_code(), 0, "{}", queue.report());
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    }
}

#[apply(test)]
fn queue_stop_waits_for_running_engine() {
    needs(Need::Bots4);
    let (mut sandbox, port) = with_python_queue();
    sandbox.stand_in("bots-jobqueueserver", BUSY_QUEUE);
    sandbox.set("QUEUE_PORT", port.to_string()).set("BOTS_CTL_JOBQUEUE_STOP_TIMEOUT", "1h");
    let mut queue = sandbox.start(&["jobqueue"]);
    queue.wait_ready();
    queue.signal(Signal::SIGTERM);
    queue.wait_stderr("for leftover processes of");
    let place = sandbox.home.path().join("stand-in/bin");
    assert!(!place.join("finished").exists());
    fs::write(place.join("done"), "").expect("written");
    assert_eq!(queue.wait_code(), 0, "{}", queue.report());
    assert!(place.join("finished").exists(), "{}", queue.report());
}

/// Another queue would start the next engine at the same time, which Bots refuses, and the job would be lost.
#[apply(test)]
fn killed_queue_restarts_after_its_engine_finishes() {
    needs(Need::Bots4);
    let (mut sandbox, port) = with_python_queue();
    sandbox.stand_in("bots-jobqueueserver", BUSY_QUEUE);
    sandbox.set("QUEUE_PORT", port.to_string()).set("BOTS_CTL_JOBQUEUE_STOP_TIMEOUT", "1h");
    sandbox.set("BOTS_CTL_RESTART_INITIAL_DELAY", "1ms");
    let mut queue = sandbox.start(&["jobqueue"]);
    queue.wait_ready();
    let find = || queue.descendants().into_iter().find(|(_, command)| command.contains("bots-jobqueueserver"));
    let (server, _) = find().expect("it runs");
    nix::sys::signal::kill(server, Signal::SIGKILL).expect("it is there");
    queue.wait_stderr("restart 1/5");
    queue.wait_health("/health/ready", 503);
    assert!(find().is_none());
    assert!(!queue.stderr().contains("restarting in"), "{}", queue.stderr());
    fs::write(sandbox.home.path().join("stand-in/bin/done"), "").expect("written");
    queue.wait_stderr("restarting in");
    queue.wait_ready();
    queue.signal(Signal::SIGTERM);
    assert_eq!(queue.wait_code(), 0, "{}", queue.report());
}

/// Bots's queue serves one client at a time: one that connects and stays silent blocks all others.
#[apply(test)]
fn unresponsive_queue_fails_liveness() {
    needs(Need::Bots4);
    let (mut sandbox, port) = with_python_queue();
    sandbox.set("BOTS_CTL_HEALTH_INTERVAL", "50ms").set("BOTS_CTL_WATCHDOG_FAILURE_THRESHOLD", "1");
    let queue = sandbox.start(&["jobqueue"]);
    queue.wait_ready();
    let silent = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    let answer = queue.wait_health("/health/live", 503);
    assert!(answer.body.contains("jobqueue has failed"), "{}", answer.body);
    drop(silent);
    queue.wait_health("/health/live", 200);
}

#[apply(test)]
fn disabled_queue_error_names_its_key() {
    let sandbox = Sandbox::new();
    sandbox.run(&["init-db"]).expect_code(0);
    for command in ["jobqueue", "dirmonitor"] {
        let refused = sandbox.run(&[command]);
        refused.expect_code(78);
        let ini = sandbox.root().join("config/bots.ini");
        let start = format!("bots-ctl: {}: [jobqueue] enabled is not True", ini.display());
        assert!(refused.stderr.contains(&start), "{}", refused.stderr);
    }
}

#[apply(test)]
fn python_backend_is_rejected_with_bots_3() {
    needs(Need::Bots3);
    let (sandbox, _) = with_python_queue();
    let refused = sandbox.run(&["jobqueue"]);
    refused.expect_code(78);
    assert!(refused.stderr.contains("accepts jobs and never runs them; use BOTS_CTL_JOBQUEUE_BACKEND=native"));
    sandbox.run(&["jobqueue", "--backend", "neither"]).expect_code(64);
    sandbox.run(&["jobqueue", "--backend", "native", "--", "-x"]).expect_code(64);
}

#[apply(test)]
fn start_reports_used_queue_port() {
    let (sandbox, port) = with_queue();
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("it is free");
    let refused = sandbox.run(&["jobqueue"]);
    refused.expect_code(69);
    assert!(refused.stderr.contains(&format!("cannot serve the job queue on port {port}: another program")));
}
