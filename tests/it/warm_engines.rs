//! Engines that are forked from a process which has imported their modules: the same runs as without it, only faster.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::support::demo_translation::Demo;
use crate::support::process::{json, write_program};
use crate::support::sandbox::{
    Finished, Running, Sandbox, descendants, free_port, rounds, some_or_all, wait_gone, wait_until,
};
use crate::support::servers::{Database, Engine, on_each_database};

on_each_database! {
    forked_run_equals_started_run,
}

/// The host's name in its command line, and so in that of each process that it has forked.
const HOST: &str = "engine_host.py";

/// Bots imports this script of a user at the start of each run.
const USER_SCRIPT: &str = "usersys/routescripts/botsengine.py";

/// Records the state in which a program starts.
const SNAPSHOT: &str = r#"
import json, os, resource, sys, threading

status = dict(line.split(":", 1) for line in open("/proc/self/status"))
limits = [name for name in dir(resource) if name.startswith("RLIMIT_")]
ignored = ("_", "SHLVL", "PWD", "OLDPWD", "BOTS_CTL_ENGINE_WARM", "BOTS_CTL_HEALTH_ADDR", "PORT")
found = {
    "argv": sys.argv,
    "environment": {name: value for name, value in os.environ.items() if name not in ignored and not name.startswith("DB_")},
    "directory": os.getcwd(),
    "umask": status["Umask"],
    "signals": [status[name] for name in ("SigBlk", "SigIgn", "SigCgt")],
    "limits": {name: resource.getrlimit(getattr(resource, name)) for name in limits},
    "input": os.readlink("/proc/self/fd/0"),
    "output": [os.readlink("/proc/self/fd/%d" % number).split("[")[0] for number in (1, 2)],
    "leads its group": os.getpgid(0) == os.getpid(),
    "threads": threading.active_count(),
    "path": sys.path,
    "main": sys.modules["__main__"].__file__,
    "parent": open("/proc/%d/comm" % os.getppid()).read(),
}
with open(os.path.join(os.environ["HOME"], "found"), "a") as file:
    file.write(json.dumps(found, sort_keys=True) + "\n")
with open(os.path.join(os.environ["HOME"], "commands"), "a") as file:
    file.write(open("/proc/self/cmdline").read() + "\n")
"#;

/// A job queue, and the demo route.
struct Queue {
    demo: Demo,
    running: Running,
}

impl Queue {
    fn new(warm: &str) -> Self {
        Self::start(Sandbox::prepared(), warm)
    }

    fn start(mut sandbox: Sandbox, warm: &str) -> Self {
        sandbox.set("BOTS_CTL_ENGINE_WARM", warm);
        let demo = Demo::install(sandbox);
        demo.sandbox.set_ini("jobqueue", "enabled", "True");
        demo.sandbox.set_ini("jobqueue", "port", &free_port().to_string());
        let running = demo.sandbox.start(&["jobqueue"]);
        running.wait_ready();
        let queue = Self { demo, running };
        if warm == "on" {
            queue.wait_hosts(1);
        }
        queue
    }

    /// A run of the engine as a job, until its end.
    fn run(&self, args: &[&str]) -> Finished {
        self.demo.sandbox.run(&[&["job", "add", "--wait", "--", "bots-engine"], args].concat())
    }

    fn user_script(&self, text: &str) {
        write_program(&self.demo.sandbox.root().join(USER_SCRIPT), text, 0o644);
    }

    /// Waits until this number of hosts was started. Returns the last one.
    fn wait_hosts(&self, count: usize) -> Pid {
        let is_ready = || self.running.stderr().matches("the engine host is ready").count() == count;
        let host = || processes_below(self.running.pid(), "python").into_iter().next();
        wait_until("the engine host is ready", || host().filter(|_| is_ready()), || self.running.report())
    }

    /// Starts a run that stops at its beginning until it is released. Returns the process of Bots.
    fn start_held(&self) -> (Running, Pid) {
        self.user_script(&format!("import os, time\nwhile os.path.exists({:?}): time.sleep(0.01)\n", self.held()));
        fs::write(self.held(), "").expect("written");
        let job = self.demo.sandbox.start(&["job", "add", "--wait", "--", "bots-engine"]);
        let forked = || processes_below(self.running.pid(), "bots-engine").into_iter().next();
        (job, wait_until("the run has begun", forked, || self.running.report()))
    }

