//! A directory first on the services' PATH, in which `bots-engine` is bots-ctl, so that every engine takes the lease,
//! whether the web UI, a job queue or a person starts it. It is also first on PYTHONPATH: its hook redirects engines
//! started by path, as a module or from a script. On volumes without symbolic links, such as CIFS by default,
//! `bots-engine` is a script whose interpreter is bots-ctl.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::libc;

use super::Error;
use crate::fs::atomic::{describe_io_error, temporary_name, write_atomically};
use crate::fs::no_follow::NoFollowDir;

/// The name under which bots-ctl is Bots's engine.
pub const NAME: &str = "bots-engine";

/// The script of the engine host, which forks for each run of the engine.
pub const HOST: &str = "engine_host.py";

/// The hook of Python, which imports a module of this name when it starts, and the engine host.
const SCRIPTS: [(&str, &str); 2] =
    [("sitecustomize.py", include_str!("python/sitecustomize.py")), (HOST, include_str!("python/engine_host.py"))];

/// The variable that tells the hook that bots-ctl started this engine under its lease.
pub const HOLDS_LEASE: &str = "BOTS_CTL_HOLDS_LEASE";

/// Two descriptors, `READ,WRITE`: pipes on which the hook requests which files of a channel are complete.
pub const FILES_PIPES: &str = "BOTS_CTL_FILES_PIPES";

/// The directory of the link, in an environment.
const DIRECTORY: &str = ".bots-ctl-bin";

/// The arguments for Bots's engine, if this program was called by the link or by the script that replaces it.
pub fn arguments(command_line: &[OsString]) -> Option<&[OsString]> {
    let script = Path::new(DIRECTORY).join(NAME);
    match command_line {
        [program, rest @ ..] if Path::new(program).file_name() == Some(OsStr::new(NAME)) => Some(rest),
        [_, argument, rest @ ..] if Path::new(argument).ends_with(script) => Some(rest),
        _ => None,
    }
}

/// The directory of the link, in an environment.
pub fn directory(environment_root: &Path) -> PathBuf {
    environment_root.join(DIRECTORY)
}

/// Creates the link to this executable, and the hook. Safe for concurrent replicas.
pub fn create(environment_root: &Path) -> Result<(), Error> {
    let program =
        std::env::current_exe().map_err(|error| describe_io_error("find", Path::new("/proc/self/exe"), &error))?;
    let directory = directory(environment_root);
    let link = directory.join(NAME);
    NoFollowDir::new(environment_root)?.make_dir(Path::new(DIRECTORY))?;
    for (name, script) in SCRIPTS {
        write_atomically(&directory.join(name), script.as_bytes(), 0o644)?;
    }
    if fs::read_link(&link).is_ok_and(|target| target == program) {
        return Ok(());
    }
    // Replaced atomically: another pod may be starting an engine. The PID is not unique, since the first process of
    // every pod has the same.
    let new = temporary_name(&link);
    match symlink(&program, &new).and_then(|()| fs::rename(&new, &link)) {
        Err(error) if means_no_links(&error) => {
            let script = [b"#!", program.as_os_str().as_bytes(), b"\n"].concat();
            Ok(write_atomically(&link, &script, 0o755).map(|_| ())?)
        }
        made => made.map_err(|error| {
            let _ = fs::remove_file(&new);
            describe_io_error("make", &link, &error).into()
        }),
    }
}

/// Whether this is the error of symlink(2) on a file system without symbolic links.
pub fn means_no_links(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EPERM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_replaces_link_to_another_program() {
        let root = tempfile::tempdir().expect("made");
        let link = directory(root.path()).join(NAME);
        fs::create_dir(directory(root.path())).expect("made");
        symlink("/bin/false", &link).expect("made");
        create(root.path()).expect("made");
        assert_eq!(fs::read_link(&link).expect("it is a link"), std::env::current_exe().expect("we run"));
        create(root.path()).expect("it is there");
        assert_eq!(fs::read_dir(directory(root.path())).expect("there").count(), 3, "nothing else is left");
    }

    #[test]
    fn concurrent_creates_leave_one_complete_shim() {
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
            assert_eq!(fs::read_dir(directory(root.path())).expect("there").count(), 3, "nothing else is left");
        }
    }

    #[test]
    fn shim_is_recognized_by_its_program_name() {
        let rest = |line: &str| -> Option<String> {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            arguments(&words).map(|rest| rest.join(OsStr::new(" ")).into_string().expect("text"))
        };
        for (line, expected) in [
            ("/x/bots-engine --new", Some("--new")),
            ("bots-engine", Some("")),
            ("/usr/bin/bots-ctl /env/.bots-ctl-bin/bots-engine -cconfig --new", Some("-cconfig --new")),
            ("/bots-engine/bots-ctl engine", None),
            ("bots-engine2", None),
            ("bots-ctl exec -- /env/.bots-ctl-bin/bots-engine", None),
            ("bots-ctl /opt/bots/bin/bots-engine", None),
        ] {
            assert_eq!(rest(line).as_deref(), expected, "{line}");
        }
    }
}
