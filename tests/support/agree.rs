//! Compares the exporter's readings with those of other tools.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::{Duration, Instant};

use lab::Cluster;

use super::tools::{Readings, connections_by_ss, handles_by_folder, isr_by_kafka_topics};
use super::{Exporter, wait_for};

/// The longest comparison; it includes the time until `kafka-topics` and Metadata agree.
const COMPARE_TIME: Duration = Duration::from_secs(180);

/// Reads tool, exporter, tool: where all readings of the tool agree, the exporter's must equal them. The exporter's reading
/// is used once its age shows that it was taken between the two. Ends when every series was compared. Fails at the second
/// difference of a series: one alone can be a socket or fd that existed only between two readings of the tool.
///
/// Fds are also counted during the wait, because each dump that the exporter takes is an fd of the broker while it lasts.
#[track_caller]
pub fn agree(
    exporter: &Exporter,
    collector: &str,
    brokers: &[impl Display],
    tool: impl Fn() -> Readings,
) {
    let start = Instant::now();
    let mut open: Option<Vec<String>> = None;
    let mut differences = BTreeMap::<String, u32>::new();
    while open.as_ref().is_none_or(|open| !open.is_empty()) {
        assert!(
            start.elapsed() < COMPARE_TIME,
            "not compared within {COMPARE_TIME:?}: {open:?}"
        );
        let round_start = Instant::now();
        let before = tool();
        let read_since = Instant::now();
        let mut metrics = exporter.metrics();
        let mut during = Vec::new();
        wait_for(
            &format!("new readings of {collector}"),
            Duration::from_secs(60),
            || {
                if collector == "process" {
                    during.push(tool());
                }
                metrics = exporter.metrics();
                let since = read_since.elapsed().as_secs_f64();
                let age = |broker: &_| {
                    metrics.get(&format!(
                        "reading_age_seconds{{broker=\"{broker}\",collector=\"{collector}\"}}"
                    ))
                };
                brokers
                    .iter()
                    .all(|id| age(id).is_some_and(|age| age < since))
            },
        );
        during.push(tool());
        let open = open.get_or_insert_with(|| before.keys().cloned().collect());
        let stable = |series: &String| {
            during
                .iter()
                .all(|counts| counts.get(series) == before.get(series))
        };
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
                round_start.elapsed()
            );
            open.push(series.clone());
        }
    }
}

/// Compares every reading that a tool reports too, for the running brokers and controllers.
#[track_caller]
pub fn agree_on_everything(cluster: &Cluster, exporter: &Exporter) {
    let running: Vec<i32> = cluster
        .nodes()
        .iter()
        .filter(|node| node.pid().is_ok())
        .map(|node| node.id())
        .collect();
    agree(exporter, "process", &running, || handles_by_folder(cluster));
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

/// Whether the collector `sockets` reads this series of `connections`; the collector `connections` reads the others.
pub fn is_of_pulse(series: &str) -> bool {
    series.contains("\"server\"") && !series.contains("\"established\"")
}
