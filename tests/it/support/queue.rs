//! Job queues, their clients, and a second container.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::support::needs::unshared;
use crate::support::process::text;
use crate::support::sandbox::{Finished, Running, Sandbox, free_port, python, raw_http, wait_until};
use crate::support::servers::Database;

/// A task that bots.ini authorises: notes its argument; waits for a file when the argument is `wait`.
pub const TASK: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$1" >> "$here/started"
if [ "$1" = wait ]; then while [ ! -e "$here/go" ]; do sleep 0.02; done; fi
echo "$1" >> "$here/ran"
echo "this is $1"
exit ${2:-0}
"#;

/// A queue with an additional allowed task.
pub struct Queue {
    pub sandbox: Sandbox,
    pub port: u16,
    pub task: PathBuf,
    /// Kept while the queue is there.
    pub database: Option<Database>,
}

impl Queue {
    pub fn new() -> Self {
        let (sandbox, port) = with_queue();
        Self::of(sandbox, port, None)
    }

    pub fn on(database: Database) -> Self {
        let sandbox = database.sandbox();
        sandbox.run(&["init-db"]).expect_code(0);
        let port = free_port();
        sandbox.set_ini("jobqueue", "enabled", "True");
        sandbox.set_ini("jobqueue", "port", &port.to_string());
        Self::of(sandbox, port, Some(database))
    }

    pub fn of(sandbox: Sandbox, port: u16, database: Option<Database>) -> Self {
        let task = sandbox.home.path().join("task");
        fs::write(&task, TASK).expect("written");
        fs::set_permissions(&task, fs::Permissions::from_mode(0o755)).expect("changed");
        sandbox.set_ini("jobqueue", "authorized_tasks", &task.display().to_string());
        Self { sandbox, port, task, database }
    }

    /// Starts the queue and waits until it takes jobs.
    pub fn start(&self) -> Running {
        let running = self.sandbox.start(&["jobqueue"]);
        running.wait_ready();
        running
    }

    /// Another one on the same database, with another port.
    pub fn start_second(&self) -> (Running, u16) {
        self.start_second_with(&[])
    }

    pub fn start_second_with(&self, variables: &[(&str, String)]) -> (Running, u16) {
        let (config, port, health_port) = (self.sandbox.root().join("config"), free_port(), free_port());
        let second = self.sandbox.home.path().join("second/config");
        fs::create_dir_all(&second).expect("made");
        for entry in fs::read_dir(config).expect("readable").flatten().filter(|entry| entry.path().is_file()) {
            fs::copy(entry.path(), second.join(entry.file_name())).expect("copied");
        }
        let ini = fs::read_to_string(second.join("bots.ini")).expect("readable");
        let ini =
            bots_ctl::pycompat::configparser::set_value(&ini, "jobqueue", "port", &port.to_string()).expect("set");
        fs::write(second.join("bots.ini"), ini).expect("written");
        let mut command = self.sandbox.command(&["jobqueue"]);
        command.env("BOTS_CTL_HEALTH_ADDR", format!("127.0.0.1:{health_port}")).env("BOTS_CONFIG_DIR", second);
        command.envs(variables.iter().cloned());
        (Running::start(command, self.sandbox.home.path(), health_port), port)
    }

    /// The words of the task as Python writes them.
    pub fn task(&self, argument: &str) -> String {
        format!("['{}', '{argument}']", self.task.display())
    }

    /// The result of Python's own client for an expression about `q`.
    pub fn ask(&self, expression: &str) -> String {
        ask(self.port, expression)
    }

