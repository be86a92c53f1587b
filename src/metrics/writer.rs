//! Writes metrics with their samples in the requested format.

use std::borrow::Cow;
use std::fmt;
use std::time::SystemTime;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::exemplar::Exemplar;

use super::definitions::{MetricDef, MetricKind};

/// Metrics are written one after the other, each at most once.
pub(super) struct MetricWriter<'a>(pub DescriptorEncoder<'a>);

impl MetricWriter<'_> {
    /// A metric without labels; omitted without a value.
    pub fn write_single(&mut self, metric: &MetricDef, value: impl Into<Option<f64>>) -> fmt::Result {
        self.write_metric(metric, value.into().map(|value| ([], value)))
    }

    /// A metric with one label, which is a count for each of its values.
    pub fn write_counts<'v>(
        &mut self,
        metric: &MetricDef,
        counts: impl IntoIterator<Item = (&'v str, u64)>,
    ) -> fmt::Result {
        self.write_metric(metric, counts.into_iter().map(|(value, count)| ([value.into()], number(count))))
    }

    /// A metric with its samples; omitted without samples.
    pub fn write_metric<'v, const N: usize>(
        &mut self,
        metric: &MetricDef,
        samples: impl IntoIterator<Item = ([Cow<'v, str>; N], f64)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut encoder = self.0.encode_descriptor(metric.base_name(), metric.help, None, metric.kind)?;
        for (values, value) in samples {
            let labels: Vec<(&str, Cow<'_, str>)> = metric.labels.iter().copied().zip(values).collect();
            match metric.kind {
                MetricKind::Info => encoder.encode_info(&labels)?,
                kind => write_value(kind, &mut encoder.encode_family(&labels)?, value)?,
            }
        }
        Ok(())
    }

    /// A histogram without labels: how many there are in each class, by its upper end.
    pub fn histogram(&mut self, metric: &MetricDef, sum: f64, classes: &[(f64, u64)]) -> fmt::Result {
        let count = classes.iter().map(|(_, count)| count).sum();
        let mut encoder = self.0.encode_descriptor(metric.base_name(), metric.help, None, MetricKind::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(sum, count, classes, None)
    }
}

/// Writes a whole number without a fraction.
fn write_value(kind: MetricKind, encoder: &mut MetricEncoder<'_>, value: f64) -> fmt::Result {
    let no_exemplar = None::<&Exemplar<NoLabelSet, f64>>;
    match (kind, whole(value)) {
        (MetricKind::Counter, Some(count)) => encoder.encode_counter(&count, no_exemplar),
        (MetricKind::Counter, None) => encoder.encode_counter(&value, no_exemplar),
        (_, Some(count)) => encoder.encode_gauge(&count),
        (_, None) => encoder.encode_gauge(&value),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is checked")]
fn whole(value: f64) -> Option<u64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    ((0.0..EXACT).contains(&value) && value.fract() == 0.0).then_some(value as u64)
}

/// A count as a sample. Beyond 2^53 it is not exact.
#[allow(clippy::cast_precision_loss, reason = "all values are floats in the end")]
pub(super) fn number(count: u64) -> f64 {
    count as f64
}

/// A moment as a sample: seconds since 1970.
pub(super) fn moment(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// How long ago something was, as a sample.
pub(super) fn age(time: Option<SystemTime>) -> f64 {
    let age = time.and_then(|time| SystemTime::now().duration_since(time).ok());
    age.unwrap_or_default().as_secs_f64()
}
