//! How a command ends: outcomes, failures, and their exit codes.
//!
//! The exit code of a supervised process is preserved, so bots-ctl's failures use codes that neither the engine (0 to
//! 3) nor a shell (1, 2) uses. `--help` is generated from them; a test compares the README with it.

use std::fmt;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(u8),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// The code as a shell reports it: 128 + n for signal n.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

/// How a successful command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Success, or an orderly stop on request.
    Success,
    /// A child exited with this code (128 + n after signal n).
    Child(u8),
    /// The command ran and found problems or pending changes.
    ProblemsFound,
}

/// The kind of a failure, which determines the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command ran, and its work failed (`init-db`).
    Failed,
    /// `healthcheck` could not run the check.
    CheckNotRun,
    /// The command line is wrong.
    Usage,
    /// A required resource is unavailable: the database, the queue, or a port in use.
    Unavailable,
    /// An error of bots-ctl, or a feature that this version lacks.
    Internal,
    /// Configuration, or a directory that cannot be used as configured.
    Configuration,
    /// The program exists but cannot be executed.
    CannotExecute,
    /// The program does not exist.
    NotFound,
}

impl Outcome {
    /// The number the process exits with.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Child(code) => code,
            Self::ProblemsFound => 1,
        }
    }
}

impl Kind {
    /// All kinds, in the order of their exit codes.
    pub const ALL: [Self; 8] = [
        Self::Failed,
        Self::CheckNotRun,
        Self::Usage,
        Self::Unavailable,
        Self::Internal,
        Self::Configuration,
        Self::CannotExecute,
        Self::NotFound,
    ];

    /// The number the process exits with.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::CheckNotRun => 2,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::Configuration => 78,
            Self::CannotExecute => 126,
            Self::NotFound => 127,
        }
    }

    /// The meaning of the exit code for a reader of the documentation.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Failed => {
                "failure (init-db, install), rejected job, unhealthy (healthcheck), or problems found (status)"
            }
            Self::CheckNotRun => "the check itself could not run (healthcheck)",
            Self::Usage => "usage error",
            Self::Unavailable => "a required service or port is unavailable",
            Self::Internal => "internal error, or not available in this version",
            Self::Configuration => "configuration error, or an unusable directory",
            Self::CannotExecute => "the program cannot be executed",
            Self::NotFound => "the program was not found",
        }
    }

    /// The kind with this exit code.
    #[must_use]
    pub fn of_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// The exit code of a job in words. Those of bots-ctl's own engine are known; other programs have their own.
#[must_use]
pub fn job_exit_in_words(task: &str, code: u8) -> String {
    let meaning = match code {
        0 => "done",
        // Linux has 64 signals.
        129..=192 => "terminated by a signal",
        1 if is_engine(task) => "the engine run failed",
        2 if is_engine(task) => "the run finished, with errors in files or channels",
        3 if is_engine(task) => "no run: another engine is running, or its port is in use",
        _ if is_engine(task) => Kind::of_code(code).map_or("unknown to bots-ctl", Kind::meaning),
        _ => return format!("exit code {code}"),
    };
    format!("exit code {code}: {meaning}")
}

/// Whether a task is a run of Bots's engine, with or without a path or Python before it.
fn is_engine(task: &str) -> bool {
    task.contains("bots-engine")
}

/// A failure as shown to the user: one line per error, each with the problem, the location and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    faults: Vec<String>,
}

impl Error {
    /// One fault.
    pub fn new(kind: Kind, fault: impl Into<String>) -> Self {
        Self { kind, faults: vec![fault.into()] }
    }

    /// Several faults that were found together.
    #[must_use]
    pub fn all(kind: Kind, faults: Vec<String>) -> Self {
        Self { kind, faults }
    }

    /// The failure's kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The faults, in the order they were found.
    #[must_use]
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// The same, from a failure that is not used any more.
    #[must_use]
    pub fn into_faults(self) -> Vec<String> {
        self.faults
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.faults.join("\n"))
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_documented() {
        assert_eq!(Kind::ALL.map(Kind::code), [1, 2, 64, 69, 70, 78, 126, 127]);
        assert_eq!(Kind::ALL.map(|kind| Kind::of_code(kind.code())), Kind::ALL.map(Some));
        assert_eq!(Kind::of_code(3), None);
    }

    #[test]
    fn only_codes_of_signals_are_called_signals() {
        assert_eq!(job_exit_in_words("task", 143), "exit code 143: terminated by a signal");
        assert_eq!(job_exit_in_words("task", 255), "exit code 255");
        assert_eq!(job_exit_in_words("bots-engine", 193), "exit code 193: unknown to bots-ctl");
    }

    #[test]
    fn outcome_returns_exit_code_of_child() {
        assert_eq!(Outcome::Child(3).code(), 3);
        assert_eq!(Outcome::Success.code(), 0);
    }
}
