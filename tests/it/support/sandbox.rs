//! A place for one test: a temporary HOME, free ports, the real Bots, and processes that end with the test.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use walkdir::WalkDir;

use crate::support::needs::{Need, Scope, can_have, scope};

/// Generous: a loaded machine stalls for seconds, and a passing test never waits this long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Where one test lives.
pub struct Sandbox {
    pub home: tempfile::TempDir,
    pub web_port: u16,
    pub health_port: u16,
    variables: Vec<(String, String)>,
}

/// A directory in memory: it leaves nothing behind when the tests end.
struct Tree(Vec<(PathBuf, u32, Entry)>);

enum Entry {
    Directory,
    File(Vec<u8>),
    Link(PathBuf),
}

/// The result of a finished command.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A command that runs; killed with its children when dropped.
pub struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    pub health_port: u16,
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("BOTS_CTL_BIN").map_or_else(|| env!("CARGO_BIN_EXE_bots-ctl").into(), PathBuf::from)
}

/// The programs of a real Bots: those of `BOTS_BIN_DIR`, else an installation that `bots-ctl install` makes once.
pub fn bots_bin_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        if let Some(dir) = std::env::var_os("BOTS_BIN_DIR") {
            return dir.into();
        }
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bots");
        let mut install = Command::new(binary());
        let drivers = [(Need::MariaDb, "mysql"), (Need::PostgreSql, "postgresql")];
        let drivers = drivers.into_iter().filter(|(need, _)| can_have(*need)).map(|(_, driver)| driver);
        // Variables of the test process are not inherited.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"BOTS_CTL_")) {
            install.env_remove(name);
        }
        install.arg("install").env("BOTS_CTL_INSTALL_DIR", &dir);
        for driver in drivers {
            install.args(["--with", driver]);
        }
        let installed = install.output();
        let installed = installed.expect("bots-ctl can be run");
        assert!(installed.status.success(), "bots-ctl install: {}", String::from_utf8_lossy(&installed.stderr));
        dir.join("bin")
    })
}

/// The Python of that Bots.
pub fn python() -> PathBuf {
    bots_bin_dir().join("python")
}

