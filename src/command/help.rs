//! `help`: the help of a command.

use clap::{CommandFactory, Parser};

use crate::cli::Cli;
use crate::exit::{Error, Kind, Outcome};

use super::{unknown_command, write_stdout};

/// Prints what `bots-ctl COMMAND --help` prints.
///
/// # Errors
/// When there is no such command.
pub fn run(words: &[String]) -> Result<Outcome, Error> {
    let root = Cli::command();
    words.iter().try_fold(&root, |command, word| command.find_subcommand(word).ok_or_else(|| unknown(word)))?;
    let line = ["bots-ctl"].into_iter().chain(words.iter().map(String::as_str)).chain(["--help"]);
    if let Err(help) = Cli::try_parse_from(line) {
        write_stdout(&help.render().to_string());
    }
    Ok(Outcome::Success)
}

fn unknown(word: &str) -> Error {
    Error::new(Kind::Usage, format!("there is no command {word}; {}", unknown_command(word.as_ref())))
}
