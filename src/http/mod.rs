//! HTTP/1 for the listeners and clients of bots-ctl, with limits on the resources that the peer can use.

pub mod client;
mod connection_limit;
pub mod server;
