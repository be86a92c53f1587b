//! Files that arrive on a route: slowly or whole, on a disk or on a share.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::fuse::Fuse;
use crate::support::pods::{Amiss, System, message};
use crate::support::sandbox::{Running, wait_until};
use crate::support::servers::Engine;

/// As the attribute cache of NFS does at the least.
pub const CACHED: &str = "attr_timeout=3,entry_timeout=3";

/// Longer than that, with room for a machine that is busy.
pub const SETTLE: &str = "4s";

/// How often a slow writer appends a part.
pub const PART_INTERVAL: Duration = Duration::from_millis(500);

/// The parts of a file of a slow writer.
pub const PARTS: usize = 8;

/// Where the files are, and where writers write them.
pub enum Storage {
    Ext4,
    Share(&'static str),
}

/// A route whose files come to a directory of some storage.
pub struct Arrivals {
    // The share is gone before the directory that it is mounted in.
    pub share: Option<Fuse>,
    pub system: System,
}

/// What starts the route.
#[derive(Debug, Clone, Copy)]
pub enum Starter {
    Monitor,
    Schedule,
    Engine,
}

impl Arrivals {
    pub fn new(storage: &Storage) -> Self {
        let mut system = System::new(Engine::Sqlite);
        system.demo.sandbox.set("BOTS_CTL_DIRMONITOR_STABLE_AFTER", SETTLE);
        let share = match storage {
            Storage::Ext4 => None,
            Storage::Share(options) => Some(Fuse::over(&system.demo.input(), system.demo.sandbox.home.path(), options)),
        };
        Self { share, system }
    }

    /// As a writer sees the file of an order. Behind a share it is another machine.
    pub fn file(&self, number: usize) -> PathBuf {
        let name = format!("{number}.edi");
        match &self.share {
            Some(share) => share.behind.join(name),
            None => self.system.demo.input().join(name),
        }
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.system.demo.sandbox.set(name, value);
    }

    pub fn engine(&self, args: &[&str]) -> Running {
        self.system.start(&[&["engine"], args].concat())
    }

    /// The monitor that watches the directory, and its queue.
    pub fn monitor(&self) -> Running {
        let sandbox = &self.system.demo.sandbox;
        sandbox.set_ini("jobqueue", "enabled", "True");
        sandbox.set_ini("dirmonitor1", "path", &self.system.demo.input().display().to_string());
        sandbox.set_ini("dirmonitor1", "route", "demo_orders");
        let up = self.system.start(&["up", "--services", "jobqueue,dirmonitor"]);
        up.wait_stderr("the directory monitor is ready");
        up
    }

    /// Waits until this number of orders was sent and the engine has exited.
    pub fn wait_orders(&self, count: usize, running: &Running) {
        let are_out = || (fs::read_dir(self.system.demo.output()).ok()?.count() >= count).then_some(());
        wait_until("the orders are out", are_out, || running.report());
    }

    /// The same for what starts engines, which is stopped in order: the next one finds no job, and nothing to recover.
    pub fn expect_orders(&self, count: usize, writer: JoinHandle<()>, mut up: Running) {
        writer.join().expect("it has written");
        self.wait_orders(count, &up);
        up.signal(Signal::SIGTERM);
        assert_eq!(up.wait_code(), 0, "{}", up.report());
    }

    /// Runs the route while files are being written, and checks that each has gone out once, as it should be.
    pub fn expect_whole(&self, starter: Starter, count: usize, write: impl FnOnce(&Self) -> JoinHandle<()>) {
        match starter {
            Starter::Monitor => {
                let up = self.monitor();
                let writer = write(self);
                self.expect_orders(count, writer, up);
            }
            Starter::Schedule => {
                let writer = write(self);
                let up = self.system.start(&["up", "--services", "engine"]);
                self.expect_orders(count, writer, up);
            }
            Starter::Engine => {
                let writer = write(self);
                let mut engine = self.engine(&["--new"]);
                assert_eq!(engine.wait_code(), 0, "{}", engine.report());
                writer.join().expect("it has written");
            }
        }
        assert_eq!(self.system.collect(count), Amiss::default());
    }
}

/// Appends the rest of an order in parts, with a pause before each.
pub fn append(mut file: File, parts: Vec<Vec<u8>>) -> JoinHandle<()> {
    thread::spawn(move || {
        for part in parts {
            thread::sleep(PART_INTERVAL);
            file.write_all(&part).expect("written");
        }
    })
}

pub fn parts(number: usize) -> Vec<Vec<u8>> {
    let text = message(number).into_bytes();
    text.chunks(text.len().div_ceil(PARTS)).map(<[u8]>::to_vec).collect()
}

pub fn write_whole(path: &Path, number: usize) {
    fs::write(path, message(number)).expect("written");
}
