//! Escapes for terminals and JSON, with a quick check for the many lines that need none.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
/// The only ASCII control character that JSON permits, and the first bytes of all other characters that terminals
/// interpret.
const DEL: u8 = 0x7f;
const FIRST_OF_C1: u8 = 0xc2;
const FIRST_OF_MARKS: u8 = 0xe2;

const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);

/// Whether this is printable ASCII without quotes and backslashes.
#[must_use]
pub fn is_plain(text: &str) -> bool {
    classify(text) == TextClass::Plain
}

/// The result of a quick check of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TextClass {
    /// Printable ASCII without quotes and backslashes.
    Plain,
    /// ASCII without DEL.
    Ascii,
    Any,
}

/// Eight bytes at a time.
fn classify(text: &str) -> TextClass {
    let mut words = text.as_bytes().chunks_exact(8);
    let (mut special, mut high) = words.by_ref().fold((0, 0), |(special, high), word| {
        let (is_special, is_high) = masks(word);
        (special | is_special, high | is_high)
    });
    let mut last = [b' '; 8];
    let rest = words.remainder();
    last[..rest.len()].copy_from_slice(rest);
    let (is_special, is_high) = masks(&last);
    (special, high) = (special | is_special, high | is_high);
    match (special & HIGH, high & HIGH) {
        (0, _) => TextClass::Plain,
        (_, 0) => TextClass::Ascii,
        _ => TextClass::Any,
    }
}

/// Whether a terminal or a viewer would interpret this character: it could move the cursor, forge a line, or reorder the
/// displayed text.
fn is_unsafe_char(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Escapes the characters of a text from outside that a terminal would interpret.
#[must_use]
pub fn escape_control(message: &str) -> Cow<'_, str> {
    if is_plain(message) {
        return Cow::Borrowed(message);
    }
    let mut text = String::with_capacity(message.len());
    for character in message.chars() {
        match character {
            '\t' => text.push('\t'),
            c if is_unsafe_char(c) => {
                let _ = write!(text, "{}", c.escape_default());
            }
            c => text.push(c),
        }
    }
    Cow::Owned(text)
}

/// Writes a text as JSON, as [`write_json`] does.
pub(super) fn write_text(out: &mut Vec<u8>, text: &str) {
    match classify(text) {
        TextClass::Plain => {
            out.push(b'"');
            out.extend_from_slice(text.as_bytes());
            out.push(b'"');
        }
        TextClass::Ascii => {
            // Writing to memory does not fail.
            let _ = serde_json::to_writer(out, text);
        }
        TextClass::Any => write_json(out, text),
    }
}

/// Writes JSON in which all characters that a terminal would interpret are escaped, including those that JSON permits.
pub(super) fn write_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    let _ = value.serialize(&mut Serializer::with_formatter(out, EscapingFormatter));
}

struct EscapingFormatter;

impl Formatter for EscapingFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut written = 0;
        for at in memchr::memchr3_iter(DEL, FIRST_OF_C1, FIRST_OF_MARKS, fragment.as_bytes()) {
            let found = fragment[at..].chars().next();
            if let Some(character) = found.filter(|character| is_unsafe_char(*character)) {
                write!(writer, "{}\\u{:04x}", &fragment[written..at], u32::from(character))?;
                written = at + character.len_utf8();
            }
        }
        writer.write_all(&fragment.as_bytes()[written..])
    }
}

/// Words with high bits set: the first one if any of these eight bytes is special, the second one if any is DEL or not
/// ASCII; the positions of the bits are not significant.
fn masks(bytes: &[u8]) -> (u64, u64) {
    let word = bytes.try_into().map_or(HIGH, u64::from_ne_bytes);
    // Subtracting from a byte sets its high bit if it was smaller, and may borrow from the next, which then is not
    // the only special one. Adding one to DEL sets it too; bytes beyond ASCII have it from the start.
    let is = |byte: u8| (word ^ (LOW * u64::from(byte))).wrapping_sub(LOW);
    let high = word | word.wrapping_add(LOW);
    (high | word.wrapping_sub(LOW * 0x20) | is(b'"') | is(b'\\'), high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_plain_is_right_for_every_byte_and_position() {
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

    #[test]
    fn only_unsafe_characters_are_escaped() {
        let characters = (0..=0x2100).chain([0xfeff, 0x1f600]).filter_map(char::from_u32);
        for character in characters.filter(|character| !['"', '\\'].contains(character)) {
            let is_raw = !is_unsafe_char(character);
            for text in [format!("a{character}\u{e4}{character}"), format!("\"{character}"), character.into()] {
                let [mut any, mut json] = [Vec::new(), Vec::new()];
                write_json(&mut any, &text);
                write_text(&mut json, &text);
                assert_eq!(json, any, "{text:?}");
                let json = String::from_utf8(json).expect("text");
                assert_eq!(serde_json::from_str::<String>(&json).ok().as_ref(), Some(&text), "{json:?}");
                assert_eq!(json.contains(character), is_raw, "{json:?}");
                assert_eq!(escape_control(&text) == text, is_raw || character == '\t', "{text:?}");
            }
        }
    }
}
