//! What becomes of processes: orphans, zombies and leftovers, as PID 1 of a namespace and without one.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::needs::unshared;
use crate::support::process::wait_descendant;
use crate::support::sandbox::{Finished, Running, Sandbox, descendants, processes_with, python, wait_until};

/// Leaves a thousand orphans to the reaper, and prints when none of them is left, not even as a zombie.
const ORPHANS: &str = r#"
import os, sys, time

def orphan():
    middle = os.fork()
    if middle == 0:
        mother = os.getpid()
        if os.fork() == 0:
            while os.getppid() == mother:
                time.sleep(0.001)
        os._exit(0)
    os.waitpid(middle, 0)

def adopted(parent):
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = open(f"/proc/{name}/stat").read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and int(name) != os.getpid():
            found.append((name, fields[0]))
    return found

for number in range(1000):
    orphan()
deadline = time.monotonic() + 60
while (left := adopted(os.getppid())) and time.monotonic() < deadline:
    time.sleep(0.01)
print("adopted by", os.getppid(), "left", left)
sys.exit(42 if not left else 1)
"#;

/// A command as PID 1 of a separate PID namespace.
fn as_pid_1(sandbox: &Sandbox, args: &[&str]) -> Running {
    let command = crate::support::needs::as_pid_1(&sandbox.command(args));
    Running::start(command, sandbox.home.path(), sandbox.health_port)
}

fn run_as_pid_1(sandbox: &Sandbox, args: &[&str]) -> Finished {
    let mut running = as_pid_1(sandbox, args);
    let status = running.wait();
    Finished { status, stdout: running.stdout(), stderr: running.stderr() }
}

/// The process that is PID 1 inside, as it is called outside.
fn pid_1(running: &Running) -> Pid {
    let inside = || descendants(running.pid()).into_iter().find(|(pid, _)| innermost(*pid).as_deref() == Some("1"));
    wait_until("the namespace has a PID 1", inside, || running.report()).0
}

/// A process's number in its own namespace.
fn innermost(pid: Pid) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("NSpid:"))?;
    line.split_whitespace().last().map(str::to_owned)
}

fn exists(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

/// The first line a program printed: the number of a process it left.
fn printed_pid(running: &Running) -> String {
    let line = || running.stdout().split_once('\n').map(|(line, _)| line.to_owned());
    wait_until("a number is printed", line, || running.report())
}

#[apply(test)]
fn pid_1_returns_exit_code_of_program() {
    let sandbox = Sandbox::new();
    let table = [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)];
    for (script, code) in table {
        let ended = run_as_pid_1(&sandbox, &["exec", "--", "sh", "-c", script]);
        assert_eq!(ended.status.code(), Some(code), "{script}\n{}", ended.stderr);
    }
    run_as_pid_1(&sandbox, &["exec", "--", "no-such-program"]).expect_code(127);
    let number = run_as_pid_1(&sandbox, &["exec", "--", "sh", "-c", "echo $PPID"]);
    assert_eq!(number.stdout, "1\n", "bots-ctl is PID 1 in these tests");
}

#[apply(test)]
fn pid_1_forwards_signals_to_program() {
    let sandbox = Sandbox::new();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1] {
        let mut running = as_pid_1(&sandbox, &["exec", "--", "sleep", "1000"]);
        wait_until("sleep runs", || in_namespace(&running, "sleep 1000"), || running.report());
        kill(pid_1(&running), signal).expect("it is there");
        assert_eq!(running.wait_code(), 128 + signal as i32, "{}", running.report());
    }
}

fn in_namespace(running: &Running, words: &str) -> Option<Pid> {
    running.descendants().into_iter().find(|(_, command)| command.starts_with(words)).map(|(pid, _)| pid)
}

#[apply(test)]
fn pid_1_reaps_orphans_while_program_runs() {
    let sandbox = Sandbox::new();
    let python = python();
    let ended = run_as_pid_1(&sandbox, &["exec", "--", &python.to_string_lossy(), "-c", ORPHANS]);
    ended.expect_code(42);
    assert_eq!(ended.stdout, "adopted by 1 left []\n");
}

