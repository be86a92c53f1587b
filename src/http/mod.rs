//! HTTP/1 as the listeners and clients of bots-ctl use it: with limits on what the other side may cost.

pub mod client;
mod connection_limit;
pub mod server;

/// A response body and its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpBody {
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// The content.
    pub body: String,
}
