//! `exec` in the place of tini and dumb-init: their options, and a storm of children.

use std::fs;
use std::process::Command;

use bots_ctl::exit::Exit;
use bots_ctl::process::child::{Output, ProcessSpec};
use bots_ctl::process::reaper::{Child, Reaper};
use bots_ctl::process::signals::{self, Signals};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::bots::without_bots;
use crate::support::process::{send, wait_descendant};
use crate::support::sandbox::{Running, descendants, processes_with, python, wait_until};

/// Says which signals it gets, until SIGUSR2 ends it with code 9.
const TELL: &str = "for s in HUP INT QUIT TERM USR1; do trap \"echo got $s\" $s; done; trap 'exit 9' USR2; echo ready; \
                    while :; do sleep 0.05; done";

fn wait_line(running: &Running, line: &str) {
    let there = || running.stdout().lines().any(|printed| printed == line).then_some(());
    wait_until(&format!("{line:?} is printed"), there, || running.report());
}

#[apply(test)]
fn success_exit_codes_become_0() {
    let sandbox = without_bots();
    let table: [(&[&str], &str, i32); 9] = [
        (&["-e", "143"], "kill $$", 0),
        (&["-e143"], "exit 143", 0),
        (&["-e", "3", "-e", "4"], "exit 3", 0),
        (&["-e", "3", "-e", "4"], "exit 4", 0),
        (&["--success-exit-codes", "3,4"], "exit 4", 0),
        (&["--success-exit-codes=3,4"], "exit 5", 5),
        (&["-e", "255"], "exit 255", 0),
        (&["-e", "0"], "exit 0", 0),
        (&["-e", "1"], "exit 2", 2),
    ];
    for (options, script, code) in table {
        let args = [&["exec"], options, &["--", "sh", "-c", script]].concat();
        assert_eq!(sandbox.run(&args).code(), code, "{args:?}");
    }
}

#[apply(test)]
fn invalid_option_errors_name_the_option() {
    let sandbox = without_bots();
    let table: [(&[&str], &str); 12] = [
        (&["-e", "256"], "256"),
        (&["-e", "-1"], "-1"),
        (&["-e", "x"], "'x'"),
        (&["-r", "TERM"], "\"TERM\" is not a FROM:TO pair"),
        (&["-r", "TERM:NONE"], "\"NONE\" is not a signal"),
        (&["-r", "NONE:0"], "\"NONE\" is not a signal"),
        (&["-r", "15:65"], "\"65\" is not a signal"),
        (&["-r", "KILL:TERM"], "SIGKILL is never forwarded"),
        (&["-p", "NONE"], "\"NONE\" is not a signal"),
        (&["-p", "CHLD"], "SIGCHLD"),
        (&["-g", "-c"], "--single-child"),
        (&["-x"], "'-x'"),
    ];
    for (options, text) in table {
        let args = [&["exec"], options, &["echo", "started"]].concat();
        let ended = sandbox.run(&args);
        ended.expect_code(64);
        assert_eq!((ended.stdout.as_str(), ended.stderr.lines().count()), ("", 1), "{args:?} {}", ended.stderr);
        assert!(ended.stderr.contains(text), "{args:?} {}", ended.stderr);
    }
}

#[apply(test)]
fn options_after_program_belong_to_program() {
    let sandbox = without_bots();
    for before in [&["exec", "-gsw", "-v"][..], &["exec", "-g", "-s", "--"]] {
        let ended = sandbox.run(&[before, &["printf", "%s|", "-c", "-r", "1:2", "--", "-e", "300"]].concat());
        ended.expect_code(0);
        assert_eq!(ended.stdout, "-c|-r|1:2|--|-e|300|", "{}", ended.stderr);
    }
    let help = sandbox.run(&["exec", "--help"]);
    help.expect_code(0);
    for word in ["Instead of tini:", "Instead of dumb-init:", "--single-child", "--parent-death-signal", "--rewrite"] {
        assert!(help.stdout.contains(word), "{word}\n{}", help.stdout);
    }
}