    fn release(&self) {
        fs::remove_file(self.held()).expect("it was there");
    }

    fn held(&self) -> PathBuf {
        self.demo.sandbox.home.path().join("held")
    }

    fn lines(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.demo.sandbox.home.path().join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// Processes that were forked from the host, or the host itself, by what `ps` calls them.
fn processes_below(root: Pid, name: &str) -> Vec<Pid> {
    let is_called =
        |pid: &Pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(name));
    let all = descendants(root).into_iter().filter(|(_, line)| line.contains(HOST)).map(|(pid, _)| pid);
    all.filter(is_called).collect()
}

/// Every option of the engine, user scripts, files with errors, and the database afterwards.
fn forked_run_equals_started_run(engine: Engine) {
    let results: Vec<Vec<String>> = ["off", "on"].into_iter().map(|warm| everything(engine, warm)).collect();
    let [started, forked] = results.as_slice() else { unreachable!("there are two") };
    for (started, forked) in started.iter().zip(forked) {
        assert_eq!(started, forked);
    }
    assert_eq!(started.len(), forked.len());
}

/// Runs all kinds of runs. Returns all that came of them, without times and numbers that differ from one to the next.
fn everything(engine: Engine, warm: &str) -> Vec<String> {
    let database = Database::fresh(engine);
    let queue = Queue::start(database.sandbox(), warm);
    queue.user_script(SNAPSHOT);
    let mut all = Vec::new();
    let mut note = |what: &str, finished: &Finished| all.push(format!("{what}: {}", finished.code()));
    queue.demo.drop_in("input");
    note("new", &queue.run(&["--new"]));
    queue.demo.drop_in("bad");
    note("error", &queue.run(&["--new", "demo_orders"]));
    database.sql("UPDATE filereport SET retransmit = 1 WHERE statust = 3");
    note("rereceive", &queue.run(&["--rereceive"]));
    note("resend", &queue.run(&["--resend"]));
    note("retry", &queue.run(&["--automaticretrycommunication"]));
    note("cleanup", &queue.run(&["--cleanup"]));
    note("unknown route", &queue.run(&["--new", "no-such-route"]));
    database.sql("INSERT INTO mutex (mutexk, mutexer) VALUES (1, 1)");
    note("recovery", &queue.run(&["--new"]));
    queue.user_script("import sys\nsys.exit(1)\n");
    note("code 1", &queue.run(&[]));
    let (runs, log) = (queue.lines("commands"), queue.running.report());
    let forked = runs.iter().filter(|line| line.contains(HOST)).count();
    // On a busy machine the host may not reply within a second.
    let was_busy = log.contains("is replaced: it does not reply");
    assert!(runs.len() > 5, "{log}");
    match warm {
        "on" => assert!(forked == runs.len() || was_busy && forked > 0, "{forked}: {log}"),
        _ => assert_eq!(forked, 0, "{log}"),
    }
    for table in ["ta", "filereport", "report"] {
        let rows = database.sql(&format!("SELECT * FROM {table} ORDER BY idta"));
        all.extend(rows.iter().map(|row| row.split('\t').map(without_time).collect::<Vec<_>>().join(" ")));
    }
    for job in 1..=9 {
        let shown = json(&queue.demo.sandbox.run(&["job", "show", &job.to_string(), "--json"]));
        // Two pipes, of which either may be read first. Lines of Bots 4 begin with a time.
        let lines = shown["output"].as_str().expect("the job has an output").lines();
        let mut lines: Vec<String> =
            lines.filter(|line| !line.contains("DATABASE_NAME")).map(without_numbers).collect();
        lines.sort_unstable();
        all.push(lines.join("\n"));
    }
    all.extend(queue.lines("found"));
    let home = queue.demo.sandbox.home.path().file_name().expect("a name").display().to_string();
    all.iter().map(|text| text.replace(&home, "HOME").replace(&without_numbers(&home), "HOME")).collect()
}

/// What a user script leaves for the end of its process, each with the exit code of the run.
const ENDS: [(&str, i32); 7] = [
    (
        "text, binary = open(path('text'), 'w'), open(path('binary'), 'wb')\ntext.write('written')\nbinary.write(b'written')",
        0,
    ),
    ("import gzip\nzipped = gzip.GzipFile(path('zipped'), 'wb', mtime=0)\nzipped.write(b'written')", 0),
    ("import tempfile\ntemporary = tempfile.NamedTemporaryFile(dir=path(''))\ntemporary.write(b'written')", 0),
    (
        "freed = os.open(path('freed'), os.O_CREAT | os.O_WRONLY)\nclass Last:\n    def __del__(self, write=os.write, file=freed): write(file, b'written')\nlast = Last()",
        0,
    ),
    ("import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), note('thread'))).start()", 0),
    (
        "import atexit\natexit.register(note, 'first')\natexit.register(note, 'second')\nopen(path('kept'), 'w').write('x')",
        0,
    ),
    ("import atexit, sys\natexit.register(note, 'called')\nsys.exit('the last words')", 1),
];

/// Of files, threads, finalizers and registered functions.
#[apply(test)]
fn forked_run_ends_like_started_run() {
    let ends = |warm: &str| {
        let queue = Queue::new(warm);
        let directory = queue.demo.sandbox.home.path().join("ends");
        fs::create_dir(&directory).expect("made");
        let begin = format!("import os\npath = lambda name: os.path.join({directory:?}, name)\n");
        let note = "def note(what):\n    with open(path('notes'), 'a') as notes: notes.write(what + ' ')\n";
        for (script, code) in ENDS {
            queue.user_script(&format!("{begin}{note}{script}\n"));
            assert_eq!(queue.run(&[]).code(), code, "{script}: {}", queue.running.report());
        }
        assert_eq!(queue.running.report().matches("the last words").count(), 1);
        let entries = fs::read_dir(directory).expect("readable").flatten();
        let mut files: Vec<_> =
            entries.map(|entry| (entry.file_name(), fs::read(entry.path()).expect("read"))).collect();
        files.sort();
        files
    };
    let started = ends("off");
    let names: Vec<_> = started.iter().map(|(name, _)| name.to_str().expect("text")).collect();
    assert_eq!(names, ["binary", "freed", "kept", "notes", "text", "zipped"]);
    assert_eq!(started[3].1, b"thread second first called ");
    assert_eq!(started, ends("on"));
}

/// Freeing them would copy the memory that the run shares with the host.
#[apply(test)]
fn a_forked_run_exits_without_freeing_objects() {
    let queue = Queue::new("on");
    // Python calls it when the value is freed.
    queue
        .user_script("import sys, weakref\nclass Value: pass\nvalue = Value()\nsys.kept = weakref.ref(value, print)\n");
    queue.run(&[]).expect_code(0);
    assert!(!queue.running.report().contains("<weakref"), "{}", queue.running.report());
    let started = queue.demo.sandbox.run(&["engine"]);
    started.expect_code(0);
    assert!(started.stdout.contains("<weakref"), "Python frees objects at the end of a process: {started:?}");
}

/// A value of a row, unless it is a date with a time.
fn without_time(value: &str) -> &str {
    let is_time = value.len() > 15 && value.starts_with("20") && value.as_bytes()[4] == b'-' && value.contains(':');
    if is_time { "TIME" } else { value }
}

/// Each number becomes one character, with its fraction, which a whole number of seconds lacks: times, durations, process IDs.
fn without_numbers(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let is_in_number = result.ends_with('0');
        let is_fraction = c == '.' && is_in_number && rest.peek().is_some_and(char::is_ascii_digit);
        match c.is_ascii_digit() {
            true if !is_in_number => result.push('0'),
            false if !is_fraction => result.push(c),
            _ => {}
        }
    }
    result
}

