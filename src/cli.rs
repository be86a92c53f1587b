//! The command line: commands, flags and their help. No logic, no system calls.

mod exec;
mod job;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::exit::CODES;
use crate::model::{Check, Driver};

use exec::EXEC_EXAMPLES;
pub use exec::{Exec, Shell};
pub use job::{AddJob, Job};

fn exit_codes() -> String {
    let own = CODES.iter().map(|(_, code, meaning)| format!("\n  {code:<4} {meaning}"));
    let first =
        "Exit codes:\n  a service's own code, 128+n when signal n ended it; 0 when it was asked to stop and did";
    std::iter::once(first.to_owned()).chain(own).collect()
}

const INIT_DB_EXAMPLES: &str =
    "Exit codes: 0 done, 1 failed, incomplete (--check) or something is left to a person, 64 usage,
78 configuration.

Examples:
  bots-ctl init-db && bots-ctl webserver
  bots-ctl init-db --check --json
  SUPERUSER_PASSWORD_FILE=/run/secrets/admin bots-ctl init-db --superuser";

/// Runs the Bots EDI translator: prepares its environment, supervises its services, answers health probes.
///
/// Any first word that is no command is run as a program, as `exec` does.
#[derive(Debug, Parser)]
#[command(name = "bots-ctl", version, after_help = exit_codes(), disable_help_subcommand = true)]
pub struct Cli {
    /// Flags that every command knows.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command knows.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// Configuration file [default: /config/bots-ctl.toml, else ~/.bots/bots-ctl.toml]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Bots's configuration directory [default: ~/.bots/env/$BOTSENV/config]
    #[arg(long, value_name = "DIR", global = true)]
    pub config_dir: Option<PathBuf>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", global = true)]
    pub log_level: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the web UI, with health endpoints beside it
    ///
    /// A mounted configuration that changes is checked, and the web UI restarted with it; BOTS_CTL_RELOAD_ENABLED=false
    /// leaves that to the next start. So it is for every service.
    #[command(after_help = "Example:\n  bots-ctl webserver --install\n  curl -s localhost:9180/health/ready")]
    Webserver(Webserver),
    /// Run the translation engine once
    #[command(after_help = "Example:\n  bots-ctl engine --new my_route")]
    Engine(Engine),
    /// Run the job queue, which keeps its jobs in the database
    ///
    /// One is active per database; another one stands by and takes over. Bots's programs reach it on the port that
    /// bots.ini names; BOTS_CTL_JOBQUEUE_ADDR and BOTS_CTL_JOBQUEUE_TOKEN open it to other containers.
    #[command(alias = "jobqueueserver", after_help = "Example:\n  bots-ctl jobqueue\n  bots-ctl job list")]
    Jobqueue(Jobqueue),
    /// Run the directory monitor: files that come start their routes
    ///
    /// Watches the directories that bots.ini names in its sections dirmonitor1 and so on, and with Bots 4 those of routes
    /// that ask for it. The kernel tells of new files where it can; elsewhere, as on NFS, directories are looked at in short
    /// intervals.
    #[command(after_help = "Example:\n  bots-ctl dirmonitor --dry-run\n  bots-ctl dirmonitor")]
    Dirmonitor(Dirmonitor),
    /// Run all services in one process tree, for a laptop or a single host
    #[command(after_help = "Example:\n  bots-ctl up --services webserver,engine\n  bots-ctl status")]
    Up(Up),
    /// Make or complete the database, and the first web user
    ///
    /// Safe at any moment and from any number of replicas: one at a time works on a database, the others wait and find
    /// nothing left to do. What an earlier run has left half done is completed; rows are never touched.
    #[command(alias = "initdb", after_help = INIT_DB_EXAMPLES)]
    InitDb(InitDb),
    /// Ask the health listener of this container
    #[command(after_help = "Exit codes: 0 healthy, 1 unhealthy, 2 the check could not run.\n\n\
                      Example:\n  bots-ctl healthcheck --check ready --quiet")]
    Healthcheck(Healthcheck),
    /// Run a shell with the environment of the services
    #[command(alias = "bash", after_help = "Example:\n  bots-ctl shell -c 'python -m django shell'")]
    Shell(Shell),
    /// Run a program with the environment of the services, and pass its exit code on
    ///
    /// An init for containers: signals go to the program's process group, orphans are reaped, and the end is when no
    /// process is left: what the program leaves behind is asked to stop and killed after BOTS_CTL_STOP_TIMEOUT.
    #[command(after_help = EXEC_EXAMPLES)]
    Exec(Exec),
    /// Install Bots into a private virtual environment
    #[command(after_help = "Example:\n  bots-ctl install --with mysql,postgresql")]
    Install(Install),
    /// Add, list, show or remove jobs
    #[command(subcommand, after_help = "Example:\n  bots-ctl job list")]
    Job(Job),
    /// Show problems and their remedies, the services of this container, the last engine runs and what came of each route
    #[command(
        after_help = "Exit codes: 0 all ready, 1 something is not, 69 no bots-ctl answers; with --check 0 no problem, \
                      1 problems.\n\nExamples:\n  bots-ctl status --watch --interval 5s\n  bots-ctl status --check --json"
    )]
    Status(Status),
    /// List the files that Bots has received, with the result of each and the reason of each failure
    #[command(after_help = "Example:\n  bots-ctl files --errors --since 7d")]
    Files(Files),
    /// Show or check the configuration
    #[command(subcommand, after_help = "Example:\n  bots-ctl config show")]
    Config(Config),
    /// Print a completion script, or the manual
    #[command(after_help = "Examples:\n  bots-ctl completions bash > /etc/bash_completion.d/bots-ctl\n  \
                      bots-ctl completions man | man --local-file -")]
    Completions {
        /// For which shell, or man
        #[arg(value_name = "SHELL")]
        script: Script,
    },
    /// Any other word is a program to run
    #[command(external_subcommand)]
    Program(Vec<OsString>),
}

