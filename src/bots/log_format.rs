//! Log lines of Bots and of Python libraries: their level, their time, and whether a record begins with them.

use crate::config::LogLevel;

/// The first line of a Python traceback, sometimes at the end of a record's first line.
pub const HEADING: &str = "Traceback (most recent call last):";

/// The length searched for a level: a date, a time with fractions of a second, and the longest level.
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

/// Lines that the engine logs in every run. bots-ctl logs the result of a run in one line, and `config show` the settings.
const ROUTINE: [&str; 22] = [
    "served at port:",
    "platform:",
    "machine:",
    "python version:",
    "django version:",
    "bots version:",
    "bots installation path:",
    "config path:",
    "botssys path:",
    "usersys path:",
    "DATABASE_ENGINE:",
    "DATABASE_NAME:",
    "DATABASE_USER:",
    "DATABASE_HOST:",
    "DATABASE_PORT:",
    "DATABASE_OPTIONS:",
    "Connected to database.",
    "Run \"new\".",
    "Run active routes from database that are in default run:",
    "Bots Report; type: new,",
    "Vacuum database",
    "Done full cleanup.",
];

/// Whether this line of level INFO, without its time, is in `ROUTINE`, one of the cleanup, or one of the report.
pub fn is_routine(line: &str) -> bool {
    match line.strip_prefix("INFO ") {
        Some(text) => is_routine_text(text),
        // Of the report, whose lines name no level.
        None => line.strip_prefix("    ").is_some_and(|text| text.starts_with(|c: char| c.is_ascii_digit())),
    }
}

fn is_routine_text(text: &str) -> bool {
    let text = text.trim_ascii_start();
    let text = text.strip_prefix("[bots.engine]").unwrap_or(text).trim_ascii();
    text.is_empty() || text.starts_with("Cleanup ") || ROUTINE.iter().any(|routine| text.starts_with(routine))
}

/// Times at the beginning of a line, in the zone of Bots: of Bots 4, of 3.3.1, of CherryPy. `0` is a digit, `a` a letter.
const TIMES: [&str; 3] = ["0000.00.00 00:00:00 ", "00000000 00:00:00 ", "[00/aaa/0000:00:00:00] "];

/// The line without its time: bots-ctl writes the time of each line itself, in UTC.
pub fn without_time(line: &str) -> &str {
    let bytes = line.as_bytes();
    let has_form = |form: &&str| bytes.len() >= form.len() && form.bytes().zip(bytes).all(is_of_form);
    TIMES.iter().find(|form| has_form(form)).map_or(line, |form| &line[form.len()..])
}

fn is_of_form((form, byte): (u8, &u8)) -> bool {
    match form {
        b'0' => byte.is_ascii_digit(),
        b'a' => byte.is_ascii_alphabetic(),
        _ => form == *byte,
    }
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

/// Whether this line begins a record: with a level or a time, or as an access log line or a Python warning.
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
    fn level_is_read_from_both_bots_formats() {
        assert_eq!(level_of("2026.11.23 05:17:34 STARTINFO [bots.webserver] Starting"), Some(LogLevel::Info));
        assert_eq!(level_of("2026.11.23 05:17:34 CRITICAL  [bots.engine] locked"), Some(LogLevel::Error));
        assert_eq!(level_of("20261123 05:17:40 ERROR: text"), Some(LogLevel::Error));
        assert_eq!(level_of("WARNING  text"), Some(LogLevel::Warn));
        assert_eq!(level_of(HEADING), Some(LogLevel::Error));
        assert_eq!(level_of("  File \"x.py\", line 1, in ERROR"), None);
        assert_eq!(level_of(""), None);
    }

    #[test]
    fn only_lines_of_every_engine_run_are_routine() {
        for line in [
            "INFO     served at port: \"8080\".",
            "INFO     Bots Report; type: new, time: 2026-11-30 05:51:43",
            "INFO     Cleanup database",
            "INFO      [bots.engine] ",
            "INFO      [bots.engine] Done full cleanup.",
            "    2 files received/processed in run.",
        ] {
            assert!(is_routine(line), "{line}");
        }
        for line in [
            "INFO     Run \"crashrecovery\".",
            "INFO     route r",
            "STARTINFO: Done full cleanup.",
            "ERROR    Cleanup files",
            "Cleanup files",
            "2 files of a user script",
            "",
        ] {
            assert!(!is_routine(line), "{line}");
        }
    }

    #[test]
    fn the_time_of_a_line_is_removed_in_each_format() {
        for (line, rest) in [
            ("2026.11.23 05:17:34 STARTINFO [bots.webserver] Starting", "STARTINFO [bots.webserver] Starting"),
            ("20261123 05:17:40 ERROR: at 05:17:39", "ERROR: at 05:17:39"),
            ("[23/Nov/2026:05:17:34] ENGINE Bus STARTED", "ENGINE Bus STARTED"),
            ("2026.11.23 05:17:34 ", ""),
        ] {
            assert_eq!(without_time(line), rest);
        }
        for line in
            ["", "INFO     text", "2026.11.23 is a date", "20261123 05:17 ERROR", "2026-11-23T05:17:34Z x", "\u{e9}"]
        {
            assert_eq!(without_time(line), line);
        }
    }

    #[test]
    fn record_starts_are_recognized() {
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
