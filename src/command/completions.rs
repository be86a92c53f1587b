//! `completions`: a completion script for a shell, or the manual; both are made from the command line's own description.

use std::io;

use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate};
use clap_mangen::Man;

use crate::cli::{Cli, Script};
use crate::exit::Outcome;

/// Prints the script.
pub fn run(script: Script) -> Outcome {
    let shell = match script {
        Script::Bash => Some(Shell::Bash),
        Script::Elvish => Some(Shell::Elvish),
        Script::Fish => Some(Shell::Fish),
        Script::Powershell => Some(Shell::PowerShell),
        Script::Zsh => Some(Shell::Zsh),
        Script::Man => None,
    };
    let mut text = Vec::new();
    let mut command = Cli::command();
    match shell {
        Some(shell) => generate(shell, &mut command, "bots-ctl", &mut text),
        None => {
            command.build();
            manual(&command, &mut text).expect("memory can be written to");
        }
    }
    super::write_stdout(&String::from_utf8_lossy(&text));
    Outcome::Success
}

/// The page of a command, and those of the commands below it.
fn manual(command: &Command, text: &mut Vec<u8>) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    Man::new(command.clone()).title(name).render(text)?;
    command.get_subcommands().try_for_each(|below| manual(below, text))
}
