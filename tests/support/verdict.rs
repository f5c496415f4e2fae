//! Measures the time from a deadlock to its report.
#![allow(dead_code)] // each test binary uses a part
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use lab::{Cluster, Deadlock, Form, deadlock};

use super::{Exporter, Metrics, wait_for};

/// Makes the deadlock while the exporter is scraped 50 times a second. Returns the seconds from the last follower's
/// SIGCONT to the start of the first scrape that reports it.
pub fn seconds_to_verdict(
    cluster: &Cluster,
    form: Form,
    mut scrape: impl FnMut() -> Metrics,
) -> (f64, Deadlock) {
    std::thread::scope(|scope| {
        let making = scope.spawn(|| deadlock::make(cluster, form).unwrap());
        let mut made: Option<Instant> = None;
        let (id, reported) = loop {
            let start = Instant::now();
            let metrics = scrape();
            let mut ids = cluster.brokers().map(|broker| broker.id());
            if let Some(id) = ids.find(|id| metrics.of("deadlock_detected", *id) == Some(1.0)) {
                break (id, start);
            }
            if making.is_finished() {
                assert!(
                    made.get_or_insert(start).elapsed() < Duration::from_secs(30),
                    "the deadlock is not reported"
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let deadlock = making.join().unwrap();
        assert_eq!(id, deadlock.broker);
        (
            reported
                .saturating_duration_since(deadlock.followers_continued)
                .as_secs_f64(),
            deadlock,
        )
    })
}

/// Starts three brokers of the incident's version, and an exporter that knows their threads.
pub fn start() -> (Cluster, Exporter) {
    let cluster = lab::Cluster::start(lab::ClusterOptions::new("0.10.1.0")).unwrap();
    cluster.create_topic("t32", 32, 3).unwrap();
    let exporter = Exporter::start(cluster.cell());
    followed(&cluster, &exporter);
    (cluster, exporter)
}

/// Waits until the progress of every broker is known. A first dump that comes before a broker's threads is repeated after
/// 15 s.
pub fn followed(cluster: &Cluster, exporter: &Exporter) {
    wait_for("progress of all brokers", Duration::from_secs(40), || {
        let metrics = exporter.metrics();
        let known = |id, collector| metrics.success(id, collector) == Some(true);
        cluster
            .brokers()
            .all(|broker| known(broker.id(), "progress") && known(broker.id(), "threads"))
    });
}

/// Describes how busy the machine is: its load over one minute, and its CPUs.
pub fn load() -> String {
    let average = std::fs::read_to_string("/proc/loadavg").unwrap();
    let cpus = std::thread::available_parallelism().unwrap();
    format!("load {} on {cpus} CPUs", average.split(' ').next().unwrap())
}
