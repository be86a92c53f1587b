//! The result of one run of Bots's engine, and its exit codes.

use crate::exit::Exit;
use crate::supervisor::state::Termination;

/// Bots's own code for an engine that finds another one running.
pub(super) const BUSY: u8 = 3;

/// Bots's own code for a run that it could not do.
const FAILED: u8 = 1;

/// Bots's own code for a run in which files or channels had errors.
pub(super) const ERRORS: u8 = 2;

/// The end of a run.
pub(super) struct RunResult {
    pub end: Termination,
    /// The reason, when the lease was lost.
    pub lost: Option<String>,
    pub stop_requested: bool,
}

impl RunResult {
    /// Bots's exit code for errors in files, or for its own errors.
    pub fn has_errors(&self) -> bool {
        matches!(self.end, Termination::Exited(Exit::Code(FAILED | ERRORS)))
    }
}
