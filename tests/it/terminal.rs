//! `exec` and `shell` on a real terminal: foreground group, Ctrl-C, Ctrl-Z, `fg` and `bg`.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, tcgetpgrp};

use crate::support::process::wrapped;
use crate::support::sandbox::{DEADLINE, Sandbox, binary, descendants, wait_until};

const CTRL_C: &str = "\x03";
const CTRL_Z: &str = "\x1a";

/// A person at a terminal, and the session that runs on it.
struct Terminal {
    master: Arc<PtyMaster>,
    child: Child,
    screen: Arc<Mutex<Vec<u8>>>,
    /// How much of the screen has been looked at.
    seen: usize,
}

impl Terminal {
    /// Runs a command as leader of a session whose controlling terminal this is.
    fn start(command: &Command) -> Self {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).expect("a pseudo-terminal");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        let name = ptsname_r(&master).expect("it has a name");
        let slave = OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(name);
        let slave = slave.expect("it opens");
        let mut session = wrapped(command, "setsid", &["--ctty"]);
        let again = || slave.try_clone().expect("cloned");
        let child = session.stdin(again()).stdout(again()).stderr(again()).spawn().expect("setsid starts");
        let (master, screen) = (Arc::new(master), Arc::new(Mutex::new(Vec::new())));
        let (source, sink) = (Arc::clone(&master), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end of the last program on the terminal is an error for its reader.
            while let Ok(count @ 1..) = (&*source).read(&mut buffer) {
                sink.lock().expect("not poisoned").extend_from_slice(&buffer[..count]);
            }
        });
        Self { master, child, screen, seen: 0 }
    }

    /// An interactive shell with job control.
    fn interactive(sandbox: &Sandbox) -> Self {
        let mut bash = Command::new("bash");
        let ours = sandbox.command(&[]);
        bash.args(["--norc", "--noprofile", "-i"]).env("PS1", "outer> ").env("BOTS_CTL", binary());
        bash.envs(ours.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(sandbox.home.path());
        let mut terminal = Self::start(&bash);
        terminal.wait_for("outer> ");
        terminal
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn keys(&self, keys: &str) {
        (&*self.master).write_all(keys.as_bytes()).expect("typed");
    }

    fn line(&self, line: &str) {
        self.keys(&format!("{line}\n"));
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().expect("not poisoned")).into_owned()
    }

    fn report(&self) -> String {
        format!("foreground {:?}, below {:?}\n{}", self.foreground(), descendants(self.pid()), self.text())
    }

    /// Waits for a text after the previously awaited one. Typed text is echoed as well.
    fn wait_for(&mut self, text: &str) {
        let found = || {
            let screen = self.screen.lock().expect("not poisoned");
            let rest = &screen[self.seen..];
            rest.windows(text.len()).position(|window| window == text.as_bytes())
        };
        let at = wait_until(&format!("{text:?} is on the screen"), found, || self.report());
        self.seen += at + text.len();
    }

    fn foreground(&self) -> Option<Pid> {
        tcgetpgrp(&*self.master).ok()
    }

    fn wait_foreground(&self, pid: Pid) {
        let there = || (self.foreground() == Some(pid)).then_some(());
        wait_until(&format!("{pid} is in the foreground"), there, || self.report());
    }

    /// Waits for a program whose command line begins with these words.
    fn wait_program(&self, words: &str) -> Pid {
        let found = || descendants(self.pid()).into_iter().find(|(_, command)| command.starts_with(words));
        wait_until(&format!("{words:?} runs"), found, || self.report()).0
    }

    /// Waits until a process is in one of these states, as `ps` names them.
    fn wait_state(&self, pid: Pid, states: &str) {
        let reached = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            states.contains(stat.rsplit_once(") ")?.1.chars().next()?).then_some(())
        };
        wait_until(&format!("{pid} is in state {states}"), reached, || self.report());
    }

    fn wait_gone(&self, pid: Pid) {
        let gone = || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(());
        wait_until(&format!("{pid} is gone"), gone, || self.report());
    }

    fn wait_code(&mut self) -> i32 {
        let deadline = std::time::Instant::now() + DEADLINE;
        while std::time::Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("gave up waiting for the end\n{}", self.report());
    }

    /// Leaves the interactive shell; a shell that lost its terminal cannot be left.
    fn leave(mut self) {
        self.line("exit 0");
        assert_eq!(self.wait_code(), 0, "{}", self.report());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        for (pid, _) in descendants(self.pid()) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[apply(test)]
fn ctrl_c_interrupts_foreground_program_of_exec() {
    let sandbox = Sandbox::new();
    let mut terminal = Terminal::start(&sandbox.command(&["exec", "--", "sleep", "1000"]));
    let sleep = terminal.wait_program("sleep 1000");
    terminal.wait_foreground(sleep);
    terminal.keys(CTRL_C);
    assert_eq!(terminal.wait_code(), 130, "{}", terminal.report());
}

#[apply(test)]
fn program_reads_keyboard_input_and_returns_its_code() {
    let sandbox = Sandbox::new();
    let script = "read word; test -t 0 && test -t 1 && echo \"got $word\"; exit 6";
    let mut terminal = Terminal::start(&sandbox.command(&["exec", "--", "sh", "-c", script]));
    terminal.line("hello");
    terminal.wait_for("got hello");
    assert_eq!(terminal.wait_code(), 6, "{}", terminal.report());
}

/// A shell without job control does not take the terminal back, so this shows that bots-ctl returned it.
#[apply(test)]
fn exec_returns_terminal_however_program_ends() {
    let sandbox = Sandbox::new();
    for (program, code) in [("exit 4", 4), ("kill -KILL $$", 137), ("set -m; sleep 0 | sleep 0; kill -KILL $$", 137)] {
        let command = sandbox.command(&["exec", "--", "bash", "-c", program]);
        let script = "\"$@\"; echo \"code $?\"; read word; echo \"got $word\"";
        let mut terminal = Terminal::start(&wrapped(&command, "sh", &["-c", script, "sh"]));
        terminal.wait_for(&format!("code {code}"));
        assert_eq!(terminal.foreground(), Some(terminal.pid()), "{program}\n{}", terminal.report());
        terminal.line("hello");
        terminal.wait_for("got hello");
        assert_eq!(terminal.wait_code(), 0, "{}", terminal.report());
    }
}

#[apply(test)]
fn exec_returns_terminal_if_program_is_missing() {
    let sandbox = Sandbox::new();
    let command = sandbox.command(&["exec", "--", "/does/not/exist"]);
    let script = "\"$@\"; echo \"code $?\"; read word; echo \"got $word\"";
    let mut terminal = Terminal::start(&wrapped(&command, "sh", &["-c", script, "sh"]));
    terminal.wait_for("code 127");
    terminal.line("hello");
    terminal.wait_for("got hello");
    assert_eq!(terminal.wait_code(), 0, "{}", terminal.report());
}

#[apply(test)]
fn ctrl_c_in_a_shell_interrupts_its_program_and_not_the_shell() {
    let mut sandbox = Sandbox::new();
    sandbox.set("PS1", "inner> ");
    for words in [&["shell", "--norc", "-i"][..], &["exec", "--", "bash", "--norc", "-i"]] {
        let mut terminal = Terminal::start(&sandbox.command(words));
        terminal.wait_for("inner> ");
        terminal.line("sleep 1000");
        let sleep = terminal.wait_program("sleep 1000");
        terminal.wait_foreground(sleep);
        terminal.keys(CTRL_C);
        terminal.wait_gone(sleep);
        terminal.line("echo alive-$((1 + 1))");
        terminal.wait_for("alive-2");
        terminal.line("exit 7");
        assert_eq!(terminal.wait_code(), 7, "{}", terminal.report());
    }
}

#[apply(test)]
fn inner_shell_stops_and_continues_its_job() {
    let mut sandbox = Sandbox::new();
    sandbox.set("PS1", "inner> ");
    let mut terminal = Terminal::start(&sandbox.command(&["shell", "--norc", "-i"]));
    terminal.wait_for("inner> ");
    terminal.line("sleep 1000");
    let sleep = terminal.wait_program("sleep 1000");
    terminal.wait_foreground(sleep);
    terminal.keys(CTRL_Z);
    terminal.wait_for("Stopped");
    terminal.wait_state(sleep, "T");
    terminal.line("fg");
    terminal.wait_foreground(sleep);
    terminal.wait_state(sleep, "S");
    terminal.keys(CTRL_C);
    terminal.wait_gone(sleep);
    terminal.line("exit $((4 + 1))");
    assert_eq!(terminal.wait_code(), 5, "{}", terminal.report());
}

#[apply(test)]
fn exec_is_a_stoppable_job_of_calling_shell() {
    let sandbox = Sandbox::new();
    let mut terminal = Terminal::interactive(&sandbox);
    terminal.line("\"$BOTS_CTL\" exec -- sleep 1000");
    let sleep = terminal.wait_program("sleep 1000");
    for _ in 0..3 {
        terminal.wait_foreground(sleep);
        terminal.wait_state(sleep, "S");
        terminal.keys(CTRL_Z);
        terminal.wait_for("Stopped");
        terminal.wait_state(sleep, "T");
        terminal.wait_foreground(terminal.pid());
        terminal.line("echo alive-$((1 + 1))");
        terminal.wait_for("alive-2");
        terminal.line("fg");
    }
    terminal.wait_foreground(sleep);
    terminal.wait_state(sleep, "S");
    terminal.keys(CTRL_C);
    terminal.wait_gone(sleep);
    terminal.line("echo code-$?-$((1 + 1))");
    terminal.wait_for("code-130-2");
    terminal.leave();
}

#[apply(test)]
fn shell_keeps_terminal_when_background_job_reads() {
    let sandbox = Sandbox::new();
    let mut terminal = Terminal::interactive(&sandbox);
    terminal.line("\"$BOTS_CTL\" exec -- sh -c 'read word; echo \"got $word\"; exit 8'");
    let program = terminal.wait_program("sh -c");
    terminal.wait_foreground(program);
    terminal.keys(CTRL_Z);
    terminal.wait_for("Stopped");
    // It reads from a terminal that it does not have, which stops it again.
    terminal.line("bg");
    terminal.line("echo alive-$((1 + 1))");
    terminal.wait_for("alive-2");
    terminal.wait_state(program, "T");
    assert_eq!(terminal.foreground(), Some(terminal.pid()), "{}", terminal.report());
    terminal.line("fg");
    terminal.wait_foreground(program);
    terminal.wait_state(program, "S");
    terminal.line("hello");
    terminal.wait_for("got hello");
    terminal.wait_gone(program);
    terminal.line("echo code-$?-$((1 + 1))");
    terminal.wait_for("code-8-2");
    terminal.leave();
}

#[apply(test)]
fn shell_keeps_terminal_when_background_job_ends() {
    let sandbox = Sandbox::new();
    let mut terminal = Terminal::interactive(&sandbox);
    terminal.line("\"$BOTS_CTL\" exec -- sleep 1000");
    let sleep = terminal.wait_program("sleep 1000");
    terminal.wait_foreground(sleep);
    terminal.keys(CTRL_Z);
    terminal.wait_for("Stopped");
    terminal.line("bg");
    terminal.wait_state(sleep, "S");
    kill(sleep, Signal::SIGTERM).expect("it is there");
    terminal.wait_gone(sleep);
    terminal.line("wait %1; echo code-$?-$((1 + 1))");
    terminal.wait_for("code-143-2");
    assert_eq!(terminal.foreground(), Some(terminal.pid()), "{}", terminal.report());
    terminal.leave();
}

#[apply(test)]
fn fg_gives_terminal_to_program_started_in_background() {
    let sandbox = Sandbox::new();
    let mut terminal = Terminal::interactive(&sandbox);
    terminal.line("\"$BOTS_CTL\" exec -- sh -c 'read word; echo \"got $word\"; exit 8' &");
    let program = terminal.wait_program("sh -c");
    terminal.wait_state(program, "T");
    assert_eq!(terminal.foreground(), Some(terminal.pid()), "{}", terminal.report());
    terminal.line("fg");
    terminal.wait_foreground(program);
    terminal.wait_state(program, "S");
    terminal.line("hello");
    terminal.wait_for("got hello");
    terminal.wait_gone(program);
    terminal.line("echo code-$?-$((1 + 1))");
    terminal.wait_for("code-8-2");
    terminal.leave();
}

/// As the first program on a terminal, as in `kubectl exec -it`, there is no shell that could continue it.
#[apply(test)]
fn ctrl_z_without_a_shell_does_not_freeze_the_terminal() {
    let sandbox = Sandbox::new();
    let script = "trap 'echo continued' CONT; echo ready; while :; do sleep 0.1; done";
    let mut terminal = Terminal::start(&sandbox.command(&["exec", "--", "sh", "-c", script]));
    terminal.wait_for("ready");
    terminal.keys(CTRL_Z);
    terminal.wait_for("continued");
    terminal.keys(CTRL_C);
    assert_eq!(terminal.wait_code(), 130, "{}", terminal.report());
}

/// A script that starts us is part of the job: all of it stops and goes on.
#[apply(test)]
fn ctrl_z_stops_calling_script_too() {
    let sandbox = Sandbox::new();
    let mut terminal = Terminal::interactive(&sandbox);
    terminal.line("sh -c '\"$BOTS_CTL\" exec -- sleep 1000; echo \"code $?\"'");
    let sleep = terminal.wait_program("sleep 1000");
    terminal.wait_foreground(sleep);
    terminal.keys(CTRL_Z);
    terminal.wait_for("Stopped");
    terminal.wait_state(sleep, "T");
    terminal.line("fg");
    terminal.wait_foreground(sleep);
    terminal.wait_state(sleep, "S");
    kill(sleep, Signal::SIGTERM).expect("it is there");
    terminal.wait_for("code 143");
    terminal.leave();
}

#[apply(test)]
fn terminal_hangup_ends_program() {
    let sandbox = Sandbox::new();
    let log = sandbox.home.path().join("hung-up");
    let script =
        format!("trap 'echo hung up > {}; exit 1' HUP; echo ready; while :; do sleep 0.1; done", log.display());
    let mut terminal = Terminal::start(&sandbox.command(&["exec", "--", "sh", "-c", &script]));
    terminal.wait_for("ready");
    // The kernel tells the leader of the session and the foreground group when the other end is closed; a reader
    // still holds it here, so the leader is told as the kernel would.
    kill(terminal.pid(), Signal::SIGHUP).expect("it is there");
    assert_eq!(terminal.wait_code(), 1, "{}", terminal.report());
    assert!(log.exists());
}

#[apply(test)]
fn program_under_nohup_survives_terminal_hangup() {
    let sandbox = Sandbox::new();
    let nohup = wrapped(&sandbox.command(&["exec", "--", "sh", "-c", "echo ready; exec sleep 1000"]), "nohup", &[]);
    let terminal = Terminal::start(&nohup);
    let sleep = terminal.wait_program("sleep 1000");
    for pid in [terminal.pid(), sleep] {
        kill(pid, Signal::SIGHUP).expect("it is there");
    }
    // A signal that ends it comes after the one that must not.
    terminal.wait_state(sleep, "S");
    kill(sleep, Signal::SIGTERM).expect("it is there");
    let mut terminal = terminal;
    assert_eq!(terminal.wait_code(), 143, "{}", terminal.report());
}

/// It is the controlling terminal that has a foreground, not standard input.
#[apply(test)]
fn program_with_redirected_stream_stays_in_foreground() {
    let sandbox = Sandbox::new();
    let mut terminal = Terminal::interactive(&sandbox);
    for redirection in ["</dev/null", ">out", "2>out"] {
        terminal.line(&format!("\"$BOTS_CTL\" exec -- sleep 1000 {redirection}"));
        let sleep = terminal.wait_program("sleep 1000");
        terminal.wait_foreground(sleep);
        terminal.keys(CTRL_C);
        terminal.wait_gone(sleep);
        terminal.line("echo code-$?-$((1 + 1))");
        terminal.wait_for("code-130-2");
    }
    terminal.leave();
}

/// As with `bots-ctl exec program | less`: the keys are for the other program, those of the driver for both.
#[apply(test)]
fn pipeline_pager_reads_keyboard_and_signals_arrive_once() {
    let sandbox = Sandbox::new();
    let path = |name: &str| sandbox.home.path().join(name);
    let program = "import os, signal
wanted = {signal.SIGINT, signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
print('page', flush=True)
told = os.open('told', os.O_WRONLY | os.O_CREAT)
os.write(told, b'\\n')
while (number := signal.sigwait(wanted)) != signal.SIGUSR1:
    os.write(told, b'int\\n')
os.write(told, b'usr1\\n')
os._exit(4)";
    let pager = "trap '' INT; read page; echo \"shows $page\"; read word </dev/tty; echo \"read $word\"; cat";
    std::fs::write(path("program"), program).expect("written");
    std::fs::write(path("pager"), pager).expect("written");
    let mut terminal = Terminal::interactive(&sandbox);
    terminal.line("set -o pipefail; \"$BOTS_CTL\" exec -- python3 ./program | sh ./pager");
    terminal.wait_for("shows page");
    terminal.line("hello");
    terminal.wait_for("read hello");
    let program = terminal.wait_program("python3 ./program");
    let told = || std::fs::read_to_string(path("told")).unwrap_or_default();
    wait_until("it is ready", || told().starts_with('\n').then_some(()), || terminal.report());
    // bots-ctl receives it after the program, so that a second signal of the same kind is not merged with the first.
    let ours = terminal.wait_program(&format!("{} exec", binary().display()));
    kill(ours, Signal::SIGSTOP).expect("it is there");
    terminal.wait_state(ours, "T");
    terminal.keys(CTRL_C);
    wait_until("Ctrl-C arrives", || told().contains("int").then_some(()), || terminal.report());
    kill(ours, Signal::SIGCONT).expect("it is there");
    kill(ours, Signal::SIGUSR1).expect("it is there");
    terminal.wait_gone(program);
    terminal.line("echo code-$?-$((1 + 1))");
    terminal.wait_for("code-4-2");
    assert_eq!(told(), "\nint\nusr1\n");
    terminal.leave();
}

#[apply(test)]
fn ctrl_z_and_fg_stop_and_continue_whole_pipeline() {
    let sandbox = Sandbox::new();
    let mut terminal = Terminal::interactive(&sandbox);
    terminal.line("\"$BOTS_CTL\" exec -- sleep 1000 | cat");
    let sleep = terminal.wait_program("sleep 1000");
    let ours = terminal.wait_program(&format!("{} exec", binary().display()));
    for _ in 0..2 {
        terminal.wait_foreground(ours);
        terminal.wait_state(sleep, "S");
        terminal.keys(CTRL_Z);
        terminal.wait_for("Stopped");
        terminal.wait_state(sleep, "T");
        terminal.wait_state(ours, "T");
        terminal.line("echo alive-$((1 + 1))");
        terminal.wait_for("alive-2");
        terminal.line("fg");
        terminal.wait_state(ours, "S");
    }
    terminal.keys(CTRL_C);
    terminal.wait_gone(sleep);
    terminal.line("echo codes-${PIPESTATUS[0]}-$((1 + 1))");
    terminal.wait_for("codes-130-2");
    terminal.leave();
}

#[apply(test)]
fn window_size_change_reaches_program() {
    let sandbox = Sandbox::new();
    let script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done";
    let mut terminal = Terminal::start(&sandbox.command(&["exec", "--", "sh", "-c", script]));
    terminal.wait_for("ready");
    let master = terminal.master.as_fd().try_clone_to_owned().expect("cloned");
    let resized = Command::new("stty").args(["rows", "33", "cols", "77"]).stdin(master).status();
    assert!(resized.expect("stty runs").success());
    terminal.wait_for("33 77");
    terminal.keys(CTRL_C);
    assert_eq!(terminal.wait_code(), 130, "{}", terminal.report());
}

/// As in other shells; `exec` and a shell that runs a command line end leftover processes.
#[apply(test)]
fn background_job_survives_exit_of_interactive_shell_only() {
    let mut sandbox = Sandbox::new();
    sandbox.set("PS1", "inner> ");
    let mut terminal = Terminal::start(&sandbox.command(&["shell", "--norc", "-i"]));
    terminal.wait_for("inner> ");
    terminal.line("setsid sleep 1000 &");
    let sleep = terminal.wait_program("sleep 1000");
    terminal.line("exit 7");
    assert_eq!(terminal.wait_code(), 7, "{}", terminal.report());
    kill(sleep, Signal::SIGKILL).expect("it is still there");

    let ended = sandbox.run(&["shell", "-c", "setsid sleep 1000 >&- 2>&- & echo $!; exit 7"]);
    ended.expect_code(7);
    assert!(!Path::new(&format!("/proc/{}", ended.stdout.trim())).exists());
}

#[apply(test)]
fn status_watch_redraws_and_ends_with_ctrl_c() {
    let sandbox = Sandbox::new();
    let mut terminal = Terminal::start(&sandbox.command(&["status", "--watch", "--interval", "50ms"]));
    for _ in 0..3 {
        terminal.wait_for("\x1b[Hcannot query bots-ctl on 127.0.0.1:");
        terminal.wait_for("\x1b[K\r\n\x1b[J");
    }
    terminal.keys(CTRL_C);
    assert_eq!(terminal.wait_code(), 130, "{}", terminal.report());
}