/// Each forked run would share these with the host.
#[apply(test)]
fn engine_host_has_no_state_that_runs_could_share() {
    let queue = Queue::new("on");
    for _ in 0..3 {
        queue.run(&[]).expect_code(0);
    }
    let host = queue.wait_hosts(1);
    let of = |entry: &str| format!("/proc/{host}/{entry}");
    for descriptor in fs::read_dir(of("fd")).expect("readable").flatten() {
        let target = fs::read_link(descriptor.path()).expect("a link").display().to_string();
        assert!(target.starts_with("pipe:"), "{target}");
    }
    assert_eq!(fs::read_dir(of("task")).expect("readable").count(), 1);
    let status = fs::read_to_string(of("status")).expect("readable");
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a line").trim();
    // Python's own for SIGINT.
    assert_eq!(u64::from_str_radix(caught, 16), Ok(1 << (Signal::SIGINT as i32 - 1)));
    let children = || fs::read_to_string(of(&format!("task/{host}/children"))).expect("readable");
    wait_until("no child is left", || children().is_empty().then_some(()), children);
}

#[apply(test)]
fn next_run_uses_edited_mapping() {
    let queue = Queue::new("on");
    queue.demo.drop_in("input");
    queue.run(&[]).expect_code(0);
    let mapping = queue.demo.sandbox.root().join("usersys/mappings/edifact/orders_d96a_to_flat.py");
    let text = fs::read_to_string(&mapping).expect("the mapping is there");
    fs::write(&mapping, format!("raise Exception('the edited mapping')\n{text}")).expect("written");
    queue.demo.drop_in("input");
    queue.run(&[]).expect_code(2);
    let errors = queue.demo.sandbox.run(&["files", "--errors", "--json"]).stdout;
    assert!(errors.contains("the edited mapping"), "{errors}");
    fs::write(&mapping, text).expect("written");
    queue.demo.drop_in("input");
    queue.run(&[]).expect_code(0);
    assert_eq!(queue.wait_hosts(1), queue.wait_hosts(1), "all of them were forked from one host");
}

