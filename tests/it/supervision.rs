//! Restarts, their limit, the watchdog, and signals at awkward moments.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::process::finish;
use crate::support::process::web_process;
use crate::support::process::wrapped;
use crate::support::process::write_program;
use crate::support::sandbox::{Running, Sandbox, wait_until};
use crate::support::users::{as_user, as_user_of_bots, give_to_user, open_to_all};
use crate::support::web_server::{start, web_server};

/// Setup of a web server that records its starts and its signals. It fails while the file `fail` exists.
const RECORDING: &str = r#"
with open(os.path.join(here, "starts"), "a") as starts:
    starts.write("start\n")
if os.path.exists(os.path.join(here, "fail")):
    sys.exit(3)
log = os.open(os.path.join(here, "signals"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMIN + 3):
    signal.signal(number, lambda number, frame: os.write(log, f"{int(number)}\n".encode()))
"#;

/// A sandbox with that web server, which starts a command of a shell.
fn with_started(command: &str) -> Sandbox {
    with_stand_in(&web_server(&(RECORDING.to_owned() + &start(command)), ""))
}

/// A sandbox with that web server.
fn with_web_server() -> Sandbox {
    with_stand_in(&web_server(RECORDING, ""))
}

/// A sandbox whose web server is this script.
fn with_stand_in(script: &str) -> Sandbox {
    let mut sandbox = Sandbox::new();
    sandbox.stand_in("bots-webserver", script);
    sandbox.set("BOTS_CTL_RESTART_INITIAL_DELAY", "1ms");
    sandbox
}

fn beside(sandbox: &Sandbox, name: &str) -> std::path::PathBuf {
    sandbox.home.path().join("stand-in/bin").join(name)
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap_or_default().lines().count()
}

fn status(sandbox: &Sandbox) -> serde_json::Value {
    let told = sandbox.run(&["status", "--json"]);
    serde_json::from_str(&told.stdout).unwrap_or_else(|error| panic!("{error}: {told:?}"))
}

#[apply(test)]
fn supervisor_restarts_killed_web_server() {
    let mut sandbox = Sandbox::prepared();
    sandbox.set("BOTS_CTL_RESTART_INITIAL_DELAY", "50ms");
    let mut web = sandbox.webserver();
    let first = web_process(&web);
    kill(first, Signal::SIGKILL).expect("it is there");
    wait_until(
        "it is ready with another process",
        || {
            let service = status(&sandbox)["services"][0].clone();
            let replaced = service["pid"].is_i64() && service["pid"] != first.as_raw();
            (replaced && service["ready"] == true).then_some(service)
        },
        || web.report(),
    );
    let service = status(&sandbox)["services"][0].clone();
    assert_eq!(service["restarts"], 1);
    assert_eq!(service["last_exit"], "signal SIGKILL");
    assert_eq!(service["state"], "running");
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
}

#[apply(test)]
fn crash_loop_ends_with_exit_code_of_service() {
    let mut sandbox = with_stand_in("#!/bin/sh\necho start >> \"$(dirname \"$0\")/starts\"\nexit 9\n");
    sandbox.set("BOTS_CTL_RESTART_LIMIT", "3");
    let ended = sandbox.run(&["webserver"]);
    ended.expect_code(9);
    assert_eq!(lines(&beside(&sandbox, "starts")), 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("failed 4 times in a row; giving up"), "{}", ended.stderr);
}

#[apply(test)]
fn restart_policy_decides_which_exits_restart() {
    for (policy, code, starts) in [("never", 9, 1), ("on-failure", 0, 1), ("always", 0, 3), ("on-failure", 9, 3)] {
        let script = format!("#!/bin/sh\necho start >> \"$(dirname \"$0\")/starts\"\nexit {code}\n");
        let mut sandbox = with_stand_in(&script);
        sandbox.set("BOTS_CTL_RESTART", policy).set("BOTS_CTL_RESTART_LIMIT", "2");
        let ended = sandbox.run(&["webserver"]);
        ended.expect_code(code);
        assert_eq!(lines(&beside(&sandbox, "starts")), starts, "{policy} {code}: {}", ended.stderr);
    }
}

#[apply(test)]
fn restart_count_resets_after_stable_run() {
    let mut sandbox = with_web_server();
    sandbox.set("BOTS_CTL_RESTART_LIMIT", "1").set("BOTS_CTL_RESTART_RESET_AFTER", "1ms");
    let mut web = sandbox.webserver();
    for restarts in 1..=3 {
        let first = web_process(&web);
        kill(first, Signal::SIGKILL).expect("it is there");
        wait_until(
            "its restart count is reset again",
            || (web.stderr().matches("resetting its restart count").count() == restarts).then_some(()),
            || web.report(),
        );
    }
    assert_eq!(status(&sandbox)["services"][0]["restarts"], 3);
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
}

#[apply(test)]
fn stop_signal_interrupts_restart_delay() {
    let mut sandbox = with_stand_in("#!/bin/sh\nexit 9\n");
    sandbox.set("BOTS_CTL_RESTART_INITIAL_DELAY", "1h").set("BOTS_CTL_RESTART_MAX_DELAY", "1h");
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        let mut web = sandbox.start(&["webserver"]);
        web.wait_stderr("restarting in");
        assert_eq!(web.wait_health("/health/live", 200).status, 200);
        assert_eq!(web.wait_health("/health/ready", 503).status, 503);
        web.signal(signal);
        assert_eq!(web.wait_code(), 0, "{}", web.report());
    }
}

