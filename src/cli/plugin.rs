//! The command line of `plugin` and `demo`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

const APPLY_EXAMPLES: &str =
    "Exit codes: 0 applied, or no changes; with --check 1 there are changes; 69 an engine is running, or the \
database is unavailable; 78 the plugin, one of its tests or a value is invalid, and nothing was changed.

Examples:
  bots-ctl plugin apply translations/ --check
  bots-ctl plugin apply translations/ --values production.toml
  bots-ctl plugin apply orders.zip --set channel.orders_in.path=/data/in --activate";

/// Routes and mappings as files.
#[derive(Debug, Subcommand)]
pub enum Plugin {
    /// Write the configuration of this environment as a plugin, for git, without passwords
    ///
    /// Rows are sorted, with one field per line; an unchanged configuration gives identical files. In an existing directory only
    /// botsindex.json and usersys are written.
    #[command(
        after_help = "Examples:\n  bots-ctl plugin export translations/\n  bots-ctl plugin export --route orders orders.zip"
    )]
    Export {
        /// Export this route with its rows and scripts; may be repeated [default: all]
        #[arg(long = "route", value_name = "ROUTE")]
        routes: Vec<String>,
        /// Directory, or archive with a name ending in .zip
        #[arg(value_name = "PLUGIN")]
        target: PathBuf,
    },
    /// Apply a plugin to this environment, atomically
    ///
    /// The changes are shown first. Scripts are compiled and grammars checked before anything is changed. No engine runs during
    /// the change. Passwords that the plugin does not contain are kept.
    #[command(after_help = APPLY_EXAMPLES)]
    Apply(ApplyPlugin),
    /// Run the tests of a plugin in a private environment
    ///
    /// Each directory tests/CASE contains input files in in/CHANNEL and the expected output files in out/CHANNEL. All channels are
    /// replaced by directories, so no data leaves the machine.
    #[command(after_help = "Exit codes: 0 all tests passed, 1 a test failed.\n\n\
                      Example:\n  bots-ctl plugin test translations/ --junit report.xml")]
    Test {
        /// Directory with botsindex.json
        #[arg(value_name = "DIR")]
        source: PathBuf,
        /// File for a JUnit report
        #[arg(long, value_name = "FILE")]
        junit: Option<PathBuf>,
    },
    /// Revert the last apply
    #[command(after_help = "Exit codes: 0 undone; with --check 1 there are changes; 1 there is nothing to undo.\n\n\
                      Example:\n  bots-ctl plugin undo --check")]
    Undo {
        /// Change nothing; show the changes
        #[arg(long)]
        check: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Flags of `plugin apply`.
#[derive(Debug, Args)]
pub struct ApplyPlugin {
    /// Directory with botsindex.json or botsindex.py, or an archive of one
    #[arg(value_name = "PLUGIN")]
    pub source: PathBuf,
    /// Change nothing; show the changes
    #[arg(long)]
    pub check: bool,
    /// Run the tests of the plugin first, as `plugin test` does; a failure changes nothing
    #[arg(long)]
    pub test: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Value for this environment: channel.NAME.FIELD=VALUE, also for partner and route; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// TOML file with values for this environment; may be repeated
    #[arg(long = "values", value_name = "FILE.toml")]
    pub values: Vec<PathBuf>,
    /// Activate all routes of the plugin
    #[arg(long, conflicts_with = "keep_active")]
    pub activate: bool,
    /// Keep existing routes active or inactive; new ones are inactive
    #[arg(long)]
    pub keep_active: bool,
    /// Remove rows and scripts that are not in the plugin
    #[arg(long)]
    pub prune: bool,
}

/// Flags of `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Remove the demo; translated files are kept
    #[arg(long)]
    pub remove: bool,
}
