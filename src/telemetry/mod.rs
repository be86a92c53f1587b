//! The log of bots-ctl, and the output of its services.
//!
//! The log goes to standard error through `tracing`; lines of services go to standard output. Each has a bounded buffer
//! with a separate writer, so a slow or absent reader blocks neither a service nor a probe.

pub mod child_output;
pub mod correlation;
pub mod counters;
pub mod escape;
mod format_json;
pub mod line_writer;
pub mod logging;
pub mod stdio;
pub mod tail;
pub mod traceback;
