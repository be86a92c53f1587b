//! The quick look that most lines pass: nothing in them needs an escape, on a terminal or in JSON. And the escapes.

use std::borrow::Cow;
use std::fmt::Write as _;

const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);

/// Whether this is printable ASCII without quotes and backslashes; eight bytes at a time.
#[must_use]
pub fn is_plain(text: &str) -> bool {
    let mut words = text.as_bytes().chunks_exact(8);
    let special = words.by_ref().fold(0, |seen, word| seen | special(word));
    let mut last = [b' '; 8];
    let rest = words.remainder();
    last[..rest.len()].copy_from_slice(rest);
    (special | self::special(&last)) & HIGH == 0
}

/// Control characters could move a terminal's cursor or forge lines, so they are shown instead of sent: for what others
/// have named.
#[must_use]
pub fn shown(message: &str) -> Cow<'_, str> {
    if is_plain(message) {
        return Cow::Borrowed(message);
    }
    let mut text = String::with_capacity(message.len());
    for character in message.chars() {
        match character {
            '\t' => text.push('\t'),
            c if c.is_control() => {
                let _ = write!(text, "{}", c.escape_default());
            }
            c => text.push(c),
        }
    }
    Cow::Owned(text)
}

/// A word with its high bits set if any of these eight bytes is special; which of them, it does not tell.
fn special(bytes: &[u8]) -> u64 {
    let word = bytes.try_into().map_or(HIGH, u64::from_ne_bytes);
    // Subtracting from a byte sets its high bit if it was smaller, and may borrow from the next, which then is not
    // the only special one. Adding one to DEL sets it too; bytes beyond ASCII have it from the start.
    let is = |byte: u8| (word ^ (LOW * u64::from(byte))).wrapping_sub(LOW);
    word | word.wrapping_sub(LOW * 0x20) | word.wrapping_add(LOW) | is(b'"') | is(b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_in_every_place() {
        for character in (0..=0xff).map(char::from) {
            let plain = matches!(character, ' '..='~') && !matches!(character, '"' | '\\');
            for before in 0..17 {
                for after in 0..9 {
                    let text = format!("{}{character}{}", "a".repeat(before), "~".repeat(after));
                    assert_eq!(is_plain(&text), plain, "{text:?}");
                }
            }
        }
        assert!(is_plain(""));
    }
}