#[apply(test)]
fn signals_are_rewritten_and_dropped() {
    let sandbox = without_bots();
    let options =
        ["exec", "-r", "TERM:QUIT", "-r", "1:0", "--rewrite", "SIGRTMIN+5:usr1", "-r", "31:15", "-r6:1", "--"];
    let mut running = sandbox.start(&[&options[..], &["sh", "-c", TELL]].concat());
    wait_line(&running, "ready");
    for (number, told) in [(15, "QUIT"), (39, "USR1"), (2, "INT"), (31, "TERM"), (6, "HUP")] {
        send(running.pid(), 1);
        send(running.pid(), number);
        wait_line(&running, &format!("got {told}"));
    }
    send(running.pid(), 12);
    assert_eq!(running.wait_code(), 9, "{}", running.report());
    assert_eq!(running.stdout(), "ready\ngot QUIT\ngot USR1\ngot INT\ngot TERM\ngot HUP\n");
}

#[apply(test)]
fn single_child_option_limits_signals_to_child() {
    let sandbox = without_bots();
    for (option, both) in [("-c", false), ("--group", true)] {
        let script = format!("(trap 'echo below' USR1; echo below set; while :; do sleep 0.05; done) & {TELL}");
        let mut running = sandbox.start(&["exec", option, "--", "sh", "-c", &script]);
        wait_line(&running, "ready");
        wait_line(&running, "below set");
        running.signal(Signal::SIGUSR1);
        wait_line(&running, "got USR1");
        if both {
            wait_line(&running, "below");
        }
        running.signal(Signal::SIGUSR2);
        assert_eq!(running.wait_code(), 9, "{}", running.report());
        assert_eq!(running.stdout().lines().any(|line| line == "below"), both, "{}", running.stdout());
    }
}

/// A command without a terminal, as a container has it.
fn without_terminal(command: &Command) -> Command {
    crate::support::process::wrapped(command, "setsid", &["--wait"])
}

#[apply(test)]
fn program_without_terminal_is_suspended_with_bots_ctl() {
    let sandbox = without_bots();
    for (option, program) in [("-g", "exec sleep 1000"), ("-c", "kill -CONT $$; exec sleep 1000")] {
        let command = without_terminal(&sandbox.command(&["exec", option, "--", "sh", "-c", program]));
        let running = Running::start(command, sandbox.home.path(), sandbox.health_port);
        let program = wait_descendant(&running, "sleep 1000");
        let ours = wait_descendant(&running, &sandbox.command(&[]).get_program().to_string_lossy());
        let wait_state = |pid, stopped| {
            let as_wanted = || ((state(pid) == Some('T')) == stopped).then_some(());
            wait_until("it is stopped or goes on", as_wanted, || format!("{:?}", state(pid)));
        };
        for signal in [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU] {
            kill(ours, signal).expect("it is there");
            wait_state(ours, true);
            // The kernel drops these signals to a group that no shell watches.
            if option == "-g" {
                wait_state(program, true);
            }
            kill(ours, Signal::SIGCONT).expect("it is there");
            wait_state(ours, false);
            wait_state(program, false);
        }
    }
}

#[apply(test)]
fn only_program_keeps_working_directory() {
    let sandbox = without_bots();
    let home = sandbox.home.path().display().to_string();
    let script = "readlink /proc/$PPID/cwd; pwd -P; echo 'exit 5' >program; chmod +x program; exec ./program";
    let ended = sandbox.run(&["exec", "--", "sh", "-c", script]);
    ended.expect_code(5);
    assert_eq!(ended.stdout, format!("/\n{home}\n"));
    // A path that is relative is the program's, also in an error.
    fs::write(sandbox.home.path().join("program"), "#!/does/not/exist\n").expect("written");
    let ended = sandbox.run(&["exec", "./program"]);
    assert!(ended.stderr.contains("the interpreter its first line names"), "{}", ended.stderr);
    let gone = sandbox.command(&["exec", "--", "sh", "-c", "exit 6"]);
    let mut gone =
        crate::support::process::wrapped(&gone, "sh", &["-c", "mkdir x; cd x; rmdir ../x; exec \"$@\"", "sh"]);
    assert_eq!(gone.status().expect("it runs").code(), Some(6));
}

