//! This program again in its own place: the same PID, arguments and environment, and the same children.
//!
//! Blocked and pending signals pass an `execve`, and so do descriptors without the flag close-on-exec. What the program
//! before has to say comes in a variable, which is taken out of the environment before anything else is started.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, id};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

pub use super::sys::adopt_descriptor;
use super::sys::take_variable;

/// The variable. It begins with the PID that it is for: no other process of this environment is meant.
const STATE: &str = "_BOTS_CTL_STATE";

/// What the program before has left for this one.
#[must_use]
pub fn state() -> Option<String> {
    let value = std::env::var(STATE).ok()?;
    let (pid, state) = value.split_once(' ')?;
    (pid == id().to_string()).then(|| state.to_owned())
}

/// The same, which is gone from the environment then. To be called before there is another thread.
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
    // By its path it keeps its name in `ps`; a file that was replaced or removed is still there by the other one.
    let path = std::env::current_exe().ok().filter(|path| path.exists());
    let program = path.as_deref().unwrap_or(Path::new("/proc/self/exe"));
    Command::new(program).arg0(name).args(arguments).env(STATE, format!("{} {state}", id())).exec()
}