#[apply(test)]
fn pid_1_leaves_no_process_in_namespace() {
    let sandbox = Sandbox::new();
    let marker = format!("100{}", sandbox.web_port);
    let script = format!("setsid sh -c 'trap \"\" TERM HUP; echo $$; exec sleep {marker}' & read line < pipe; exit 4");
    nix::unistd::mkfifo(&sandbox.home.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe is made");
    let mut running = as_pid_1(&sandbox, &["exec", "--", "sh", "-c", &script]);
    wait_descendant(&running, &format!("sleep {marker}"));
    fs::write(sandbox.home.path().join("pipe"), "\n").expect("written");
    assert_eq!(running.wait_code(), 4, "{}", running.report());
    assert_eq!(processes_with(&format!("sleep {marker}")), []);
}

#[apply(test)]
fn exec_reaps_orphans_without_pid_namespace() {
    let sandbox = Sandbox::new();
    let mut running = sandbox.start(&["exec", "--", &python().to_string_lossy(), "-c", ORPHANS]);
    assert_eq!(running.wait_code(), 42, "{}", running.report());
    assert_eq!(running.stdout(), format!("adopted by {} left []\n", running.pid()));
}

#[apply(test)]
fn exec_ends_leftover_in_process_group() {
    let mut sandbox = Sandbox::new();
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1h");
    let mut running = sandbox.start(&["exec", "--", "sh", "-c", "sleep 1000 & echo $!; exit 3"]);
    assert_eq!(running.wait_code(), 3, "{}", running.report());
    assert!(!exists(&printed_pid(&running)));
    assert!(!running.stderr().contains("killed"), "{}", running.stderr());
}

#[apply(test)]
fn exec_waits_for_leftover_to_stop_cleanly() {
    let mut sandbox = Sandbox::new();
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1h");
    let leftover = "trap 'sleep 0.3; echo in order; exit' TERM; echo set > pipe; while :; do sleep 0.1; done";
    let script = format!("mkfifo pipe; ({leftover}) & read line < pipe; exit 3");
    let mut running = sandbox.start(&["exec", "--", "sh", "-c", &script]);
    assert_eq!(running.wait_code(), 3, "{}", running.report());
    assert_eq!(running.stdout(), "in order\n");
}

#[apply(test)]
fn exec_kills_leftover_that_ignores_sigterm() {
    let mut sandbox = Sandbox::new();
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1s");
    let mut running = sandbox.start(&["exec", "--", "sh", "-c", "trap '' TERM; sleep 1000 & echo $!; exit 3"]);
    assert_eq!(running.wait_code(), 3, "{}", running.report());
    let left = printed_pid(&running);
    assert!(!exists(&left), "{}", fs::read_to_string(format!("/proc/{left}/status")).unwrap_or_default());
    assert!(running.stderr().contains(&format!("killed sleep ({left})")), "{}", running.stderr());
}

/// A stopped process does not act on SIGTERM until it is continued.
#[apply(test)]
fn exec_ends_suspended_leftover_before_deadline() {
    let mut sandbox = Sandbox::new();
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1h");
    let mut running = sandbox.start(&["exec", "--", "sh", "-c", "sleep 1000 & kill -STOP $!; echo $!; exit 3"]);
    assert_eq!(running.wait_code(), 3, "{}", running.report());
    assert!(!exists(&printed_pid(&running)));
}

#[apply(test)]
fn stop_signal_ends_wait_for_leftovers() {
    let mut sandbox = Sandbox::new();
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1h");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let script = "trap '' TERM INT; sleep 1000 & echo $$; echo $!; exit 3";
        let mut running = sandbox.start(&["exec", "--", "sh", "-c", script]);
        let program = printed_pid(&running);
        wait_until("the program has ended", || (!exists(&program)).then_some(()), || running.report());
        running.signal(signal);
        assert_eq!(running.wait_code(), 3, "{}", running.report());
        let left = running.stdout().lines().nth(1).expect("it is printed").to_owned();
        assert!(!exists(&left));
    }
}

/// Leaves ten thousand orphans that all die at the same moment.
const TOGETHER: &str = r#"
import os, sys, time
reader, writer = os.pipe()
if os.fork() == 0:
    os.close(writer)
    for _ in range(10_000):
        if os.fork() == 0:
            os.read(reader, 1)
            os._exit(0)
    os._exit(0)
os.wait()
os.close(reader)
others = lambda: [name for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, os.getpid())]
print("adopted", len(others()))
os.close(writer)
deadline = time.monotonic() + 60
while others() and time.monotonic() < deadline:
    time.sleep(0.01)
print("left", len(others()))
sys.exit(43)
"#;

#[apply(test)]
fn pid_1_reaps_10000_orphans_and_keeps_exit_code() {
    let sandbox = Sandbox::new();
    let ended = run_as_pid_1(&sandbox, &["exec", "--", &python().to_string_lossy(), "-c", TOGETHER]);
    ended.expect_code(43);
    assert_eq!(ended.stdout, "adopted 10000\nleft 0\n");
}

/// A script that leaves `program` in a separate session, and exits with code 3 when that is running.
fn leaving(sandbox: &Sandbox, program: &str) -> String {
    let pipe = sandbox.home.path().join("started");
    let _ = nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU);
    format!("setsid sh -c 'echo $$; {program}' & read line <started; exit 3").replace("GO", "echo >started")
}

#[apply(test)]
fn exec_ends_leftover_in_separate_session() {
    let mut sandbox = Sandbox::new();
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1h");
    let script = leaving(&sandbox, "trap \"sleep 0.2; echo in order; exit\" TERM; GO; while :; do sleep 0.1; done");
    let mut running = sandbox.start(&["exec", "--", "sh", "-c", &script]);
    assert_eq!(running.wait_code(), 3, "{}", running.report());
    assert!(!exists(&printed_pid(&running)));
    assert!(running.stdout().ends_with("in order\n"), "{}", running.report());
}