/// Flags of `webserver`.
#[derive(Debug, Default, Args)]
pub struct Webserver {
    /// Install Bots first when none is found
    #[arg(long)]
    pub install: bool,
    /// Port of the web UI
    #[arg(long)]
    pub port: Option<String>,
    /// Address of the health listener
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub health_addr: Option<String>,
    /// Arguments for bots-webserver
    #[arg(last = true)]
    pub args: Vec<OsString>,
}

/// Flags of `up`.
#[derive(Debug, Default, Args)]
pub struct Up {
    /// Install Bots first when none is found
    #[arg(long)]
    pub install: bool,
    /// Which of webserver, jobqueue, dirmonitor and engine [default: those that bots.ini has in use]
    #[arg(long, value_name = "NAMES")]
    pub services: Option<String>,
    /// Port of the web UI
    #[arg(long)]
    pub port: Option<String>,
    /// Address of the health listener
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub health_addr: Option<String>,
}

/// Flags of `status`.
#[derive(Debug, Clone, Args)]
pub struct Status {
    /// Exit with 1 when there is any problem, such as a file with errors; without it when a service is not ready
    #[arg(long, conflicts_with = "watch")]
    pub check: bool,
    /// Print the listener's JSON
    #[arg(long)]
    pub json: bool,
    /// Go on until Ctrl-C: redrawn on a terminal; elsewhere what has changed, each time as a block, or a line of JSON
    #[arg(long)]
    pub watch: bool,
    /// Time between two looks with --watch
    #[arg(long, value_name = "DURATION", default_value = "2s", requires = "watch")]
    pub interval: String,
}

/// Flags of `jobqueue`.
#[derive(Debug, Default, Args)]
pub struct Jobqueue {
    /// Backend: native (bots-ctl itself) or python (Bots's own server) [default: native]
    #[arg(long, value_name = "BACKEND")]
    pub backend: Option<String>,
    /// Address of the health listener
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub health_addr: Option<String>,
    /// Arguments for bots-jobqueueserver
    #[arg(last = true)]
    pub args: Vec<OsString>,
}

/// Flags of `dirmonitor`.
#[derive(Debug, Default, Args)]
pub struct Dirmonitor {
    /// Backend: native (bots-ctl itself) or python (Bots's own monitor) [default: native]
    #[arg(long, value_name = "BACKEND")]
    pub backend: Option<String>,
    /// Say what would be watched and which routes would be started now, and end
    #[arg(long, conflicts_with = "reload")]
    pub dry_run: bool,
    /// Print JSON, with --dry-run
    #[arg(long, requires = "dry_run")]
    pub json: bool,
    /// Have the running monitor of this environment read its configuration and all files again; 69: none runs, 78: refused
    #[arg(long)]
    pub reload: bool,
    /// Address of the health listener
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub health_addr: Option<String>,
    /// Arguments for bots-dirmonitor
    #[arg(last = true)]
    pub args: Vec<OsString>,
}

