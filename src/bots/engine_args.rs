//! The arguments of Bots's engine, parsed more strictly than in Bots, which prints its usage text for unknown arguments
//! and exits with 0.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::config::layers::closest_match;

/// The actions of the engine, in the order of their execution.
const OPTIONS: [&str; 5] = ["--automaticretrycommunication", "--resend", "--rereceive", "--new", "--cleanup"];

/// A request for one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineArgs {
    /// The actions; without any, Bots assumes `--new`.
    pub options: Vec<&'static str>,
    /// The routes to run; empty for all active ones.
    pub routes: Vec<String>,
    /// From `-cDIRECTORY`.
    pub config_dir: Option<PathBuf>,
    /// Whether `--help` was given.
    pub help: bool,
}

impl EngineArgs {
    /// Parses the arguments of `bots-engine` as used by Bots's programs, scripts and people.
    ///
    /// # Errors
    /// The first argument that Bots would not understand, with a suggestion.
    pub fn read(argv: &[OsString]) -> Result<Self, String> {
        let mut read = Self::default();
        for word in argv {
            let word = word.to_str().ok_or_else(|| format!("{} is not UTF-8", word.to_string_lossy()))?;
            read.accept(word)?;
        }
        Ok(read)
    }

    fn accept(&mut self, word: &str) -> Result<(), String> {
        if let Some(option) = OPTIONS.into_iter().find(|option| *option == word) {
            if !self.options.contains(&option) {
                self.options.push(option);
            }
        } else if ["?", "/?", "-h", "--help"].contains(&word) {
            self.help = true;
        } else if word.starts_with("--") {
            return Err(unknown(word));
        } else if let Some(directory) = word.strip_prefix("-c") {
            if directory.is_empty() {
                return Err("-c needs a directory directly after it, as in -c/path/to/config".to_owned());
            }
            self.config_dir = Some(PathBuf::from(directory));
        } else if word.starts_with('-') {
            return Err(unknown(word));
        } else if word.is_empty() {
            return Err("a route has an empty name; Bots would run no route at all".to_owned());
        } else {
            self.routes.push(word.to_owned());
        }
        Ok(())
    }

    /// Whether the run receives new files from its channels.
    pub fn receives(&self) -> bool {
        self.options.is_empty() || self.options.contains(&"--new")
    }

    /// The arguments for Bots, without the directory.
    pub fn to_argv(&self) -> Vec<OsString> {
        let options = self.options.iter().map(|option| OsString::from(*option));
        options.chain(self.routes.iter().map(OsString::from)).collect()
    }
}

fn unknown(word: &str) -> String {
    let known = OPTIONS.map(str::to_owned);
    match closest_match(word, known.iter()) {
        Some(near) => format!("{word} is not an option of the engine; did you mean {near}?"),
        None => format!("{word} is not an option of the engine; its options are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(argv: &[&str]) -> Result<EngineArgs, String> {
        EngineArgs::read(&argv.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn arguments_of_bots_submitters_are_parsed() {
        let given = read(&["-c/env/config", "--new", "--new", "orders", "invoices"]).expect("it is right");
        assert_eq!(given.config_dir, Some(PathBuf::from("/env/config")));
        assert_eq!(given.to_argv(), ["--new", "orders", "invoices"]);
        assert_eq!(read(&[]), Ok(EngineArgs::default()));
        assert!(read(&["?"]).is_ok_and(|given| given.help));
    }

    #[test]
    fn arguments_that_bots_ignores_are_rejected() {
        for (argv, said) in [
            (["--resent"], "--resent is not an option of the engine; did you mean --resend?"),
            (["--cleanup=1"], "--cleanup=1 is not an option of the engine; did you mean --cleanup?"),
            (["-c"], "-c needs a directory directly after it, as in -c/path/to/config"),
            (["-x"], "-x is not an option of the engine; its options are "),
            ([""], "a route has an empty name; Bots would run no route at all"),
        ] {
            let error = read(&argv).expect_err("it is wrong");
            assert!(error.starts_with(said), "{error}");
        }
    }
}