#[apply(test)]
fn reaped_orphans_are_logged_only_on_request() {
    let sandbox = without_bots();
    let orphan = "sh -c 'while ! [ -e go ]; do sleep 0.02; done; exit 3' & echo $! >pid";
    let script = format!("rm -f go; ({orphan}); touch go; while [ -e /proc/$(cat pid) ]; do sleep 0.02; done");
    // The first text is that of tini.
    for (option, text) in
        [("-w", "Reaped zombie process with pid="), ("-v", "reaped an orphan: exit code 3"), ("-s", "")]
    {
        let ended = sandbox.run(&["exec", option, "--", "sh", "-c", &script]);
        ended.expect_code(0);
        assert!(ended.stderr.contains(text) && ended.stderr.is_empty() == text.is_empty(), "{option} {}", ended.stderr);
    }
}

#[apply(test)]
fn parent_death_signal_reaches_program() {
    let sandbox = without_bots();
    for (number, (signal, name)) in [("TERM", "got TERM"), ("KILL", "")].into_iter().enumerate() {
        let marker = format!("{TELL} # {}-{number}", sandbox.health_port);
        let command = sandbox.command(&["exec", "-p", signal, "--", "sh", "-c", &marker]);
        let parent = crate::support::process::wrapped(&command, "sh", &["-c", "\"$@\" & wait", "sh"]);
        let running = Running::start(parent, sandbox.home.path(), sandbox.health_port);
        wait_line(&running, "ready");
        let ours = wait_descendant(&running, &sandbox.command(&[]).get_program().to_string_lossy());
        let program = wait_descendant(&running, "sh -c for");
        running.signal(Signal::SIGKILL);
        if name.is_empty() {
            let gone = |pid: Pid| state(pid).is_none_or(|state| state == 'Z');
            let both = || (gone(ours) && gone(program)).then_some(());
            wait_until("both are gone", both, || running.report());
        } else {
            wait_line(&running, name);
            kill(program, Signal::SIGUSR2).expect("it is there");
        }
        let left = || processes_with(&marker).iter().all(|(pid, _)| state(*pid) == Some('Z')).then_some(());
        wait_until("nothing is left", left, || running.report());
    }
}

fn state(pid: Pid) -> Option<char> {
    fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.rsplit_once(") ")?.1.chars().next()
}

/// How many children are waited for at once, and the orphans that each leaves.
const CHILDREN: usize = 2500;
const ORPHANS: usize = 3;

/// Set for the run of this test that is the parent itself: a reaper needs a separate process.
const INSIDE: &str = "BOTS_CTL_TEST_STORM";

/// The test runner has a separate thread, which would receive signals if it did not inherit them blocked.
const ALL_BLOCKED: &str = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); \
                           os.execv(sys.argv[1], sys.argv[1:])";

#[apply(test)]
fn exit_statuses_are_correct_under_mass_child_exits() {
    if std::env::var_os(INSIDE).is_some() {
        return storm();
    }
    let name = "init::exit_statuses_are_correct_under_mass_child_exits";
    let tests = std::env::current_exe().expect("there is one");
    let mut inside = Command::new(python());
    let output = inside.args(["-c", ALL_BLOCKED]).arg(tests).args([name, "--exact"]).env(INSIDE, "1").output();
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("all as expected"), "{said}");
}

fn storm() {
    signals::block_all();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().expect("it is built");
    runtime.block_on(async {
        let _signals = Signals::install().expect("installed");
        let reaper = Reaper::start().expect("started");
        let mut children: Vec<(Exit, Child)> = Vec::new();
        for number in 0..CHILDREN {
            let (script, expected) = match number % 64 {
                signal @ (9 | 15) => {
                    (format!("kill -{signal} $$"), Exit::Signal(i32::try_from(signal).expect("small")))
                }
                _ => (format!("exit {}", number % 256), Exit::Code(u8::try_from(number % 256).expect("small"))),
            };
            let orphans = "(:)& ".repeat(ORPHANS);
            let spec = ProcessSpec {
                output: Output::Inherit,
                ..ProcessSpec::new("sh").arg("-c").arg(format!("{orphans}{script}"))
            };
            children.push((expected, reaper.spawn(&spec).expect("it starts")));
            // Its predecessors die and are reaped while others start.
            tokio::task::yield_now().await;
        }
        for (number, (expected, child)) in children.iter_mut().enumerate() {
            assert_eq!(child.exited().await, *expected, "child {number}");
        }
        let mut reaped = reaper.reaped();
        while reaper.has_children() {
            reaped.changed().await.expect("the reaper lives");
        }
    });
    let us = Pid::from_raw(std::process::id().cast_signed());
    assert_eq!(descendants(us), []);
    println!("all as expected");
}
