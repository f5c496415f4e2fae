//! What runs within this process: measured by criterion, in CPU time of the thread, so that others' load counts less.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use criterion::measurement::{Measurement, ValueFormatter};
use criterion::{Criterion, Throughput};
use rustix::time::{ClockId, clock_gettime};

use crate::contest::{self, Bench, median, milliseconds};
use crate::report::Floor;

/// Each is measured so often, in turn with the others.
const PASSES: usize = 5;

/// The medians of one contestant, one for each pass, in milliseconds.
pub struct Within(Vec<f64>);

impl Within {
    pub fn median(&self) -> f64 {
        median(self.0.clone())
    }

    pub fn floor(ours: &Within, floor: &Within, name: &'static str) -> Floor {
        let ratios = ours.0.iter().zip(&floor.0).map(|(ours, floor)| ours / floor).collect();
        Floor { name, value: floor.median(), ratio: median(ratios) }
    }
}

pub fn within(bench: &Bench, group: &str, contestants: &mut [(&str, &mut dyn FnMut())]) -> Result<Vec<Within>> {
    let folder = contest::folder().join("criterion");
    let mut criterion = Criterion::default()
        .with_measurement(ThreadCpu)
        .without_plots()
        .output_directory(&folder)
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(bench.count(1000, 200) as u64));
    let mut all: Vec<Within> = contestants.iter().map(|_| Within(Vec::new())).collect();
    for pass in 0..bench.count(PASSES, 1) {
        let group_name = format!("{group}-{pass}");
        let mut group = criterion.benchmark_group(&group_name);
        for ((name, run), medians) in contestants.iter_mut().zip(&mut all) {
            group.bench_function(*name, |bencher| bencher.iter(&mut *run));
            let path = folder.join(&group_name).join(name).join("new/estimates.json");
            let estimates = fs::read(&path).with_context(|| path.display().to_string())?;
            let estimates: serde_json::Value = serde_json::from_slice(&estimates)?;
            let nanoseconds = estimates["median"]["point_estimate"].as_f64().context("criterion told no median")?;
            medians.0.push(nanoseconds / 1e6);
        }
        group.finish();
    }
    Ok(all)
}

/// CPU time of the calling thread.
struct ThreadCpu;

impl Measurement for ThreadCpu {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
    }

    fn end(&self, start: Duration) -> Duration {
        self.start() - start
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        &ThreadCpu
    }
}

impl ValueFormatter for ThreadCpu {
    fn scale_values(&self, _typical: f64, values: &mut [f64]) -> &'static str {
        values.iter_mut().for_each(|value| *value = milliseconds(Duration::from_nanos(*value as u64)));
        "ms CPU"
    }

    fn scale_throughputs(&self, _typical: f64, _throughput: &Throughput, _values: &mut [f64]) -> &'static str {
        "ms CPU"
    }

    fn scale_for_machines(&self, _values: &mut [f64]) -> &'static str {
        "ns CPU"
    }
}