#[apply(test)]
fn signals_during_restart_delay_reach_next_process() {
    let mut sandbox = with_web_server();
    sandbox.set("BOTS_CTL_RESTART_INITIAL_DELAY", "1s");
    fs::write(beside(&sandbox, "fail"), "").expect("written");
    let mut web = sandbox.start(&["webserver"]);
    web.wait_stderr("restarting in");
    fs::remove_file(beside(&sandbox, "fail")).expect("it is there");
    let realtime = nix::libc::SIGRTMIN() + 3;
    let sent = [Signal::SIGUSR1 as i32, realtime, Signal::SIGUSR2 as i32];
    for number in sent {
        crate::support::process::send(web.pid(), number);
    }
    web.wait_ready();
    let log = beside(&sandbox, "signals");
    wait_until(
        "all have arrived",
        || (lines(&log) >= sent.len()).then_some(()),
        || format!("{:?}\n{}", fs::read_to_string(&log), web.report()),
    );
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
    let text = fs::read_to_string(&log).expect("it is there");
    let mut arrived: Vec<i32> = text.lines().map(|line| line.parse().expect("a number")).collect();
    arrived.sort_unstable();
    let mut expected = sent.to_vec();
    expected.sort_unstable();
    assert_eq!(arrived, expected);
}

#[apply(test)]
fn forwarded_signal_reaches_process_of_service_alone() {
    let sandbox = with_started("exec sleep 1001");
    let mut web = sandbox.webserver();
    let log = beside(&sandbox, "signals");
    for arrived in 1..=2 {
        web.signal(Signal::SIGUSR1);
        wait_until("it has arrived", || (lines(&log) == arrived).then_some(()), || web.report());
    }
    let child = web.descendants().into_iter().find(|(_, command)| command.starts_with("sleep 1001"));
    assert!(child.is_some(), "{}", web.report());
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
}

