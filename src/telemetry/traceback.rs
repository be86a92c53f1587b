//! Reassembles the lines of a Python traceback, with the record that introduces it. Pure: no clock, no output.
//!
//! A traceback consists of a heading, indented frames, and the exception with its message. It may be followed by a
//! chained traceback, notes, and further lines of the message. Its end is not always detectable. Lines belong to it
//! while they are indented, and up to `MAX_TAIL_LINES` others as long as none begins a record and no empty line comes
//! between; the owner of a [`TracebackAssembler`] flushes it after [`TracebackAssembler::flush_delay`] without a line.

use std::time::Duration;

use crate::bots::log_format::{HEADING, is_cherrypy, starts_record};
use crate::config::LogLevel;

/// Longer records are written in parts.
const MAX_RECORD: usize = 64 * 1024;

/// Lines without indentation after the exception's own: messages and notes of several lines.
const MAX_TAIL_LINES: usize = 20;

/// In the middle of a traceback more is sure to come, unless the process has been killed.
const MID_TRACEBACK_TIMEOUT: Duration = Duration::from_secs(2);

/// Long enough for a record and its traceback, which are written together; an error record may be delayed this long.
const ANNOUNCED_TIMEOUT: Duration = Duration::from_millis(250);

const CHAINS: [&str; 2] = [
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
];

/// The first words of lines that Python prints before an uncaught traceback.
const HEADERS: [&str; 3] = ["Exception in ", "Exception ignored ", "--- Logging error ---"];

/// Lines that make one record.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The lines, `\n` between them.
    pub text: &'a str,
    /// That of its first line; an error when there is a traceback.
    pub level: Option<LogLevel>,
    /// The traceback was too long: the next record continues it.
    pub continues: bool,
}

/// The state of the held lines.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No line is held.
    #[default]
    Empty,
    /// A line that a traceback may follow.
    Header,
    /// A traceback up to its frames.
    InFrames,
    /// A whole traceback.
    Complete { tail: usize, gap: bool },
    /// A traceback and the line that announces the next one.
    Chained,
}

/// Reads the lines of one stream, and holds them while more may belong to them.
#[derive(Debug, Default)]
pub struct TracebackAssembler {
    state: State,
    text: String,
    level: Option<LogLevel>,
}

impl TracebackAssembler {
    /// Adds a line with the level that it names, and emits the records that are complete.
    pub fn line(&mut self, line: &str, level: Option<LogLevel>, emit: &mut impl FnMut(Record<'_>)) {
        if let Some(next) = self.next(line) {
            self.append(line, emit);
            self.state = next;
            self.level = Some(LogLevel::Error);
            return;
        }
        self.flush(emit);
        match begun_by(line, level) {
            State::Empty => emit(Record { text: line, level, continues: false }),
            begun => {
                self.state = begun;
                self.level = if begun == State::Header { level } else { Some(LogLevel::Error) };
                self.text.push_str(line);
            }
        }
    }

    /// Emits the held lines.
    pub fn flush(&mut self, emit: &mut impl FnMut(Record<'_>)) {
        if self.state != State::Empty {
            emit(Record { text: self.text.trim_end_matches('\n'), level: self.level, continues: false });
            self.state = State::Empty;
            self.text = String::new();
        }
    }

    /// How long to wait for the next line before [`Self::flush`]; `None` when nothing is held.
    #[must_use]
    pub fn flush_delay(&self) -> Option<Duration> {
        match self.state {
            State::Empty => None,
            State::InFrames | State::Chained => Some(MID_TRACEBACK_TIMEOUT),
            State::Header | State::Complete { .. } => Some(ANNOUNCED_TIMEOUT),
        }
    }

    /// The next state when `line` belongs to the held lines; `None` when it does not.
    fn next(&self, line: &str) -> Option<State> {
        let indented = line.starts_with([' ', '\t']);
        let heading = line.ends_with(HEADING);
        // Within an exception group, headings stand further in.
        let another = heading && (!indented || line.starts_with("  + "));
        match self.state {
            State::Empty => None,
            State::Header => (heading && !begins(line)).then_some(State::InFrames),
            State::Chained if line.is_empty() => Some(State::Chained),
            State::Chained if heading => Some(State::InFrames),
            State::InFrames | State::Complete { .. } if another => None,
            State::InFrames if ends_group(line) => Some(State::Complete { tail: 0, gap: false }),
            State::InFrames if indented => Some(State::InFrames),
            State::InFrames | State::Chained => (!begins(line)).then_some(State::Complete { tail: 0, gap: false }),
            State::Complete { tail, .. } if line.is_empty() => Some(State::Complete { tail, gap: true }),
            State::Complete { .. } if CHAINS.contains(&line) => Some(State::Chained),
            State::Complete { tail, .. } if indented => Some(State::Complete { tail, gap: false }),
            State::Complete { tail, gap } if gap || tail == MAX_TAIL_LINES || begins(line) => None,
            State::Complete { tail, .. } => Some(State::Complete { tail: tail + 1, gap: false }),
        }
    }

    fn append(&mut self, line: &str, emit: &mut impl FnMut(Record<'_>)) {
        if self.text.len() + 1 + line.len() > MAX_RECORD {
            emit(Record { text: &self.text, level: self.level, continues: true });
            self.text.clear();
        } else {
            self.text.push('\n');
        }
        self.text.push_str(line);
    }
}

/// The state after a line that belongs to nothing before it.
fn begun_by(line: &str, level: Option<LogLevel>) -> State {
    // A script with a syntax error is reported without heading.
    let is_frame = line.starts_with("  File \"") && line.contains("\", line ");
    if line.ends_with(HEADING) || is_frame {
        State::InFrames
    } else if CHAINS.contains(&line) {
        State::Chained
    } else if announces(line, level) {
        State::Header
    } else {
        State::Empty
    }
}

/// Errors and warnings, and all lines of CherryPy's log, which have no levels.
fn announces(line: &str, level: Option<LogLevel>) -> bool {
    let unwell = level.is_some_and(|level| level <= LogLevel::Warn);
    is_announcement(line) || is_cherrypy(line) || (unwell && starts_record(line))
}

fn is_announcement(line: &str) -> bool {
    HEADERS.iter().any(|start| line.starts_with(start))
}

/// Whether a line begins something new.
fn begins(line: &str) -> bool {
    starts_record(line) || is_announcement(line)
}

/// The frame of an exception group is closed by dashes that hold no number.
fn ends_group(line: &str) -> bool {
    let dashes = line.trim_start().strip_prefix('+').unwrap_or_default();
    dashes.len() > 10 && dashes.bytes().all(|byte| byte == b'-')
}

#[cfg(test)]
mod tests;
