//! A page of metrics in the making: what a family is, and its samples, in whichever format was asked for.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::time::SystemTime;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;

use super::definitions::{MetricDef, MetricKind};

/// The longest value of a label. What people write into names of routes and paths has no limit.
const MAX_LABEL_VALUE: usize = 200;

/// Values for the labels of a family, in their order.
pub(super) type Labels<'a, const N: usize> = [Cow<'a, str>; N];

/// Families are written one after the other, each at most once.
pub(super) struct MetricWriter<'a>(DescriptorEncoder<'a>);

impl<'a> MetricWriter<'a> {
    pub fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    /// A family without labels; not at all where there is no value.
    pub fn write_single(&mut self, family: &MetricDef, value: Option<f64>) -> fmt::Result {
        self.write_family(family, value.map(|value| ([], value)))
    }

    /// A family with its samples; not at all where there are none. The values of labels are cut where they are too long.
    pub fn write_family<'v, const N: usize>(
        &mut self,
        family: &MetricDef,
        samples: impl IntoIterator<Item = (Labels<'v, N>, f64)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let kind = match family.kind {
            MetricKind::Counter => MetricType::Counter,
            MetricKind::Gauge | MetricKind::Histogram => MetricType::Gauge,
            MetricKind::Info => MetricType::Info,
        };
        let mut encoder = self.0.encode_descriptor(family.base_name(), family.help, None, kind)?;
        for (values, value) in samples {
            let labels: Vec<(&str, Cow<'_, str>)> =
                family.labels.iter().copied().zip(values.into_iter().map(shortened)).collect();
            match family.kind {
                MetricKind::Info => encoder.encode_info(&labels)?,
                MetricKind::Counter => counter(&mut labelled(&mut encoder, &labels)?, value)?,
                MetricKind::Gauge | MetricKind::Histogram => gauge(&mut labelled(&mut encoder, &labels)?, value)?,
            }
        }
        Ok(())
    }

    /// A histogram without labels: how many there are in each class, by its upper end.
    pub fn histogram(&mut self, family: &MetricDef, sum: f64, classes: &[(f64, u64)]) -> fmt::Result {
        let count = classes.iter().map(|(_, count)| count).sum();
        let mut encoder = self.0.encode_descriptor(family.base_name(), family.help, None, MetricType::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(sum, count, classes, None)
    }
}

fn labelled<'s>(
    encoder: &'s mut MetricEncoder<'_>,
    labels: &'s Vec<(&str, Cow<'_, str>)>,
) -> Result<MetricEncoder<'s>, fmt::Error> {
    encoder.encode_family(labels)
}

fn counter(encoder: &mut MetricEncoder<'_>, value: f64) -> fmt::Result {
    let no_exemplar = None::<&Exemplar<NoLabelSet, f64>>;
    match whole(value) {
        Some(count) => encoder.encode_counter(&count, no_exemplar),
        None => encoder.encode_counter(&value, no_exemplar),
    }
}

fn gauge(encoder: &mut MetricEncoder<'_>, value: f64) -> fmt::Result {
    match whole(value) {
        Some(count) => encoder.encode_gauge(&count),
        None => encoder.encode_gauge(&value),
    }
}

/// What is a whole number is written as one.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was looked at")]
fn whole(value: f64) -> Option<u64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    ((0.0..EXACT).contains(&value) && value.fract() == 0.0).then_some(value as u64)
}

fn shortened(value: Cow<'_, str>) -> Cow<'_, str> {
    match value.char_indices().nth(MAX_LABEL_VALUE) {
        Some((end, _)) => {
            let mut short = value[..end].to_owned();
            let _ = short.write_char('…');
            short.into()
        }
        None => value,
    }
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
