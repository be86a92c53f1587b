//! `exec`, `shell` and unknown words: exit codes, streams, arguments, environment and signals of one program.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::support::bots::without_bots;
use crate::support::needs::{as_pid_1, unshared};
use crate::support::process::{send, text, wait_descendant, wrapped, write_program};
use crate::support::sandbox::{Running, Sandbox, binary, bots_bin_dir, descendants, python, wait_until};

/// Signals that no program receives from us as they are: they cannot be caught, belong to the reaper, suspend, or are kept by the C
/// library.
const NOT_FORWARDED: [i32; 8] = [9, 17, 19, 20, 21, 22, 32, 33];

/// Signals whose default action does not end a process.
const HARMLESS: [i32; 8] = [17, 18, 19, 20, 21, 22, 23, 28];

/// Signals 32 and 33, which the C library keeps to itself: its own posix_spawn leaves the first one ignored.
const C_LIBRARY: u64 = 0x1_8000_0000;

/// The signals that Python ignores: SIGPIPE and SIGXFSZ.
const OF_PYTHON: u64 = 1 << 12 | 1 << 24;

/// Writes `name number` to a file for each signal it and its child receive, until signal 64 ends both.
const SIGNAL_LOG: &str = r#"
import os, signal, sys
wanted = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
child = os.fork()
name = "child" if child else "grandchild"
os.write(log, f"{name} ready\n".encode())
while (number := signal.sigwait(wanted)) != 64:
    os.write(log, f"{name} {int(number)}\n".encode())
if child:
    os.waitpid(child, 0)
"#;

/// A parent of the worst kind: starts its arguments with signals ignored and blocked. Python itself ignores two more.
const BAD_PARENT: &str = r"
import os, signal, sys
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, signal.SIGRTMIN + 1):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execv(sys.argv[1], sys.argv[1:])
";

#[apply(test)]
fn exec_returns_every_exit_code_of_program() {
    let sandbox = without_bots();
    for code in 0..=255 {
        let ended = sandbox.run(&["exec", "--", "sh", "-c", &format!("exit {code}")]);
        ended.expect_code(code);
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", ""));
    }
}

#[apply(test)]
fn exec_returns_128_plus_signal_number() {
    let sandbox = without_bots();
    for number in (1..=64).filter(|number| !HARMLESS.contains(number) && ![32, 33].contains(number)) {
        let script = format!("ulimit -c 0; kill -{number} $$");
        let ended = sandbox.run(&["exec", "--", "sh", "-c", &script]);
        assert_eq!(ended.status.code(), Some(128 + number), "signal {number}\n{}", ended.stderr);
    }
}

#[apply(test)]
fn exec_returns_126_if_not_executable_and_127_if_not_found() {
    let mut sandbox = without_bots();
    let home = sandbox.home.path().to_path_buf();
    let bin = home.join("bin");
    fs::create_dir(&bin).expect("made");
    write_program(&bin.join("no-interpreter"), "#!/does/not/exist\n", 0o755);
    write_program(&bin.join("not-executable"), "#!/bin/sh\n", 0o644);
    write_program(&home.join("only-here"), "#!/bin/sh\n", 0o755);
    write_program(&home.join("only-here-too"), "#!/does/not/exist\n", 0o755);
    let path = std::env::var("PATH").unwrap_or_default();
    sandbox.set("PATH", format!("{}:{path}", bin.display()));
    let inside = |name: &str| bin.join(name).display().to_string();
    let table = [
        (inside("not-executable"), 126),
        (inside("no-interpreter"), 126),
        (inside(""), 126),
        ("not-executable".into(), 126),
        ("no-interpreter".into(), 126),
        (inside("nothing"), 127),
        ("/does/not/exist/either".into(), 127),
        ("no-such-program".into(), 127),
        ("only-here".into(), 127),
        ("./only-here".into(), 0),
        (String::new(), 127),
    ];
    for (program, code) in table {
        let ended = sandbox.run(&["exec", "--", &program]);
        assert_eq!(ended.code(), code, "{program:?}\n{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), usize::from(code != 0), "{program:?}\n{}", ended.stderr);
        assert!(code == 0 || ended.stderr.contains(&program), "{program:?}\n{}", ended.stderr);
    }
}

#[apply(test)]
fn exec_keeps_exit_code_if_stderr_is_broken_pipe() {
    let sandbox = without_bots();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = sandbox.command(&["exec", "--", "/does/not/exist"]);
    let status = command.stdout(writer.try_clone().expect("cloned")).stderr(writer).status().expect("it runs");
    assert_eq!(status.code(), Some(127), "{status:?}");
}

#[apply(test)]
fn standard_streams_pass_byte_for_byte() {
    let sandbox = without_bots();
    let bytes: Vec<u8> = (0..1_000_000_usize).map(|number| (number * number / 7).to_le_bytes()[0]).collect();
    let mut command = sandbox.command(&["exec", "--", "sh", "-c", "tee /dev/stderr"]);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    let sent = bytes.clone();
    let feeder = std::thread::spawn(move || stdin.write_all(&sent).expect("it reads everything"));
    let output = child.wait_with_output().expect("it ends");
    feeder.join().expect("all is sent");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout == bytes, "{} of {} bytes on stdout", output.stdout.len(), bytes.len());
    assert!(output.stderr == bytes, "{} of {} bytes on stderr", output.stderr.len(), bytes.len());
}

