//! Series as they are added, and their text.

use std::collections::BTreeMap;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric as Series, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

use crate::expose::metrics::Metric;
use crate::model::visible;

/// Families by name, each with the series added so far.
#[derive(Default)]
pub(super) struct Families(BTreeMap<&'static str, (&'static Metric, Vec<Series>)>);

impl Families {
    /// Adds a series if the value is known.
    pub(super) fn add(
        &mut self,
        metric: &'static Metric,
        labels: &[&str],
        value: impl Into<Option<f64>>,
    ) {
        debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
        let Some(value) = value.into() else { return };
        let pairs = metric.labels.iter().zip(labels).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(visible(value).into_owned());
            pair
        });
        let mut series = Series::from_label(pairs.collect());
        if metric.is_counter() {
            let mut counter = Counter::default();
            counter.set_value(value);
            series.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            series.set_gauge(gauge);
        }
        self.0
            .entry(metric.name)
            .or_insert((metric, Vec::new()))
            .1
            .push(series);
    }

    pub(super) fn encode(self) -> String {
        let family = |(metric, series): (&Metric, _)| {
            let mut family = MetricFamily::default();
            family.set_name(metric.name.to_owned());
            family.set_help(metric.help.to_owned());
            family.set_field_type(if metric.is_counter() {
                MetricType::COUNTER
            } else {
                MetricType::GAUGE
            });
            family.set_metric(series);
            family
        };
        let families: Vec<MetricFamily> = self.0.into_values().map(family).collect();
        let mut out = Vec::with_capacity(16 * 1024);
        match TextEncoder::new().encode(&families, &mut out) {
            Ok(()) => String::from_utf8_lossy(&out).into_owned(),
            // Only a family without a name or without a series is refused, and `add` makes neither.
            Err(error) => format!("# {error}\n"),
        }
    }
}
