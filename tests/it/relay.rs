//! The job queue's port in a container without the queue.

use std::time::{Duration, Instant};

use crate::support::queue::ask;
use crate::support::queue::with_queue;
use crate::support::queue::{TOKEN, pods};
use crate::support::queue::{ask_v6, expect_bound_to_loopback_alone};
use crate::support::sandbox::{Running, Sandbox, bots_bin_dir, free_port, raw_http};

fn shell(sandbox: &Sandbox) -> Running {
    let running = sandbox.start(&["shell", "-c", "sleep 600"]);
    running.wait_stderr("relaying jobs from port");
    running
}

#[apply(test)]
fn relay_forwards_jobs_and_rejects_unauthorized_calls() {
    let (queue, other, relay_port, network_port) = pods();
    let running = queue.start();
    let web = other.webserver();
    let call = "<methodCall><methodName>listjobs</methodName></methodCall>";
    let request = format!("POST / HTTP/1.0\r\nContent-Length: {}\r\n\r\n{call}", call.len());
    assert!(ask_v6(relay_port, &request).contains("<i4>0</i4>"), "{}", web.report());
    expect_bound_to_loopback_alone(relay_port);
    let asked = ask(relay_port, "q.addjob(['isup'], 5), q.listjobs(), q.addjob(['/bin/touch'], 5), q.clearjobq()");
    assert_eq!(asked, "(0, 0, 3, 0)", "{}", web.report());
    // Only the operator of the queue chooses the environment; and web pages cannot call it.
    assert_eq!(ask(relay_port, "q.addjob(['bots-engine', '-c/tmp', '--new'], 5)"), "3");
    for port in [relay_port, network_port, queue.port] {
        let bearer = format!("Authorization: Bearer {TOKEN}");
        let request = format!(
            "POST / HTTP/1.0\r\nOrigin: http://example.test\r\n{bearer}\r\nContent-Length: {}\r\n\r\n{call}",
            call.len()
        );
        let refused = raw_http(port, request.as_bytes()).expect("it answers");
        assert!(refused.starts_with("HTTP/1.0 403") || refused.starts_with("HTTP/1.1 403"), "{refused}");
    }
    let config = format!("-c{}", other.root().join("config").display());
    let program = bots_bin_dir().join("bots-job2queue").display().to_string();
    other.run(&["exec", "--", &program, &config, "bots-engine", "--cleanup"]).expect_code(0);
    for not_relayed in ["q.getjob()", "q.botsctl.showjob(1)"] {
        assert!(ask(relay_port, not_relayed).contains("is not supported"), "{not_relayed}");
    }
    // The network's listener wants the token, and `job` shows it.
    assert!(ask(network_port, "q.listjobs()").contains("401"));
    let longer = format!("Bearer {TOKEN}x");
    for wrong in ["", "Bearer", "Bearer ", "Bearer a", TOKEN, "Basic Og==", &longer] {
        let length = call.len();
        let request = format!("POST / HTTP/1.0\r\nAuthorization: {wrong}\r\nContent-Length: {length}\r\n\r\n{call}");
        let refused = raw_http(network_port, request.as_bytes()).unwrap_or_default();
        assert!(refused.starts_with("HTTP/1.0 401"), "{wrong:?}: {refused}");
    }
    for right in ["bearer", "BEARER"] {
        let length = call.len();
        let request =
            format!("POST / HTTP/1.0\r\nAuthorization: {right} {TOKEN}\r\nContent-Length: {length}\r\n\r\n{call}");
        assert!(raw_http(network_port, request.as_bytes()).is_some_and(|answer| answer.contains(" 200 ")), "{right}");
    }
    // Each is counted, and the first one of a minute is in the log.
    let metrics = running.health("/metrics").expect("it listens").body;
    assert!(metrics.contains("\nbotsctl_jobqueue_calls_refused_total 8\n"), "{metrics}");
    let logged = "rejected a job queue call from 127.0.0.1 (1 since the start)";
    assert_eq!(running.stderr().matches("rejected a job queue call").count(), 1, "{}", running.report());
    assert!(running.stderr().contains(logged), "{}", running.report());
    other.run(&["job", "list"]).expect_code(0);
    let mut stranger = Sandbox::prepared();
    stranger.set("BOTS_CTL_JOBQUEUE_URL", format!("http://127.0.0.1:{network_port}"));
    stranger.set("BOTS_CTL_JOBQUEUE_TOKEN", "another");
    let refused = stranger.run(&["job", "list"]);
    assert!(refused.expect_code(78).stderr.contains("rejected the token"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("another\n"), "{}", refused.stderr);
}

/// Bots's programs recognize only one error: the connection is refused or closed.
#[apply(test)]
fn relay_reports_unreachable_queue_at_once() {
    let (_queue, other, relay_port, network_port) = pods();
    let running = shell(&other);
    let begin = Instant::now();
    let answer = ask(relay_port, "q.addjob(['bots-engine'], 5)");
    assert!(answer.contains("RemoteDisconnected"), "{answer}");
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    let why = format!("cannot relay addjob: cannot reach the job queue on 127.0.0.1:{network_port}");
    running.wait_stderr(&why);
    other.set_ini("jobqueue", "enabled", "True");
    let config = format!("-c{}", other.root().join("config").display());
    let program = bots_bin_dir().join("bots-job2queue").display().to_string();
    let told = other.run(&["exec", "--", &program, &config, "bots-engine", "--new"]);
    told.expect_code(1);
    assert!(told.stdout.to_lowercase().contains("contact jobqueue"), "{}", told.stdout);
}

#[apply(test)]
fn relay_reports_wrong_token() {
    let (queue, mut other, relay_port, _) = pods();
    other.set("BOTS_CTL_JOBQUEUE_TOKEN", "another");
    let _queue = queue.start();
    let running = shell(&other);
    assert!(ask(relay_port, "q.listjobs()").contains("RemoteDisconnected"));
    running.wait_stderr("rejected the token: BOTS_CTL_JOBQUEUE_TOKEN must be the same on both sides");
    let huge = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(100_000));
    let refused = raw_http(relay_port, huge.as_bytes()).unwrap_or_default();
    assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 413"), "{refused}");
}

#[apply(test)]
fn queue_on_public_address_requires_token() {
    let (mut sandbox, _) = with_queue();
    sandbox.set("BOTS_CTL_JOBQUEUE_ADDR", format!("0.0.0.0:{}", free_port()));
    let refused = sandbox.run(&["jobqueue"]);
    refused.expect_code(78);
    assert!(refused.stderr.contains("set BOTS_CTL_JOBQUEUE_TOKEN"), "{}", refused.stderr);
    let file = sandbox.home.path().join(".bots/bots-ctl.toml");
    std::fs::write(&file, "[jobqueue]\ntoken = \"\"\n").expect("written");
    let refused = sandbox.run(&["jobqueue"]);
    refused.expect_code(78);
    let told = format!("{}:2: jobqueue.token is empty: set a value, or remove the line", file.display());
    assert!(refused.stderr.contains(&told), "{}", refused.stderr);
}
