//! Lines of services: raw, or as records with their time in UTC, service, stream and the level in Bots's own format.
//!
//! A [`ServiceOutput`] has the destination and the format of lines; the [`RecordWriter`] of one stream keeps the state from one
//! line to the next. Many records are made in one buffer and queued at once.

use std::borrow::Cow;
use std::time::Duration;

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime as Timestamp};

use super::correlation;
use super::escape::{escape_control, write_text};
use super::line_writer::LineWriter;
use super::tail::OutputTail;
use super::traceback::{Record, TracebackAssembler};
use crate::bots::log_format::{is_routine, level_name, level_of, severity_number, without_time};
use crate::config::{ChildOutput, LogLevel};

/// Bytes that are queued at once: enough for a low overhead, few enough to leave room for other writers.
const MAX_BATCH: usize = 64 * 1024;

/// Ends a part of a line that was too long, as `"continues":true` does in JSON.
const CONTINUES: &str = " [continues]";

/// The stream a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The destination and the format of the lines of services.
#[derive(Clone)]
pub struct ServiceOutput {
    service: &'static str,
    /// The job that these lines belong to.
    job: Option<JobOutput>,
    /// The run of these lines, if it is not that of the whole process.
    run: Option<String>,
    /// Each process of the service is a run.
    has_runs: bool,
    format: ChildOutput,
    least: LogLevel,
    stdout: LineWriter,
    stderr: LineWriter,
}

/// The output of a job.
#[derive(Clone)]
struct JobOutput {
    number: i64,
    /// Keeps its last lines.
    tail: OutputTail,
}

/// The lines of one stream of one service on their way into the log.
pub struct RecordWriter {
    assembler: TracebackAssembler,
    out: RecordEncoder,
    /// The next line is a further part of the one before.
    in_parts: bool,
}

/// Encodes records, and buffers the encoded ones.
struct RecordEncoder {
    sink: ServiceOutput,
    stream: OutputStream,
    /// The level of the previous record: a line without a level belongs to it.
    level: LogLevel,
    /// The time of the lines that are being read.
    now: String,
    /// The time of the first line that the assembler holds.
    held_since: String,
    /// The beginning of JSON records of this time, and its level: most have the level of the record before.
    head: String,
    head_level: Option<LogLevel>,
    /// Whether the last record was a routine one.
    is_routine: bool,
    batch: Vec<u8>,
}

impl OutputStream {
    /// The level of a first line without one: unlabelled lines on standard error default to WARN.
    fn first_level(self) -> LogLevel {
        match self {
            Self::Stdout => LogLevel::Info,
            Self::Stderr => LogLevel::Warn,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

impl ServiceOutput {
    /// A sink for lines that belong to no service yet. Records go to `stdout`; raw output keeps its stream.
    #[must_use]
    pub fn new(stdout: LineWriter, stderr: LineWriter, format: ChildOutput, least: LogLevel) -> Self {
        Self { service: "bots-ctl", job: None, run: None, has_runs: false, format, least, stdout, stderr }
    }

    /// The same sink for a service.
    #[must_use]
    pub fn for_service(&self, service: &'static str) -> Self {
        Self { service, ..self.clone() }
    }

    /// The same sink for a service whose processes are separate runs.
    #[must_use]
    pub fn with_run_ids(&self, service: &'static str) -> Self {
        Self { service, has_runs: true, ..self.clone() }
    }

    /// The same sink for a process of the service.
    #[must_use]
    pub fn for_process(&self) -> Self {
        Self { run: self.has_runs.then(correlation::new_id), ..self.clone() }
    }

    /// The same sink for one run of a job of a service; the end of its output is also kept.
    #[must_use]
    pub fn for_job(&self, number: i64, run: &str, tail: OutputTail) -> Self {
        Self { job: Some(JobOutput { number, tail }), run: Some(run.to_owned()), ..self.clone() }
    }

    /// How many lines were dropped so far, of services and of bots-ctl's own log.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let stderr = if self.stdout.is_same(&self.stderr) { 0 } else { self.stderr.dropped() };
        self.stdout.dropped() + stderr
    }

    /// Whether output is forwarded unchanged.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        self.format == ChildOutput::Raw
    }

    /// The records of one stream.
    #[must_use]
    pub fn records(self, stream: OutputStream) -> RecordWriter {
        let level = stream.first_level();
        let (now, held_since, head) = (String::new(), String::new(), String::new());
        let out = RecordEncoder {
            sink: self,
            stream,
            level,
            now,
            held_since,
            head,
            head_level: None,
            is_routine: false,
            batch: Vec::new(),
        };
        RecordWriter { assembler: TracebackAssembler::default(), out, in_parts: false }
    }
}

impl RecordWriter {
    /// Sets the time of the following lines.
    pub fn stamp_time(&mut self) {
        self.out.now.clear();
        let _ = Timestamp.format_time(&mut Writer::new(&mut self.out.now));
        self.out.head_level = None;
    }

