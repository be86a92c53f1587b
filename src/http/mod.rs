//! HTTP/1 as the listeners and clients of bots-ctl use it: with limits on the cost of the other side.

pub mod client;
mod connection_limit;
pub mod server;
