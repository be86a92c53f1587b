//! Pods: separate network namespaces that share a database, and a volume with the environment of Bots.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::Pid;

use crate::support::demo_translation::Demo;
use crate::support::needs::without_network;
use crate::support::sandbox::{Finished, Running, bots_bin_dir, is_real_engine, wait_until};
use crate::support::servers::{Database, Engine};

const MESSAGE: &str = include_str!("../../fixtures/demo/input/single.edi");
const OUTPUT: &[u8] = include_bytes!("../../fixtures/demo/expected/PO-1001.txt");

/// The one order of [`MESSAGE`], and the one interchange.
const ORDER: &str = "PO-1001";
const INTERCHANGE: &str = "IC0001";

/// What makes a mapping one that can be held.
const HOLDING: &str = r"

def main(inn, out, unheld=main):
    import os
    import time
    try:
        with open('PLACE') as file:
            wanted = file.read()
    except OSError:
        wanted = ''
    if wanted and wanted == inn.get({'BOTSID': 'UNH'}, {'BOTSID': 'BGM', '1004': None}):
        os.rename('PLACE', 'PLACE.held')
        while os.path.exists('PLACE.held'):
            time.sleep(0.01)
    unheld(inn, out)
";

/// A system whose pods share a database, and a volume with a home directory.
pub struct System {
    pub demo: Demo,
    pub database: Database,
}

/// What became of orders that did not go out exactly once, byte for byte.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Amiss {
    pub lost: Vec<String>,
    pub doubled: Vec<String>,
    pub damaged: Vec<String>,
}

impl System {
    pub fn new(engine: Engine) -> Self {
        Self::on(Database::fresh(engine))
    }

    pub fn on(database: Database) -> Self {
        let socket = database.server.as_ref().map(|server| server.socket());
        Self::through(database, socket.as_deref())
    }

    /// A server's port is on the loopback of another pod, so it is reached through a socket.
    pub fn through(database: Database, socket: Option<&str>) -> Self {
        let mut sandbox = database.sandbox();
        match (socket, database.engine) {
            // Bots's engine takes the socket of MariaDB from here alone.
            (Some(socket), Engine::Mariadb) => {
                sandbox.set("DB_HOST", "localhost").set("DB_OPTIONS", unix_socket(socket))
            }
            (Some(socket), _) => sandbox.set("DB_HOST", socket),
            (None, _) => &mut sandbox,
        };
        Self { demo: Demo::install(sandbox), database }
    }

    /// Drops a number of messages into the in-channel, with one order each.
    pub fn fill(&self, messages: usize) {
        for number in 0..messages {
            fs::write(self.demo.input().join(format!("{number}.edi")), message(number)).expect("written");
        }
    }

    /// The command line in a separate pod.
    pub fn command(inner: &Command) -> Command {
        without_network(inner)
    }

    pub fn start(&self, args: &[&str]) -> Running {
        let command = Self::command(&self.demo.sandbox.command(args));
        Running::start(command, self.demo.sandbox.home.path(), 0)
    }

    pub fn run(&self, args: &[&str]) -> Finished {
        let mut running = self.start(args);
        let status = running.wait();
        Finished { status, stdout: running.stdout(), stderr: running.stderr() }
    }

    /// The same over another socket of the server.
    pub fn run_through(&self, socket: &str, args: &[&str]) -> Finished {
        let mut command = self.demo.sandbox.command(args);
        match self.database.engine {
            Engine::Mariadb => command.env("DB_OPTIONS", unix_socket(socket)),
            _ => command.env("DB_HOST", socket),
        };
        let mut running = Running::start(Self::command(&command), self.demo.sandbox.home.path(), 0);
        let status = running.wait();
        Finished { status, stdout: running.stdout(), stderr: running.stderr() }
    }

    /// An engine that has taken files and works on them.
    pub fn start_busy(&self, messages: usize) -> Running {
        let engine = self.start(&["engine", "--new"]);
        self.wait_taken(messages, &engine);
        engine
    }

    /// Waits until some of the messages have left the in-channel.
    pub fn wait_taken(&self, messages: usize, engine: &Running) {
        let taken = || fs::read_dir(self.demo.input()).is_ok_and(|left| left.count() < messages).then_some(());
        wait_until("it has taken files", taken, || engine.report());
    }

    /// From now on the first engine to translate the order that is named in a file moves that file, and stops in the
    /// middle of its work for as long as the file is there.
    pub fn can_be_held(&self) {
        let script = self.demo.sandbox.root().join("usersys/mappings/edifact/orders_d96a_to_flat.py");
        let mapping = fs::read_to_string(&script).expect("the demo is installed");
        fs::write(script, mapping + &HOLDING.replace("PLACE", &self.hold_file())).expect("written");
    }

    /// An engine that is in the middle of this message; `args` start it.
    pub fn start_held(&self, message: usize, args: &[&str]) -> Running {
        self.hold(message, || self.start(args))
    }

    /// The same, however it is started.
    pub fn hold(&self, message: usize, start: impl FnOnce() -> Running) -> Running {
        fs::write(self.hold_file(), order(message)).expect("written");
        let engine = start();
        let held = || Path::new(&self.held_file()).exists().then_some(());
        wait_until("it is held", held, || engine.report());
        engine
    }

