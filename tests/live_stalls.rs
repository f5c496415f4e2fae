//! Threads of real brokers: none of a healthy broker stalls or is missing, and one that ends is reported as missing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use support::stalls::{POOLS, evaluated, harm, healthy, nothing_found, start};
use support::wait_for;

const UNDER_LOAD: Duration = Duration::from_secs(60);

#[test]
fn healthy_brokers_of_the_incident_neither_stall_nor_lack_threads() {
    let pools = [
        &POOLS[..],
        &["scheduler", "replica_fetcher", "throttled_reaper"],
    ]
    .concat();
    healthy("0.10.1.0", None, &pools, UNDER_LOAD);
}

#[test]
fn healthy_brokers_without_zookeeper_neither_stall_nor_lack_threads() {
    let pools = [
        &POOLS[..],
        &[
            "raft_io",
            "metadata_loader",
            "event_processor",
            "replica_fetcher",
        ],
    ]
    .concat();
    healthy("4.3.0", None, &pools, UNDER_LOAD);
}

/// The holder of the lock sleeps, so there is no cycle and the JVM reports no deadlock.
#[test]
fn handlers_that_wait_for_a_lock_that_is_never_released_are_a_stall() {
    let (cluster, exporter) = start("0.10.1.0", None);
    evaluated(&cluster, &exporter, &POOLS);
    nothing_found(&exporter, || true);
    let id = cluster.brokers().next().unwrap().id();
    harm(&cluster, id, "hold");
    let start = Instant::now();
    let series = format!("stalled_threads{{broker=\"{id}\",pool=\"request_handler\"}}");
    let stalled = || {
        exporter
            .metrics()
            .get(&series)
            .is_some_and(|count| count > 0.0)
    };
    wait_for("the stall to be reported", Duration::from_secs(60), stalled);
    println!("reported {:?} after the lock was taken", start.elapsed());
    // `jstack` shows the handlers that wait.
    let dump = cluster.jstack(id).unwrap();
    assert!(!dump.contains("Java-level deadlock"));
    let waits = |thread: &&str| {
        thread.starts_with("kafka-request-handler-") && thread.contains("ReadLock.lock")
    };
    let waiting: Vec<&str> = dump
        .split("\n\"")
        .filter(waits)
        .map(|thread| thread.split('"').next().unwrap())
        .collect();
    assert!(!waiting.is_empty(), "{dump}");
    wait_for(
        "all of them to be reported",
        Duration::from_secs(60),
        || {
            exporter
                .metrics()
                .get(&series)
                .is_some_and(|count| count >= waiting.len() as f64)
        },
    );
    // A dump without `-l` does not name the holder, and the JVM reports no deadlock: the exporter takes one dump with `-l`,
    // and remembers the holder.
    let mut page = String::new();
    wait_for("the holder on the page", Duration::from_secs(60), || {
        page = exporter.page();
        page.contains("held by <strong>holder</strong>")
    });
    assert!(
        page.contains(&format!("Broker {id} is alive but stalled since ")),
        "{page}"
    );
    assert!(
        page.contains("kafka.server.DelayedOperationPurgatory")
            && page.contains("ReentrantReadWriteLock$"),
        "{page}"
    );
    let deadlocks = || -> Vec<Option<f64>> {
        let metrics = exporter.metrics();
        let ids = cluster.brokers().map(|broker| broker.id());
        ids.map(|id| metrics.of("deadlock_detected", id)).collect()
    };
    let mut found = deadlocks();
    wait_for("dumps of all brokers", Duration::from_secs(40), || {
        found = deadlocks();
        found.iter().all(Option::is_some)
    });
    assert_eq!(found, [Some(0.0); 3]);
}

#[test]
fn threads_that_end_are_missing() {
    let (cluster, exporter) = start("0.10.1.0", None);
    let pools = ["log_cleaner", "expiration_reaper", "replica_fetcher"];
    evaluated(&cluster, &exporter, &pools);
    nothing_found(&exporter, || true);
    let broker = cluster.brokers().next().unwrap();
    let dump = cluster.jstack(broker.id()).unwrap();
    let names = dump
        .lines()
        .filter_map(|line| line.strip_prefix('"')?.split('"').next());
    let fetcher = names
        .clone()
        .find(|name| name.starts_with("ReplicaFetcherThread-"))
        .unwrap();
    let reapers = names
        .filter(|name| name.starts_with("ExpirationReaper-"))
        .count();
    let ended = format!(
        "kafka-log-cleaner-thread-0,ExpirationReaper-{},{fetcher}",
        broker.id()
    );
    harm(&cluster, broker.id(), &format!("end:{ended}"));
    // `jstack` shows it: one reaper of several has ended.
    wait_for("the threads to end", Duration::from_secs(30), || {
        let dump = cluster.jstack(broker.id()).unwrap();
        let count = |name: &str| dump.matches(&format!("\n\"{name}\"")).count();
        let reaper = format!("ExpirationReaper-{}", broker.id());
        count("kafka-log-cleaner-thread-0") == 0
            && count(fetcher) == 0
            && count(&reaper) == reapers - 1
    });
    let start = Instant::now();
    // The fetcher still has work to do, which is known once its leader has removed the broker from the ISR.
    wait_for(
        "the missing threads to be reported",
        Duration::from_secs(90),
        || {
            let metrics = exporter.metrics();
            pools.iter().all(|pool| {
                metrics.get(&format!(
                    "missing_threads{{broker=\"{}\",pool=\"{pool}\"}}",
                    broker.id()
                )) == Some(1.0)
            })
        },
    );
    println!(
        "{ended} of {reapers} reapers: reported {:?} after their end",
        start.elapsed()
    );
    let page = exporter.page();
    for name in ended.split(',') {
        assert!(
            page.contains(&format!("<strong>{name}</strong>, gone for")),
            "{name} in {page}"
        );
    }
    let metrics = exporter.metrics();
    for (series, value) in &metrics.0 {
        let others = !series.contains(&format!("broker=\"{}\"", broker.id()));
        if series.starts_with("missing_threads")
            && (others || !pools.iter().any(|pool| series.contains(pool)))
        {
            assert_eq!(*value, 0.0, "{series}");
        }
    }
}
