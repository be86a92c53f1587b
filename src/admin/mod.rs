//! The listener that serves health, metrics and status.

pub mod server;
