//! What holds for any input, a module for each target. `tests/it/fuzzing.rs` tries the corpora with them on every run.
//!
//! Each `check` panics when something does not hold.

pub mod bots_ini;
pub mod configuration;
pub mod fnmatch;
pub mod health_request;
pub mod log_lines;
pub mod settings_json;
pub mod xmlrpc;

use std::borrow::Cow;

/// Splits the input at a byte that does not occur in text; missing parts are empty.
fn parts<const COUNT: usize>(data: &[u8]) -> [Cow<'_, str>; COUNT] {
    let mut parts = data.splitn(COUNT, |byte| *byte == 0xff);
    std::array::from_fn(|_| String::from_utf8_lossy(parts.next().unwrap_or_default()))
}

/// What could move a cursor or forge a line.
fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

/// Characters that a terminal or viewer interprets instead of showing them.
fn is_obeyed(text: &str) -> bool {
    let turns = ['\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}'];
    let turns = |c: char| {
        turns.contains(&c) || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c)
    };
    has_control(text) || text.contains(turns)
}