    pub fn lines(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.task.with_file_name(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub fn wait_lines(&self, file: &str, count: usize, running: &Running) -> Vec<String> {
        let enough = || Some(self.lines(file)).filter(|lines| lines.len() >= count);
        wait_until(&format!("{count} lines are in {file}"), enough, || running.report())
    }

    pub fn go(&self) {
        fs::write(self.task.with_file_name("go"), "").expect("written");
    }

    pub fn job(&self, args: &[&str]) -> Finished {
        let args: Vec<&str> = std::iter::once("job").chain(args.iter().copied()).collect();
        self.sandbox.run(&args)
    }
}

/// The result of Python's own client for an expression about `q`.
pub fn ask(port: u16, expression: &str) -> String {
    let script = format!(
        "import xmlrpc.client\nq = xmlrpc.client.ServerProxy('http://localhost:{port}')\nprint(({expression}))"
    );
    let asked = Command::new(python()).args(["-c", &script]).output().expect("Python runs");
    let errors = String::from_utf8_lossy(&asked.stderr).into_owned();
    let last = errors.lines().last().unwrap_or_default().to_owned();
    String::from_utf8_lossy(&asked.stdout).trim().to_owned() + &last
}

/// One call as any client makes it; `None` without a response.
pub fn add(port: u16, words: &[&str], priority: i32) -> Option<String> {
    add_with("", port, words, priority)
}

/// The same with a token.
pub fn add_with(token: &str, port: u16, words: &[&str], priority: i32) -> Option<String> {
    let words: String = words.iter().map(|word| format!("<value><string>{word}</string></value>")).collect();
    let call = format!(
        "<?xml version='1.0'?><methodCall><methodName>addjob</methodName><params><param><value><array><data>{words}\
         </data></array></value></param><param><value><int>{priority}</int></value></param></params></methodCall>"
    );
    let length = call.len();
    let request = format!(
        "POST /RPC2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: text/xml\r\n\
         Authorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{call}"
    );
    let answer = raw_http(port, request.as_bytes())?;
    let (_, rest) = answer.split_once("<i4>")?;
    Some(rest.split_once("</i4>")?.0.to_owned())
}

/// An environment with an enabled job queue, on a separate port.
pub fn with_queue() -> (Sandbox, u16) {
    let sandbox = Sandbox::prepared();
    let port = free_port();
    sandbox.set_ini("jobqueue", "enabled", "True");
    sandbox.set_ini("jobqueue", "port", &port.to_string());
    (sandbox, port)
}

/// Any other address of this machine, of which 127.0.0.2 is one everywhere, leads to a listener on all addresses.
pub fn expect_bound_to_loopback_alone(port: u16) {
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
    assert!(TcpStream::connect((Ipv4Addr::new(127, 0, 0, 2), port)).is_err(), "port {port} is open to others");
}

/// The response on `[::1]`.
pub fn ask_v6(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).expect("it listens");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it ends");
    answer
}

pub const TOKEN: &str = "a-token-that-nobody-knows";

/// A queue that other containers can reach, and an environment of one of those.
pub fn pods() -> (Queue, Sandbox, u16, u16) {
    let mut queue = Queue::new();
    let network_port = free_port();
    queue.sandbox.set("BOTS_CTL_JOBQUEUE_ADDR", format!("0.0.0.0:{network_port}"));
    queue.sandbox.set("BOTS_CTL_JOBQUEUE_TOKEN", TOKEN);
    let (mut other, relay_port) = with_queue();
    other.set_ini("jobqueue", "enabled", "False");
    other.set("BOTS_CTL_JOBQUEUE_URL", format!("http://127.0.0.1:{network_port}"));
    other.set("BOTS_CTL_JOBQUEUE_TOKEN", TOKEN);
    (queue, other, relay_port, network_port)
}

/// Starts the queue with the same path of the environment as in the other container: in pods all are the same.
pub fn start_beside(queue: &Queue, other: &Sandbox) -> Running {
    let script = r#"mount --bind "$1" "$2" && shift 2 && exec "$@""#;
    let (from, to) = (text(&queue.sandbox.root()), text(&other.root()));
    let jobqueue = queue.sandbox.command(&["jobqueue"]);
    let mut command = unshared(&jobqueue, &["--mount", "sh", "-c", script, "sh", &from, &to]);
    command.env("HOME", other.home.path());
    let running = Running::start(command, queue.sandbox.home.path(), queue.sandbox.health_port);
    running.wait_ready();
    running
}