#[apply(test)]
fn program_receives_sigpipe_when_reader_closes() {
    let sandbox = without_bots();
    let mut child = sandbox.command(&["exec", "--", "yes"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_exact(&mut [0; 2]).expect("yes says y");
    drop(stdout);
    assert_eq!(child.wait().expect("it ends").code(), Some(128 + 13));
}

#[apply(test)]
fn exec_passes_arguments_unchanged() {
    let mut sandbox = without_bots();
    sandbox.set("BOTS_CTL_ENTRYPOINT", "true");
    let program = sandbox.home.path().join("show-arguments");
    write_program(&program, "#!/bin/sh\n[ $# = 0 ] || printf '%s|' \"$@\"\n", 0o755);
    let table: [&[&[u8]]; 10] = [
        &[],
        &[b"", b" ", b"*", b"$HOME", b"two\nlines"],
        &[b"--help"],
        &[b"-h", b"--version", b"-V"],
        &[b"--config", b"/does/not/exist", b"--config-dir=x.y", b"--log-level", b"nonsense"],
        &[b"--"],
        &[b"a", b"--", b"b", b"--", b"--help"],
        &[b"-", b"-x", b"--long=1"],
        &[b"exec", b"--", b"shell"],
        &[b"\xff\xfe", b"caf\xe9", b"--\xff"],
    ];
    for args in table {
        let expected: Vec<u8> = args.iter().flat_map(|arg| [arg, b"|".as_slice()].concat()).collect();
        for before in [&["exec", "--"][..], &["exec"], &["--log-level", "error", "exec", "--"], &[]] {
            let mut command = sandbox.command(before);
            let output = command.arg(&program).args(args.iter().map(|arg| OsStr::from_bytes(arg))).output();
            let output = output.expect("it runs");
            let shown = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.stdout, expected, "{before:?} {shown}\n{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[apply(test)]
fn unknown_command_runs_program_only_in_entrypoint_mode() {
    let mut sandbox = without_bots();
    for (word, advice) in [
        ("ps", "bots-ctl status shows the services"),
        ("route", "bots-ctl status shows the routes, and bots-ctl engine ROUTE runs one"),
        ("webservr", "did you mean webserver?"),
    ] {
        let refused = sandbox.run(&[word, "list"]);
        refused.expect_code(64);
        let words =
            format!("there is no command {word}; {advice}; bots-ctl exec -- {word} runs a program of that name");
        assert!(refused.stderr.contains(&words), "{}", refused.stderr);
    }
    sandbox.set("BOTS_CTL_ENTRYPOINT", "true");
    let echo = sandbox.run(&["echo", "--help", "-n"]);
    echo.expect_code(0);
    assert!(echo.stdout.contains("echo") || echo.stdout == "--help -n\n", "{}", echo.stdout);
    let slip = sandbox.run(&["webservr"]);
    slip.expect_code(127);
    assert!(slip.stderr.contains("did you mean webserver?"), "{}", slip.stderr);
    sandbox.run(&["sh", "-c", "exit 9"]).expect_code(9);
    sandbox.run(&["exec"]).expect_code(64);
}

#[apply(test)]
fn unknown_command_runs_program_as_pid_1_and_below_container_init() {
    let sandbox = without_bots();
    let inside = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    let run = |before: &[&str]| {
        let words = [&inside[..], before].concat();
        let output = unshared(&sandbox.command(&["sh", "-c", "exit 9"]), &words).output().expect("it runs");
        output.status.code()
    };
    assert_eq!(run(&[]), Some(9));
    let init = sandbox.home.path().join("docker-init");
    // The shell stays, since a command follows.
    write_program(&init, "#!/bin/sh\n\"$@\"\nexit $?\n", 0o755);
    assert_eq!(run(&[&init.display().to_string()]), Some(9));
    assert_eq!(run(&["sh", "-c", "\"$@\"; exit $?", "sh"]), Some(64));
}

#[apply(test)]
fn exec_sets_bots_environment_even_without_bots() {
    let mut sandbox = without_bots();
    sandbox.set("PYTHONPATH", "/somewhere").set("KEPT", "as it is");
    let root = sandbox.root().display().to_string();
    let environment = variables(sandbox.command(&["exec", "--", "env", "-0"]));
    let value = |name: &str| {
        let found = environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        found.unwrap_or_else(|| panic!("{name} is missing in {environment:?}"))
    };
    assert_eq!(value("BOTS_CONFIG_DIR"), format!("{root}/config").as_str());
    assert_eq!(value("DJANGO_SETTINGS_MODULE"), "config.settings");
    assert_eq!(value("PYTHONPATH"), format!("{root}:/somewhere").as_str());
    assert_eq!(value("HOME"), sandbox.home.path().as_os_str());
    assert_eq!(value("KEPT"), "as it is");
    assert!(!sandbox.home.path().join(".bots").exists(), "running a program makes nothing");
}

#[apply(test)]
fn exec_passes_non_utf8_variables_unchanged() {
    let sandbox = without_bots();
    let odd = OsString::from_vec(b"caf\xe9 \xff".to_vec());
    let mut command = sandbox.command(&["exec", "--", "env", "-0"]);
    command.env("ODD", &odd).env(OsString::from_vec(b"N\xe4me".to_vec()), "x");
    let environment = variables(command);
    assert!(environment.contains(&("ODD".into(), odd)), "{environment:?}");
    assert!(environment.iter().any(|(name, _)| name.as_bytes() == b"N\xe4me"), "{environment:?}");
}

/// An empty entry would be the current directory, from which Python would then import anything.
#[apply(test)]
fn empty_pythonpath_adds_no_entry() {
    let mut sandbox = without_bots();
    sandbox.set("PYTHONPATH", "");
    let environment = variables(sandbox.command(&["exec", "--", "env", "-0"]));
    assert!(environment.contains(&("PYTHONPATH".into(), sandbox.root().into())), "{environment:?}");
}

fn variables(mut command: Command) -> Vec<(OsString, OsString)> {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let split = |line: &[u8]| {
        let at = line.iter().position(|byte| *byte == b'=')?;
        Some((OsString::from_vec(line[..at].to_vec()), OsString::from_vec(line[at + 1..].to_vec())))
    };
    output.stdout.split(|byte| *byte == 0).filter_map(split).collect()
}

#[apply(test)]
fn exec_puts_bots_programs_first_on_path() {
    let sandbox = Sandbox::new();
    let ended = sandbox.run(&["exec", "--", "sh", "-c", "echo $PATH; command -v python; command -v bots-engine"]);
    ended.expect_code(0);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    let bin_dir = bots_bin_dir().display();
    let links = sandbox.root().join(".bots-ctl-bin");
    assert!(lines[0].starts_with(&format!("{}:{bin_dir}:", links.display())), "{}", lines[0]);
    // Nothing is made in a home that holds no environment yet.
    assert_eq!(lines[1..], [format!("{bin_dir}/python"), format!("{bin_dir}/bots-engine")]);
    assert!(!sandbox.root().exists());
}

#[apply(test)]
fn shell_runs_command_line_and_returns_its_code() {
    let mut sandbox = without_bots();
    let config = format!("{}\n", sandbox.root().join("config").display());
    for shell in [None, Some("/bin/sh"), Some("/does/not/exist")] {
        shell.map(|shell| sandbox.set("SHELL", shell));
        for command in ["shell", "bash"] {
            let told = sandbox.run(&[command, "-c", "echo $BOTS_CONFIG_DIR"]);
            told.expect_code(0);
            assert_eq!((told.stdout.as_str(), told.stderr.as_str()), (config.as_str(), ""), "{shell:?}");
            sandbox.run(&[command, "-c", "exit 7"]).expect_code(7);
            let words = sandbox.run(&[command, "-c", "echo $0 $2 $1", "zero", "--one", "--help"]);
            assert_eq!(words.stdout, "zero --help --one\n", "{}", words.stderr);
        }
    }
}

#[apply(test)]
fn django_commands_work_in_shell() {
    let sandbox = Sandbox::new();
    sandbox.run(&["init-db"]).expect_code(0);
    let script = r#"python -c "
import django; django.setup()
from django.conf import settings
from django.contrib.auth.models import User
print(settings.DATABASES['default']['NAME'], User.objects.filter(is_superuser=True).count())""#;
    let ended = sandbox.run(&["shell", "-c", script]);
    ended.expect_code(0);
    let database = sandbox.root().join("botssys/sqlitedb/botsdb");
    assert_eq!(ended.stdout, format!("{} 1\n", database.display()), "{}", ended.stderr);

    let question = "from bots.models import routes; print('routes:', routes.objects.count())";
    let module = sandbox.run(&["exec", "--", "python", "-m", "django", "shell", "-c", question]);
    module.expect_code(0);
    // Newer versions of Django first print their imports.
    assert!(module.stdout.ends_with("routes: 0\n"), "{} {}", module.stdout, module.stderr);
}

#[apply(test)]
fn every_signal_reaches_each_process_of_the_group_once() {
    let sandbox = without_bots();
    let log = sandbox.home.path().join("signals");
    let mut running =
        sandbox.start(&["exec", "--", &text(&python()), "-c", SIGNAL_LOG, log.to_str().expect("it is text")]);
    let logged = || fs::read_to_string(&log).unwrap_or_default();
    let wait_logged = |word: &str| {
        let both = [format!("child {word}\n"), format!("grandchild {word}\n")];
        let arrived = || logged().lines().filter(|line| both.contains(&format!("{line}\n"))).count() == 2;
        wait_until(
            &format!("{word} arrives"),
            || arrived().then_some(()),
            || format!("{}{}", logged(), running.report()),
        );
    };
    wait_logged("ready");
    let forwarded: Vec<i32> = (1..64).filter(|number| !NOT_FORWARDED.contains(number)).collect();
    for number in &forwarded {
        send(running.pid(), *number);
        wait_logged(&number.to_string());
    }
    send(running.pid(), 64);
    assert_eq!(running.wait_code(), 0, "{}", running.report());
    let mut numbers: Vec<String> = logged().lines().map(str::to_owned).collect();
    numbers.sort();
    let mut expected: Vec<String> = forwarded.iter().map(ToString::to_string).chain(["ready".into()]).collect();
    expected = expected.iter().flat_map(|word| [format!("child {word}"), format!("grandchild {word}")]).collect();
    expected.sort();
    assert_eq!(numbers, expected);
}

#[apply(test)]
fn exec_returns_program_code_after_forwarded_signal() {
    let sandbox = without_bots();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        let mut running = sandbox.start(&["exec", "--", "sleep", "1000"]);
        wait_descendant(&running, "sleep 1000");
        running.signal(signal);
        assert_eq!(running.wait_code(), 128 + signal as i32, "{}", running.report());
    }
    let mut running =
        sandbox.start(&["exec", "--", "sh", "-c", "trap 'exit 5' TERM; echo set; while :; do sleep 0.1; done"]);
    wait_until("the trap is set", || running.stdout().contains("set").then_some(()), || running.report());
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait_code(), 5, "{}", running.report());
}

/// The kernel queues realtime signals one by one, so none may be lost on the way, however fast they come.
#[apply(test)]
fn realtime_signal_burst_arrives_complete_and_in_order() {
    const COUNTER: &str = r#"
import os, signal, sys
wanted = {50, 51, 64}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
print("ready", flush=True)
arrived = []
while (number := int(signal.sigwait(wanted))) != 64:
    arrived.append(number)
print(len(arrived), arrived == sorted(arrived), flush=True)
"#;
    const BURST: &str =
        "import os, sys\nfor number in [50] * 300 + [51] * 300 + [64]: os.kill(int(sys.argv[1]), number)";
    let sandbox = without_bots();
    let mut running = sandbox.start(&["exec", "--", &text(&python()), "-c", COUNTER]);
    wait_until("it is ready", || running.stdout().contains("ready").then_some(()), || running.report());
    let sent = Command::new(python()).args(["-c", BURST, &running.pid().to_string()]).status().expect("it runs");
    assert!(sent.success());
    assert_eq!(running.wait_code(), 0, "{}", running.report());
    assert_eq!(running.stdout(), "ready\n600 True\n");
}

/// Pending signals stay pending across an exec: these exist before bots-ctl's first line.
#[apply(test)]
fn exec_forwards_signals_pending_before_its_start() {
    let sandbox = without_bots();
    for number in [1, 2, 10, 15, 40] {
        let early = format!(
            "import os, signal, sys\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n\
             os.kill(os.getpid(), {number})\nos.execv(sys.argv[1], sys.argv[1:])"
        );
        // The program inherits that they are blocked.
        let unblock = "import signal, time; signal.pthread_sigmask(signal.SIG_SETMASK, []); time.sleep(1000)";
        let sleep = sandbox.command(&["exec", "--", &text(&python()), "-c", unblock]);
        let early = wrapped(&sleep, python(), &["-c", &early]);
        for (command, init) in [(as_pid_1(&early), "PID 1"), (early, "no PID 1")] {
            let mut running = Running::start(command, sandbox.home.path(), sandbox.health_port);
            assert_eq!(running.wait_code(), 128 + number, "signal {number} {init}\n{}", running.report());
        }
    }
}

#[apply(test)]
fn exec_never_kills_program_that_ignores_sigterm() {
    let sandbox = without_bots();
    let script = "trap 'echo asked' TERM; trap 'exit 6' USR1; echo set; while :; do sleep 0.1; done";
    let mut running = sandbox.start(&["exec", "--", "sh", "-c", script]);
    let wait = |running: &Running, word: &str| {
        wait_until(word, || running.stdout().contains(word).then_some(()), || running.report());
    };
    wait(&running, "set");
    running.signal(Signal::SIGTERM);
    wait(&running, "asked");
    running.signal(Signal::SIGUSR1);
    assert_eq!(running.wait_code(), 6, "{}", running.report());
}

#[apply(test)]
fn exec_works_with_closed_or_blocked_streams() {
    let sandbox = without_bots();
    let exit_5 = sandbox.command(&["exec", "--", "sh", "-c", "exit 5"]);
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let status = wrapped(&exit_5, "sh", &["-c", &format!("exec \"$@\" {closed}"), "sh"]).status();
        assert_eq!(status.expect("it runs").code(), Some(5), "{closed}");
    }
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut stuck = sandbox.command(&["exec", "-w", "--", "sh", "-c", "(sleep 0 &); exec yes"]);
    stuck.stdout(writer.try_clone().expect("cloned")).stderr(writer);
    let mut child = stuck.spawn().expect("it starts");
    drop(stuck);
    let pid = Pid::from_raw(child.id().cast_signed());
    let blocked = || {
        let (yes, _) = descendants(pid).into_iter().find(|(_, command)| command.starts_with("yes"))?;
        let waits = fs::read_to_string(format!("/proc/{yes}/wchan")).ok()?;
        waits.contains("pipe").then_some(())
    };
    wait_until("the pipe is full", blocked, String::new);
    nix::sys::signal::kill(pid, Signal::SIGTERM).expect("it is there");
    assert_eq!(child.wait().expect("it ends").code(), Some(143));
    drop(reader);
}

/// Root is exempt from this limit, so another user is needed.
#[apply(test)]
fn exec_error_names_process_limit() {
    let sandbox = without_bots();
    let (home, uid) = (sandbox.home.path(), 50_000 + std::process::id() % 10_000);
    let program = home.join("bots-ctl");
    fs::copy(binary(), &program).expect("copied");
    let mut other = vec!["bash".to_owned()];
    if nix::unistd::getuid().is_root() {
        std::os::unix::fs::chown(home, Some(uid), Some(uid)).expect("changed");
        other = ["setpriv", "--clear-groups", "--reuid", &uid.to_string(), "--regid", &uid.to_string(), "bash"]
            .map(str::to_owned)
            .into();
    }
    let mut command = Command::new(&other[0]);
    command.args(&other[1..]).args(["-c", "ulimit -u 1; exec \"$@\"", "sh"]).arg(&program);
    command.args(["exec", "--", "true"]).env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin").current_dir(home);
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("cannot start true") && said.contains("ulimit -u, pids.max"), "{said}");
}

#[apply(test)]
fn program_inherits_signal_mask_and_dispositions_of_caller() {
    let sandbox = without_bots();
    let masks = |caller: &str, before: &[&str]| {
        let cat = sandbox.command(&[before, &["cat", "/proc/self/status"]].concat());
        let mut cat = wrapped(&cat, python(), &["-c", caller]);
        if before.is_empty() {
            cat = Command::new(python());
            cat.args(["-c", caller, "/bin/cat", "/proc/self/status"]);
        }
        let mut running = Running::start(cat, sandbox.home.path(), sandbox.health_port);
        assert_eq!(running.wait_code(), 0, "{}", running.report());
        ["SigBlk:", "SigIgn:", "SigCgt:"].map(|name| mask(&running.stdout(), name) & !C_LIBRARY)
    };
    let pipe_ignored = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])";
    let pipe_not_ignored = "import os, signal, sys; signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n\
                            os.execv(sys.argv[1], sys.argv[1:])";
    for caller in [BAD_PARENT, pipe_ignored, pipe_not_ignored] {
        assert_eq!(masks(caller, &["exec", "--"]), masks(caller, &[]), "{caller}");
    }
}

