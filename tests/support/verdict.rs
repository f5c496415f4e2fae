//! How long after the deadlock's making the exporter says so.
#![allow(dead_code)] // each test binary uses a part
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::{Cluster, Deadlock, Form, deadlock};

use super::{Exporter, Metrics, get, wait_for};

/// Makes the deadlock while a thread scrapes 50 times a second; the seconds from the last follower's SIGCONT to the
/// begin of the first scrape that tells of it.
pub fn seconds_to_verdict(cluster: &Cluster, exporter: &Exporter, form: Form) -> (f64, Deadlock) {
    let over = AtomicBool::new(false);
    let first: Mutex<Option<(i32, Instant)>> = Mutex::new(None);
    let ids: Vec<i32> = cluster.brokers().map(|broker| broker.id()).collect();
    let network = cluster.cell().network().unwrap();
    let deadlock = std::thread::scope(|scope| {
        scope.spawn(|| {
            network.enter().unwrap();
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let metrics = Metrics::parse(&get(exporter.port, "/metrics").1);
                if let Some(id) = ids.iter().find(|id| metrics.of("deadlock_detected", **id) == Some(1.0)) {
                    *first.lock().unwrap() = Some((*id, begun));
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let deadlock = deadlock::make(cluster, form);
        if deadlock.is_err() {
            over.store(true, Ordering::Relaxed);
        }
        let deadlock = deadlock.unwrap();
        let begun = Instant::now();
        while first.lock().unwrap().is_none() && begun.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(20));
        }
        over.store(true, Ordering::Relaxed);
        deadlock
    });
    let (id, at) = first.into_inner().unwrap().expect("the deadlock is told");
    assert_eq!(id, deadlock.broker);
    (at.saturating_duration_since(deadlock.followers_continued).as_secs_f64(), deadlock)
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
        cluster.brokers().all(|broker| known(broker.id(), "progress") && known(broker.id(), "threads"))
    });
}

/// How busy the machine is: its load over one minute, and its CPUs.
pub fn load() -> String {
    let average = std::fs::read_to_string("/proc/loadavg").unwrap();
    let cpus = std::thread::available_parallelism().unwrap();
    format!("load {} on {cpus} CPUs", average.split(' ').next().unwrap())
}
