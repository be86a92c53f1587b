//! `completions`: a completion script for a shell.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::cli::Cli;
use crate::exit::Outcome;

/// Prints the script.
pub fn run(shell: Shell) -> Outcome {
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "bots-ctl", &mut script);
    super::print(&String::from_utf8_lossy(&script));
    Outcome::Success
}
