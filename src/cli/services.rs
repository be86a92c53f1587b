//! The command lines of the services, `up` and `engine`.

use std::ffi::OsString;

use clap::Args;

/// Flags of `webserver`.
#[derive(Debug, Default, Args)]
pub struct Webserver {
    /// Install Bots first if none is found
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
    /// Install Bots first if none is found
    #[arg(long)]
    pub install: bool,
    /// Services to run: webserver, jobqueue, dirmonitor, engine [default: as enabled in bots.ini]
    #[arg(long, value_name = "NAMES")]
    pub services: Option<String>,
    /// Port of the web UI
    #[arg(long)]
    pub port: Option<String>,
    /// Address of the health listener
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub health_addr: Option<String>,
}

/// Flags of `jobqueue`.
#[derive(Debug, Default, Args)]
pub struct Jobqueue {
    /// Implementation: native (bots-ctl) or python (Bots's own server) [default: native]
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
    /// Implementation: native (bots-ctl) or python (Bots's own monitor) [default: native]
    #[arg(long, value_name = "BACKEND")]
    pub backend: Option<String>,
    /// Print the monitored directories and the routes that would start now, and exit
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON, with --dry-run
    #[arg(long, requires = "dry_run")]
    pub json: bool,
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
    /// Resend files that are marked for resending
    #[arg(long)]
    pub resend: bool,
    /// Process files again that are marked for rereceiving
    #[arg(long)]
    pub rereceive: bool,
    /// Retry failed communication
    #[arg(long)]
    pub automaticretrycommunication: bool,
    /// Delete old data
    #[arg(long)]
    pub cleanup: bool,
    /// Exit with 0 if the engine exits with this code, such as 2 for errors in files; may be repeated
    #[arg(long = "success-exit-codes", value_name = "CODE", value_delimiter = ',')]
    pub success_exit_codes: Vec<String>,
    /// Time to wait for the lease while another engine runs, before exiting with 3 [default: 60s]
    #[arg(long, value_name = "TIME")]
    pub lease_wait: Option<String>,
    /// Skip routes that do not exist or are not active, as Bots does
    #[arg(long)]
    pub allow_unknown_routes: bool,
    /// Routes to run [default: all active ones]
    pub routes: Vec<String>,
    /// More options and routes, in Bots's syntax
    #[arg(last = true)]
    pub args: Vec<OsString>,
}
