//! The end of a process's output, for later requests.

use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are kept: the last lines of a traceback.
const MAX_BYTES: usize = 4 * 1024;

/// The last lines. Clones share one buffer.
#[derive(Clone, Default)]
pub struct OutputTail(Arc<Mutex<Vec<u8>>>);

impl OutputTail {
    /// Adds a line, or bytes with their newlines.
    pub fn push(&self, bytes: &[u8], end: &[u8]) {
        let mut content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        content.extend_from_slice(&bytes[bytes.len().saturating_sub(MAX_BYTES)..]);
        content.extend_from_slice(end);
        if content.len() > MAX_BYTES {
            let from = content.len() - MAX_BYTES;
            // A truncated line is useless, unless it is the only one.
            let line = content[from..].iter().position(|byte| *byte == b'\n').map_or(from, |at| from + at + 1);
            let rest = if line < content.len() { line } else { from };
            content.drain(..rest);
        }
    }

    /// The kept output, as text for any reader.
    #[must_use]
    pub fn text(&self) -> String {
        let content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&content);
        text.trim_end().chars().map(|c| if is_text(c) { c } else { '\u{fffd}' }).collect()
    }
}

/// Characters that XML and terminals accept.
fn is_text(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}') || matches!(c, '\t' | '\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_keeps_last_whole_lines() {
        let tail = OutputTail::default();
        for number in 0..10_000 {
            tail.push(format!("line {number}").as_bytes(), b"\n");
        }
        let text = tail.text();
        assert!(text.ends_with("line 9998\nline 9999") && text.starts_with("line 9"), "{text}");
        assert!(text.len() <= MAX_BYTES && text.len() > MAX_BYTES - 100);
        tail.push(&[b'x'; 3 * MAX_BYTES], b"\n");
        assert!(tail.text().len() <= MAX_BYTES && tail.text().starts_with('x'));
    }

    #[test]
    fn arbitrary_bytes_become_text() {
        let tail = OutputTail::default();
        tail.push(b"a\x1b[2Jb\xff\0", b"\n");
        assert_eq!(tail.text(), "a\u{fffd}[2Jb\u{fffd}\u{fffd}");
    }
}
