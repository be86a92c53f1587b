//! Lines of services: any fragmentation gives the same lines, no line is lost, and each is one record.
//!
//! The first four bytes select the format, the maximum length, and the sizes of the fragments.

use std::io::sink;
use std::sync::LazyLock;
use std::time::Duration;

use bots_ctl::bots::log_format::without_time;
use bots_ctl::config::{ChildOutput, LogLevel};
use bots_ctl::supervisor::output::line_splitter::LineSplitter;
use bots_ctl::telemetry::child_output::{OutputStream, RecordWriter, ServiceOutput};
use bots_ctl::telemetry::line_writer::LineWriter;
use serde_json::Value;

/// Nothing is ever sent to it.
static QUEUE: LazyLock<LineWriter> = LazyLock::new(|| LineWriter::new(sink(), Duration::ZERO, |_| String::new()).0);

/// A line or a part of one, and whether it goes on.
type Line = (Vec<u8>, bool);

/// Splits, and makes records.
pub fn check(data: &[u8]) {
    let Some((&[kind, longest, first, second], bytes)) = data.split_first_chunk() else { return };
    let longest = 4 + usize::from(longest);
    let sizes = [1 + usize::from(first), 1 + usize::from(second)];
    let whole = [bytes.len().max(1); 2];
    let lines = lines_of(bytes, longest);
    assert_eq!(split(bytes, longest, sizes), lines);
    assert_eq!(split(bytes, longest, whole), lines);
    let stream = if kind & 4 == 0 { OutputStream::Stdout } else { OutputStream::Stderr };
    let format = [ChildOutput::Json, ChildOutput::Text, ChildOutput::Raw][usize::from(kind % 4).min(2)];
    let written = records(bytes, longest, sizes, format, stream);
    assert!(written == records(bytes, longest, whole, format, stream), "{}", String::from_utf8_lossy(&written));
    match format {
        ChildOutput::Raw => assert!(written == bytes),
        ChildOutput::Text => check_text(&written, &lines),
        ChildOutput::Json => check_json(&written, &lines),
    }
}

/// A slow reference implementation of the lines.
fn lines_of(bytes: &[u8], longest: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let bytes = bytes.strip_suffix(b"\n").map_or((bytes, !bytes.is_empty()), |rest| (rest, true));
    if !bytes.1 {
        return lines;
    }
    for line in bytes.0.split(|byte| *byte == b'\n') {
        let mut rest = line.strip_suffix(b"\r").unwrap_or(line);
        while rest.len() > longest {
            let is_inner = |at: &usize| rest[*at] & 0xc0 == 0x80;
            let cut = (longest - 3..=longest).rev().find(|at| !is_inner(at)).unwrap_or(longest);
            lines.push((rest[..cut].to_vec(), true));
            rest = &rest[cut..];
        }
        lines.push((rest.to_vec(), false));
    }
    lines
}

/// As they arrive, in these two sizes by turns.
fn chunks(mut bytes: &[u8], sizes: [usize; 2]) -> impl Iterator<Item = &[u8]> {
    sizes.into_iter().cycle().map_while(move |size| {
        let (chunk, rest) = bytes.split_at(size.min(bytes.len()));
        bytes = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn split(bytes: &[u8], longest: usize, sizes: [usize; 2]) -> Vec<Line> {
    let mut splitter = LineSplitter::with_longest(longest);
    let mut lines = Vec::new();
    let mut take = |splitter: &mut LineSplitter| {
        while let Some(line) = splitter.next_line() {
            lines.push((line.bytes.to_vec(), line.continues));
        }
        splitter.compact();
    };
    for chunk in chunks(bytes, sizes) {
        splitter.space().extend_from_slice(chunk);
        take(&mut splitter);
    }
    splitter.finish();
    take(&mut splitter);
    assert!(splitter.is_empty());
    lines
}

fn records(bytes: &[u8], longest: usize, sizes: [usize; 2], format: ChildOutput, stream: OutputStream) -> Vec<u8> {
    let sink = ServiceOutput::new(QUEUE.clone(), QUEUE.clone(), format, LogLevel::Trace).for_service("engine");
    let is_raw = sink.is_raw();
    let (mut splitter, mut records) = (LineSplitter::with_longest(longest), sink.records(stream));
    let forward = |splitter: &mut LineSplitter, records: &mut RecordWriter| {
        if is_raw {
            records.bytes(splitter.complete_lines());
        }
        while !is_raw && let Some(line) = splitter.next_line() {
            records.line(line.bytes, line.continues);
        }
        splitter.compact();
    };
    for chunk in chunks(bytes, sizes) {
        splitter.space().extend_from_slice(chunk);
        forward(&mut splitter, &mut records);
    }
    if is_raw {
        records.bytes(splitter.remainder());
    } else {
        splitter.finish();
        forward(&mut splitter, &mut records);
        records.flush();
    }
    records.ready().to_vec()
}

fn check_text(written: &[u8], lines: &[Line]) {
    let written = std::str::from_utf8(written).expect("it is text");
    assert!(written.is_empty() || written.ends_with('\n'));
    let written: Vec<&str> = written.split_terminator('\n').collect();
    assert_eq!(written.len(), lines.len());
    for (written, (line, continues)) in written.into_iter().zip(lines) {
        let message = written.strip_prefix(" engine | ").expect("the service is named");
        assert!(!super::is_obeyed(&message.replace('\t', "")), "{message:?}");
        let message = if *continues { message.strip_suffix(" [continues]").expect("it goes on") } else { message };
        let line = String::from_utf8_lossy(line);
        assert!(message == line || message == without_time(&line) || super::is_obeyed(&line), "{message:?} {line:?}");
    }
}

/// The line without any of the times before its text.
fn untimed(line: &str) -> &str {
    let rest = without_time(line);
    if rest.len() == line.len() { line } else { untimed(rest) }
}

/// RecordWriter hold every line; an empty one at the end of a record may be left out.
fn check_json(written: &[u8], lines: &[Line]) {
    let written = std::str::from_utf8(written).expect("it is text");
    let mut text = String::new();
    for record in written.split_terminator('\n') {
        assert!(!super::is_obeyed(record), "{record:?}");
        let record: Value = serde_json::from_str(record).expect("it is JSON");
        assert_eq!(record["service"], "engine");
        let number = match record["level"].as_str() {
            Some("ERROR") => 17,
            Some("WARN") => 13,
            Some("INFO") => 9,
            other => other.filter(|name| *name == "DEBUG").map_or(0, |_| 5),
        };
        assert_eq!(record["severity_number"], number);
        text.push_str(record["message"].as_str().expect("there is one"));
        if record.get("continues").is_none() {
            text.push('\n');
        }
    }
    let ends =
        lines.iter().map(|(line, continues)| (String::from_utf8_lossy(line), if *continues { "" } else { "\n" }));
    let expected: String = ends.flat_map(|(line, end)| [line, end.into()]).collect();
    let filled = |text: &str| {
        text.split('\n').map(untimed).filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(filled(&text), filled(&expected));
}
