//! A web server whose surroundings misbehave: readers of its output that are slow or gone, a stop in mid-start.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;

use crate::support::process::wrapped;
use crate::support::sandbox::{Running, Sandbox, http, wait_until};

/// Moments of the start at which it is stopped, from the first at which a signal can be caught.
const MOMENTS: u64 = 10;

/// A sandbox in which the web server prints thousands of lines: Python logs every import.
fn noisy() -> Sandbox {
    let mut sandbox = Sandbox::new();
    sandbox.set("PYTHONVERBOSE", "1").set("LOG_LEVEL", "trace");
    sandbox
}

/// Starts the web UI with all its output into a pipe that holds as little as the system allows.
fn with_output_to_a_small_pipe(sandbox: &Sandbox) -> (Running, File) {
    let fifo = sandbox.home.path().join("output");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a pipe is made");
    let reader = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&fifo).expect("it opens");
    fcntl(&reader, FcntlArg::F_SETPIPE_SZ(4096)).expect("the size is changed");
    let script = "exec \"$@\" >output 2>&1";
    let command = wrapped(&sandbox.command(&["webserver"]), "sh", &["-c", script, "sh"]);
    (Running::start(command, sandbox.home.path(), sandbox.health_port), reader)
}

fn ask_often(sandbox: &Sandbox) {
    for number in 0..100 {
        let path = format!("/no-such-page-{number}");
        assert!(http(sandbox.web_port, "GET", &path).is_some(), "request {number} is answered");
    }
}

fn works_and_stops(sandbox: &Sandbox, mut running: Running) {
    running.wait_ready();
    assert_eq!(running.health("/health/live").expect("it listens").status, 200);
    assert_eq!(http(sandbox.web_port, "GET", "/login/").expect("it serves").status, 200);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait_code(), 0, "{}", running.report());
    assert_eq!(of_home(sandbox), Vec::<String>::new());
}

/// All processes, zombies excepted, whose environment or command line names the sandbox.
fn of_home(sandbox: &Sandbox) -> Vec<String> {
    let home = sandbox.home.path().display().to_string();
    let pids = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let read = |path: std::path::PathBuf| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let all = pids.map(|entry| (read(entry.path().join("environ")), read(entry.path().join("cmdline"))));
    all.filter(|(environ, cmdline)| environ.contains(&home) || cmdline.contains(&home))
        .map(|(_, command)| command)
        .collect()
}

#[apply(test)]
fn unread_output_does_not_block_web_server() {
    let sandbox = noisy();
    let (running, reader) = with_output_to_a_small_pipe(&sandbox);
    running.wait_ready();
    ask_often(&sandbox);
    works_and_stops(&sandbox, running);
    drop(reader);
}

#[apply(test)]
fn closed_output_pipe_does_not_end_web_server() {
    let sandbox = noisy();
    let (running, reader) = with_output_to_a_small_pipe(&sandbox);
    running.wait_ready();
    drop(reader);
    ask_often(&sandbox);
    works_and_stops(&sandbox, running);
}

#[apply(test)]
fn thousands_of_service_lines_arrive_complete() {
    let sandbox = noisy();
    let mut running = sandbox.webserver();
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait_code(), 0, "{}", running.report());
    let stdout = running.stdout();
    assert!(stdout.lines().count() > 3000, "{} lines", stdout.lines().count());
    assert!(stdout.lines().all(|line| line.contains("Z webserver | ")));
    assert!(stdout.ends_with("Z webserver | # clear sys.audit hooks\n"), "{}", &stdout[stdout.len() - 300..]);
}

#[apply(test)]
fn stop_during_start_exits_cleanly() {
    let sandbox = Sandbox::new();
    sandbox.run(&["init-db"]).expect_code(0);
    for moment in 0..MOMENTS {
        let mut running = sandbox.start(&["webserver"]);
        wait_until("SIGTERM is caught", || catches_term(&running).then_some(()), || running.report());
        std::thread::sleep(Duration::from_millis(150 * moment));
        running.signal(Signal::SIGTERM);
        assert_eq!(running.wait_code(), 0, "after {} ms\n{}", 150 * moment, running.report());
        assert_eq!(of_home(&sandbox), Vec::<String>::new(), "after {} ms", 150 * moment);
    }
}

#[apply(test)]
fn next_start_works_after_stop_during_first_start() {
    for moment in [0, 300, 900] {
        let sandbox = Sandbox::new();
        let mut running = sandbox.start(&["webserver"]);
        wait_until("SIGTERM is caught", || catches_term(&running).then_some(()), || running.report());
        std::thread::sleep(Duration::from_millis(moment));
        running.signal(Signal::SIGTERM);
        assert_eq!(running.wait_code(), 0, "after {moment} ms\n{}", running.report());
        assert_eq!(of_home(&sandbox), Vec::<String>::new(), "after {moment} ms");
        works_and_stops(&sandbox, sandbox.webserver());
    }
}

/// Signals are read from a descriptor, and blocked for that: from then on none is lost.
fn catches_term(running: &Running) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap_or_default();
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    let blocked = blocked.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    blocked & (1 << (Signal::SIGTERM as u32 - 1)) != 0
}
