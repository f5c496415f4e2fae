//! The exporter's readings against those of other tools.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::{Duration, Instant};

use lab::Cluster;

use super::tools::{Readings, connections_by_ss, handles_by_folder, isr_by_kafka_topics};
use super::{Exporter, wait_for};

/// Tool, exporter, tool: wherever both readings of the tool agree, the exporter's must equal them. The exporter's
/// reading is taken once its age says that it was read between the two. Ends when every series was compared; a
/// difference must show twice, as what comes and goes between two looks of a tool is no fault of the exporter.
#[track_caller]
pub fn agree(
    exporter: &Exporter,
    reading: &str,
    brokers: &[impl Display],
    tool: impl Fn() -> Readings,
) {
    let begun = Instant::now();
    let mut open: Option<Vec<String>> = None;
    let mut differences = BTreeMap::<String, u32>::new();
    while open.as_ref().is_none_or(|open| !open.is_empty()) {
        assert!(
            begun.elapsed() < Duration::from_secs(90),
            "not compared within 90 s: {open:?}"
        );
        let before_begun = Instant::now();
        let before = tool();
        let read_since = Instant::now();
        let mut metrics = exporter.metrics();
        wait_for(
            &format!("new readings of {reading}"),
            Duration::from_secs(60),
            || {
                metrics = exporter.metrics();
                let since = read_since.elapsed().as_secs_f64();
                let age = |broker: &_| {
                    metrics.get(&format!(
                        "reading_age_seconds{{broker=\"{broker}\",reading=\"{reading}\"}}"
                    ))
                };
                brokers
                    .iter()
                    .all(|id| age(id).is_some_and(|age| age < since))
            },
        );
        let after = tool();
        let open = open.get_or_insert_with(|| before.keys().cloned().collect());
        let stable = |series: &String| before.get(series) == after.get(series);
        for series in before.keys().filter(|series| stable(series)) {
            let (ours, wanted) = (metrics.get(series), Some(before[series] as f64));
            if ours == wanted {
                open.retain(|one| one != series);
                continue;
            }
            let times = differences.entry(series.clone()).or_default();
            *times += 1;
            assert!(
                *times < 2,
                "{series}: {ours:?}, and {wanted:?} by the tool over {:?}",
                before_begun.elapsed()
            );
            open.push(series.clone());
        }
    }
}

/// All that the tools tell, for the brokers and controllers that run.
#[track_caller]
pub fn agree_on_everything(cluster: &Cluster, exporter: &Exporter) {
    let running: Vec<i32> = cluster
        .nodes()
        .iter()
        .filter(|node| node.pid().is_ok())
        .map(|node| node.id())
        .collect();
    agree(exporter, "handles", &running, || handles_by_folder(cluster));
    for (reading, pulse) in [("sockets", true), ("connections", false)] {
        agree(exporter, reading, &running, || {
            let all = connections_by_ss(cluster, exporter);
            all.into_iter()
                .filter(|(series, _)| is_of_pulse(series) == pulse)
                .collect()
        });
    }
    let brokers: Vec<i32> = cluster
        .brokers()
        .filter(|node| node.pid().is_ok())
        .map(|node| node.id())
        .collect();
    agree(exporter, "cluster", &brokers, || {
        isr_by_kafka_topics(cluster)
    });
}

/// Whether every pulse reads a series of `connections`; else the slow round does.
pub fn is_of_pulse(series: &str) -> bool {
    series.contains("\"server\"") && !series.contains("\"established\"")
}
