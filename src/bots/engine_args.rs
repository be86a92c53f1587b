//! The arguments of Bots's own engine, read more strictly than Bots does: what it does not know, it answers with its
//! usage text and exit code 0.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::config::layers::closest_match;

/// What the engine can be asked to do, in the order in which it does it.
const OPTIONS: [&str; 5] = ["--automaticretrycommunication", "--resend", "--rereceive", "--new", "--cleanup"];

/// A request for one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineArgs {
    /// What to do; Bots takes nothing as `--new`.
    pub options: Vec<&'static str>,
    /// The routes to run; all active ones when there is none.
    pub routes: Vec<String>,
    /// From `-cDIRECTORY`.
    pub config_dir: Option<PathBuf>,
    /// Whether help was asked for instead.
    pub help: bool,
}

impl EngineArgs {
    /// Reads what Bots's submitters, scripts and people give to `bots-engine`.
    ///
    /// # Errors
    /// The first argument that Bots would not understand, and what was probably meant.
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
                return Err("-c needs a directory right behind it, as in -c/path/to/config".to_owned());
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

    /// Whether the run takes new files from its channels.
    pub fn receives(&self) -> bool {
        self.options.is_empty() || self.options.contains(&"--new")
    }

    /// As Bots takes them, without the directory.
    pub fn to_argv(&self) -> Vec<OsString> {
        let options = self.options.iter().map(|option| OsString::from(*option));
        options.chain(self.routes.iter().map(OsString::from)).collect()
    }
}

fn unknown(word: &str) -> String {
    let known = OPTIONS.map(str::to_owned);
    match closest_match(word, known.iter()) {
        Some(near) => format!("{word} is no option of the engine; did you mean {near}?"),
        None => format!("{word} is no option of the engine; it has {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(argv: &[&str]) -> Result<EngineArgs, String> {
        EngineArgs::read(&argv.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn what_the_submitters_of_bots_give_is_understood() {
        let given = read(&["-c/env/config", "--new", "--new", "orders", "invoices"]).expect("it is right");
        assert_eq!(given.config_dir, Some(PathBuf::from("/env/config")));
        assert_eq!(given.to_argv(), ["--new", "orders", "invoices"]);
        assert_eq!(read(&[]), Ok(EngineArgs::default()));
        assert!(read(&["?"]).is_ok_and(|given| given.help));
    }

    #[test]
    fn what_bots_would_pass_over_is_an_error() {
        for (argv, said) in [
            (["--resent"], "--resent is no option of the engine; did you mean --resend?"),
            (["--cleanup=1"], "--cleanup=1 is no option of the engine; did you mean --cleanup?"),
            (["-c"], "-c needs a directory right behind it, as in -c/path/to/config"),
            (["-x"], "-x is no option of the engine; it has "),
            ([""], "a route has an empty name; Bots would run no route at all"),
        ] {
            let error = read(&argv).expect_err("it is wrong");
            assert!(error.starts_with(said), "{error}");
        }
    }
}
