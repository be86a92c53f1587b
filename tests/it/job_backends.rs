//! Common behaviour of the native queue and that of Bots 4: each test sends both the same calls.
//! docs/decision-records/009-native-job-queue.md lists the intended differences.

use std::path::Path;

use crate::support::bots::is_bots_3;
use crate::support::needs::{Need, needs};
use crate::support::queue::Queue;
use crate::support::sandbox::{http, processes_with, raw_http, wait_until};

/// A queue of each kind that the installed Bots has.
fn on_each_backend(test: impl Fn(Queue, &str)) {
    for backend in ["native", "python"].into_iter().filter(|backend| *backend == "native" || !is_bots_3()) {
        let mut queue = Queue::new();
        queue.sandbox.set("BOTS_CTL_JOBQUEUE_BACKEND", backend);
        test(queue, backend);
    }
}

#[apply(test)]
fn both_backends_return_expected_api_results() {
    on_each_backend(|queue, backend| {
        let running = queue.start();
        let (wait, one) = (queue.task("wait"), queue.task("one"));
        assert_eq!(queue.ask(&format!("q.addjob({wait}, 5)")), "0");
        queue.wait_lines("started", 1, &running);
        assert_eq!(queue.ask("q.listjobs()"), "0");
        let asked = queue.ask(&format!(
            "q.addjob({one}, 5), q.addjob({one}, 5), q.addjob({one}, 3), q.addjob([], 5), q.addjob(['isup'], 5), \
             q.addjob(['/bin/touch', 'x'], 5), q.addjob({wait}, 5), q.addjob({wait}, 5)"
        ));
        assert_eq!(asked, "(0, 4, 0, 2, 0, 3, 0, 4)", "{backend}");
        let listed = queue.ask("sorted(q.listjobs())");
        assert_eq!(listed, format!("[[3, 2, {one}], [5, 3, {wait}]]"), "{backend}");
        assert_eq!(queue.ask("q.clearjobq(), q.listjobs()"), "(0, 0)", "{backend}");
        for wrong in ["q.addjob(['bots-engine'])", "q.none()", "q.listjobs(1)"] {
            assert!(queue.ask(wrong).starts_with("xmlrpc.client.Fault: <Fault 1: "), "{backend} {wrong}");
        }
        let malformed = "POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\n<call";
        assert!(raw_http(queue.port, malformed.as_bytes()).is_some_and(|answer| answer.contains("faultCode")));
        let status = |method, path| http(queue.port, method, path).map(|answer| answer.status);
        assert_eq!((status("GET", "/RPC2"), status("POST", "/other")), (Some(501), Some(404)), "{backend}");
        queue.go();
        queue.wait_lines("ran", 1, &running);
    });
}

#[apply(test)]
fn nr_threads_limits_concurrent_jobs() {
    on_each_backend(|queue, backend| {
        queue.sandbox.set_ini("jobqueue", "nr_threads", "2");
        let running = queue.start();
        let wait = queue.task("wait");
        for number in 1..=2 {
            assert_eq!(queue.ask(&format!("q.addjob({wait}, 5)")), "0", "{backend}");
            queue.wait_lines("started", number, &running);
        }
        let third = queue.task("third");
        assert_eq!(queue.ask(&format!("q.addjob({third}, 5)")), "0", "{backend}");
        assert_eq!(queue.ask("q.listjobs()"), format!("[[5, 3, {third}]]"), "{backend}");
        queue.go();
        let mut ran = queue.wait_lines("ran", 3, &running);
        ran.sort();
        assert_eq!(ran, ["third", "wait", "wait"], "{backend}");
    });
}

#[apply(test)]
fn engine_is_authorized_by_name_and_installed_path() {
    on_each_backend(|queue, backend| {
        let running = queue.start();
        queue.ask(&format!("q.addjob({}, 5)", queue.task("wait")));
        queue.wait_lines("started", 1, &running);
        let real = crate::support::sandbox::bots_bin_dir().join("bots-engine").display().to_string();
        let asked = |word: &str| queue.ask(&format!("q.addjob(['{word}', '--cleanup'], 5)"));
        assert_eq!((asked("bots-engine"), asked(&real)), ("0".into(), "0".into()), "{backend}");
        for other in ["/tmp/bots-engine", "./bots-engine", "bots-engine2", "sh"] {
            assert_eq!(asked(other), "3", "{backend} {other}");
        }
        assert_eq!(queue.ask("q.clearjobq()"), "0", "{backend}");
        queue.go();
        assert_eq!(queue.wait_lines("ran", 1, &running), ["wait"], "{backend}: what runs is not cleared");
    });
}

#[apply(test)]
fn next_job_starts_after_overlong_job_is_killed() {
    on_each_backend(|queue, backend| {
        queue.sandbox.set_ini("jobqueue", "killjobsintimeout", "True");
        queue.sandbox.set_ini("settings", "maxruntime", "0");
        let running = queue.start();
        let task = queue.task.display().to_string();
        for argument in ["wait", "again"] {
            let asked = queue.ask(&format!("q.addjob(['{task}', 'wait', '{argument}'], 5)"));
            assert_eq!(asked, "0", "{backend}");
            let is_taken = || (queue.ask("q.listjobs()") == "0").then_some(());
            wait_until("it is started", is_taken, || running.report());
            let is_gone = || processes_with(&format!("{task} wait {argument}")).is_empty().then_some(());
            wait_until("it is ended", is_gone, || running.report());
        }
        assert!(!Path::new(&task).with_file_name("ran").exists(), "{backend}");
    });
}

/// Bots's own queue gives up after ten jobs that could not be started: it continues to accept jobs, reports that it is
/// up, and runs none of them.
#[apply(test)]
fn stalled_python_queue_fails_liveness() {
    needs(Need::Bots4);
    let mut queue = Queue::new();
    queue.sandbox.set("BOTS_CTL_JOBQUEUE_BACKEND", "python");
    queue.sandbox.set("BOTS_CTL_HEALTH_INTERVAL", "50ms");
    queue.sandbox.set_ini("jobqueue", "authorized_tasks", "/nowhere/program");
    let running = queue.start();
    let asked = queue.ask("[q.addjob(['/nowhere/program', str(n)], 5) for n in range(12)], q.addjob(['isup'], 5)");
    assert_eq!(asked, format!("([{}], 0)", ["0"; 12].join(", ")));
    let answer = running.wait_health("/health/live", 503);
    assert!(answer.body.contains("jobqueue has failed"), "{}", answer.body);
    running.wait_stderr("jobqueue does not respond: jobs are waiting, but none is running");
    assert_eq!(queue.ask("q.addjob(['isup'], 5), q.clearjobq()"), "(0, 0)");
    running.wait_health("/health/live", 200);
}
