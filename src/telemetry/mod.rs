//! The log of bots-ctl, and the output of its services.
//!
//! Its own log goes to standard error through `tracing`; lines of services go to standard output. Both pass a
//! bounded buffer with a writer of its own, so a reader that is slow or gone blocks neither a service nor a probe.

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