#[apply(test)]
fn engine_receives_no_forwarded_signal() {
    let mut sandbox = Sandbox::prepared();
    let run = "echo working; while ! [ -e go ]; do sleep 0.1; done; echo run completed";
    sandbox.stand_in("bots-engine", &format!("#!/bin/sh\ncd \"$HOME\"; {run}\n"));
    let mut engine = sandbox.start(&["engine"]);
    let works = || engine.report().contains("working").then_some(());
    wait_until("the engine works", works, || engine.report());
    engine.signal(Signal::SIGUSR1);
    engine.signal(Signal::SIGTERM);
    // bots-ctl reads USR1 first, which has the lower number.
    engine.wait_stderr("the engine finishes its run");
    fs::write(sandbox.home.path().join("go"), "").expect("written");
    engine.wait_code();
    assert!(engine.report().contains("run completed"), "{}", engine.report());
}

#[apply(test)]
fn signal_during_init_db_reaches_service() {
    let sandbox = with_web_server();
    sandbox.run(&["init-db"]).expect_code(0);
    let database = sandbox.root().join("botssys/sqlitedb/botsdb");
    fs::remove_file(&database).expect("it is there");
    let lock = fs::File::options().write(true).open(database.with_file_name("botsdb.init-lock"));
    let lock = lock.expect("it is there");
    lock.lock().expect("nobody else has it");
    let mut web = sandbox.start(&["webserver"]);
    web.wait_stderr("another bots-ctl initialises");
    web.signal(Signal::SIGUSR1);
    drop(lock);
    let log = beside(&sandbox, "signals");
    wait_until("it has arrived", || (lines(&log) == 1).then_some(()), || web.report());
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
}

#[apply(test)]
fn hung_web_server_is_not_live_and_not_restarted_by_default() {
    let mut sandbox = with_web_server();
    sandbox.set("BOTS_CTL_HEALTH_INTERVAL", "50ms").set("BOTS_CTL_WATCHDOG_FAILURE_THRESHOLD", "2");
    let web = sandbox.webserver();
    let hung = web_process(&web);
    kill(hung, Signal::SIGSTOP).expect("it is there");
    let answer = web.wait_health("/health/live", 503);
    assert!(answer.body.contains("has failed 2 probes in a row"), "{}", answer.body);
    kill(hung, Signal::SIGCONT).expect("it is there");
    web.wait_health("/health/live", 200);
    web.wait_ready();
    assert_eq!(web_process(&web), hung);
    assert_eq!(status(&sandbox)["services"][0]["restarts"], 0);
}

/// Setup of a web server that hangs after SIGUSR2, and ignores the stop signal.
const HANGING: &str = "
def hang(number, frame):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(3600)
signal.signal(signal.SIGUSR2, hang)
";

#[apply(test)]
fn watchdog_restarts_suspended_web_server_in_order() {
    let mut sandbox = with_web_server();
    sandbox.set("BOTS_CTL_HEALTH_INTERVAL", "50ms").set("BOTS_CTL_WATCHDOG_RESTART", "true");
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1h");
    let mut web = sandbox.webserver();
    kill(web_process(&web), Signal::SIGSTOP).expect("it is there");
    let replaced = || (status(&sandbox)["services"][0]["restarts"] == 1).then_some(());
    wait_until("it is replaced", replaced, || web.report());
    web.wait_ready();
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
}

#[apply(test)]
fn watchdog_restarts_hung_web_server_if_enabled() {
    let mut sandbox = with_stand_in(&web_server(&(RECORDING.to_owned() + HANGING), ""));
    sandbox.set("BOTS_CTL_HEALTH_INTERVAL", "50ms").set("BOTS_CTL_WATCHDOG_RESTART", "true");
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "500ms");
    let mut web = sandbox.webserver();
    let hung = web_process(&web);
    kill(hung, Signal::SIGUSR2).expect("it is there");
    web.wait_stderr("is unresponsive; restarting it");
    web.wait_stderr("did not stop within 0.5 s; sending SIGKILL");
    let replaced = || (status(&sandbox)["services"][0]["restarts"] == 1).then_some(());
    wait_until("it is replaced", replaced, || web.report());
    web.wait_ready();
    web.wait_health("/health/live", 200);
    assert_ne!(web_process(&web), hung);
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
}