/// Flags of `engine`.
#[derive(Debug, Default, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of Bots's own engine")]
pub struct Engine {
    /// Receive and translate new files (default)
    #[arg(long)]
    pub new: bool,
    /// Send again what is marked for it
    #[arg(long)]
    pub resend: bool,
    /// Receive again what is marked for it
    #[arg(long)]
    pub rereceive: bool,
    /// Try failed communication again
    #[arg(long)]
    pub automaticretrycommunication: bool,
    /// Remove old data
    #[arg(long)]
    pub cleanup: bool,
    /// Exit with 0 when the engine's code is this one, such as 2: it ran, and some files had errors; may be repeated
    #[arg(long = "success-exit-codes", value_name = "CODE", value_delimiter = ',')]
    pub success_exit_codes: Vec<String>,
    /// How long to wait for an engine that runs already, in any pod; then the exit code is 3 [default: 60s]
    #[arg(long, value_name = "TIME")]
    pub lease_wait: Option<String>,
    /// Pass over routes that are not in the database or not active, as Bots does
    #[arg(long)]
    pub allow_unknown_routes: bool,
    /// Routes to run; all active ones by default
    pub routes: Vec<String>,
    /// More options and routes, in the words of Bots
    #[arg(last = true)]
    pub args: Vec<OsString>,
}

/// Flags of `files`.
#[derive(Debug, Args)]
pub struct Files {
    /// Only files with errors and files that are stuck
    #[arg(long)]
    pub errors: bool,
    /// Only files of this route
    #[arg(long)]
    pub route: Option<String>,
    /// How far to go back
    #[arg(long, value_name = "TIME", default_value = "1d")]
    pub since: String,
    /// How many to list at most, the newest
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub limit: usize,
    /// Print JSON, with all of Bots's words about an error
    #[arg(long)]
    pub json: bool,
}

/// Flags of `init-db`.
#[derive(Debug, Default, Args)]
pub struct InitDb {
    /// How long to try again while the server cannot be reached [default: 0 on a terminal, else 60]
    #[arg(long, value_name = "SECONDS")]
    pub wait: Option<String>,
    /// Change nothing; say what is missing
    #[arg(long, conflicts_with = "superuser")]
    pub check: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Make the web user of SUPERUSER_USERNAME, SUPERUSER_EMAIL and SUPERUSER_PASSWORD, or bring it up to date
    #[arg(long)]
    pub superuser: bool,
}

/// Flags of `healthcheck`.
#[derive(Debug, Clone, Copy, Args)]
pub struct Healthcheck {
    /// Which question to ask
    #[arg(long, value_enum, default_value_t = Check::Live)]
    pub check: Check,
    /// Print the listener's JSON
    #[arg(long, conflicts_with = "quiet")]
    pub json: bool,
    /// Print nothing; the exit code tells
    #[arg(long)]
    pub quiet: bool,
    /// Run the checks here instead of asking a listener
    #[arg(long)]
    pub standalone: bool,
}

/// Flags of `install`.
#[derive(Debug, Args)]
pub struct Install {
    /// Database drivers to install as well
    #[arg(long, value_enum, value_delimiter = ',', value_name = "DRIVER")]
    pub with: Vec<Driver>,
}

/// A text that other programs read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Script {
    /// Completions for bash
    Bash,
    /// Completions for elvish
    Elvish,
    /// Completions for fish
    Fish,
    /// Completions for PowerShell
    Powershell,
    /// Completions for zsh
    Zsh,
    /// The manual
    Man,
}

/// What to do with the configuration.
#[derive(Debug, Clone, Subcommand)]
pub enum Config {
    /// Print the effective values, those of bots.ini too, and where each came from; never a secret
    #[command(after_help = "Example:\n  bots-ctl config show\n  bots-ctl config show bots.ini:settings.maxdays")]
    Show {
        /// Print the value of this key or variable alone
        key: Option<String>,
        /// Print JSON: an object with value and origin for each key
        #[arg(long)]
        json: bool,
    },
    /// Check everything: these values, bots.ini, and that settings.py can be imported
    #[command(after_help = "Example:\n  bots-ctl config check && bots-ctl webserver")]
    Check,
}
