//! The command line of `exec` and `shell`.

use std::ffi::OsString;

use clap::Args;

pub(super) const EXEC_EXAMPLES: &str = "Examples:
  bots-ctl exec -- bots-engine -c$HOME/.bots/env/default/config
Instead of tini:
  ENTRYPOINT [\"tini\", \"-g\", \"-e\", \"143\", \"--\"]          becomes
  ENTRYPOINT [\"bots-ctl\", \"exec\", \"-g\", \"-e\", \"143\", \"--\"]
Instead of dumb-init:
  ENTRYPOINT [\"dumb-init\", \"--rewrite\", \"15:3\", \"--\"]     becomes
  ENTRYPOINT [\"bots-ctl\", \"exec\", \"--rewrite\", \"15:3\", \"--\"]";

/// Arguments of `shell`.
#[derive(Debug, Args)]
pub struct Shell {
    /// Arguments for the shell
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<OsString>,
}

/// Flags of `exec`: those of tini and dumb-init, each with a long name. Flags precede the program.
#[derive(Debug, Default, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of tini or dumb-init")]
pub struct Exec {
    /// Adopt orphans, processes whose parent has exited, if not PID 1 (always on)
    #[arg(short, long)]
    pub subreaper: bool,
    /// Forward signals to the whole process group of the program (always on without --single-child)
    #[arg(short, long, conflicts_with = "single_child")]
    pub group: bool,
    /// Forward signals to the program only
    #[arg(short = 'c', long)]
    pub single_child: bool,
    /// Log a warning for each reaped orphan, in the format of tini
    #[arg(short, long)]
    pub warn: bool,
    /// Log at level debug; if given twice, at level trace
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Exit with 0 if the program exits with this code; may be repeated
    #[arg(short = 'e', long = "success-exit-codes", value_name = "CODE", value_delimiter = ',')]
    pub success_exit_codes: Vec<u8>,
    /// Signal that bots-ctl receives when its parent dies; KILL also kills the program
    #[arg(short, long, value_name = "SIGNAL")]
    pub parent_death_signal: Option<String>,
    /// Forward a signal as another one, or drop it with 0; may be repeated
    #[arg(short, long = "rewrite", value_name = "FROM:TO")]
    pub rewrites: Vec<String>,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "PROGRAM")]
    pub command: Vec<OsString>,
}
