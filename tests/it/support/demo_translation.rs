//! A real EDI translation: the demo route, run by the real engine under `exec`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::sandbox::{Sandbox, python};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/demo");

/// An environment with a database and the demo route.
pub struct Demo {
    pub sandbox: Sandbox,
}

impl Demo {
    pub fn new() -> Self {
        Self::install(Sandbox::prepared())
    }

    /// With the database that the sandbox is configured with.
    pub fn install(sandbox: Sandbox) -> Self {
        sandbox.run(&["init-db"]).expect_code(0);
        sandbox.set_engine_port();
        let demo = Self { sandbox };
        let (install, config) = (format!("{FIXTURE}/install.py"), demo.config_dir());
        demo.sandbox.run(&["exec", "--", &python().display().to_string(), &install, &config]).expect_code(0);
        demo
    }

    pub fn config_dir(&self) -> String {
        self.sandbox.root().join("config").display().to_string()
    }

    pub fn input(&self) -> PathBuf {
        self.sandbox.root().join("botssys/infile/demo")
    }

    pub fn output(&self) -> PathBuf {
        self.sandbox.root().join("botssys/outfile/demo")
    }

    /// Drops every message of a folder of the fixture into the in-channel.
    pub fn drop_in(&self, folder: &str) {
        for (name, content) in files(&Path::new(FIXTURE).join(folder)) {
            fs::write(self.input().join(name), content).expect("the in-channel's directory is there");
        }
    }

    /// One engine run; its exit code.
    pub fn engine(&self, args: &[&str]) -> i32 {
        self.sandbox.engine(args).code()
    }
}

/// Names and contents of a directory's files, in order.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir).expect("the directory is there").flatten();
    let mut files: Vec<_> = entries
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("readable")))
        .collect();
    files.sort();
    files
}

#[apply(test)]
fn orders_are_translated_byte_for_byte() {
    let demo = Demo::new();
    demo.drop_in("input");
    assert_eq!(demo.engine(&[]), 0);
    assert_eq!(files(&demo.output()), files(&Path::new(FIXTURE).join("expected")));
    assert!(files(&demo.input()).is_empty(), "the channel removes what it has read");
    assert_eq!(demo.engine(&["--new", "demo_orders"]), 0);
    assert_eq!(files(&demo.output()), files(&Path::new(FIXTURE).join("expected")), "nothing is sent twice");
}

#[apply(test)]
fn engine_exits_with_2_for_erroneous_order() {
    let demo = Demo::new();
    demo.drop_in("bad");
    assert_eq!(demo.engine(&[]), 2);
    assert!(files(&demo.output()).is_empty());
}
