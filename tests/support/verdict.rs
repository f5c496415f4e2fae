//! How long after the deadlock's making the exporter says so.
#![allow(dead_code)] // each test binary uses a part
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use lab::{Cluster, Deadlock, Form, deadlock};

use super::{Exporter, wait_for};

/// Makes the deadlock while the exporter is scraped 50 times a second; the seconds from the last follower's SIGCONT to
/// the begin of the first scrape that tells of it.
pub fn seconds_to_verdict(cluster: &Cluster, exporter: &Exporter, form: Form) -> (f64, Deadlock) {
    std::thread::scope(|scope| {
        let making = scope.spawn(|| deadlock::make(cluster, form).unwrap());
        let mut made: Option<Instant> = None;
        let (id, told) = loop {
            let begun = Instant::now();
            let metrics = exporter.metrics();
            let mut ids = cluster.brokers().map(|broker| broker.id());
            if let Some(id) = ids.find(|id| metrics.of("deadlock_detected", *id) == Some(1.0)) {
                break (id, begun);
            }
            if making.is_finished() {
                assert!(
                    made.get_or_insert(begun).elapsed() < Duration::from_secs(30),
                    "the deadlock is not told"
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let deadlock = making.join().unwrap();
        assert_eq!(id, deadlock.broker);
        (
            told.saturating_duration_since(deadlock.followers_continued)
                .as_secs_f64(),
            deadlock,
        )
    })
}

/// Three brokers of the incident's version with an exporter that knows their threads.
pub fn start() -> (Cluster, Exporter) {
    let cluster = lab::Cluster::start(lab::ClusterOptions::new("0.10.1.0")).unwrap();
    cluster.create_topic("t32", 32, 3).unwrap();
    let exporter = Exporter::start(cluster.cell());
    followed(&cluster, &exporter);
    (cluster, exporter)
}

/// Waits until the progress of every broker is known.
pub fn followed(cluster: &Cluster, exporter: &Exporter) {
    wait_for("progress of all brokers", Duration::from_secs(15), || {
        let metrics = exporter.metrics();
        let known = |id, collector| metrics.success(id, collector) == Some(true);
        cluster
            .brokers()
            .all(|broker| known(broker.id(), "progress") && known(broker.id(), "threads"))
    });
}

/// How busy the machine is: its load over one minute, and its CPUs.
pub fn load() -> String {
    let average = std::fs::read_to_string("/proc/loadavg").unwrap();
    let cpus = std::thread::available_parallelism().unwrap();
    format!("load {} on {cpus} CPUs", average.split(' ').next().unwrap())
}
