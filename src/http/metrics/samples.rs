//! Numbers on their way to the text format.

use std::collections::BTreeMap;

use prometheus::proto;

use super::{Family, Kind};
use crate::backend::{BOUNDS_SECONDS, HistogramSnapshot};

/// Samples by family, families by name.
#[derive(Default)]
pub(super) struct Samples {
    families: BTreeMap<&'static str, proto::MetricFamily>,
}

impl Samples {
    /// Adds a number of a counter or a gauge.
    pub(super) fn number(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        let mut metric = labelled(family, labels);
        match family.kind {
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            Kind::Histogram => panic!("{} takes histograms", family.name),
        }
        self.push(family, metric);
    }

    /// Adds a histogram.
    pub(super) fn histogram(&mut self, family: &'static Family, labels: &[&str], snapshot: &HistogramSnapshot) {
        assert_eq!(family.kind, Kind::Histogram, "{} takes numbers", family.name);
        let buckets = BOUNDS_SECONDS.iter().zip(snapshot.cumulative);
        let buckets = buckets.map(|(bound, count)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(count);
            bucket
        });
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(snapshot.count);
        histogram.set_sample_sum(snapshot.sum_seconds);
        let mut metric = labelled(family, labels);
        metric.set_histogram(histogram);
        self.push(family, metric);
    }

    /// All of it, in a stable order.
    pub(super) fn into_families(self) -> Vec<proto::MetricFamily> {
        self.families.into_values().collect()
    }

    fn push(&mut self, family: &'static Family, metric: proto::Metric) {
        let samples = self.families.entry(family.name).or_insert_with(|| {
            let mut samples = proto::MetricFamily::default();
            samples.set_name(family.name.to_owned());
            samples.set_help(family.help.to_owned());
            samples.set_field_type(match family.kind {
                Kind::Counter => proto::MetricType::COUNTER,
                Kind::Gauge => proto::MetricType::GAUGE,
                Kind::Histogram => proto::MetricType::HISTOGRAM,
            });
            samples
        });
        samples.mut_metric().push(metric);
    }
}

fn labelled(family: &Family, values: &[&str]) -> proto::Metric {
    assert_eq!(family.labels.len(), values.len(), "labels of {}", family.name);
    let pairs = family.labels.iter().zip(values).map(|(name, value)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    proto::Metric::from_label(pairs.collect())
}
