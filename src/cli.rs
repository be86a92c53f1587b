//! The command line: commands, flags and their help. No logic, no system calls.

mod exec;
mod hints;
mod job;
mod plugin;
mod services;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::exit::Kind;
use crate::model::{Check, Driver, ServiceName, UnknownService};

use exec::EXEC_EXAMPLES;
pub use exec::{Exec, Shell};
pub use hints::{unknown_command, usage_message};
pub use job::{AddJob, Job};
pub use plugin::{ApplyPlugin, Demo, Plugin};
pub use services::{Dirmonitor, Engine, Jobqueue, Up, Webserver};

fn exit_codes() -> String {
    let own = Kind::ALL.map(|kind| format!("\n  {:<4} {}", kind.code(), kind.meaning()));
    let first = "Exit codes:\n  the exit code of the service; 128+n if signal n ended it; 0 after a stop on request";
    std::iter::once(first.to_owned()).chain(own).collect()
}

const INIT_DB_EXAMPLES: &str =
    "Exit codes: 0 done, 1 failed, incomplete (--check) or a manual step is left, 64 usage error,
78 configuration error.

Examples:
  bots-ctl init-db && bots-ctl webserver
  bots-ctl init-db --check --json
  SUPERUSER_PASSWORD_FILE=/run/secrets/admin bots-ctl init-db --superuser";

/// The heading of the flags of all commands, after the command's own.
const COMMON: &str = "Common options";

/// Runs the Bots EDI translator: prepares its environment, supervises its services, and answers health probes.
///
/// As the entrypoint of a container, bots-ctl runs any other first word as a program, like `exec`.
#[derive(Debug, Parser)]
#[command(name = "bots-ctl", version, after_help = exit_codes(), disable_help_subcommand = true)]
pub struct Cli {
    /// Flags of all commands.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// A command by itself. Building all commands takes more CPU time than the rest of an `exec` or `healthcheck`.
#[derive(Debug, Parser)]
struct SingleCommand<T: Args> {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    flags: T,
}

impl Cli {
    /// Parses a command line, the program's own name first.
    ///
    /// # Errors
    /// For help and version as well, as in clap.
    pub fn read(args: &[OsString]) -> Result<Self, clap::Error> {
        let single = match args.get(1).and_then(|name| name.to_str()) {
            Some("exec") => read_single(args, Command::Exec),
            Some("healthcheck") => read_single(args, Command::Healthcheck),
            Some("init-db" | "initdb") => read_single(args, Command::InitDb),
            _ => None,
        };
        // The error of a command by itself would not name bots-ctl.
        single.map_or_else(|| Self::try_parse_from(args), Ok)
    }
}

fn read_single<T: Args>(args: &[OsString], command: impl FnOnce(T) -> Command) -> Option<Cli> {
    let SingleCommand { global, flags } = SingleCommand::try_parse_from(&args[1..]).ok()?;
    Some(Cli { global, command: command(flags) })
}

/// Flags of all commands.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// Configuration file [default: /config/bots-ctl.toml, else ~/.bots/bots-ctl.toml]
    #[arg(long, value_name = "FILE", global = true, help_heading = COMMON)]
    pub config: Option<PathBuf>,
    /// Bots's configuration directory [default: ~/.bots/env/$BOTSENV/config]
    #[arg(long, value_name = "DIR", global = true, help_heading = COMMON)]
    pub config_dir: Option<PathBuf>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", global = true, help_heading = COMMON)]
    pub log_level: Option<String>,
}