/// The run is that of the process forked in advance, or starts without a host if that is gone too.
#[apply(test)]
fn unusable_engine_host_is_replaced_without_delaying_runs() {
    let queue = Queue::new("on");
    queue.user_script(SNAPSHOT);
    let mut hosts = 1;
    for signal in [Signal::SIGKILL, Signal::SIGSTOP, Signal::SIGTERM] {
        for whole_group in [false, true] {
            let host = queue.wait_hosts(hosts);
            if whole_group { killpg(host, signal) } else { kill(host, signal) }.expect("sent");
            queue.run(&[]).expect_code(0);
            let was_forked = queue.lines("commands").last().is_some_and(|line| line.contains(HOST));
            assert_eq!(was_forked, !whole_group, "{signal}");
            hosts += 1;
            if signal == Signal::SIGSTOP && !whole_group {
                // The first one has not waited for it.
                queue.run(&[]).expect_code(0);
            }
            assert_ne!(queue.wait_hosts(hosts), host);
            assert_eq!(queue.running.stderr().matches("the engine host is replaced").count(), hosts - 1);
        }
    }
}

#[apply(test)]
fn next_run_uses_updated_library() {
    let queue = update_library("", "was_there");
    queue.running.wait_stderr("a_library.py has changed");
}

/// The host cannot import such a module, but has its code.
#[apply(test)]
fn next_run_uses_updated_library_that_needs_settings() {
    let queue = update_library("from django.conf import settings\nsettings.DEBUG\n", "read() is read()");
    queue.wait_hosts(1);
}

