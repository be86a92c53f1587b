//! The metrics of this pod for Prometheus, written when it scrapes.
//!
//! # Theory of operation
//!
//! A scrape queries nothing. It takes the health state, the counters, and the usage of the processes from `/proc`, and writes
//! them in the requested format; so it costs the database nothing, and a database that is away changes nothing but the values.
//! The totals that runs of the engine in other pods have left in the database are part of the health state.
//!
//! [`definitions`] is the list of all metrics, and `collect` writes their values.

mod collect;
mod cpu_totals;
pub mod definitions;
mod label_limit;
mod writer;

use std::fmt;
use std::io;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::registry::Registry;
use tokio::sync::Mutex;

use crate::health::state::HealthState;
use crate::process::blocking;
use crate::telemetry::child_output::ServiceOutput;
use crate::telemetry::counters::Counters;

use collect::Scrape;
use cpu_totals::{CpuTotals, UsageSample};
use label_limit::LabelLimit;
use writer::MetricWriter;

/// An exposition format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own text format.
    Text,
    /// OpenMetrics, which newer servers request.
    OpenMetrics,
}

impl Format {
    /// The format for an `Accept` header: OpenMetrics only if it is listed with at least the weight of text.
    #[must_use]
    pub fn wanted(accept: &str) -> Self {
        let open = weight(accept, "application/openmetrics-text");
        let text = weight(accept, "text/plain").or(weight(accept, "*/*")).unwrap_or_default();
        if open.is_some_and(|open| open > 0.0 && open >= text) { Self::OpenMetrics } else { Self::Text }
    }

    /// The value of `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The highest weight with which a header names a type.
fn weight(accept: &str, wanted: &str) -> Option<f32> {
    let ranges = accept.split(',').filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case(wanted) {
            return None;
        }
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        Some(weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0)))
    });
    ranges.fold(None, |highest, weight| Some(highest.map_or(weight, |highest: f32| highest.max(weight))))
}

/// Writes metrics, and keeps the state between two scrapes.
pub struct Exporter {
    counters: Arc<Counters>,
    lines: ServiceOutput,
    /// By route.
    routes: LabelLimit<1>,
    /// By files and route.
    directories: LabelLimit<2>,
    cpu_totals: CpuTotals,
    turn: Mutex<()>,
}

impl Exporter {
    /// Names at most `limit` routes, and as many directories.
    #[must_use]
    pub fn new(counters: Arc<Counters>, lines: ServiceOutput, limit: usize) -> Self {
        let (routes, directories) = (LabelLimit::new(limit), LabelLimit::new(limit));
        Self { counters, lines, routes, directories, cpu_totals: CpuTotals::default(), turn: Mutex::default() }
    }

    /// The page of metrics in the format requested by an `Accept` header, and its `Content-Type`. It is written on
    /// another thread, one at a time, so that no probe waits for it.
    ///
    /// # Errors
    /// If no thread can be started.
    pub async fn page(self: Arc<Self>, health: HealthState, accept: &str) -> io::Result<(&'static str, String)> {
        let format = Format::wanted(accept);
        let exporter = Arc::clone(&self);
        let _turn = self.turn.lock().await;
        let body = blocking::run(move || exporter.scrape(health, format)).await?;
        Ok((format.content_type(), body))
    }

    /// All metrics as of now.
    fn scrape(self: &Arc<Self>, health: HealthState, format: Format) -> String {
        let readings = self.cpu_totals.read(&health.services);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Encoder { exporter: Arc::clone(self), health, readings }));
        let mut body = String::new();
        let written = match format {
            Format::Text => prometheus_text::encode(&mut body, &registry),
            Format::OpenMetrics => text::encode(&mut body, &registry),
        };
        // Writing to a String cannot fail.
        debug_assert!(written.is_ok());
        body
    }
}

/// The source data of one scrape.
struct Encoder {
    exporter: Arc<Exporter>,
    health: HealthState,
    readings: UsageSample,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrape").finish_non_exhaustive()
    }
}

impl Collector for Encoder {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Exporter { counters, lines, routes, directories, .. } = &*self.exporter;
        let (page, health, usage) = (MetricWriter(encoder), &self.health, &self.readings);
        Scrape { page, counters, lines, routes, directories, health, usage }.write()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_follows_accept_header() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, format) in [
            (prometheus, Format::OpenMetrics),
            ("Application/OpenMetrics-Text", Format::OpenMetrics),
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/html, */*;q=0.8", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text; q=0.2, text/plain; q=0.9", Format::Text),
            ("application/openmetrics-text;q=nonsense", Format::Text),
        ] {
            assert_eq!(Format::wanted(accept), format, "{accept}");
        }
    }
}
