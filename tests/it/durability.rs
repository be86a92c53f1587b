//! Files are synced to disk before another step relies on them, according to system calls.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};

use crate::support::needs::{Need, needs};
use crate::support::process::wrapped;
use crate::support::queue::{Queue, add};
use crate::support::sandbox::{Running, Sandbox};
use crate::support::servers::sqlite;

/// Syncs of a transaction of SQLite: of the pages in the journal, its directory, its header, the database, and the end of the
/// journal.
const SYNCS: usize = 5;

/// The system calls of these kinds of a command and all its descendants, in order.
fn calls(sandbox: &Sandbox, args: &[&str], kinds: &str) -> Vec<String> {
    needs(Need::Strace);
    let trace = sandbox.home.path().join("trace");
    let (file, kinds) = (trace.display().to_string(), format!("trace={kinds}"));
    let flags = ["-f", "--seccomp-bpf", "-y", "-s", "400", "-e", &kinds, "-o", &file];
    let command = wrapped(&sandbox.command(args), "strace", &flags);
    let mut running = Running::start(command, sandbox.home.path(), sandbox.health_port);
    assert_eq!(running.wait_code(), 0, "{}", running.report());
    fs::read_to_string(trace).expect("strace has written it").lines().map(str::to_owned).collect()
}

#[apply(test)]
fn generated_secret_is_synced_before_first_use() {
    let sandbox = Sandbox::new();
    let calls = calls(&sandbox, &["init-db"], "linkat,fsync,write,sendto");
    let place = |what: &str, from: usize, is: &dyn Fn(&str) -> bool| {
        let found = calls[from..].iter().position(|call| is(call));
        from + found.unwrap_or_else(|| panic!("no {what} after call {from}:\n{}", calls.join("\n")))
    };
    let root = fs::canonicalize(sandbox.root()).expect("there");
    let synced = format!("<{}>", root.display());
    for name in ["secret-key", "admin-password"] {
        let named = format!("/{name}\"");
        let linked = place(name, 0, &|call| call.contains("linkat(") && call.contains(&named));
        let flushed = place("flush", linked, &|call| call.contains("fsync(") && call.contains(&synced));
        let asked = place("request", linked, &|call| call.contains("\\\"username\\\""));
        assert!(flushed < asked, "{name}: {}", calls[linked..=asked].join("\n"));
    }
}

#[apply(test)]
fn rows_of_a_plugin_are_synced_before_its_files_are_moved() {
    let sandbox = Sandbox::prepared();
    let calls = calls(&sandbox, &["demo"], "fsync,fdatasync,unlink,rename,renameat,renameat2");
    let is_move = |call: &String| call.contains("rename") && call.contains("/usersys/mappings/");
    let moved = calls.iter().position(is_move).unwrap_or_else(|| panic!("no move in\n{}", calls.join("\n")));
    let is_end = |call: &String| call.contains("unlink(") && call.contains("/botsdb-journal\"");
    let ended = calls[..moved].iter().rposition(is_end).expect("a transaction was committed");
    let is_sync = |call: &String| call.contains("sync(") && call.contains("/sqlitedb>");
    assert!(calls[ended..moved].iter().any(is_sync), "{}", calls[ended..=moved].join("\n"));
}

/// Kills a process, with all its threads, when it is about to sync a file for this time.
fn kill_at_sync(running: &Running, time: usize) -> Child {
    let (pid, kill) = (running.pid().to_string(), format!("inject=fsync,fdatasync:signal=SIGKILL:when={time}"));
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-p", &pid, "-e", "trace=fsync,fdatasync", "-e", &kill]);
    let mut strace = strace.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("strace starts");
    let mut message = [0; 1024];
    let length = strace.stderr.as_mut().expect("it is a pipe").read(&mut message).expect("readable");
    let message = String::from_utf8_lossy(&message[..length]);
    assert!(message.contains(" attached"), "{message}");
    strace
}

#[apply(test)]
fn a_kill_before_any_sync_of_a_job_loses_no_job_and_runs_none_twice() {
    needs(Need::Strace);
    needs(Need::Root);
    let queue = Queue::new();
    let task = queue.task.display().to_string();
    let database = queue.sandbox.root().join("botssys/sqlitedb/botsdb").display().to_string();
    let mut running = queue.start();
    add(queue.port, &[&task, "wait"], 5);
    for time in 1..=SYNCS + 1 {
        queue.wait_lines("started", time, &running);
        let name = format!("job {time}");
        let mut strace = kill_at_sync(&running, time);
        let code = add(queue.port, &[&task, &name], 5);
        if time <= SYNCS {
            assert_eq!(code, None, "the job was acknowledged before sync {time}");
            running.wait();
            // The limit on the attempts of a job is not the subject.
            sqlite(&database, "UPDATE botsctl_job SET attempts = 1");
            running = queue.start();
            // The end of the journal is written before its sync, and a kill is no power cut.
            let expected = if time == SYNCS { "4" } else { "0" };
            assert_eq!(add(queue.port, &[&task, &name], 5).as_deref(), Some(expected), "after a kill at sync {time}");
        } else {
            assert_eq!(code.as_deref(), Some("0"));
            strace.kill().expect("it can be killed");
        }
        strace.wait().expect("it ends");
    }
    queue.go();
    let ran = queue.wait_lines("ran", SYNCS + 2, &running);
    assert_eq!(ran, ["wait", "job 1", "job 2", "job 3", "job 4", "job 5", "job 6"]);
    assert_eq!(queue.ask("q.listjobs()"), "0");
}
