//! The set-up of `tracing`: coloured text on a terminal, one JSON object a line elsewhere.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;

use super::lines::LineSink;
use super::queue::{Flush, LineQueue};
use crate::config::{Log, LogFormat, LogLevel};

/// Writes out what is buffered when it is dropped.
#[must_use]
pub struct Guard(#[allow(dead_code, reason = "held for its drop")] [Flush; 2]);

/// Installs the log for the rest of the process, and makes the sink for the lines of services.
pub fn init(log: Log) -> (Guard, LineSink) {
    let (stderr, stderr_guard) = LineQueue::to(io::stderr());
    let (stdout, stdout_guard) = LineQueue::to(io::stdout());
    let subscriber = tracing_subscriber::fmt().with_max_level(filter(log.level)).with_writer(move || stderr.clone());
    if is_json(log.format, &io::stderr()) {
        subscriber.json().flatten_event(true).with_target(false).with_current_span(false).with_span_list(false).init();
    } else {
        subscriber.compact().with_target(false).with_ansi(io::stderr().is_terminal()).init();
    }
    let json = is_json(log.format, &io::stdout());
    (Guard([stderr_guard, stdout_guard]), LineSink::new(stdout, json, log.level))
}

/// Whether lines to this stream are JSON.
#[must_use]
pub fn is_json(format: LogFormat, stream: &impl IsTerminal) -> bool {
    match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !stream.is_terminal(),
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
