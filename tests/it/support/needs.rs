//! Requirements of tests beyond Rust, gcc and Python. Each is probed before its use, so a test with a missing one is
//! skipped under its name, and a failure stays a failure.

use std::fmt;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use nix::unistd::{Pid, Uid};

use crate::support::bots::is_bots_3;
use crate::support::process::wrapped;

/// Something that not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    Chromium,
    Curl,
    Root,
    /// ip(8), to build networks with.
    Iproute,
    /// Namespaces for users, mounts, processes and the network; root makes the latter without the first.
    Namespaces,
    Bindfs,
    Pgbouncer,
    Prometheus,
    Strace,
    Valgrind,
    /// A MariaDB server, and the driver that Bots uses for it.
    MariaDb,
    /// A PostgreSQL server.
    PostgreSql,
    /// Programs that are installed from PyPI into the target directory: kubectl, checkov, codespell and the like.
    PythonTools,
    /// The rest of a family of tests of which the default run holds one, or a test of a minute.
    Time,
    /// The image of the Dockerfile, built and run with podman.
    Image,
    /// A version of Bots; each test run has one.
    Bots3,
    Bots4,
}

/// The scope of a test run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// SQLite, and one of each family of tests, for what takes minutes in all.
    Short,
    /// Whatever the machine allows: for tests that are named by a filter.
    Whole,
    /// Every test but those of the image; a need that the machine does not meet is a failure.
    All,
    /// As `All`, and the tests of the image.
    Image,
}

static SCOPE: OnceLock<Scope> = OnceLock::new();

/// Sets the scope of this run, once, before its first test.
pub fn set_scope(scope: Scope) {
    SCOPE.set(scope).expect("the scope is set once");
}

/// The scope of this run.
pub fn scope() -> Scope {
    SCOPE.get().copied().unwrap_or(Scope::Short)
}

/// Returns if the requirement is met; otherwise ends the test: as skipped, or as failed if the scope includes it.
pub fn needs(need: Need) {
    if can_have(need) {
        return;
    }
    assert!(!need.must_be_met(scope()), "this test needs {need}, and the probe for it failed: {}", need.probe());
    // Unlike a panic it prints nothing; the runner recognises the payload.
    resume_unwind(Box::new(need));
}

/// Whether the need is in the scope of this run and met.
pub fn can_have(need: Need) -> bool {
    need.is_in(scope()) && need.is_met()
}

impl Need {
    fn is_in(self, scope: Scope) -> bool {
        match self {
            Self::MariaDb | Self::PostgreSql | Self::PythonTools | Self::Time => scope >= Scope::Whole,
            Self::Image => scope == Scope::Image,
            _ => true,
        }
    }

    fn must_be_met(self, scope: Scope) -> bool {
        self.is_in(scope) && scope >= Scope::All && !self.is_version()
    }

    /// Whether no installation of programs meets it.
    pub fn is_version(self) -> bool {
        matches!(self, Self::Bots3 | Self::Bots4)
    }

    fn is_met(self) -> bool {
        match self {
            Self::Chromium => is_file("/usr/bin/chromium") && is_file("/usr/bin/chromedriver"),
            Self::Curl => is_on_path("curl"),
            Self::Root => Uid::effective().is_root(),
            Self::Iproute => is_on_path("ip"),
            Self::Namespaces => has_namespaces(),
            Self::Bindfs => Uid::effective().is_root() && is_on_path("bindfs") && is_file("/dev/fuse"),
            Self::Pgbouncer => is_file("/usr/sbin/pgbouncer"),
            Self::Prometheus => is_on_path("prometheus") && is_on_path("promtool"),
            Self::Strace => is_on_path("strace"),
            Self::Valgrind => is_on_path("valgrind"),
            Self::MariaDb => has_mariadb(),
            Self::PostgreSql => is_file("/usr/lib/postgresql") && is_on_path("psql"),
            Self::PythonTools | Self::Time => true,
            Self::Image => Uid::effective().is_root() && is_file("/usr/bin/podman"),
            Self::Bots3 => is_bots_3(),
            Self::Bots4 => !is_bots_3(),
        }
    }

