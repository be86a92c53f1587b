//! What is on the disk before something else relies on it, as the kernel is asked for it.

use std::fs;

use crate::support::needs::{Need, needs};
use crate::support::process::wrapped;
use crate::support::sandbox::{Running, Sandbox};

/// What a command and everything below it asks the kernel for, of these kinds, in order.
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
fn a_kept_secret_is_on_the_disk_before_anybody_needs_it() {
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