/// A mask of signals, of the status of a process.
fn mask(status: &str, name: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix(name));
    u64::from_str_radix(mask.expect("it is shown").trim(), 16).expect("a number")
}

#[apply(test)]
fn exec_forwards_signals_blocked_by_its_parent() {
    let sandbox = without_bots();
    let unblock = "import signal, time; signal.pthread_sigmask(signal.SIG_SETMASK, [])\n\
                   signal.signal(signal.SIGINT, signal.SIG_DFL); print('ready', flush=True); time.sleep(1000)";
    let program = sandbox.command(&["exec", "--", &text(&python()), "-c", unblock]);
    let mut running =
        Running::start(wrapped(&program, python(), &["-c", BAD_PARENT]), sandbox.home.path(), sandbox.health_port);
    wait_until("it is ready", || running.stdout().contains("ready").then_some(()), || running.report());
    running.signal(Signal::SIGINT);
    assert_eq!(running.wait_code(), 130, "{}", running.report());
}

#[apply(test)]
fn program_inherits_only_descriptors_of_its_caller() {
    let sandbox = without_bots();
    let marker = sandbox.home.path().join("marker");
    fs::write(&marker, "").expect("written");
    let program = ["sh", "-c", "echo ready; sleep 1000"];
    let seen = |command: &Command, is_ours: bool| {
        let running = with_open_file(&sandbox, command, &marker);
        wait_until("it is ready", || running.stdout().contains("ready").then_some(()), || running.report());
        let pid = if is_ours { wait_descendant(&running, "sh -c echo") } else { running.pid() };
        let mut seen = descriptors(pid);
        seen.retain(|(number, _)| *number > 2);
        seen.sort();
        seen
    };
    let mut bare = Command::new(program[0]);
    bare.args(&program[1..]).current_dir(sandbox.home.path()).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let expected = seen(&bare, false);
    assert!(expected.contains(&(9, marker.clone())), "{expected:?}");
    assert_eq!(seen(&sandbox.command(&[&["exec", "--"], &program[..]].concat()), true), expected);
}