/// Descendants of a hung web server are not affected: they continue next to the new process.
#[apply(test)]
fn child_of_hung_web_server_survives_watchdog_restart() {
    let mut sandbox = with_started("exec sleep 1000");
    sandbox.set("BOTS_CTL_HEALTH_INTERVAL", "50ms").set("BOTS_CTL_WATCHDOG_RESTART", "true");
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "500ms");
    let mut web = sandbox.webserver();
    let sleeps = || {
        let mut all = web.descendants();
        all.retain(|(_, command)| command.starts_with("sleep 1000"));
        all
    };
    let first = sleeps();
    assert_eq!(first.len(), 1);
    kill(web_process(&web), Signal::SIGSTOP).expect("it is there");
    wait_until("it is replaced", || (sleeps().len() == 2).then_some(()), || web.report());
    assert!(sleeps().contains(&first[0]));
    web.wait_ready();
    let all = sleeps();
    web.signal(Signal::SIGTERM);
    // In the end whatever is left is killed at the deadline.
    assert_eq!(web.wait_code(), 0, "{}", web.report());
    for (pid, _) in all {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{}", web.report());
    }
}

#[apply(test)]
fn leftovers_end_when_program_is_gone_at_restart() {
    let mut sandbox = with_started("trap '' TERM; exec sleep 1000");
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1s");
    let mut web = sandbox.webserver();
    let left = crate::support::process::wait_descendant(&web, "sleep 1000");
    fs::remove_file(beside(&sandbox, "bots-webserver")).expect("it is there");
    kill(web_process(&web), Signal::SIGKILL).expect("it is there");
    assert_eq!(web.wait_code(), 127, "{}", web.report());
    assert!(web.stderr().contains("there is no such program"), "{}", web.report());
    assert!(web.stderr().contains("sending SIGKILL to leftover processes of webserver"), "{}", web.report());
    assert!(!Path::new(&format!("/proc/{left}")).exists());
}

#[apply(test)]
fn web_server_restarts_beside_surviving_children() {
    let mut sandbox = with_started("exec sleep 1000");
    sandbox.set("BOTS_CTL_STOP_TIMEOUT", "1h");
    let mut web = sandbox.webserver();
    kill(web_process(&web), Signal::SIGKILL).expect("it is there");
    let is_back = || (status(&sandbox)["services"][0]["restarts"] == 1).then_some(());
    wait_until("it is started again", is_back, || web.report());
    web.wait_ready();
    assert_eq!(web.descendants().iter().filter(|(_, command)| command.starts_with("sleep 1000")).count(), 2);
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
}

/// A worker of the process that died finishes its requests, on the port that the next process needs.
#[apply(test)]
fn restart_waits_for_port_held_by_old_worker() {
    let script = web_server(RECORDING, "if os.fork() == 0:\n    time.sleep(3600)");
    let mut sandbox = with_stand_in(&script);
    sandbox.set("BOTS_CTL_RESTART_MAX_DELAY", "1ms").set("BOTS_CTL_STOP_TIMEOUT", "1h");
    let mut web = sandbox.webserver();
    let first = web_process(&web);
    let worker = crate::support::sandbox::descendants(first).first().expect("it has a worker").0;
    kill(first, Signal::SIGKILL).expect("it is there");
    web.wait_stderr(&format!("still uses port {}; waiting up to", sandbox.web_port));
    kill(worker, Signal::SIGKILL).expect("it is there");
    web.wait_ready();
    assert_eq!(status(&sandbox)["services"][0]["restarts"], 1, "{}", web.report());
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
}

#[apply(test)]
fn supervisor_leaks_nothing_in_1000_restarts() {
    let script = r#"#!/bin/sh
starts="$(dirname "$0")/starts"
echo start >> "$starts"
case "$(wc -l < "$starts")" in
    50|1000) echo waiting; read line < "$(dirname "$0")/gate" ;;
