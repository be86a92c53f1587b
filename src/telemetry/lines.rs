//! Lines of services: with service, stream and the level that Bots's own format tells.

use std::fmt::Write as _;

use serde::Serialize;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime as Timestamp};

use super::queue::LineQueue;
use crate::config::LogLevel;

/// The stream a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Writes lines of one service.
#[derive(Clone)]
pub struct LineSink {
    service: &'static str,
    json: bool,
    least: LogLevel,
    queue: LineQueue,
}

#[derive(Serialize)]
struct Record<'a> {
    timestamp: &'a str,
    level: &'static str,
    service: &'static str,
    stream: Stream,
    message: &'a str,
}

impl Stream {
    /// The level of a first line that names none: what goes to standard error without a level is rarely good news.
    #[must_use]
    pub fn first_level(self) -> LogLevel {
        match self {
            Self::Stdout => LogLevel::Info,
            Self::Stderr => LogLevel::Warn,
        }
    }
}

impl LineSink {
    /// A sink for lines that belong to no service yet.
    #[must_use]
    pub fn new(queue: LineQueue, json: bool, least: LogLevel) -> Self {
        Self { service: "bots-ctl", json, least, queue }
    }

    /// The same sink for a service.
    #[must_use]
    pub fn of(&self, service: &'static str) -> Self {
        Self { service, ..self.clone() }
    }

    /// Writes one line, unless its level is below what is wanted. Bytes that are not UTF-8 are replaced.
    ///
    /// `level` is that of the line before on the same stream: a line that names none belongs to that one.
    pub fn write(&self, stream: Stream, line: &[u8], level: &mut LogLevel) {
        let message = String::from_utf8_lossy(line);
        *level = level_of(&message).unwrap_or(*level);
        let level = *level;
        if level > self.least {
            return;
        }
        let mut text = if self.json { self.json_line(stream, level, &message) } else { self.text_line(&message) };
        text.push('\n');
        self.queue.push(text.as_bytes());
    }

    fn json_line(&self, stream: Stream, level: LogLevel, message: &str) -> String {
        let mut timestamp = String::new();
        let _ = Timestamp.format_time(&mut Writer::new(&mut timestamp));
        let record = Record { timestamp: &timestamp, level: level_name(level), service: self.service, stream, message };
        serde_json::to_string(&record).unwrap_or_default()
    }

    /// Control characters could move a terminal's cursor or forge lines, so they are shown instead of sent.
    fn text_line(&self, message: &str) -> String {
        let mut text = format!("{} | ", self.service);
        for character in message.chars() {
            match character {
                '\t' => text.push('\t'),
                c if c.is_control() => {
                    let _ = write!(text, "{}", c.escape_default());
                }
                c => text.push(c),
            }
        }
        text
    }
}

fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "ERROR",
        LogLevel::Warn => "WARN",
        LogLevel::Info => "INFO",
        LogLevel::Debug => "DEBUG",
        LogLevel::Trace => "TRACE",
    }
}

/// The level named in one of the first three words, as in `2026.11.23 05:17:34 ERROR [bots.engine] …` (Bots 4),
/// `20261123 05:17:40 STARTINFO: …` and `INFO     …` (3.3.1). A traceback is an error, whoever prints it.
#[must_use]
pub fn level_of(line: &str) -> Option<LogLevel> {
    if line.starts_with("Traceback (most recent call last)") {
        return Some(LogLevel::Error);
    }
    let mut words = line.split_ascii_whitespace().take(3);
    words.find_map(|word| level_word(word.trim_end_matches(':')))
}

fn level_word(word: &str) -> Option<LogLevel> {
    match word {
        "CRITICAL" | "ERROR" => Some(LogLevel::Error),
        "WARNING" | "STDERR" => Some(LogLevel::Warn),
        "INFO" | "STARTINFO" | "START" | "DONE" | "COM" => Some(LogLevel::Info),
        "DEBUG" | "STDOUT" => Some(LogLevel::Debug),
        _ => None,
    }
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
        assert_eq!(level_of("Traceback (most recent call last):"), Some(LogLevel::Error));
        assert_eq!(level_of("  File \"x.py\", line 1, in ERROR"), None);
        assert_eq!(level_of(""), None);
    }
}
