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
    /// The name that Python's logging has for it; the values of bots-ctl are these as well.
    pub fn python_name(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Warn => "WARNING",
            Self::Info => "INFO",
            Self::Debug | Self::Trace => "DEBUG",
        }
    }
}

/// Shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The form in which the output of services is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ChildOutput {
    /// Unchanged, each stream to ours.
    Raw,
    /// Lines with the service's name before them.
    Text,
    /// One JSON object a record.
    Json,
}

/// The implementation of the job queue or the directory monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ServiceBackend {
    /// bots-ctl itself.
    Native,
    /// Bots's own program.
    Python,
}

/// How new files are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum WatchMethod {
    /// As the file system allows.
    Auto,
    /// By the kernel's events.
    Inotify,
    /// By scans at an interval.
    Poll,
}
