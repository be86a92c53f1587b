//! Executes this program again, with the same PID, arguments, environment and children.
//!
//! Blocked and pending signals pass an `execve`, and so do descriptors without the flag close-on-exec. The state of the
//! program before comes in a variable, which is removed from the environment before anything else is started.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, id};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

pub use super::sys::adopt_descriptor;
use super::sys::take_variable;

/// The variable. Its value begins with the PID that it is for: a child that inherits it must not use it.
const STATE: &str = "_BOTS_CTL_STATE";

/// The state from the previous execution.
#[must_use]
pub fn state() -> Option<String> {
    let value = std::env::var(STATE).ok()?;
    let (pid, state) = value.split_once(' ')?;
    (pid == id().to_string()).then(|| state.to_owned())
}

/// The same, removed from the environment. Must be called before there is another thread.
#[must_use]
pub fn take_state() -> Option<String> {
    let state = state();
    take_variable(STATE);
    state
}

/// Executes this program again with the state and the descriptors. Returns only when that has failed.
pub fn reexec(state: &str, descriptors: &[OwnedFd]) -> io::Error {
    for descriptor in descriptors {
        if let Err(error) = fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())) {
            return error.into();
        }
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| OsString::from("bots-ctl"));
    // Started by its path it keeps its name in `ps`; the link in `/proc` works for a file that was replaced or removed.
    let path = std::env::current_exe().ok().filter(|path| path.exists());
    let program = path.as_deref().unwrap_or(Path::new("/proc/self/exe"));
    Command::new(program).arg0(name).args(arguments).env(STATE, format!("{} {state}", id())).exec()
}