#[apply(test)]
fn exec_names_and_kills_leftover_that_blocks_exit() {
    let mut sandbox = Sandbox::new();
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "5s");
    let script = leaving(&sandbox, "trap \"\" TERM; GO; exec sleep 1000");
    let mut running = sandbox.start(&["exec", "--", "sh", "-c", &script]);
    assert_eq!(running.wait_code(), 3, "{}", running.report());
    let left = printed_pid(&running);
    assert!(!exists(&left));
    for told in [format!("waiting up to 5 s for sleep ({left}) to exit"), format!("killed sleep ({left})")] {
        assert!(running.stderr().contains(&told), "{told}\n{}", running.stderr());
    }
}

/// The set of processes changes continuously, so a single scan is not enough.
#[apply(test)]
fn exec_kills_leftover_that_keeps_forking() {
    let mut sandbox = Sandbox::new();
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1s");
    let runner = "import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for runner in range(3):
    os.fork()
open('started', 'w').write('\\n')
while True:
    if os.fork():
        os._exit(0)
    time.sleep(0.01)";
    let marker = format!("{runner} # {}", sandbox.health_port);
    fs::write(sandbox.home.path().join("runner.py"), &marker).expect("written");
    let script = leaving(&sandbox, &format!("exec {} -c \"$(cat runner.py)\"", python().display()));
    // Not as PID 1, but in a separate namespace, which cleans up after this test.
    let inside = ["--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", "\"$@\"; exit $?", "sh"];
    let command = unshared(&sandbox.command(&["exec", "--", "sh", "-c", &script]), &inside);
    let mut running = Running::start(command, sandbox.home.path(), sandbox.health_port);
    assert_eq!(running.wait_code(), 3, "{}", running.report());
    assert_eq!(processes_with(&marker), []);
    assert!(running.stderr().contains("killed python"), "{}", running.stderr());
}

/// The arguments of `unshare` that hide `/proc`, as PID 1 and beside it, and the command that a leftover is started with: beside
/// PID 1 only the group of the program is known.
fn without_proc() -> [(Vec<&'static str>, &'static str); 2] {
    let unmounted = ["sh", "-c", "mount -t tmpfs none /proc && exec \"$@\"", "sh"];
    let as_pid_1 = [&["--mount", "--pid", "--fork", "--kill-child"], &unmounted[..]].concat();
    let beside = [&["--mount"], &unmounted[..]].concat();
    [(as_pid_1, "setsid"), (beside, "")]
}

/// The exits of other processes are no reason for a second signal.
#[apply(test)]
fn leftover_gets_one_sigterm_without_proc() {
    let mut sandbox = Sandbox::new();
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1h");
    for (init, session) in without_proc() {
        let program = "(sleep 1000 &); (sleep 1000 &); trap \"echo asked; asked=1\" TERM; GO; \
                       while [ -z \"$asked\" ]; do sleep 0.1; done; sleep 0.5; echo end";
        let script = leaving(&sandbox, program).replace("setsid", session);
        let command = unshared(&sandbox.command(&["exec", "--", "sh", "-c", &script]), &init);
        let mut running = Running::start(command, sandbox.home.path(), sandbox.health_port);
        assert_eq!(running.wait_code(), 3, "{}", running.report());
        let stdout = running.stdout();
        assert!(stdout.matches("asked").count() == 1 && stdout.ends_with("end\n"), "{}", running.report());
    }
}

#[apply(test)]
fn exec_ends_leftovers_without_proc() {
    let mut sandbox = Sandbox::new();
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1s");
    let marker = format!("100{}", sandbox.web_port);
    for (init, session) in without_proc() {
        for ignored in ["", "trap \"\" TERM;"] {
            let script = leaving(&sandbox, &format!("{ignored} GO; exec sleep {marker}")).replace("setsid", session);
            let command = unshared(&sandbox.command(&["exec", "--", "sh", "-c", &script]), &init);
            let mut running = Running::start(command, sandbox.home.path(), sandbox.health_port);
            assert_eq!(running.wait_code(), 3, "{}", running.report());
            assert_eq!(processes_with(&format!("sleep {marker}")), []);
        }
    }
}

#[apply(test)]
fn web_server_starts_answers_and_stops_as_pid_1() {
    let sandbox = Sandbox::new();
    let mut running = as_pid_1(&sandbox, &["webserver"]);
    running.wait_ready();
    let inside = running.descendants();
    assert!(inside.len() >= 2, "{inside:?}");
    for check in ["live", "ready", "startup"] {
        sandbox.run(&["healthcheck", "--check", check]).expect_code(0);
    }
    for (pid, command) in &inside {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is there");
        assert!(!stat.contains(") Z "), "{pid} {command} is a zombie");
    }
    kill(pid_1(&running), Signal::SIGTERM).expect("it is there");
    assert_eq!(running.wait_code(), 0, "{}", running.report());
    for (pid, command) in inside {
        assert!(!exists(&pid.to_string()), "{command} is still there");
    }
}
