//! HTTP/1 as the listeners and clients of bots-ctl use it: with limits on what the other side may cost.

pub mod client;
mod connection_limit;
pub mod server;
