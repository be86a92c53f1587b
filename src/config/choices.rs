//! Settings whose value is one of several words.

use clap::ValueEnum;

/// Severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum LogLevel {
    /// Also `critical`.
    #[value(alias = "critical")]
    Error,
    /// Also `warning`.
    #[value(alias = "warning")]
    Warn,
    /// The default.
    Info,
    /// For developers.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The name in Python's logging, which is also a valid value in bots-ctl.
    pub fn python_name(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Warn => "WARNING",
            Self::Info => "INFO",
            Self::Debug | Self::Trace => "DEBUG",
        }
    }
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The output format of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ChildOutput {
    /// Unchanged, each stream to the same stream of bots-ctl.
    Raw,
    /// Lines prefixed with the name of the service.
    Text,
    /// One JSON object a record.
    Json,
}

/// The implementation of the job queue or the directory monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ServiceBackend {
    /// That of bots-ctl.
    Native,
    /// Bots's own program.
    Python,
}

/// Whether engines are forked from a process that has imported their modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WarmStart {
    /// From the second run on, until there is a pause between runs.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// How new files are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum WatchMethod {
    /// Depends on the file system.
    Auto,
    /// By the kernel's events.
    Inotify,
    /// By scans at an interval.
    Poll,
}
