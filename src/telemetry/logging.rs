//! The set-up of `tracing`: coloured text on a terminal, one JSON object a line elsewhere.

use std::fmt::Debug;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use serde_json::Value;
use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use super::child_output::ServiceOutput;
use super::escape::{escape_control, write_json};
use super::format_json::{JsonFormat, common_fields};
use super::line_writer::{FILE_SEND_TIMEOUT, FlushGuard, LineWriter, PIPE_SEND_TIMEOUT};
use super::stdio::{UnbufferedStream, is_file, is_same};
use crate::bots::log_format::level_name;
use crate::config::{ChildOutput, LogConfig, LogFormat, LogLevel};

/// Whether the log of this process is JSON; unset while there is none.
static IS_JSON: OnceLock<bool> = OnceLock::new();

/// Writes the buffered lines when it is dropped.
#[must_use]
pub struct LogGuard(#[allow(dead_code, reason = "held for its drop")] Vec<FlushGuard>);

/// Installs the log for the rest of the process, and creates the sink for the lines of services.
pub fn init(log: LogConfig) -> (LogGuard, ServiceOutput) {
    let own_json = is_json(log.format, &io::stderr());
    let _ = IS_JSON.set(own_json);
    let child_output = log.child_output.unwrap_or(match is_json(log.format, &io::stdout()) {
        true => ChildOutput::Json,
        false => ChildOutput::Text,
    });
    let (stderr, flush) = queue(io::stderr(), own_json);
    let mut guard = vec![flush];
    let mut stdout = stderr.clone();
    if !is_same(&io::stdout(), &io::stderr()) {
        let flush;
        (stdout, flush) = queue(io::stdout(), child_output == ChildOutput::Json);
        guard.push(flush);
    }
    let own = stderr.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(filter(log.level)).with_writer(move || own.clone());
    if own_json {
        subscriber.event_format(JsonFormat).init();
    } else {
        subscriber.compact().with_target(false).with_ansi(io::stderr().is_terminal()).fmt_fields(text_fields()).init();
    }
    (LogGuard(guard), ServiceOutput::new(stdout, stderr, child_output, log.level))
}

/// The error that ends a command, as the last line: in the format of the log, or of `LOG_FORMAT` if there was no log yet.
#[must_use]
pub fn last_line(fault: &str) -> String {
    let asked = || std::env::var("LOG_FORMAT").is_ok_and(|format| format.eq_ignore_ascii_case("json"));
    if !IS_JSON.get().copied().unwrap_or_else(asked) {
        return format!("bots-ctl: {}", escape_control(fault));
    }
    let mut line = common_fields(LogLevel::Error);
    line.insert("message".to_owned(), fault.into());
    let mut json = Vec::new();
    write_json(&mut json, &line);
    String::from_utf8_lossy(&json).into_owned()
}

/// Writes message and values, and escapes the characters that a terminal would interpret, so that no caller can forget it.
fn text_fields() -> impl for<'a> FormatFields<'a> + Send + Sync + 'static {
    let write = |writer: &mut Writer<'_>, field: &Field, value: &dyn Debug| {
        let text = format!("{value:?}");
        match field.name() {
            "message" => write!(writer, "{}", escape_control(&text)),
            name => write!(writer, "{name}={}", escape_control(&text)),
        }
    };
    debug_fn(write).delimited(" ")
}

/// Whether lines to this stream are JSON.
fn is_json(format: LogFormat, stream: &impl IsTerminal) -> bool {
    match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !stream.is_terminal(),
    }
}

/// A queue whose notice of dropped lines has the format of the other lines.
fn queue(stream: impl AsFd + Send + 'static, json: bool) -> (LineWriter, FlushGuard) {
    let send_timeout = if is_file(&stream) { FILE_SEND_TIMEOUT } else { PIPE_SEND_TIMEOUT };
    LineWriter::new(UnbufferedStream(stream), send_timeout, if json { json_notice } else { text_notice })
}

const DROPPED: &str = "lines dropped here: the reader of the output is too slow or absent, or its disk is full";

fn text_notice(lost: u64) -> String {
    format!("bots-ctl | {lost} {DROPPED}\n")
}

fn json_notice(lost: u64) -> String {
    let mut line = common_fields(LogLevel::Warn);
    line.insert("message".to_owned(), format!("{lost} {DROPPED}").into());
    line.insert("dropped".to_owned(), lost.into());
    format!("{}\n", Value::from(line))
}

fn filter(level: LogLevel) -> LevelFilter {
    level_name(level).parse().unwrap_or(LevelFilter::INFO)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing::{info, subscriber::with_default};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn log_messages_escape_control_characters_in_all_formats() {
        let (text, json) = (Written::default(), Written::default());
        let (to_text, to_json) = (text.clone(), json.clone());
        let builder = tracing_subscriber::fmt().with_ansi(false);
        let as_text =
            builder.compact().with_target(false).fmt_fields(text_fields()).with_writer(move || to_text.clone());
        let as_json = tracing_subscriber::fmt().event_format(JsonFormat).with_writer(move || to_json.clone());
        let tell = || info!(files = 2, "in \u{9b}2J\u{202e}\nforged \u{7f}\u{2066}");
        with_default(as_text.finish(), tell);
        with_default(as_json.finish(), tell);
        let [text, json] =
            [text, json].map(|all| String::from_utf8(all.0.lock().expect("no panic").clone()).expect("text"));
        assert!(text.ends_with("INFO in \\u{9b}2J\\u{202e}\\nforged \\u{7f}\\u{2066} files=2\n"), "{text:?}");
        assert!(json.contains(r#""message":"in \u009b2J\u202e\nforged \u007f\u2066""#), "{json:?}");
        assert_eq!((text.lines().count(), json.lines().count()), (1, 1));
    }
}
