//! Tracebacks as Python 3.11 and 3.13 print them (`tests/fixtures/tracebacks`), and what may surround them.

use super::*;
use crate::bots::log_format::level_of;

macro_rules! real {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../../tests/fixtures/tracebacks/", $name, ".txt")))),*]
    };
}

/// Outputs that are one traceback each.
const REAL: [(&str, &str); 16] = real![
    "plain-3.11",
    "plain-3.13",
    "chained-3.11",
    "chained-3.13",
    "exception-group-3.11",
    "exception-group-3.13",
    "syntax-error-3.11",
    "syntax-error-3.13",
    "syntax-error-in-import-3.11",
    "syntax-error-in-import-3.13",
    "recursion-3.11",
    "recursion-3.13",
    "message-of-several-lines-3.11",
    "message-of-several-lines-3.13",
    "in-a-thread-3.11",
    "in-a-thread-3.13",
];

const LOGS: [(&str, &str); 2] = real!["logging-3.11", "cherrypy-3.11"];

/// A record of several lines is a traceback, and an error.
fn level_expected(text: &str) -> Option<LogLevel> {
    if text.contains('\n') { Some(LogLevel::Error) } else { level_of(text) }
}

/// The records that lines make: text, and whether it is a traceback.
fn records(lines: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let mut emit = |record: Record<'_>| {
        assert!(!record.continues);
        found.push((record.text.to_owned(), record.text.contains('\n')));
        assert_eq!(record.level, level_expected(record.text), "{record:?}");
    };
    let mut assembler = TracebackAssembler::default();
    lines.lines().for_each(|line| assembler.line(line, level_of(line), &mut emit));
    assembler.flush(&mut emit);
    found
}

fn beginnings(records: &[(String, bool)]) -> Vec<(&str, bool)> {
    records
        .iter()
        .map(|(text, traceback)| (text.split(['\n', '(', '<']).next().unwrap_or_default(), *traceback))
        .collect()
}

