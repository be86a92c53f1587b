//! Commands as another user than root, and in mount namespaces.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use walkdir::WalkDir;

use crate::support::needs::unshared;
use crate::support::process::wrapped;
use crate::support::sandbox::python;

/// The user that containers run as.
pub const USER: u32 = 10_001;

/// What makes a command line run as that user.
pub const AS_USER: [&str; 6] = ["setpriv", "--reuid", "10001", "--regid", "10001", "--clear-groups"];

/// The same, with the right to read everything.
pub const AS_READER: [&str; 10] = [
    "setpriv",
    "--reuid",
    "10001",
    "--regid",
    "10001",
    "--clear-groups",
    "--inh-caps",
    "+dac_read_search",
    "--ambient-caps",
    "+dac_read_search",
];

/// The same command line as uid 10001. Without root it is unchanged.
pub fn as_user(inner: &Command) -> Command {
    let [program, args @ ..] = &AS_USER;
    if nix::unistd::geteuid().is_root() { wrapped(inner, program, args) } else { wrapped(inner, "env", &[]) }
}

/// As [`as_user`], for what starts the Python of Bots: if that lies below a directory which is closed to others, as
/// root's home is, the user also gets the right to read everything, and still none to write.
pub fn as_user_of_bots(inner: &Command) -> Command {
    match nix::unistd::geteuid().is_root() && is_closed(&python()) {
        true => wrapped(inner, AS_READER[0], &AS_READER[1..]),
        false => as_user(inner),
    }
}

/// Whether uid 10001 cannot get there.
pub fn is_closed(path: &Path) -> bool {
    let path = path.canonicalize().expect("it is there");
    let mut above = path.ancestors().skip(1);
    above.any(|dir| fs::metadata(dir).is_ok_and(|meta| meta.mode() & 0o001 == 0))
}

/// The same command line as `$0 "$@"` of a shell script in a separate mount namespace.
pub fn in_mounts(script: &str, inner: &Command) -> Command {
    unshared(inner, &["--mount", "sh", "-c", script])
}

/// Changes the owner of a directory and its content to uid 10001.
pub fn give_to_user(dir: &Path) {
    if nix::unistd::geteuid().is_root() {
        for entry in WalkDir::new(dir) {
            chown(entry.expect("readable").path(), Some(USER), Some(USER)).expect("root may");
        }
    }
}

/// Lets others in: a temporary directory is its owner's alone.
pub fn open_to_all(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("it is ours");
}
