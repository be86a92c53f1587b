//! Log lines of bots-ctl as JSON, in the schema of the services' lines: first the common fields, then those of the
//! event.
//!
//! `timestamp`, `level`, `severity_number` and `message` are Timestamp, SeverityText, SeverityNumber and Body of
//! OpenTelemetry's log data model; `service` names the resource, and all other fields are attributes.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime as Timestamp};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::correlation;
use super::escape::write_json;
use crate::bots::log_format::{level_name, severity_number};
use crate::config::LogLevel;

/// Writes one object a line.
pub(super) struct JsonFormat;

impl<S, N> FormatEvent<S, N> for JsonFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = common_fields(level_of(*event.metadata().level()));
        if let Some(run) = correlation::run_id() {
            line.insert("run_id".to_owned(), run.into());
        }
        event.record(&mut FieldVisitor(&mut line));
        let mut json = Vec::new();
        write_json(&mut json, &line);
        writeln!(writer, "{}", String::from_utf8_lossy(&json))
    }
}

/// The fields that every line has.
pub(super) fn common_fields(level: LogLevel) -> Map<String, Value> {
    let mut timestamp = String::new();
    // Writing to memory does not fail.
    let _ = Timestamp.format_time(&mut Writer::new(&mut timestamp));
    let common = [
        ("timestamp", timestamp.into()),
        ("level", level_name(level).into()),
        ("severity_number", severity_number(level).into()),
        ("service", "bots-ctl".into()),
    ];
    common.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn level_of(level: Level) -> LogLevel {
    match level {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warn,
        Level::INFO => LogLevel::Info,
        Level::DEBUG => LogLevel::Debug,
        Level::TRACE => LogLevel::Trace,
    }
}

/// The fields of an event. A `service` among them replaces `bots-ctl`.
struct FieldVisitor<'a>(&'a mut Map<String, Value>);

impl FieldVisitor<'_> {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for FieldVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}