#[apply(test)]
fn a_service_inherits_no_descriptor_and_no_signal_mask() {
    let sandbox = Sandbox::new();
    let marker = sandbox.home.path().join("marker");
    fs::write(&marker, "").expect("written");
    let command = wrapped(&sandbox.command(&["webserver"]), python(), &["-c", BAD_PARENT]);
    let running = with_open_file(&sandbox, &command, &marker);
    running.wait_ready();
    let ours = descriptors(running.pid());
    assert!(ours.contains(&(9, marker.clone())), "{ours:?}");
    let below = running.descendants();
    assert!(!below.is_empty());
    for (pid, command) in below {
        for (number, target) in descriptors(pid) {
            let named = !text(&target).starts_with("anon_inode:");
            let shared = number > 2 && named && ours.iter().any(|(_, our)| *our == target);
            assert!(!shared, "descriptor {number} of {command} is {}", target.display());
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let ignored = mask(&status, "SigIgn:") & !OF_PYTHON & !C_LIBRARY;
        assert_eq!((mask(&status, "SigBlk:") & !C_LIBRARY, ignored), (0, 0), "{command}");
    }
}

/// Starts a command whose caller has `file` open as descriptor 9.
fn with_open_file(sandbox: &Sandbox, command: &Command, file: &Path) -> Running {
    let shell = wrapped(command, "sh", &["-c", "exec 9<\"$0\"; exec \"$@\"", &text(file)]);
    Running::start(shell, sandbox.home.path(), sandbox.health_port)
}

fn descriptors(pid: Pid) -> Vec<(i32, PathBuf)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there").flatten();
    let target =
        |entry: fs::DirEntry| Some((entry.file_name().to_str()?.parse().ok()?, fs::read_link(entry.path()).ok()?));
    entries.filter_map(target).collect()
}