/// A currently unused port, below the range from which the system assigns client ports, and none that Bots uses by default.
pub fn free_port() -> u16 {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let base = 20_000 + u16::try_from(std::process::id() % 10).expect("small") * 1000;
    loop {
        let port = base + NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 1000;
        if !(28_080..28_090).contains(&port) && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

/// The number of repetitions of a randomized test, or of similar cases; `BOTS_CTL_TEST_ROUNDS` sets it for the long
/// form.
pub fn rounds(few: usize) -> usize {
    std::env::var("BOTS_CTL_TEST_ROUNDS").map_or(few, |rounds| rounds.parse().expect("a number"))
}

/// How many of many like cases a test takes: some of them in a short run, else all.
pub fn some_or_all(some: usize, all: usize) -> usize {
    if scope() == Scope::Short { some } else { all }
}

/// Waits until `done` gives something.
///
/// # Panics
/// After [`DEADLINE`], with `report` for the reader.
pub fn wait_until<T>(what: &str, mut done: impl FnMut() -> Option<T>, report: impl Fn() -> String) -> T {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if let Some(result) = done() {
            return result;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("gave up waiting until {what}\n{}", report());
}

/// Mode, inode and time of the last change of everything below a directory.
pub type TreeState = BTreeMap<PathBuf, (u32, u64, i64, i64)>;

/// Everything below a directory that a write would change.
pub fn tree_state(dir: &Path) -> TreeState {
    if !dir.exists() {
        return TreeState::new();
    }
    let entries = WalkDir::new(dir).into_iter().map(|entry| entry.expect("readable"));
    let look = |path: &Path| {
        let meta = fs::symlink_metadata(path).expect("there");
        (meta.mode(), meta.ino(), meta.mtime(), meta.mtime_nsec())
    };
    entries.map(|entry| (entry.path().to_path_buf(), look(entry.path()))).collect()
}

/// Verifies that no file was created, changed or deleted since then.
///
/// # Panics
/// With the differences.
pub fn assert_same_tree(dir: &Path, before: &TreeState) {
    let after = tree_state(dir);
    let of = |one: &TreeState, other: &TreeState| {
        one.iter().filter(|(path, state)| other.get(*path) != Some(*state)).map(|(path, _)| path.clone()).collect()
    };
    let (changed, gone): (Vec<PathBuf>, Vec<PathBuf>) = (of(&after, before), of(before, &after));
    assert!(changed.is_empty() && gone.is_empty(), "made or changed: {changed:#?}\ngone or changed: {gone:#?}");
}

impl Sandbox {
    pub fn new() -> Self {
        Self {
            home: tempfile::tempdir().expect("a temporary directory"),
            web_port: free_port(),
            health_port: free_port(),
            variables: vec![("BOTS_BIN_DIR".into(), bots_bin_dir().display().to_string())],
        }
    }

    /// One with an environment and an SQLite database, as `init-db` makes them: a copy of those of the first such sandbox.
    pub fn prepared() -> Self {
        static MADE: OnceLock<Tree> = OnceLock::new();
        const PLACE: &str = "/place-of-the-sandbox";
        let made = MADE.get_or_init(|| {
            let sandbox = Self::new();
            sandbox.run(&["init-db"]).expect_code(0);
            // What bots-ctl knows of the settings is about this place, and is found out again in another.
            fs::remove_file(sandbox.root().join(".bots-ctl-settings-cache.json")).expect("it is there");
            let ini = sandbox.root().join("config/bots.ini");
            let text = fs::read_to_string(&ini).expect("there is a bots.ini");
            fs::write(&ini, text.replace(&sandbox.home.path().display().to_string(), PLACE)).expect("written");
            Tree::read(&sandbox.home.path().join(".bots"))
        });
        let sandbox = Self::new();
        made.write(&sandbox.home.path().join(".bots"));
        let ini = sandbox.root().join("config/bots.ini");
        let text = fs::read_to_string(&ini).expect("there is a bots.ini");
        fs::write(&ini, text.replace(PLACE, &sandbox.home.path().display().to_string())).expect("written");
        sandbox.set_ini("webserver", "port", &sandbox.web_port.to_string());
        sandbox.set_engine_port();
        sandbox
    }

    /// Assigns Bots's engine a separate lock port, so that engines of several sandboxes run in parallel: the default
    /// port is the same on the whole machine, and a second engine exits with 3 at once.
    pub fn set_engine_port(&self) {
        self.set_ini("settings", "port", &free_port().to_string());
    }

    /// Adds a variable to the environment of everything started from here.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.unset(name);
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// Removes one of the variables that a sandbox comes with.
    pub fn unset(&mut self, name: &str) -> &mut Self {
        self.variables.retain(|(known, _)| known != name);
        self
    }

    /// Puts a script in the place of one program of Bots; all others stay the real ones. For services that have to
    /// fail or hang in a certain way.
    pub fn stand_in(&mut self, program: &str, script: &str) -> PathBuf {
        let real = bots_bin_dir();
        let venv = real.parent().expect("programs are in a directory of an environment");
        let own = self.home.path().join("stand-in");
        let bin = own.join("bin");
        if !bin.exists() {
            fs::create_dir_all(&bin).expect("made");
            for name in ["lib", "lib64", "pyvenv.cfg"] {
                symlink(venv.join(name), own.join(name)).expect("linked");
            }
            for entry in fs::read_dir(real).expect("readable").flatten() {
                symlink(entry.path(), bin.join(entry.file_name())).expect("linked");
            }
        }
        let place = bin.join(program);
        fs::remove_file(&place).expect("Bots has this program");
        fs::write(&place, script).expect("written");
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).expect("changed");
        self.set("BOTS_BIN_DIR", bin.display().to_string());
        place
    }

    /// Sets a key of bots.ini.
    pub fn set_ini(&self, section: &str, key: &str, value: &str) {
        let path = self.root().join("config/bots.ini");
        let text = fs::read_to_string(&path).expect("there is a bots.ini");
        let text = bots_ctl::pycompat::configparser::set_value(&text, section, key, value).expect("it can be set");
        fs::write(path, text).expect("written");
    }

    /// The environment's directory.
    pub fn root(&self) -> PathBuf {
        self.home.path().join(".bots/env/default")
    }

    /// A command line in a clean environment.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).env_clear().current_dir(self.home.path()).stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.home.path());
        command.env("PORT", self.web_port.to_string());
        command.env("BOTS_CTL_HEALTH_ADDR", format!("127.0.0.1:{}", self.health_port));
        command.env("LOG_FORMAT", "text");
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Finished {
        let mut running = self.start(args);
        let status = running.wait();
        Finished { status, stdout: running.stdout(), stderr: running.stderr() }
    }

    /// Starts a command.
    pub fn start(&self, args: &[&str]) -> Running {
        Running::start(self.command(args), self.home.path(), self.health_port)
    }

    /// Starts the web UI and waits until it is ready.
    pub fn webserver(&self) -> Running {
        let running = self.start(&["webserver"]);
        running.wait_ready();
        running
    }

    /// One run of Bots's engine, without the lease.
    pub fn engine(&self, args: &[&str]) -> Finished {
        self.set_engine_port();
        let config = format!("-c{}", self.root().join("config").display());
        let command: Vec<&str> =
            ["exec", "--", "bots-engine", &config].into_iter().chain(args.iter().copied()).collect();
        self.run(&command)
    }

    /// The password of the web user `admin`.
    pub fn admin_password(&self) -> String {
        let file = self.root().join("admin-password");
        fs::read_to_string(file).expect("the password file is there").trim().to_owned()
    }
}

impl Tree {
    fn read(dir: &Path) -> Self {
        let entries = WalkDir::new(dir).into_iter().map(|entry| entry.expect("readable"));
        let describe = |entry: walkdir::DirEntry| {
            let (path, kind) = (entry.path(), entry.file_type());
            let content = match () {
                () if kind.is_dir() => Entry::Directory,
                () if kind.is_symlink() => Entry::Link(fs::read_link(path).expect("it is a link")),
                () => Entry::File(fs::read(path).expect("readable")),
            };
            let mode = entry.metadata().expect("readable").permissions().mode();
            (path.strip_prefix(dir).expect("below").to_path_buf(), mode, content)
        };
        Self(entries.map(describe).collect())
    }

    fn write(&self, dir: &Path) {
        for (path, mode, entry) in &self.0 {
            let path = dir.join(path);
            match entry {
                Entry::Directory => fs::create_dir(&path),
                Entry::File(content) => fs::write(&path, content),
                Entry::Link(target) => symlink(target, &path),
            }
            .expect("made");
            if !matches!(entry, Entry::Link(_)) {
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).expect("changed");
            }
        }
    }
}

impl Finished {
    pub fn code(&self) -> i32 {
        code(self.status)
    }

    /// Checks the exit code and shows everything when it is another.
    pub fn expect_code(&self, code: i32) -> &Self {
        assert_eq!(self.code(), code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

impl Running {
    /// Starts a command with its output in files below `dir`, as leader of a separate group.
    pub fn start(mut command: Command, dir: &Path, health_port: u16) -> Self {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (stdout, stderr) = (dir.join(format!("out-{number}.log")), dir.join(format!("err-{number}.log")));
        command.stdout(File::create(&stdout).expect("a log file")).stderr(File::create(&stderr).expect("a log file"));
        let child = command.process_group(0).spawn().expect("the command starts");
        Self { child, stdout, stderr, health_port }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the process is there");
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout_bytes()).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr_bytes()).into_owned()
    }

    pub fn stdout_bytes(&self) -> Vec<u8> {
        fs::read(&self.stdout).unwrap_or_default()
    }

    pub fn stderr_bytes(&self) -> Vec<u8> {
        fs::read(&self.stderr).unwrap_or_default()
    }

    /// Its output, for a failure report.
    pub fn report(&self) -> String {
        format!("stdout:\n{}\nstderr:\n{}", self.stdout(), self.stderr())
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE * 2;
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "gave up waiting for the end\n{}", self.report());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its exit code; 128 + n for signal n.
    pub fn wait_code(&mut self) -> i32 {
        code(self.wait())
    }

    /// The same, if it has ended.
    pub fn try_code(&mut self) -> Option<i32> {
        self.child.try_wait().expect("it can be waited for").map(code)
    }

    /// One question to its health listener; `None` while it does not listen.
    pub fn health(&self, path: &str) -> Option<Answer> {
        http(self.health_port, "GET", path)
    }

    /// Waits until a health question has this status.
    pub fn wait_health(&self, path: &str, status: u16) -> Answer {
        let asked = || self.health(path).filter(|answer| answer.status == status);
        wait_until(&format!("{path} answers {status}"), asked, || {
            format!("last answer: {:?}\n{}", self.health(path), self.report())
        })
    }

    pub fn wait_ready(&self) {
        self.wait_health("/health/ready", 200);
    }

    /// Waits until its standard error holds this text.
    pub fn wait_stderr(&self, text: &str) {
        wait_until(&format!("{text:?} is logged"), || self.stderr().contains(text).then_some(()), || self.report());
    }

    /// Repeats a stop signal until its standard error holds this text: within two seconds of the first signal it is the same request.
    pub fn insist(&self, signal: Signal, text: &str) {
        let insisted = || {
            self.signal(signal);
            self.stderr().contains(text).then_some(())
        };
        wait_until(&format!("{text:?} is logged after another signal"), insisted, || self.report());
    }

    /// The processes below it, with their command lines.
    pub fn descendants(&self) -> Vec<(Pid, String)> {
        descendants(self.pid())
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

impl Drop for Running {
    fn drop(&mut self) {
        let below = self.descendants();
        let _ = killpg(self.pid(), Signal::SIGKILL);
        for (pid, _) in below {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// All processes below `root`.
pub fn descendants(root: Pid) -> Vec<(Pid, String)> {
    let mut found = Vec::new();
    for (pid, parent, command) in processes() {
        if parent == root {
            found.push((pid, command));
            found.extend(descendants(pid));
        }
    }
    found
}

/// All processes that have `text` in their command line.
pub fn processes_with(text: &str) -> Vec<(Pid, String)> {
    let all = processes().into_iter().filter(|(_, _, command)| command.contains(text));
    all.map(|(pid, _, command)| (pid, command)).collect()
}

/// Whether this is an engine of Bots, in a separate Python or forked from one, and not the bots-ctl that starts it.
pub fn is_real_engine(pid: Pid, command: &str) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.starts_with("bots-engine") && command.contains("python")
}

/// Waits until no process has this in its command line: the kernel kills children after their parent's exit.
pub fn wait_gone(text: &str) {
    let gone = || processes_with(text).is_empty().then_some(());
    wait_until("all processes are gone", gone, || format!("{:?}", processes_with(text)));
}

/// All processes with their parents and command lines.
pub fn processes() -> Vec<(Pid, Pid, String)> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let describe = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        Some((Pid::from_raw(pid), Pid::from_raw(parent), command))
    };
    pids.filter_map(describe).collect()
}

/// One HTTP request to loopback; `None` without a response.
pub fn http(port: u16, method: &str, path: &str) -> Option<Answer> {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let text = raw_http(port, request.as_bytes())?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// Sends bytes and reads until the other side closes.
pub fn raw_http(port: u16, request: &[u8]) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    stream.write_all(request).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}
