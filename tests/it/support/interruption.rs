//! An end, or a pause, after a certain statement of Django's `migrate`.

use std::fs;
use std::path::PathBuf;

use crate::support::sandbox::{Running, Sandbox, wait_until};

const SCRIPT: &str = include_str!("../../fixtures/interruption/sitecustomize.py");

/// What happens in the Python of one sandbox.
pub struct Interruption {
    place: PathBuf,
}

impl Interruption {
    /// Counts the statements that change something, and kills bots-ctl and Python after this one; 0 is never.
    pub fn kill_after(sandbox: &mut Sandbox, statement: usize) -> Self {
        Self::install(sandbox, statement, "kill")
    }

    /// Kills Python alone after this statement.
    pub fn end_python_after(sandbox: &mut Sandbox, statement: usize) -> Self {
        Self::install(sandbox, statement, "end")
    }

    /// Stops in Python after this statement, until [`Self::let_go`].
    pub fn wait_after(sandbox: &mut Sandbox, statement: usize) -> Self {
        Self::install(sandbox, statement, "wait")
    }

    fn install(sandbox: &mut Sandbox, statement: usize, then: &str) -> Self {
        let place = sandbox.home.path().join("interruption");
        fs::create_dir_all(&place).expect("made");
        for (name, text) in [("sitecustomize.py", SCRIPT), ("at", &statement.to_string()), ("then", then)] {
            fs::write(place.join(name), text).expect("written");
        }
        sandbox.set("PYTHONPATH", place.display().to_string());
        Self { place }
    }

    /// How many statements have changed something.
    pub fn count(&self) -> usize {
        let count = fs::read_to_string(self.place.join("count")).unwrap_or_default();
        count.parse().expect("Django has changed something")
    }

    /// Waits until the statement was run.
    pub fn wait_reached(&self, running: &Running) {
        let reached = self.place.join("reached");
        wait_until("Django runs the statement", || reached.exists().then_some(()), || running.report());
    }

    /// Lets Django go on.
    pub fn let_go(&self) {
        fs::remove_file(self.place.join("reached")).expect("the statement was reached");
    }

    /// From now on nothing is interrupted.
    pub fn remove(self, sandbox: &mut Sandbox) {
        sandbox.unset("PYTHONPATH");
        fs::remove_dir_all(self.place).expect("it is there");
    }
}
