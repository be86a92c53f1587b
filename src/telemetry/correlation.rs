//! Identifiers of an engine run or a request, by which all its lines can be found.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// The run of this process, if it runs an engine.
static RUN: OnceLock<String> = OnceLock::new();

/// A random identifier.
#[must_use]
pub fn new_id() -> String {
    // Missing random numbers must not prevent an engine run: the nanoseconds of the time are sufficient then.
    let moment = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos().into();
    format!("{:016x}", getrandom::u64().unwrap_or_else(|_| moment()))
}

/// From now on, all lines of this process belong to one run.
pub fn set_run_id() {
    RUN.get_or_init(new_id);
}

/// The run that this process is for.
pub(super) fn run_id() -> Option<&'static str> {
    RUN.get().map(String::as_str)
}
