//! The set-up of `tracing`: coloured text on a terminal, one JSON object a line elsewhere.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::lines::LineSink;
use crate::config::{Log, LogFormat, LogLevel};

/// Lines that wait for a slow reader before further ones are dropped: some hundred kilobytes at most in practice.
const BUFFERED_LINES: usize = 4096;

/// Writes out what is buffered when it is dropped.
#[must_use]
pub struct Guard(#[allow(dead_code, reason = "held for its drop")] Vec<WorkerGuard>);

/// Installs the log for the rest of the process, and makes the sink for the lines of services.
pub fn init(log: Log) -> (Guard, LineSink) {
    let (stderr, stderr_guard) = writer(io::stderr());
    let (stdout, stdout_guard) = writer(io::stdout());
    let subscriber = tracing_subscriber::fmt().with_max_level(filter(log.level)).with_writer(stderr);
    if is_json(log.format, &io::stderr()) {
        subscriber.json().flatten_event(true).with_target(false).with_current_span(false).with_span_list(false).init();
    } else {
        subscriber.compact().with_target(false).with_ansi(io::stderr().is_terminal()).init();
    }
    let json = is_json(log.format, &io::stdout());
    (Guard(vec![stderr_guard, stdout_guard]), LineSink::new(stdout, json, log.level))
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

fn writer(stream: impl io::Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(BUFFERED_LINES).thread_name("log").finish(stream)
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
