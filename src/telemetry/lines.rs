//! Lines of services: with service, stream and the level that Bots's own format tells.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime as Timestamp};

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
    writer: Arc<Mutex<NonBlocking>>,
}

#[derive(Serialize)]
struct Record<'a> {
    timestamp: &'a str,
    level: &'static str,
    service: &'static str,
    stream: Stream,
    message: &'a str,
}

impl LineSink {
    /// A sink for lines that belong to no service yet.
    #[must_use]
    pub fn new(writer: NonBlocking, json: bool, least: LogLevel) -> Self {
        Self { service: "bots-ctl", json, least, writer: Arc::new(Mutex::new(writer)) }
    }

    /// The same sink for a service.
    #[must_use]
    pub fn of(&self, service: &'static str) -> Self {
        Self { service, ..self.clone() }
    }

    /// Writes one line, unless its level is below what is wanted. Bytes that are not UTF-8 are replaced.
    pub fn write(&self, stream: Stream, line: &[u8]) {
        let message = String::from_utf8_lossy(line);
        let level = level_of(&message);
        if level > self.least {
            return;
        }
        let mut text = if self.json { self.json_line(stream, level, &message) } else { self.text_line(&message) };
        text.push('\n');
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // The writer counts what it has to drop; there is nobody to tell here.
        let _ = writer.write_all(text.as_bytes());
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
/// `20261123 05:17:40 STARTINFO: …` and `INFO     …` (3.3.1). Anything else counts as information.
#[must_use]
pub fn level_of(line: &str) -> LogLevel {
    let words = line.split_ascii_whitespace().take(3);
    words.filter_map(|word| level_word(word.trim_end_matches(':'))).next().unwrap_or(LogLevel::Info)
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
        assert_eq!(level_of("2026.11.23 05:17:34 STARTINFO [bots.webserver] Starting"), LogLevel::Info);
        assert_eq!(level_of("2026.11.23 05:17:34 CRITICAL  [bots.engine] locked"), LogLevel::Error);
        assert_eq!(level_of("20261123 05:17:40 ERROR: text"), LogLevel::Error);
        assert_eq!(level_of("WARNING  text"), LogLevel::Warn);
        assert_eq!(level_of("there was no ERROR at all"), LogLevel::Info);
        assert_eq!(level_of(""), LogLevel::Info);
    }
}
