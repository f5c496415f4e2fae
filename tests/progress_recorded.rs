//! The rule of progress on recordings of real brokers; the lab's actions and `jstack` give the expected results.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use kafka_vitals::model::Moment;
use kafka_vitals::threads::pools::Pool;
use kafka_vitals::threads::progress::{ProgressDetector, Sample};

/// Returns the suspected threads by name with the milliseconds of their first suspicion, and the number of evaluated
/// passes: each `every`-th one, as when a pass costs so much that the interval of the round grows.
fn replay(file: &str, every: usize) -> (BTreeMap<String, u64>, usize) {
    let path = format!(
        "{}/tests/fixtures/progress/{file}",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(path).unwrap();
    let mut rows = text.lines().map(|line| line.split('\t'));
    let names: Vec<&str> = rows.next().unwrap().skip(1).collect();
    let mut totals = vec![(0_u64, 0_u64); names.len()];
    let (mut detector, mut suspected, mut passes) =
        (ProgressDetector::default(), BTreeMap::new(), 0);
    for (row_number, mut row) in rows.enumerate() {
        let ms: u64 = row.next().unwrap().parse().unwrap();
        let (mut samples, mut states) = (Vec::new(), BTreeMap::new());
        for (i, field) in row.enumerate() {
            let field = if field == "." { "S 0 0" } else { field };
            let mut parts = field.split(' ');
            let state = parts.next().unwrap();
            let (Some(cpu), Some(switches)) = (parts.next(), parts.next()) else {
                continue;
            };
            totals[i].0 += cpu.parse::<u64>().unwrap() * 1000;
            totals[i].1 += switches.parse::<u64>().unwrap();
            if let Some(pool) = Pool::of(names[i]) {
                samples.push(Sample {
                    thread: i as u32,
                    pool,
                    cpu: totals[i].0,
                    switches: totals[i].1,
                });
                states.insert(i as u32, state.chars().next().unwrap());
            }
        }
        if row_number % every != 0 {
            continue;
        }
        let asked = detector.take(Moment(ms), &samples);
        let states: Vec<_> = asked
            .into_iter()
            .map(|thread| (thread, states[&thread]))
            .collect();
        for (thread, _) in detector.suspects(&states) {
            suspected
                .entry(names[thread as usize].to_owned())
                .or_insert(ms);
        }
        passes += 1;
    }
    (suspected, passes)
}

/// Recorded on two CPUs with a load of 20 to 40. Under load the broker was also stopped for 1 and for 3 s; `stopped`
/// had a SIGSTOP of 7 s, `paused` stands at a safepoint from its first quarter on.
const HEALTHY: [&str; 7] = [
    "idle-0.10.1.0.txt",
    "idle-4.3.0.txt",
    "load-0.10.1.0.txt",
    "load-2-0.10.1.0.txt",
    "stopped-0.10.1.0.txt",
    "paused-0.10.1.0.txt",
    "paused-4.3.0.txt",
];

#[test]
fn recorded_healthy_brokers_are_not_suspected() {
    for (file, every) in HEALTHY
        .into_iter()
        .flat_map(|file| [(file, 1), (file, 2), (file, 3)])
    {
        let (suspected, passes) = replay(file, every);
        println!("{file}: {passes} passes");
        assert!(
            suspected.is_empty() && passes >= 75 / every,
            "{file}, {every}: {suspected:?} in {passes} passes"
        );
    }
}

#[test]
fn recorded_deadlocks_are_suspected() {
    // The threads that `jstack` named, of the pools that must move.
    for (file, members) in [
        (
            "deadlock-leaving-0.10.1.0.txt",
            &["kafka-request-handler-5", "kafka-request-handler-7"][..],
        ),
        (
            "deadlock-expiring-0.10.1.0.txt",
            &["kafka-request-handler-2", "kafka-request-handler-4"],
        ),
    ] {
        let (suspected, _) = replay(file, 1);
        println!("{file}: {suspected:?}");
        for member in members {
            assert!(
                suspected.contains_key(*member),
                "{file}: {member} in {suspected:?}"
            );
        }
    }
}