/// As when Bots or a library is updated while the queue runs. The library begins with this text; the expression in Python tells
/// whether the host had it.
fn update_library(begin: &str, was_known: &str) -> Queue {
    let mut sandbox = Sandbox::prepared();
    let modules = sandbox.home.path().join("modules");
    fs::create_dir_all(modules.join("a_package")).expect("made");
    fs::write(modules.join("a_package/__init__.py"), "").expect("written");
    let library = |version: u32| {
        let text = format!("{begin}VERSION = 'version {version}'");
        fs::write(modules.join("a_package/a_library.py"), text).expect("written");
    };
    library(1);
    sandbox.set("PYTHONPATH", modules.display().to_string());
    let queue = Queue::start(sandbox, "on");
    let versions = queue.demo.sandbox.home.path().join("versions");
    queue.user_script(&format!(
        "import sys\n\
         was_there = 'a_package.a_library' in sys.modules\n\
         from a_package import a_library\n\
         read = lambda: a_library.__loader__.get_code(a_library.__name__)\n\
         open({versions:?}, 'a').write('%s %s\\n' % ({was_known}, a_library.VERSION))\n"
    ));
    let is_known = || {
        queue.run(&[]).expect_code(0);
        queue.lines("versions").last().filter(|line| *line == "True version 1").cloned()
    };
    wait_until("the host knows the library", is_known, || queue.running.report());
    library(22);
    queue.run(&[]).expect_code(0);
    assert_eq!(queue.lines("versions").last().map(String::as_str), Some("False version 22"));
    queue
}

#[apply(test)]
fn forked_run_survives_its_host_but_not_its_queue() {
    let mut queue = Queue::new("on");
    let (mut job, _) = queue.start_held();
    kill(queue.wait_hosts(1), Signal::SIGKILL).expect("sent");
    queue.release();
    assert_eq!(job.wait_code(), 0, "{}", queue.running.report());
    queue.wait_hosts(2);
    let (mut job, _) = queue.start_held();
    queue.running.signal(Signal::SIGKILL);
    queue.running.wait();
    job.signal(Signal::SIGKILL);
    job.wait();
    wait_gone(&queue.demo.sandbox.home.path().display().to_string());
}

#[apply(test)]
fn a_stop_lets_a_forked_run_finish() {
    let mut queue = Queue::new("on");
    let (mut job, _) = queue.start_held();
    queue.running.signal(Signal::SIGTERM);
    queue.running.wait_stderr(" s for job 1 to finish");
    queue.release();
    assert_eq!(queue.running.wait_code(), 0, "{}", queue.running.report());
    assert!(queue.running.stderr().contains("job 1 finished"), "{}", queue.running.report());
    job.signal(Signal::SIGKILL);
    job.wait();
}

#[apply(test)]
fn runs_use_no_engine_host_if_disabled() {
    let queue = Queue::new("off");
    for _ in 0..2 {
        queue.run(&[]).expect_code(0);
    }
    assert!(!queue.running.stderr().contains("engine host"), "{}", queue.running.report());
}

#[apply(test)]
fn first_run_starts_engine_host_by_default() {
    let queue = Queue::new("auto");
    assert!(processes_below(queue.running.pid(), "python").is_empty());
    queue.user_script(SNAPSHOT);
    queue.run(&[]).expect_code(0);
    queue.wait_hosts(1);
    queue.run(&[]).expect_code(0);
    let forked: Vec<bool> = queue.lines("commands").iter().map(|line| line.contains(HOST)).collect();
    assert_eq!(forked, [false, true]);
}

/// The host's memory, its descriptors and its children.
#[apply(test)]
fn engine_host_leaks_nothing_over_many_runs() {
    let queue = Queue::new("on");
    let runs = some_or_all(30, rounds(200));
    // Pages that the host shares with a run which ends count too.
    let memory = |host: Pid| {
        let rollup = fs::read_to_string(format!("/proc/{host}/smaps_rollup")).expect("readable");
        let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("a line");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number")
    };
    let descriptors = |host: Pid| fs::read_dir(format!("/proc/{host}/fd")).expect("readable").count();
    // The first runs report modules, which the host imports while there is no request.
    let (mut before, mut unchanged) = (0, 0);
    let host = wait_until(
        "the memory of the host is the same after five runs",
        || {
            queue.run(&[]).expect_code(0);
            let host = queue.wait_hosts(1);
            unchanged = if memory(host) == before { unchanged + 1 } else { 0 };
            before = memory(host);
            (unchanged == 5).then_some(host)
        },
        || queue.running.report(),
    );
    let open = descriptors(host);
    for _ in 0..runs {
        queue.run(&[]).expect_code(0);
    }
    assert_eq!((queue.wait_hosts(1), descriptors(host)), (host, open));
    assert!(memory(host) < before + 2048, "{before} kB, then {} kB", memory(host));
}