/// The command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the web UI
    ///
    /// Each service has a health listener: a port, 9180 by default, that answers health probes and serves metrics and the status page.
    /// When a mounted configuration changes, bots-ctl validates it and restarts the service with it; with
    /// BOTS_CTL_RELOAD_ENABLED=false, a change takes effect at the next start.
    #[command(after_help = "Example:\n  bots-ctl webserver --install\n  curl -s localhost:9180/health/ready")]
    Webserver(Webserver),
    /// Run the translation engine once
    ///
    /// Only one engine at a time works on a database. It holds the lease: a lock and a row in the database. Every other engine, in
    /// any container, waits for the lease.
    #[command(after_help = "Example:\n  bots-ctl engine --new my_route")]
    Engine(Engine),
    /// Run the job queue, which stores its jobs in the database
    ///
    /// One job queue is active per database; a second one is a standby, which becomes active if the first fails. Programs of
    /// Bots reach the queue on the port set in bots.ini; BOTS_CTL_JOBQUEUE_ADDR and BOTS_CTL_JOBQUEUE_TOKEN make it
    /// available to other containers.
    #[command(alias = "jobqueueserver", after_help = "Example:\n  bots-ctl jobqueue\n  bots-ctl job list")]
    Jobqueue(Jobqueue),
    /// Run the directory monitor, which starts routes when files arrive
    ///
    /// It monitors the directories in the sections dirmonitor1, dirmonitor2, … of bots.ini and, with Bots 4, those of routes for
    /// which monitoring is enabled. It uses inotify, the events of the kernel, and polls where these are missing, as on NFS.
    #[command(after_help = "Example:\n  bots-ctl dirmonitor --dry-run\n  bots-ctl dirmonitor")]
    Dirmonitor(Dirmonitor),
    /// Run all services in one process tree, on a laptop or a single host
    #[command(after_help = "Example:\n  bots-ctl up --services webserver,engine\n  bots-ctl status")]
    Up(Up),
    /// Create or complete the database and the first web user
    ///
    /// It is safe at any time and in any number of replicas: one replica works on the database, the others wait. It completes
    /// interrupted runs, and never changes existing rows of Bots.
    #[command(alias = "initdb", after_help = INIT_DB_EXAMPLES)]
    InitDb(InitDb),
    /// Query the health listener of this container
    ///
    /// The health listener is a port of the running bots-ctl (BOTS_CTL_HEALTH_ADDR, 9180 by default) that answers probes and serves
    /// metrics and the status page.
    #[command(after_help = "Exit codes: 0 healthy, 1 unhealthy, 2 the check could not run.\n\n\
                      Example:\n  bots-ctl healthcheck --check ready --quiet")]
    Healthcheck(Healthcheck),
    /// Run a shell with the environment of the services
    #[command(alias = "bash", after_help = "Example:\n  bots-ctl shell -c 'python -m django shell'")]
    Shell(Shell),
    /// Run a program with the environment of the services, and exit with its code
    ///
    /// It is an init for containers: it forwards signals to the process group of the program, reaps orphans, and exits when no
    /// process is left. Processes that outlive the program get the stop signal, and SIGKILL after BOTS_CTL_STOP_TIMEOUT.
    #[command(after_help = EXEC_EXAMPLES)]
    Exec(Exec),
    /// Install Bots into a private virtual environment
    ///
    /// All packages are pinned and verified by their hashes, as in the image. Bots 3.3.1 requires Django 2.2, which has had no security
    /// fixes since April 2022; Bots 4.x uses a maintained version, and is installed from a source tree or a wheel.
    #[command(
        after_help = "Examples:\n  bots-ctl install --with mysql,postgresql\n  bots-ctl install --from bots-4-source"
    )]
    Install(Install),
    /// Add, list, show or remove jobs
    #[command(subcommand, after_help = "Example:\n  bots-ctl job list")]
    Job(Job),
    /// Show problems with their remedies, services, recent engine runs and the results of each route
    #[command(
        after_help = "Exit codes: 0 all services are ready, 1 a service is not ready, 69 bots-ctl is not running; with \
                      --check 0 no problems, 1 problems.\n\nExamples:\n  bots-ctl status --watch --interval 5s\n  bots-ctl status --check --json"
    )]
    Status(Status),
    /// List the files that Bots has received, with their results and the reasons for failures
    ///
    /// A file is done if all files created from it have been sent; it has errors if Bots has rejected it or a part of it; it is stuck
    /// if no step of a route has processed it further.
    #[command(after_help = "Example:\n  bots-ctl files --errors --since 7d")]
    Files(Files),
    /// Export, apply, test and undo plugins: routes and mappings as files
    ///
    /// A plugin, a term of Bots, contains routes, channels, partners and translations as rows of the database, and their scripts.
    #[command(subcommand, after_help = "Example:\n  bots-ctl plugin export translations/")]
    Plugin(Plugin),
    /// Install a small example translation in this environment, with a test order
    ///
    /// It translates an EDIFACT order to a readable file. Existing rows and files are not replaced.
    #[command(after_help = "Example:\n  bots-ctl demo && bots-ctl engine demo_orders\n  bots-ctl demo --remove")]
    Demo(Demo),
    /// Show or check the configuration
    #[command(subcommand, after_help = "Example:\n  bots-ctl config show")]
    Config(Config),
    /// Validate the current configuration, and restart the services of the running bots-ctl with it
    ///
    /// If the configuration is invalid, the services keep running. Otherwise running engines and jobs finish first. The command exits
    /// when the services are ready, or prints the reason why they are not.
    #[command(
        after_help = "Exit codes: 0 the services are ready, 1 they are not, 69 bots-ctl is not running, 78 invalid configuration.\n\n\
                      Example:\n  bots-ctl reload"
    )]
    Reload,
    /// Restart a service of the running bots-ctl, or all of them like `reload`
    #[command(after_help = "Exit codes: 0 the service is ready, 1 it is not, 69 bots-ctl is not running.\n\n\
                      Example:\n  bots-ctl restart webserver")]
    Restart {
        /// webserver, jobqueue or dirmonitor [default: all services, like `reload`]
        #[arg(value_name = "SERVICE", value_parser = restartable_service)]
        service: Option<ServiceName>,
    },
    /// Print the help of a command
    #[command(after_help = "Example:\n  bots-ctl help job add")]
    Help {
        /// Command [default: the list of all commands]
        #[arg(value_name = "COMMAND")]
        words: Vec<String>,
    },
    /// Print the versions of bots-ctl and, if Bots is installed, of Bots, Python and Django
    #[command(after_help = "Example:\n  bots-ctl version --json")]
    Version {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script for a shell, or the manual
    #[command(after_help = "Examples:\n  bots-ctl completions bash > /etc/bash_completion.d/bots-ctl\n  \
                      bots-ctl completions man | man --local-file -")]
    Completions {
        /// Shell, or man for the manual
        #[arg(value_name = "SHELL")]
        script: Script,
    },
    /// Any other word: a program
    #[command(external_subcommand)]
    Program(Vec<OsString>),
}

