//! Identifiers that lines have in common: a run of the engine, a request. They find all lines of it.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// The run that this process is for, where it is for one.
static RUN: OnceLock<String> = OnceLock::new();

/// A name that nothing else has.
#[must_use]
pub fn new_id() -> String {
    // Want of random numbers must not keep an engine from running: two names at one moment are good enough then.
    let moment = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos().into();
    format!("{:016x}", getrandom::u64().unwrap_or_else(|_| moment()))
}

/// From now on every line of this process is about one run.
pub fn set_run_id() {
    RUN.get_or_init(new_id);
}

/// The run that this process is for.
pub(super) fn run_id() -> Option<&'static str> {
    RUN.get().map(String::as_str)
}