    /// From now on each engine stops at the beginning of a route, before it takes files, until it is released.
    pub fn hold_routes(&self) {
        let script = self.demo.sandbox.root().join("usersys/routescripts/demo_orders.py");
        let held = self.held_file();
        let start = format!(
            "import os\nimport time\n\n\ndef start(routedict):\n    while os.path.exists('{held}'):\n        time.sleep(0.01)\n"
        );
        fs::write(script, start).expect("the demo is installed");
        fs::write(held, "").expect("written");
    }

    /// A program in a separate pod, with the environment of this one and without bots-ctl.
    pub fn start_bare(&self, program: impl AsRef<Path>, args: &[&str]) -> Running {
        let with = self.demo.sandbox.command(&[]);
        let mut bare = Command::new(program.as_ref());
        bare.args(args).env_clear().envs(with.get_envs().filter_map(|(name, value)| Some((name, value?))));
        bare.current_dir(self.demo.sandbox.home.path()).stdin(Stdio::null());
        Running::start(Self::command(&bare), self.demo.sandbox.home.path(), 0)
    }

    /// Bots's own engine, as the shell entrypoint starts it.
    pub fn start_bare_engine(&self, args: &[&str]) -> Running {
        let config = format!("-c{}", self.demo.config_dir());
        self.start_bare(bots_bin_dir().join("bots-engine"), &[&[&*config], args].concat())
    }

    /// Makes each message take this number of seconds from now on.
    pub fn slow_down(&self, seconds: f64) {
        let script = self.demo.sandbox.root().join("usersys/mappings/edifact/orders_d96a_to_flat.py");
        let mapping = fs::read_to_string(&script).expect("the demo is installed");
        let slow = format!(
            "\n\ndef main(inn, out, quick=main):\n    import time\n    time.sleep({seconds})\n    quick(inn, out)\n"
        );
        fs::write(script, mapping + &slow).expect("written");
    }

    /// Lets it go on.
    pub fn release(&self) {
        fs::remove_file(self.held_file()).expect("it was held");
    }

    fn held_file(&self) -> String {
        self.hold_file() + ".held"
    }

    fn hold_file(&self) -> String {
        self.demo.sandbox.home.path().join("hold").display().to_string()
    }

    /// The orders that were not sent exactly once. Deletes the sent files.
    pub fn collect(&self, messages: usize) -> Amiss {
        let mut amiss = Amiss::default();
        for order in (0..messages).map(order) {
            let file = self.demo.output().join(format!("{order}.txt"));
            let expected = expected(&order);
            match fs::read(&file) {
                Err(_) => amiss.lost.push(order),
                Ok(sent) if sent == expected.as_bytes() => {}
                Ok(sent) if sent == expected.repeat(2).as_bytes() => amiss.doubled.push(order),
                Ok(_) => amiss.damaged.push(order),
            }
            let _ = fs::remove_file(file);
        }
        amiss
    }

    pub fn recoveries(&self) -> usize {
        let count = self.database.value("SELECT count(*) FROM report WHERE type = 'crashrecovery'");
        count.parse().expect("a number")
    }

    /// Ages the holder's last heartbeat by this time.
    pub fn age_lease(&self, seconds: u32) {
        self.database.sql(&format!("UPDATE botsctl_lease SET renewed = renewed - {seconds}000"));
    }

    /// An engine that works for as long as it is wanted, whatever it is asked to do. Two at once are noted.
    pub fn endless(&mut self) -> Running {
        self.stand_in_endless();
        let engine = self.start(&["engine"]);
        Self::wait_working(&engine);
        engine
    }

    /// Has an endless engine run instead of the real one.
    pub fn stand_in_endless(&mut self) {
        let file = self.overlaps_file();
        let script = format!(
            "#!/bin/sh\nexec 9>'{file}.lock'\nflock -n 9 || echo two at once >>'{file}'\necho working\nexec sleep 1000\n"
        );
        self.demo.sandbox.stand_in("bots-engine", &script);
    }

    pub fn wait_working(engine: &Running) {
        wait_until("it works", || engine.stdout().contains("working").then_some(()), || engine.report());
    }

    /// What endless engines have noted.
    pub fn overlaps(&self) -> String {
        fs::read_to_string(self.overlaps_file()).unwrap_or_default()
    }

    fn overlaps_file(&self) -> String {
        self.demo.sandbox.home.path().join("overlaps").display().to_string()
    }
}

/// The real engine, a Python process, under one of bots-ctl.
pub fn real_engine(of: &Running) -> Option<Pid> {
    of.descendants().into_iter().find(|(pid, command)| is_real_engine(*pid, command)).map(|(pid, _)| pid)
}

fn unix_socket(path: &str) -> String {
    format!("{{\"unix_socket\": \"{path}\"}}")
}

/// An interchange of one order.
pub fn message(number: usize) -> String {
    MESSAGE.replace(ORDER, &order(number)).replace(INTERCHANGE, &format!("IC{number:04}"))
}

/// The translation of an order.
pub fn expected(order: &str) -> String {
    String::from_utf8_lossy(OUTPUT).replace(ORDER, order)
}

/// The name of an order, and of the file that it goes out in.
pub fn order(number: usize) -> String {
    format!("PO-{number:04}")
}