#[test]
fn traceback_between_other_lines_is_one_record() {
    let before = "2026.11.23 23:01:20 INFO [bots.webserver] before";
    let after = "20261123 23:01:20 INFO: after";
    for (name, text) in REAL {
        let found = records(&format!("{before}\n{text}{after}\n"));
        let expected = [(before.to_owned(), false), (text.trim_end().to_owned(), true), (after.to_owned(), false)];
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn consecutive_tracebacks_are_separate_records() {
    for (name, text) in REAL.into_iter().filter(|(name, _)| !name.starts_with("syntax-error-3")) {
        let found = records(&text.repeat(3));
        assert_eq!(found, vec![(text.trim_end().to_owned(), true); 3], "{name}");
    }
}

#[test]
fn log_record_and_its_traceback_are_one_record() {
    let [(_, logging), (_, cherrypy)] = LOGS;
    let found = records(logging);
    let expected = [
        ("2026.11.23 23:03:39 INFO [bots.webserver] before", false),
        ("2026.11.23 23:03:39 ERROR [bots.webserver] went wrong", true),
        ("2026.11.23 23:03:39 INFO [bots.webserver] after", false),
        ("2026.11.23 23:03:39 ERROR [bots.webserver] no traceback", false),
        ("--- Logging error ---", true),
    ];
    assert_eq!(beginnings(&found), expected);
    assert!(found[1].0.ends_with("\nZeroDivisionError: division by zero"), "{}", found[1].0);
    assert!(found[4].0.ends_with("\nMessage: 'x %d'\nArguments: ('a',)"), "{}", found[4].0);
    let found = records(cherrypy);
    let tracebacks: Vec<&str> =
        found.iter().filter(|(_, traceback)| *traceback).map(|(text, _)| text.as_str()).collect();
    assert_eq!(tracebacks.len(), 3, "{found:#?}");
    assert!(tracebacks[0].contains("] HTTP \nTraceback") && tracebacks[0].ends_with("\nValueError: in a request"));
    assert!(tracebacks[1].contains("] ENGINE Error in 'start' listener"), "{}", tracebacks[1]);
    assert!(tracebacks[1].ends_with("\nRuntimeError: no port"), "{}", tracebacks[1]);
    assert_eq!(found.len(), 10, "{found:#?}");
}

#[test]
fn traceback_heading_may_end_a_record_line() {
    let text = "2026.11.23 05:17:34 ERROR [bots.engine] Traceback (most recent call last):\n  File \"a\", line 1\nE: x";
    assert_eq!(records(&format!("{text}\n{text}")), vec![(text.to_owned(), true); 2]);
}

#[test]
fn other_lines_pass_separately() {
    let text = "hello\n\n  indented\nERROR: one\nERROR: two\n  detail\nWARNING  last";
    let expected: Vec<(String, bool)> = text.lines().map(|line| (line.to_owned(), false)).collect();
    assert_eq!(records(text), expected);
}

#[test]
fn unrelated_lines_are_not_part_of_traceback() {
    let traceback = "Traceback (most recent call last):\n  File \"a\", line 1, in b\nE: x";
    for next in ["\nhello", "127.0.0.1 - - [x] \"GET / HTTP/1.1\" 200", "[23/Nov/2026:05:17:34] ENGINE Bus STOPPED"] {
        let found = records(&format!("{traceback}\n{next}"));
        assert_eq!(found, [(traceback.to_owned(), true), (next.trim().to_owned(), false)]);
    }
    let found = records(&format!("{traceback}\n{}", "line\n".repeat(MAX_TAIL_LINES + 3)));
    assert_eq!(found.len(), 4, "{found:#?}");
}

#[test]
fn cut_traceback_ends_at_next_record() {
    let cut = "Traceback (most recent call last):\n  File \"a\", line 1, in b";
    for next in ["20261123 05:17:40 INFO: x", "INFO     x"] {
        assert_eq!(records(&format!("{cut}\n{next}")), [(cut.to_owned(), true), (next.to_owned(), false)]);
    }
    assert_eq!(records(&format!("{cut}\n{cut}")), vec![(cut.to_owned(), true); 2]);
}

#[test]
fn huge_traceback_is_split_without_loss() {
    let lines = format!("{HEADING}\n{}E: x\n", "  File \"a\", line 1, in b\n".repeat(10_000));
    let mut parts = Vec::new();
    let mut assembler = TracebackAssembler::default();
    let mut emit = |record: Record<'_>| {
        assert!(record.level == Some(LogLevel::Error) && record.text.len() <= MAX_RECORD);
        parts.push((record.text.to_owned(), record.continues));
    };
    lines.lines().for_each(|line| assembler.line(line, level_of(line), &mut emit));
    assembler.flush(&mut emit);
    let (last, others) = parts.split_last().expect("there are parts");
    assert!(!last.1 && others.len() > 2 && others.iter().all(|(_, continues)| *continues));
    let texts: Vec<&str> = parts.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(texts.join("\n"), lines.trim_end());
}

#[test]
fn only_incomplete_records_are_held() {
    let mut assembler = TracebackAssembler::default();
    let mut flush_delay = |line: &str| {
        assembler.line(line, level_of(line), &mut |_| {});
        assembler.flush_delay()
    };
    assert_eq!(flush_delay("20261123 05:17:40 INFO: x"), None);
    assert_eq!(flush_delay("20261123 05:17:40 ERROR: x"), Some(ANNOUNCED_TIMEOUT));
    assert_eq!(flush_delay(HEADING), Some(MID_TRACEBACK_TIMEOUT));
    assert_eq!(flush_delay("  File \"a\", line 1, in b"), Some(MID_TRACEBACK_TIMEOUT));
    assert_eq!(flush_delay("E: x"), Some(ANNOUNCED_TIMEOUT));
    assert_eq!(flush_delay("20261123 05:17:40 INFO: x"), None);
}
