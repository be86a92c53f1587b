//! The command line of `job`.

use clap::{Args, Subcommand};

use crate::model::LATEST_JOB;

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub enum Job {
    /// Add a job: a run of the engine, or a task that bots.ini authorises
    #[command(after_help = "Exit codes: 0 added, 1 refused, 69 no job queue answers; with --wait that of the job.\n\n\
                      Example:\n  bots-ctl job add -p 1 --wait -- bots-engine --new my_route")]
    Add(AddJob),
    /// List the jobs that wait, the first in line first
    #[command(after_help = "Examples:\n  bots-ctl job list --json\n  bots-ctl job list --failed")]
    List {
        /// All that are remembered, the newest first, with times and results
        #[arg(long)]
        all: bool,
        /// Those of them that have failed
        #[arg(long, conflicts_with = "all")]
        failed: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove the jobs that wait
    #[command(after_help = "Example:\n  bots-ctl job clear")]
    Clear {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what became of a job, and the end of what it printed
    #[command(after_help = "Examples:\n  bots-ctl job show 12\n  bots-ctl job show latest")]
    Show {
        /// Its number, as `job add` prints it, or latest
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
    /// From 1, which runs first, to 9
    #[arg(short, long, default_value_t = 5, value_parser = clap::value_parser!(i32).range(1..=9))]
    pub priority: i32,
    /// Wait for the end of the job, print the end of its output, and exit with its code
    #[arg(long)]
    pub wait: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub command: Vec<String>,
}