esac
exit 9
"#;
    let mut sandbox = with_stand_in(script);
    sandbox.set("BOTS_CTL_RESTART_LIMIT", "1000").set("BOTS_CTL_RESTART_MAX_DELAY", "1ms");
    let gate = beside(&sandbox, "gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).expect("a pipe is made");
    let mut web = sandbox.start(&["webserver"]);
    let mut seen = Vec::new();
    for starts in [50, 1000] {
        let reached = || (lines(&beside(&sandbox, "starts")) == starts).then_some(());
        wait_until(&format!("start {starts}"), reached, || web.report());
        wait_until("its output is carried", || web.stdout().contains("waiting").then_some(()), || web.report());
        let descriptors = fs::read_dir(format!("/proc/{}/fd", web.pid())).expect("it is there").count();
        seen.push((descriptors, resident(web.pid())));
        fs::write(&gate, "go\n").expect("written");
    }
    assert_eq!(web.wait_code(), 9, "{}", web.report());
    assert_eq!(seen[0].0, seen[1].0, "descriptors");
    let grown = seen[1].1.saturating_sub(seen[0].1);
    assert!(grown < 1024, "{grown} kB more after 950 further restarts: {seen:?}");
}

/// Resident memory in kB.
fn resident(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is shown");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[apply(test)]
fn stop_ends_daemonized_child_of_service() {
    let sandbox = with_started("exec setsid sleep 1000");
    let mut web = sandbox.webserver();
    let daemon = || web.descendants().into_iter().find(|(_, command)| command.starts_with("sleep 1000"));
    let (pid, _) = wait_until("the daemon runs", daemon, || web.report());
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[apply(test)]
fn start_warns_if_stop_exceeds_grace_period() {
    let mut sandbox = with_web_server();
    sandbox.set("BOTS_CTL_GRACE_PERIOD", "30s").set("BOTS_CTL_WEBSERVER_DRAIN", "20s");
    sandbox.set("BOTS_CTL_WEBSERVER_STOP_TIMEOUT", "11s");
    let web = sandbox.webserver();
    assert!(web.stderr().contains("a stop may take 31 s"), "{}", web.stderr());
    drop(web);
    sandbox.set("BOTS_CTL_GRACE_PERIOD", "31s");
    let web = sandbox.webserver();
    assert!(!web.stderr().contains("a stop may take"), "{}", web.stderr());
}

/// The limit counts for ordinary users alone, so the test becomes one.
#[apply(test)]
fn service_restarts_once_process_limit_is_raised() {
    let mut sandbox = with_web_server();
    sandbox.set("BOTS_CTL_RESTART_INITIAL_DELAY", "100ms").set("BOTS_CTL_RESTART_LIMIT", "1000");
    give_to_user(sandbox.home.path());
    open_to_all(sandbox.home.path());
    let command = as_user_of_bots(&sandbox.command(&["webserver"]));
    let mut web = Running::start(command, sandbox.home.path(), sandbox.health_port);
    web.wait_ready();
    limit_processes(web.pid(), "1");
    kill(web_process(&web), Signal::SIGKILL).expect("it is there");
    web.wait_stderr("the limit on processes (ulimit -u, pids.max) or memory is reached");
    limit_processes(web.pid(), "4096");
    web.wait_ready();
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
}

#[apply(test)]
fn service_restarts_once_descriptor_limit_is_raised() {
    let mut sandbox = with_web_server();
    sandbox.set("BOTS_CTL_RESTART_INITIAL_DELAY", "100ms").set("BOTS_CTL_RESTART_LIMIT", "1000");
    let mut web = sandbox.webserver();
    let limit = |limit: &str| {
        let mut prlimit = std::process::Command::new("prlimit");
        prlimit.args(["--pid", &web.pid().to_string(), &format!("--nofile={limit}:")]);
        assert!(prlimit.status().expect("prlimit runs").success());
    };
    limit("1");
    kill(web_process(&web), Signal::SIGKILL).expect("it is there");
    web.wait_stderr("the limit on open files (ulimit -n) is reached");
    limit("1024");
    web.wait_ready();
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
}

#[apply(test)]
fn start_error_names_process_limit() {
    let sandbox = Sandbox::new();
    sandbox.run(&["init-db"]).expect_code(0);
    give_to_user(sandbox.home.path());
    open_to_all(sandbox.home.path());
    // What init-db cannot do has failed, whatever the reason.
    for (args, code) in [(&["webserver"][..], 69), (&["init-db"], 1), (&["exec", "--", "true"], 69)] {
        let limited = wrapped(&sandbox.command(args), "prlimit", &["--nproc=1:"]);
        let ended = finish(as_user_of_bots(&limited));
        ended.expect_code(code);
        assert!(ended.stderr.lines().last().is_some_and(|line| line.contains("(ulimit -u, pids.max)")), "{ended:?}");
        assert!(!ended.stderr.contains("panicked"), "{ended:?}");
    }
}

/// In a second the next run is due: it would find no room either.
#[apply(test)]
fn stop_between_engine_start_attempts_exits_cleanly() {
    let mut sandbox = quick_schedule();
    sandbox
        .set("BOTS_CTL_RESTART_INITIAL_DELAY", "1h")
        .set("BOTS_CTL_RESTART_MAX_DELAY", "1h")
        .set("LOG_LEVEL", "debug");
    give_to_user(sandbox.home.path());
    open_to_all(sandbox.home.path());
    let command = as_user_of_bots(&sandbox.command(&["up", "--services", "engine"]));
    let mut up = Running::start(command, sandbox.home.path(), sandbox.health_port);
    up.wait_stderr("next run in");
    limit_processes(up.pid(), "1");
    up.wait_stderr("restarting in");
    up.signal(Signal::SIGTERM);
    assert_eq!(up.wait_code(), 0, "{}", up.report());
}

#[apply(test)]
fn stop_while_waiting_for_leftovers_exits_cleanly() {
    let mut sandbox = quick_schedule();
    sandbox.set("BOTS_CTL_ENGINE_STOP_TIMEOUT", "1h").set("LOG_LEVEL", "debug");
    let mut up = sandbox.start(&["up", "--services", "engine"]);
    up.wait_stderr("next run in");
    // Replaces a bots-ctl that runs the engine, which would not leave processes behind. A starting bots-ctl recreates
    // the link.
    let link = sandbox.root().join(".bots-ctl-bin/bots-engine");
    let leaves_something = || {
        if link.is_symlink() {
            write_program(&link.with_extension("new"), "#!/bin/sh\ntrap '' TERM\nsleep 1000 &\n", 0o755);
            fs::rename(link.with_extension("new"), &link).expect("it is there");
        }
        up.stderr().contains("for leftover processes of").then_some(())
    };
    wait_until("a run has left something", leaves_something, || up.report());
    up.signal(Signal::SIGTERM);
    assert_eq!(up.wait_code(), 0, "{}", up.report());
    assert!(up.stderr().contains("sending SIGKILL to leftover processes of "), "{}", up.report());
}

/// A sandbox with an engine that has nothing to do, again and again.
fn quick_schedule() -> Sandbox {
    let mut sandbox = Sandbox::new();
    sandbox.stand_in("bots-engine", "#!/bin/sh\n");
    sandbox.set("BOTS_CTL_ENGINE_INTERVAL", "1s");
    sandbox
}

fn limit_processes(pid: Pid, limit: &str) {
    let pid = pid.to_string();
    let limit = format!("--nproc={limit}:");
    // The owner of a process may move its limit below the highest; root without all its rights may not.
    let mut prlimit = std::process::Command::new("prlimit");
    prlimit.args(["--pid", &pid, &limit]).current_dir("/");
    assert!(as_user(&prlimit).status().expect("prlimit runs").success());
}
