//! A directory that comes first on the services' PATH, where `bots-engine` is bots-ctl: however an engine is started,
//! by the web UI, a job queue or a person, it takes the same way. It comes first for Python as well, whose hook there leads
//! engines to bots-ctl that are started by their path, as a module or from a script.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::Error;
use crate::fs::atomic::{describe_io_error, temporary_name, write_atomically};
use crate::fs::no_follow::NoFollowDir;

/// The name under which bots-ctl is Bots's engine.
pub const NAME: &str = "bots-engine";

/// The hook of Python, which imports a module of this name when it starts.
const HOOK: (&str, &str) = ("sitecustomize.py", include_str!("python/sitecustomize.py"));

/// The variable by which the hook knows an engine that bots-ctl starts under its lease.
pub const HOLDS_LEASE: &str = "BOTS_CTL_HOLDS_LEASE";

/// The variable by which the hook knows the descriptor through which it asks bots-ctl for the files that a channel may take.
pub const FILES_SOCKET: &str = "BOTS_CTL_FILES_SOCKET";

/// The directory of the link, in an environment.
const DIRECTORY: &str = ".bots-ctl-bin";

/// Whether this program was called as Bots's engine.
#[must_use]
pub fn is_called_by(program: &OsStr) -> bool {
    Path::new(program).file_name().is_some_and(|name| name == NAME)
}

/// The directory of the link, in an environment.
#[must_use]
pub fn directory(environment_root: &Path) -> PathBuf {
    environment_root.join(DIRECTORY)
}

/// Makes the link to this very program, and the hook beside it. Any number of replicas may do so at once.
///
/// # Errors
/// When they cannot be made.
pub fn create(environment_root: &Path) -> Result<(), Error> {
    let program =
        std::env::current_exe().map_err(|error| describe_io_error("find", Path::new("/proc/self/exe"), &error))?;
    let directory = directory(environment_root);
    let link = directory.join(NAME);
    NoFollowDir::new(environment_root)?.make_dir(Path::new(DIRECTORY))?;
    let (hook, script) = HOOK;
    write_atomically(&directory.join(hook), script.as_bytes(), 0o644)?;
    if fs::read_link(&link).is_ok_and(|target| target == program) {
        return Ok(());
    }
    // Never away for a moment: another pod may be starting an engine. Every pod's first process has the same number.
    let new = temporary_name(&link);
    let made = symlink(&program, &new).and_then(|()| fs::rename(&new, &link));
    made.map_err(|error| {
        let _ = fs::remove_file(&new);
        describe_io_error("make", &link, &error).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_another_program_is_replaced() {
        let root = tempfile::tempdir().expect("made");
        let link = directory(root.path()).join(NAME);
        fs::create_dir(directory(root.path())).expect("made");
        symlink("/bin/false", &link).expect("made");
        create(root.path()).expect("made");
        assert_eq!(fs::read_link(&link).expect("it is a link"), std::env::current_exe().expect("we run"));
        create(root.path()).expect("it is there");
        assert_eq!(fs::read_dir(directory(root.path())).expect("there").count(), 2, "nothing else is left");
    }

    #[test]
    fn any_number_may_make_it_at_once() {
        for _ in 0..50 {
            let root = tempfile::tempdir().expect("made");
            let start = std::sync::Barrier::new(8);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        start.wait();
                        create(root.path()).expect("made");
                    });
                }
            });
            assert_eq!(fs::read_dir(directory(root.path())).expect("there").count(), 2, "nothing else is left");
        }
    }

    #[test]
    fn only_the_last_part_of_a_name_counts() {
        assert!(is_called_by(OsStr::new("/x/bots-engine")) && is_called_by(OsStr::new("bots-engine")));
        assert!(!is_called_by(OsStr::new("/bots-engine/bots-ctl")) && !is_called_by(OsStr::new("bots-engine2")));
    }
}
