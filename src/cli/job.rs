//! The command line of `job`.

use clap::{Args, Subcommand};

use crate::model::LATEST_JOB;

/// The commands of `job`.
#[derive(Debug, Subcommand)]
pub enum Job {
    /// Add a job: an engine run, or a task that bots.ini authorizes
    #[command(
        after_help = "Exit codes: 0 added, 1 rejected, 69 the job queue is unavailable; with --wait that of the job.\n\n\
                      Example:\n  bots-ctl job add -p 1 --wait -- bots-engine --new my_route"
    )]
    Add(AddJob),
    /// List the waiting jobs in the order in which they will run
    #[command(after_help = "Examples:\n  bots-ctl job list --json\n  bots-ctl job list --failed")]
    List {
        /// List all stored jobs, the newest first, with times and results
        #[arg(long)]
        all: bool,
        /// List only failed jobs
        #[arg(long, conflicts_with = "all")]
        failed: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove all waiting jobs
    #[command(after_help = "Example:\n  bots-ctl job clear")]
    Clear {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the state of a job and the end of its output
    #[command(after_help = "Examples:\n  bots-ctl job show 12\n  bots-ctl job show latest")]
    Show {
        /// Number of the job, as printed by `job add`, or latest
        #[arg(value_parser = number)]
        number: i32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// A number of a job; [`LATEST_JOB`] for the word `latest`.
fn number(text: &str) -> Result<i32, String> {
    match text.parse() {
        _ if text == "latest" => Ok(LATEST_JOB),
        Ok(number @ 1..) => Ok(number),
        _ => Err("expected the number of a job, or latest".to_owned()),
    }
}

/// Flags of `job add`.
#[derive(Debug, Args)]
pub struct AddJob {
    /// Priority from 1, the highest, to 9
    #[arg(short, long, default_value_t = 5, value_parser = clap::value_parser!(i32).range(1..=9))]
    pub priority: i32,
    /// Wait until the job ends, print the end of its output, and exit with its code
    #[arg(long)]
    pub wait: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub command: Vec<String>,
}
