//! Commands around the program under test, and the processes below it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::Pid;
use serde_json::Value;

use crate::support::sandbox::{Finished, Running, wait_until};

/// The same command as the argument of another program, in the same environment.
pub fn wrapped(command: &Command, program: impl AsRef<OsStr>, args: &[&str]) -> Command {
    let mut wrapper = Command::new(program);
    wrapper.args(args).arg(command.get_program()).args(command.get_args()).env_clear().stdin(Stdio::null());
    wrapper.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    wrapper.current_dir(command.get_current_dir().expect("a sandbox has a directory"));
    wrapper
}

/// Sends any signal, realtime ones included.
pub fn send(pid: Pid, number: i32) {
    let sent = Command::new("sh").args(["-c", "kill -$0 $1", &number.to_string(), &pid.to_string()]).status();
    assert!(sent.expect("sh runs").success(), "signal {number} cannot be sent to {pid}");
}

/// Waits until a process below `running` has a command line that starts with these words.
pub fn wait_descendant(running: &Running, words: &str) -> Pid {
    let found = || running.descendants().into_iter().find(|(_, command)| command.starts_with(words));
    wait_until(&format!("{words:?} runs"), found, || running.report()).0
}

pub fn write_program(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("changed");
}

pub fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Runs a command, with its output outside of HOME: some tests list every file there.
pub fn finish(command: Command) -> Finished {
    let outside = tempfile::tempdir().expect("a temporary directory");
    let mut running = Running::start(command, outside.path(), 0);
    let status = running.wait();
    Finished { status, stdout: running.stdout(), stderr: running.stderr() }
}

/// The answer of `--json`.
pub fn json(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

/// The web server's process.
pub fn web_process(running: &Running) -> Pid {
    let found = || running.descendants().into_iter().find(|(_, command)| command.contains("bots-webserver"));
    wait_until("the web server has a process", found, || running.report()).0
}
