//! Log lines of Bots and of Python libraries: their level, and whether a record begins with them.

use crate::config::LogLevel;

/// How Python begins a traceback, sometimes at the end of a record's first line.
pub const HEADING: &str = "Traceback (most recent call last):";

/// Where a level is looked for: a date, a time with fractions of a second, and the longest level.
const BEGINNING: usize = 40;

/// The level named in one of the first three words, as in `2026.11.23 05:17:34 ERROR [bots.engine] …` (Bots 4),
/// `20261123 05:17:40 STARTINFO: …` and `INFO     …` (3.3.1).
/// A traceback is always an error.
pub fn level_of(line: &str) -> Option<LogLevel> {
    if line.ends_with(HEADING) {
        return Some(LogLevel::Error);
    }
    let beginning = &line.as_bytes()[..line.len().min(BEGINNING)];
    let words = beginning.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.take(3).find_map(level_word)
}

/// With or without a colon.
fn level_word(word: &[u8]) -> Option<LogLevel> {
    match word.strip_suffix(b":").unwrap_or(word) {
        b"CRITICAL" | b"ERROR" => Some(LogLevel::Error),
        b"WARNING" | b"STDERR" => Some(LogLevel::Warn),
        b"INFO" | b"STARTINFO" | b"START" | b"DONE" | b"COM" => Some(LogLevel::Info),
        b"DEBUG" | b"STDOUT" => Some(LogLevel::Debug),
        _ => None,
    }
}

/// The name of a level in records.
pub fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "ERROR",
        LogLevel::Warn => "WARN",
        LogLevel::Info => "INFO",
        LogLevel::Debug => "DEBUG",
        LogLevel::Trace => "TRACE",
    }
}

/// A level as OpenTelemetry numbers it: of the four numbers that each has, the first.
pub fn severity_number(level: LogLevel) -> u8 {
    match level {
        LogLevel::Error => 17,
        LogLevel::Warn => 13,
        LogLevel::Info => 9,
        LogLevel::Debug => 5,
        LogLevel::Trace => 1,
    }
}

/// Whether a record begins with this line: a level or a time comes first, or it is a line of an access log or a
/// Python warning.
pub fn starts_record(line: &str) -> bool {
    let first = line.split_ascii_whitespace().next().unwrap_or_default();
    level_word(first.as_bytes()).is_some()
        || is_cherrypy(line)
        || is_date(first)
        || line.contains(" - - [")
        || (line.contains(".py:") && line.contains("Warning: "))
}

/// Whether this is a line of CherryPy's log, as in `[23/Nov/2026:05:17:34] ENGINE Bus STARTED`.
pub fn is_cherrypy(line: &str) -> bool {
    let stamp = line.strip_prefix('[').and_then(|rest| rest.split_once("] ")).map(|(stamp, _)| stamp);
    stamp.is_some_and(|stamp| stamp.len() == 20 && stamp.matches('/').count() == 2 && stamp.matches(':').count() == 3)
}

/// Eight digits in one piece or as `2026.11.23`, `2026-11-23` or `2026-11-23T05:17:34`.
fn is_date(word: &str) -> bool {
    let day = word.split('T').next().unwrap_or_default();
    day.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-'))
        && day.bytes().filter(u8::is_ascii_digit).count() == 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_both_bots_formats() {
        assert_eq!(level_of("2026.11.23 05:17:34 STARTINFO [bots.webserver] Starting"), Some(LogLevel::Info));
        assert_eq!(level_of("2026.11.23 05:17:34 CRITICAL  [bots.engine] locked"), Some(LogLevel::Error));
        assert_eq!(level_of("20261123 05:17:40 ERROR: text"), Some(LogLevel::Error));
        assert_eq!(level_of("WARNING  text"), Some(LogLevel::Warn));
        assert_eq!(level_of(HEADING), Some(LogLevel::Error));
        assert_eq!(level_of("  File \"x.py\", line 1, in ERROR"), None);
        assert_eq!(level_of(""), None);
    }

    #[test]
    fn beginnings_of_records() {
        for line in [
            "2026.11.23 05:17:34 STARTINFO [bots.webserver] Starting",
            "20261123 05:17:40 ERROR: text",
            "INFO     text",
            "2026-11-23T05:17:40.123 x",
            "[23/Nov/2026:23:01:21] ENGINE Bus STARTING",
            "127.0.0.1 - - [23/Nov/2026:23:01:21] \"GET / HTTP/1.1\" 200 5",
            "/usr/lib/python3/site.py:4: DeprecationWarning: old",
        ] {
            assert!(starts_record(line), "{line}");
        }
        for line in ["", "ValueError: ERROR", "LINE 1: SELECT 1", "[1/3] step", "12345678901: x"] {
            assert!(!starts_record(line), "{line}");
        }
    }
}
