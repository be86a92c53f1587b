//! What bots-ctl says of itself and carries for its services.
//!
//! Its own log goes to standard error through `tracing`; lines of services go to standard output. Both pass a
//! bounded buffer with a writer of its own, so a reader that is slow or gone blocks neither a service nor a probe.

pub mod counters;
pub mod ids;
mod json;
pub mod level;
pub mod lines;
pub mod logging;
pub mod plain;
pub mod queue;
pub mod standard;
pub mod tail;
mod text;
pub mod traceback;
