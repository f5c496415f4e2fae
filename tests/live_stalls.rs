//! Threads of real brokers: healthy ones neither stall nor lack any, whatever they do; one that ends is missing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use support::stalls::{POOLS, harm, healthy, judged, nothing_found, start};
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

/// No cycle, and the holder of the lock sleeps: the JVM has nothing to report.
#[test]
fn handlers_that_wait_for_a_lock_nobody_gives_back_are_a_stall() {
    let (cluster, exporter) = start("0.10.1.0", None);
    judged(&cluster, &exporter, &POOLS);
    nothing_found(&exporter, || true);
    let id = cluster.brokers().next().unwrap().id();
    harm(&cluster, id, "hold");
    let begun = Instant::now();
    let series = format!("stalled_threads{{broker=\"{id}\",pool=\"request_handler\"}}");
    let stalled = || {
        exporter
            .metrics()
            .get(&series)
            .is_some_and(|count| count > 0.0)
    };
    wait_for("the stall to be told", Duration::from_secs(60), stalled);
    println!("told {:?} after the lock was taken", begun.elapsed());
    // What jstack shows, now that no handler gets on.
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
    wait_for("all of them to be told", Duration::from_secs(60), || {
        exporter
            .metrics()
            .get(&series)
            .is_some_and(|count| count >= waiting.len() as f64)
    });
    let page = exporter.page();
    assert!(
        page.contains(&format!("Broker {id} is alive but stalled since ")),
        "{page}"
    );
    assert!(
        page.contains("kafka.server.DelayedOperationPurgatory")
            && page.contains("ReentrantReadWriteLock$"),
        "{page}"
    );
    // No dump without `-l` names the holder, and the JVM reports nothing: one with it was taken, and later ones remember.
    assert!(page.contains("held by <strong>holder</strong>"), "{page}");
    let metrics = exporter.metrics();
    for other in cluster.brokers().map(|broker| broker.id()) {
        assert_eq!(metrics.of("deadlock_detected", other), Some(0.0));
    }
}

#[test]
fn threads_that_end_are_missing() {
    let (cluster, exporter) = start("0.10.1.0", None);
    let pools = ["log_cleaner", "expiration_reaper", "replica_fetcher"];
    judged(&cluster, &exporter, &pools);
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
    // What jstack shows of them: one reaper of several has ended.
    wait_for("the threads to end", Duration::from_secs(30), || {
        let dump = cluster.jstack(broker.id()).unwrap();
        let count = |name: &str| dump.matches(&format!("\n\"{name}\"")).count();
        let reaper = format!("ExpirationReaper-{}", broker.id());
        count("kafka-log-cleaner-thread-0") == 0
            && count(fetcher) == 0
            && count(&reaper) == reapers - 1
    });
    let begun = Instant::now();
    // The fetcher's work is known to be still there once its leader has put the broker out of the ISR.
    wait_for(
        "the missing threads to be told",
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
        "{ended} of {reapers} reapers: told {:?} after their end",
        begun.elapsed()
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