#[apply(test)]
fn version_lists_components_or_reports_missing_bots() {
    let sandbox = Sandbox::new();
    let shown = sandbox.run(&["version"]);
    shown.expect_code(0);
    let names: Vec<&str> = shown.stdout.lines().filter_map(|line| line.split_once(' ')).map(|(name, _)| name).collect();
    assert_eq!(names, ["bots-ctl", "Bots", "Python", "Django"], "{}", shown.stdout);
    let json: serde_json::Value = serde_json::from_str(&sandbox.run(&["version", "--json"]).stdout).expect("JSON");
    for (line, key) in shown.stdout.lines().zip(["bots-ctl", "bots", "python", "django"]) {
        assert_eq!(line.split_once(' ').map(|(_, version)| version), json[key].as_str());
    }
    let missing = without_bots().run(&["version"]);
    missing.expect_code(0);
    assert!(missing.stdout.contains("cannot find Bots"), "{}", missing.stdout);
}

#[apply(test)]
fn help_command_prints_same_text_as_help_flag() {
    let sandbox = without_bots();
    for words in [&["status"][..], &["job", "add"], &["initdb"], &[]] {
        let by_word = sandbox.run(&[&["help"], words].concat());
        let by_flag = sandbox.run(&[words, &["--help"]].concat());
        assert_eq!((by_word.code(), &by_word.stdout), (0, &by_flag.stdout));
    }
}
