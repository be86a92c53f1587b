//! The end of what a process has printed, for whoever asks later.

use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are kept: the last lines of a traceback.
const MOST: usize = 4 * 1024;

/// The last lines. All clones are one.
#[derive(Clone, Default)]
pub struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    /// Adds a line, or bytes that hold their line ends.
    pub fn push(&self, bytes: &[u8], end: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&bytes[bytes.len().saturating_sub(MOST)..]);
        kept.extend_from_slice(end);
        if kept.len() > MOST {
            let from = kept.len() - MOST;
            // A line that is not whole says little, unless it is the only one.
            let line = kept[from..].iter().position(|byte| *byte == b'\n').map_or(from, |at| from + at + 1);
            let rest = if line < kept.len() { line } else { from };
            kept.drain(..rest);
        }
    }

    /// What is kept, as text that any reader can take.
    #[must_use]
    pub fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept);
        text.trim_end().chars().map(|c| if is_text(c) { c } else { '\u{fffd}' }).collect()
    }
}

/// What XML and terminals can bear.
fn is_text(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}') || matches!(c, '\t' | '\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_are_kept_and_little_else() {
        let tail = Tail::default();
        for number in 0..10_000 {
            tail.push(format!("line {number}").as_bytes(), b"\n");
        }
        let text = tail.text();
        assert!(text.ends_with("line 9998\nline 9999") && text.starts_with("line 9"), "{text}");
        assert!(text.len() <= MOST && text.len() > MOST - 100);
        tail.push(&[b'x'; 3 * MOST], b"\n");
        assert!(tail.text().len() <= MOST && tail.text().starts_with('x'));
    }

    #[test]
    fn any_bytes_become_text() {
        let tail = Tail::default();
        tail.push(b"a\x1b[2Jb\xff\0", b"\n");
        assert_eq!(tail.text(), "a\u{fffd}[2Jb\u{fffd}\u{fffd}");
    }
}