    /// How [`Need::is_met`] probes, for the reader of a report.
    fn probe(self) -> &'static str {
        match self {
            Self::Chromium => "/usr/bin/chromium and /usr/bin/chromedriver",
            Self::Curl => "`curl` on the PATH",
            Self::Root => "uid 0",
            Self::Iproute => "`ip` on the PATH",
            Self::Namespaces => "unshare --map-root-user --net --mount --pid --fork --mount-proc true",
            Self::Bindfs => "uid 0, `bindfs` on the PATH, and /dev/fuse",
            Self::Pgbouncer => "/usr/sbin/pgbouncer",
            Self::Prometheus => "`prometheus` and `promtool` on the PATH",
            Self::Strace => "`strace` on the PATH",
            Self::Valgrind => "`valgrind` on the PATH",
            Self::MariaDb => {
                "/usr/sbin/mariadbd, `mariadb-dump`, `mariadb_config` and `pkg-config` on the PATH, and Python.h"
            }
            Self::PostgreSql => "/usr/lib/postgresql, and `psql` on the PATH",
            Self::PythonTools | Self::Time => "tests/run.sh --all",
            Self::Image => "uid 0, and /usr/bin/podman",
            Self::Bots3 | Self::Bots4 => "the package of BOTS_BIN_DIR",
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chromium => "Chromium",
            Self::Curl => "curl",
            Self::Root => "root",
            Self::Iproute => "iproute2",
            Self::Namespaces => "root or user namespaces",
            Self::Bindfs => "root and bindfs",
            Self::Pgbouncer => "PgBouncer",
            Self::Prometheus => "Prometheus",
            Self::Strace => "strace",
            Self::Valgrind => "valgrind",
            Self::MariaDb => "MariaDB",
            Self::PostgreSql => "PostgreSQL",
            Self::PythonTools => "tools from PyPI",
            Self::Time => "more time",
            Self::Image => "the image",
            Self::Bots3 => "Bots 3",
            Self::Bots4 => "Bots 4",
        })
    }
}

fn is_file(path: &str) -> bool {
    Path::new(path).exists()
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}

/// The server, and what its driver for Python is compiled with, unless another Bots brings it along.
fn has_mariadb() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    const HEADERS: &str = "import os, sysconfig; exit(not os.path.exists(sysconfig.get_path('include') + '/Python.h'))";
    let has_headers = || Command::new("python3").args(["-c", HEADERS]).status().is_ok_and(|status| status.success());
    *FOUND.get_or_init(|| {
        let has_server = is_file("/usr/sbin/mariadbd") && is_on_path("mariadb-dump");
        let can_compile = || is_on_path("mariadb_config") && is_on_path("pkg-config") && has_headers();
        has_server && (std::env::var_os("BOTS_BIN_DIR").is_some() || can_compile())
    })
}

fn has_namespaces() -> bool {
    static MADE: OnceLock<bool> = OnceLock::new();
    *MADE.get_or_init(|| {
        let mut unshare = Command::new("unshare");
        unshare.args(as_root()).args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "true"]);
        unshare.stdin(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    })
}

/// An ordinary user is root in a user namespace, and may make the others there.
fn as_root() -> &'static [&'static str] {
    if Uid::effective().is_root() { &[] } else { &["--map-root-user"] }
}

/// The command in separate namespaces: flags of unshare(1), then the words to which the command is appended.
pub fn unshared(command: &Command, flags: &[&str]) -> Command {
    needs(Need::Namespaces);
    wrapped(command, "unshare", &[as_root(), flags].concat())
}

/// The command as PID 1 of a separate PID namespace.
pub fn as_pid_1(command: &Command) -> Command {
    unshared(command, &["--pid", "--fork", "--mount-proc", "--kill-child"])
}

/// The command in a separate network namespace with only loopback.
pub fn without_network(command: &Command) -> Command {
    // SIOCSIFFLAGS with IFF_UP, netdevice(7): not every machine has ip(8).
    const LOOPBACK_UP: &str = "import fcntl, os, socket, struct, sys\n\
        fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, struct.pack('16sh', b'lo', 1))\n\
        os.execvp(sys.argv[1], sys.argv[1:])";
    unshared(command, &["--net", "/usr/bin/python3", "-I", "-S", "-c", LOOPBACK_UP])
}

/// The command in the network namespace of a process that [`without_network`] began.
pub fn in_network_of(pid: Pid, command: &Command) -> Command {
    let as_root: &[&str] = if Uid::effective().is_root() { &[] } else { &["--user", "--preserve-credentials"] };
    wrapped(command, "nsenter", &[as_root, &["--net", "--target", &pid.to_string()]].concat())
}
