//! Brokers that end while they are read: nothing panics, and what was not read is never zero.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use kafka_vitals::collect::process;
use kafka_vitals::discover::Discovery;
use kafka_vitals::sys::proc::ProcRoot;
use lab::Cell;
use support::fakes::{self, Fakes};
use support::{Exporter, trouble, wait_for};

const BUDGET: Duration = Duration::from_secs(5);

/// Each is read again and again until it ends, so that its end falls into a reading.
#[test]
fn a_process_that_ends_while_it_is_read_is_gone_and_not_zero() {
    let cell = Cell::new().unwrap();
    let _fakes = Fakes::start(&cell);
    let proc = ProcRoot::new(cell.host_path(Path::new("/proc")));
    let mut discovery = Discovery::new(proc.clone(), Vec::new());
    let (mut ended, mut readings) = (BTreeSet::new(), 0_u32);
    let begun = Instant::now();
    while ended.len() < 200 {
        assert!(begun.elapsed() < Duration::from_secs(60), "only {} ended while they were read", ended.len());
        for broker in discovery.scan().unwrap() {
            if !fakes::is_fake(broker.id) {
                assert!(!cell.isolated(), "{broker:?}");
                continue;
            }
            loop {
                let (pulse, slow) = (process::pulse(&proc, &broker), process::slow(&proc, &broker, BUDGET));
                readings += 1;
                let counts = [pulse.handles, slow.memory_maps, pulse.vitals.map(|vitals| vitals.resident_bytes)];
                for count in counts.iter().flatten() {
                    assert!(*count > 0, "{counts:?}");
                }
                if let Ok(kinds) = slow.kinds {
                    assert!(kinds.named().iter().map(|(_, count)| count).sum::<u64>() > 0);
                    assert!(slow.socket_inodes.is_ok());
                }
                let failures: Vec<_> = counts.iter().filter_map(|count| count.as_ref().err()).collect();
                assert!(failures.iter().all(|failure| failure.reason == "gone"), "{failures:?}");
                if !failures.is_empty() {
                    ended.insert(broker.process);
                    break;
                }
            }
        }
    }
    println!("{} ended while they were read, {readings} readings in {:.1?}", ended.len(), begun.elapsed());
}

/// The ids of the fake brokers that a scrape tells as running.
fn told(scrape: &str) -> Vec<i32> {
    let labels = scrape.lines().filter_map(|line| line.strip_prefix("kafka_vitals_broker_info{broker=\""));
    let ids = labels.filter_map(|labels| labels.split('"').next()?.parse().ok());
    ids.filter(|id| fakes::is_fake(Some(*id))).collect()
}

#[test]
fn scrapes_are_answered_while_brokers_come_and_go() {
    let cell = Cell::new().unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log = folder.path().join("log");
    let rounds = "rounds: {discovery: 100ms, pulse: 100ms, slow: 100ms, probe: 100ms}\n";
    let mut exporter = Exporter::start_with(&cell, rounds, |command| {
        command.stderr(std::fs::File::create(&log).unwrap());
    });
    let fakes = Fakes::start(&cell);
    let mut seen = BTreeSet::new();
    trouble::scraped(&exporter, fakes::never_zero, || {
        wait_for("30 fake brokers to be told", Duration::from_secs(60), || {
            seen.extend(told(&exporter.scrape()));
            seen.len() >= 30
        });
    });
    drop(fakes);
    wait_for("all to be gone", Duration::from_secs(20), || told(&exporter.scrape()).is_empty());
    let handles = exporter.metrics().get("process_open_fds").unwrap();
    println!("{} fake brokers told; {handles} handles open at the end", seen.len());
    assert!(handles < 100.0, "{handles} handles open");
    assert!(exporter.process.ended().unwrap().is_none());
    let log = std::fs::read_to_string(log).unwrap();
    assert!(!log.contains("panicked"), "{log}");
}
