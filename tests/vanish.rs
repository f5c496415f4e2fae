//! Brokers that end while they are read: the exporter does not panic, and a value that was not read is absent, not zero.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use lab::Cell;
use support::fakes::{self, Fakes};
use support::{Exporter, trouble, wait_for};

/// Returns the ids of the fake brokers that a scrape reports as running.
fn running(scrape: &str) -> Vec<i32> {
    let labels = scrape
        .lines()
        .filter_map(|line| line.strip_prefix("kafka_vitals_broker_info{broker=\""));
    let ids = labels.filter_map(|labels| labels.split('"').next()?.parse().ok());
    ids.filter(|id| fakes::is_fake(Some(*id))).collect()
}

#[test]
fn scrapes_are_answered_while_brokers_come_and_go() {
    let cell = Cell::new().unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log = folder.path().join("log");
    let names = [
        "discovery",
        "process",
        "accept_queues",
        "fds",
        "memory_maps",
        "log_dirs",
        "cluster",
    ];
    let intervals = names.map(|name| format!("{name}: 100ms")).join(", ");
    let config = format!("intervals: {{{intervals}}}\n");
    let mut exporter = Exporter::start_with(&cell, &config, |command| {
        command.stderr(std::fs::File::create(&log).unwrap());
    });
    let fakes = Fakes::start(&cell);
    let mut seen = BTreeSet::new();
    trouble::scraped(&exporter, fakes::never_zero, || {
        wait_for(
            "30 fake brokers to be reported",
            Duration::from_secs(60),
            || {
                seen.extend(running(&exporter.scrape()));
                seen.len() >= 30
            },
        );
    });
    drop(fakes);
    wait_for("all to be gone", Duration::from_secs(20), || {
        running(&exporter.scrape()).is_empty()
    });
    let fds = exporter.metrics().get("process_open_fds").unwrap();
    println!(
        "{} fake brokers reported; {fds} fds open at the end",
        seen.len()
    );
    assert!(fds < 100.0, "{fds} fds open");
    assert!(exporter.process.ended().unwrap().is_none());
    let log = std::fs::read_to_string(log).unwrap();
    assert!(!log.contains("panicked"), "{log}");
}