fn restartable_service(name: &str) -> Result<ServiceName, String> {
    match name.parse() {
        Ok(ServiceName::Engine) => {
            Err("engine runs are scheduled, each as a new process; bots-ctl engine starts one now".to_owned())
        }
        Ok(service) => Ok(service),
        Err(UnknownService) => Err("expected one of webserver, jobqueue, dirmonitor".to_owned()),
    }
}

/// Flags of `status`.
#[derive(Debug, Clone, Args)]
pub struct Status {
    /// Exit with 1 if there is any problem, such as a file with errors, not only if a service is not ready
    #[arg(long, conflicts_with = "watch")]
    pub check: bool,
    /// Print the JSON of the health listener
    #[arg(long)]
    pub json: bool,
    /// Update until Ctrl-C: on a terminal redraw, otherwise print each change as a block, or as a line of JSON
    #[arg(long)]
    pub watch: bool,
    /// Time between updates with --watch
    #[arg(long, value_name = "DURATION", default_value = "2s", requires = "watch")]
    pub interval: String,
}

/// Flags of `files`.
#[derive(Debug, Args)]
pub struct Files {
    /// List only files with errors and stuck files
    #[arg(long)]
    pub errors: bool,
    /// List only files of this route
    #[arg(long)]
    pub route: Option<String>,
    /// List files received within this time, such as 12h or 7d
    #[arg(long, value_name = "TIME", default_value = "1d")]
    pub since: String,
    /// List at most this number of files, the newest
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub limit: usize,
    /// Print JSON, with the complete error texts of Bots
    #[arg(long)]
    pub json: bool,
}

/// Flags of `init-db`.
#[derive(Debug, Default, Args)]
pub struct InitDb {
    /// Time to retry while the database server is unreachable [default: 0 on a terminal, else 60]
    #[arg(long, value_name = "SECONDS")]
    pub wait: Option<String>,
    /// Change nothing; list the missing parts of the database
    #[arg(long, conflicts_with = "superuser")]
    pub check: bool,
    /// Print the result as a JSON object
    #[arg(long)]
    pub json: bool,
    /// Create or update the web user of SUPERUSER_USERNAME, SUPERUSER_EMAIL and SUPERUSER_PASSWORD
    #[arg(long)]
    pub superuser: bool,
}

/// Flags of `healthcheck`.
#[derive(Debug, Clone, Copy, Args)]
pub struct Healthcheck {
    /// Check to query
    #[arg(long, value_enum, default_value_t = Check::Live)]
    pub check: Check,
    /// Print the JSON of the health listener
    #[arg(long, conflicts_with = "quiet")]
    pub json: bool,
    /// Print nothing; the exit code is the result
    #[arg(long)]
    pub quiet: bool,
    /// Run the checks in this process instead of querying a listener
    #[arg(long)]
    pub standalone: bool,
}

/// Flags of `install`.
#[derive(Debug, Args)]
pub struct Install {
    /// Additional database drivers
    #[arg(long, value_enum, value_delimiter = ',', value_name = "DRIVER")]
    pub with: Vec<Driver>,
    /// Install Bots 4.x from this source tree or wheel [default: Bots 3.3.1 from the package index]
    #[arg(long, value_name = "DIR|WHEEL")]
    pub from: Option<PathBuf>,
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
    /// Print the effective values, including those of bots.ini, with their sources and without secrets
    #[command(after_help = "Example:\n  bots-ctl config show\n  bots-ctl config show bots.ini:settings.maxdays")]
    Show {
        /// Print only the value of this key or variable
        key: Option<String>,
        /// Print JSON: for each key an object with value and origin
        #[arg(long)]
        json: bool,
    },
    /// Report all errors in settings, bots.ini and settings.py that would make a start fail
    #[command(after_help = "Example:\n  bots-ctl config check && bots-ctl webserver")]
    Check,
}
