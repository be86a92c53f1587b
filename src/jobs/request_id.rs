//! The ID of a call, in the logs of the relay and of the queue.

use std::fmt;

use axum::http::{HeaderName, HeaderValue, Request};

use crate::telemetry::correlation;

/// The header with the ID.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The longest ID that is accepted from a client.
const MAX_LENGTH: usize = 64;

/// The ID of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// A new ID.
    #[must_use]
    pub fn generate() -> Self {
        Self(correlation::new_id())
    }

    /// The ID that a client has given, if it is safe in a log; else a new one.
    #[must_use]
    pub fn of<B>(request: &Request<B>) -> Self {
        let given = request.headers().get(HEADER).and_then(|value| value.to_str().ok());
        given.filter(|given| is_fit(given)).map_or_else(Self::generate, |given| Self(given.to_owned()))
    }

    /// As a header's value.
    #[must_use]
    pub fn to_header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).unwrap_or(HeaderValue::from_static("-"))
    }
}

fn is_fit(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_LENGTH).contains(&name.len()) && name.bytes().all(fits)
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_id_of_caller_is_kept_if_valid() {
        let named = |name: &str| RequestId::of(&Request::builder().header(HEADER, name).body(()).expect("a request")).0;
        assert_eq!(named("a-1_b.2"), "a-1_b.2");
        for unfit in ["", "a b", "\"},{", &"x".repeat(65)] {
            assert_ne!(named(unfit), unfit);
        }
        assert_ne!(RequestId::generate(), RequestId::generate());
    }
}