    /// Adds a line without its end, or a part of one that `continues`. Bytes that are not UTF-8 are replaced.
    pub fn line(&mut self, line: &[u8], continues: bool) {
        if let Some(job) = &self.out.sink.job {
            job.tail.push(line, if continues { b"" } else { b"\n" });
        }
        // Validation takes a fraction of the time of a replacement, even without invalid bytes.
        let text = str::from_utf8(line).map_or_else(|_| String::from_utf8_lossy(line), Cow::Borrowed);
        let is_part = continues || self.in_parts;
        if self.out.sink.format == ChildOutput::Json && !is_part {
            return self.assemble(&text);
        }
        self.flush();
        let mut text: &str = &text;
        if !self.in_parts {
            self.out.level = level_of(text).unwrap_or(self.out.level);
            text = without_time(text);
        }
        self.in_parts = continues;
        self.out.record(text, continues, false);
    }

    /// Adds bytes unchanged: complete lines, except possibly the last one.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if let Some(job) = &self.out.sink.job {
            job.tail.push(bytes, b"");
        }
        self.out.batch.extend_from_slice(bytes);
    }

    fn assemble(&mut self, text: &str) {
        let Self { assembler, out, .. } = self;
        // The first record is the buffered one, if there is any.
        let mut buffered = assembler.flush_delay().is_some();
        assembler.line(text, level_of(text), &mut |record| {
            out.assembled(&record, buffered);
            buffered = false;
        });
        if !buffered && assembler.flush_delay().is_some() {
            out.held_since.clone_from(&out.now);
        }
    }

    /// Writes the lines that are held because more may belong to them.
    pub fn flush(&mut self) {
        let Self { assembler, out, .. } = self;
        assembler.flush(&mut |record| out.assembled(&record, true));
    }

    /// How long to wait for more lines before [`Self::flush`]; `None` when nothing is held.
    #[must_use]
    pub fn flush_delay(&self) -> Option<Duration> {
        self.assembler.flush_delay()
    }

    /// The records that are ready: complete lines as they will be written, unless they are raw.
    #[must_use]
    pub fn ready(&self) -> &[u8] {
        &self.out.batch
    }

    /// Whether it is time to [`Self::send`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.ready().len() >= MAX_BATCH
    }

    /// Whether a buffer is kept that is not needed in quiet times.
    #[must_use]
    pub fn has_spare_capacity(&self) -> bool {
        self.out.batch.capacity() > 0
    }

    /// Frees the buffer, after [`Self::send`].
    pub fn release_buffer(&mut self) {
        self.out.batch = Vec::new();
    }

    /// Queues the records that are ready.
    pub async fn send(&mut self) {
        let RecordEncoder { sink, stream, batch, .. } = &mut self.out;
        let queue = if sink.is_raw() && *stream == OutputStream::Stderr { &sink.stderr } else { &sink.stdout };
        queue.send(batch).await;
        batch.clear();
    }
}

impl RecordEncoder {
    fn assembled(&mut self, record: &Record<'_>, buffered: bool) {
        self.level = record.level.unwrap_or(self.level);
        self.record(without_time(record.text), record.continues, buffered);
    }

    /// Writes a record of the present level, unless that is below the configured one. A routine line, and an empty one after it, are of level
    /// DEBUG; other lines that follow it and name no level are not, since a user script may have written them.
    fn record(&mut self, text: &str, continues: bool, buffered: bool) {
        self.is_routine =
            self.level == LogLevel::Info && if text.is_empty() { self.is_routine } else { is_routine(text) };
        let level = if self.is_routine { LogLevel::Debug } else { self.level };
        if level > self.sink.least {
            return;
        }
        match self.sink.format {
            ChildOutput::Json => self.json(level, text, continues, buffered),
            ChildOutput::Text | ChildOutput::Raw => self.text(text, continues),
        }
        self.batch.push(b'\n');
    }

    fn json(&mut self, level: LogLevel, message: &str, continues: bool, buffered: bool) {
        if buffered {
            let head = self.head_of(level, &self.held_since);
            self.batch.extend_from_slice(head.as_bytes());
        } else {
            if self.head_level != Some(level) {
                (self.head, self.head_level) = (self.head_of(level, &self.now), Some(level));
            }
            self.batch.extend_from_slice(self.head.as_bytes());
        }
        write_text(&mut self.batch, message);
        self.batch.extend_from_slice(if continues { b",\"continues\":true}" } else { b"}" });
    }

    /// The names among the values are bots-ctl's own and need no escapes.
    fn head_of(&self, level: LogLevel, timestamp: &str) -> String {
        let (level_text, service, stream) = (level_name(level), self.sink.service, self.stream.name());
        let number = severity_number(level);
        let job = self.sink.job.as_ref().map(|job| format!("\"job\":{},", job.number)).unwrap_or_default();
        let run = self
            .sink
            .run
            .as_deref()
            .or(correlation::run_id())
            .map(|run| format!("\"run_id\":\"{run}\","))
            .unwrap_or_default();
        format!(
            "{{\"timestamp\":\"{timestamp}\",\"level\":\"{level_text}\",\"severity_number\":{number},\
             \"service\":\"{service}\",{job}{run}\"stream\":\"{stream}\",\"message\":"
        )
    }

    fn text(&mut self, message: &str, continues: bool) {
        let job = self.sink.job.as_ref().map(|job| format!(" {}", job.number)).unwrap_or_default();
        let end = if continues { CONTINUES } else { "" };
        for part in [&self.now, " ", self.sink.service, &job, " | ", &escape_control(message), end] {
            self.batch.extend_from_slice(part.as_bytes());
        }
    }
}
