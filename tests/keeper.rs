//! What becomes of readings when collectors fail, brokers end and brokers return.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use kafka_vitals::collect::Failure;
use kafka_vitals::collect::keeper::{RoundEnd, Told, Update, apply};
use kafka_vitals::discover::{Broker, ProcessKey};
use kafka_vitals::expose::metrics;
use kafka_vitals::snapshot::{
    Deadlock, DeadlockedThread, Moment, ProcessVitals, ProgressReport, Snapshot, ThreadReport,
};

const SECOND: Duration = Duration::from_secs(1);

fn broker(id: i32, pid: u32, start_ticks: u64) -> (Arc<Broker>, String) {
    let broker = Broker { id: Some(id), ..Broker::unknown(ProcessKey { pid, start_ticks }) };
    (Arc::new(broker), id.to_string())
}

fn discovered(brokers: Vec<(Arc<Broker>, String)>) -> Update {
    Update::Discovered {
        found: Ok(brokers),
        memory_map_limit: Ok(65530),
        exporter: Err(Failure::new("test", "not read in this test")),
        took: Duration::from_millis(3),
        interval: 5 * SECOND,
    }
}

fn round(pid: u32, start_ticks: u64, told: Told) -> Update {
    Update::Round(Box::new(RoundEnd {
        process: ProcessKey { pid, start_ticks },
        round: "round",
        interval: SECOND,
        took: Duration::from_millis(2),
        told,
    }))
}

fn handles(pid: u32, start_ticks: u64, count: u64) -> Update {
    let vitals =
        ProcessVitals { state: 'S', resident_bytes: 1 << 20, handle_limit_soft: Some(1000), handle_limit_hard: None };
    round(pid, start_ticks, Told::Process { handles: Ok(count), vitals: Ok(vitals) })
}

fn dump(pid: u32, deadlocked: bool) -> Update {
    let thread = |thread: &str, held_by: &str| DeadlockedThread {
        thread: thread.into(),
        wants: "Lock".into(),
        held_by: held_by.into(),
        frames: vec![],
    };
    let cycle = vec![thread("a", "b"), thread("b", "a")];
    let deadlock = Deadlock { cycle, waiting: vec![thread("c", "a")] };
    let deadlocks = if deadlocked { vec![deadlock] } else { vec![] };
    round(pid, 7, Told::Threads(Ok(ThreadReport { deadlocks, ..ThreadReport::default() })))
}

fn failed_dump(pid: u32) -> Update {
    round(pid, 7, Told::Threads(Err(Failure::new("timeout", "no dump in time"))))
}

/// The value of one series, None where it is absent.
fn series(snapshot: &Snapshot, now: Moment, name: &str) -> Option<f64> {
    let text = metrics::render(snapshot, now);
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(line.parse().unwrap())
}

#[test]
fn a_reading_older_than_three_intervals_is_absent() {
    let mut s = Snapshot::default();
    apply(&mut s, discovered(vec![broker(1, 10, 7)]), Moment(0));
    let name = "kafka_vitals_open_file_handles{broker=\"1\"}";
    assert_eq!(series(&s, Moment(0), name), None);
    apply(&mut s, handles(10, 7, 84), Moment(1000));
    assert_eq!(series(&s, Moment(4000), name), Some(84.0));
    assert_eq!(series(&s, Moment(4001), name), None);
    assert_eq!(
        series(&s, Moment(9000), "kafka_vitals_reading_age_seconds{broker=\"1\",reading=\"handles\"}"),
        Some(8.0)
    );
    assert_eq!(
        series(&s, Moment(4000), "kafka_vitals_file_handle_limit{broker=\"1\",bound=\"hard\"}"),
        Some(f64::INFINITY)
    );
}

#[test]
fn what_fails_is_unknown_and_says_so() {
    let mut s = Snapshot::default();
    apply(&mut s, discovered(vec![broker(1, 10, 7)]), Moment(0));
    apply(&mut s, handles(10, 7, 84), Moment(1000));
    let denied = || Failure::new("denied", "/proc/10/fd: permission denied");
    apply(&mut s, round(10, 7, Told::Process { handles: Err(denied()), vitals: Err(denied()) }), Moment(2000));
    assert_eq!(series(&s, Moment(2000), "kafka_vitals_open_file_handles{broker=\"1\"}"), None);
    assert_eq!(
        series(&s, Moment(2000), "kafka_vitals_collector_success{broker=\"1\",collector=\"process\"}"),
        Some(0.0)
    );
    assert_eq!(s.brokers[0].handles.reason(Moment(2000)).unwrap(), "/proc/10/fd: permission denied");
}

#[test]
fn a_deadlock_stands_until_a_clean_dump_or_another_process() {
    let name = "kafka_vitals_deadlock_detected{broker=\"1\"}";
    let mut s = Snapshot::default();
    apply(&mut s, discovered(vec![broker(1, 10, 7)]), Moment(0));
    apply(&mut s, failed_dump(10), Moment(500));
    assert_eq!(series(&s, Moment(500), name), None, "no dump yet: unknown, not 0");
    apply(&mut s, dump(10, false), Moment(1000));
    assert_eq!(series(&s, Moment(1000), name), Some(0.0));
    assert_eq!(series(&s, Moment(4001), name), None, "a clean dump says nothing of later");
    apply(&mut s, dump(10, true), Moment(5000));
    apply(&mut s, failed_dump(10), Moment(6000));
    apply(&mut s, failed_dump(10), Moment(7000));
    assert_eq!(series(&s, Moment(60_000), name), Some(1.0));
    assert_eq!(series(&s, Moment(60_000), "kafka_vitals_deadlocked_threads{broker=\"1\"}"), Some(2.0));
    let failures = "kafka_vitals_thread_dump_failures_total{broker=\"1\",reason=\"timeout\"}";
    assert_eq!(series(&s, Moment(60_000), failures), Some(3.0));
    apply(&mut s, dump(10, true), Moment(61_000));
    assert_eq!(s.brokers[0].deadlock.as_ref().unwrap().since, Moment(5000));
    let mut restarted = s.clone();
    apply(&mut restarted, discovered(vec![broker(1, 10, 8)]), Moment(62_000));
    assert_eq!(series(&restarted, Moment(62_000), name), None);
    apply(&mut s, dump(10, false), Moment(62_000));
    assert_eq!(series(&s, Moment(62_000), name), Some(0.0));
}

#[test]
fn a_broker_that_ended_stays_in_sight_until_it_is_back_or_an_hour_has_passed() {
    let mut s = Snapshot::default();
    apply(&mut s, discovered(vec![broker(1, 10, 7), broker(2, 11, 7)]), Moment(0));
    apply(&mut s, handles(10, 7, 84), Moment(1000));
    apply(&mut s, discovered(vec![broker(2, 11, 7)]), Moment(2000));
    assert_eq!(s.brokers.len(), 2);
    // A round that was under way when the process went tells of nobody.
    apply(&mut s, handles(10, 7, 84), Moment(2500));
    let handles_of_1 = "kafka_vitals_open_file_handles{broker=\"1\"}";
    let success = "kafka_vitals_collector_success{broker=\"1\",collector=\"process\"}";
    assert_eq!(series(&s, Moment(2500), handles_of_1), None);
    assert_eq!(series(&s, Moment(2500), success), Some(0.0));
    let mut back = s.clone();
    apply(&mut back, discovered(vec![broker(1, 12, 90), broker(2, 11, 7)]), Moment(3000));
    apply(&mut back, handles(12, 90, 70), Moment(3100));
    assert_eq!(back.brokers.len(), 2);
    assert_eq!(series(&back, Moment(3100), handles_of_1), Some(70.0));
    apply(&mut s, discovered(vec![broker(2, 11, 7)]), Moment(2000 + 3_600_000));
    assert_eq!(s.brokers.len(), 1);
}

#[test]
fn a_failed_discovery_forgets_nobody() {
    let mut s = Snapshot::default();
    apply(&mut s, discovered(vec![broker(1, 10, 7)]), Moment(0));
    let failed = Update::Discovered {
        found: Err(Failure::new("denied", "/proc: permission denied")),
        memory_map_limit: Ok(1),
        exporter: Err(Failure::new("test", "not read in this test")),
        took: SECOND,
        interval: SECOND,
    };
    apply(&mut s, failed, Moment(1000));
    assert_eq!(s.brokers.len(), 1);
    assert!(s.brokers[0].ended.is_none());
    assert_eq!(
        series(&s, Moment(1000), "kafka_vitals_collector_success{broker=\"\",collector=\"discovery\"}"),
        Some(0.0)
    );
}

#[test]
fn pauses_of_the_jvm_are_told_in_seconds_or_not_at_all() {
    let mut s = Snapshot::default();
    apply(&mut s, discovered(vec![broker(1, 10, 7)]), Moment(0));
    let name = "kafka_vitals_jvm_pause_seconds_total{broker=\"1\"}";
    assert_eq!(series(&s, Moment(0), name), None);
    apply(&mut s, round(10, 7, Told::Pauses(Ok(Duration::from_millis(2250)))), Moment(1000));
    assert_eq!(series(&s, Moment(4000), name), Some(2.25));
    assert_eq!(series(&s, Moment(4001), name), None);
    apply(&mut s, round(10, 7, Told::Pauses(Err(Failure::new("absent", "no performance data")))), Moment(5000));
    assert_eq!(series(&s, Moment(5000), name), None);
}

#[test]
fn progress_that_cannot_be_read_is_told_with_its_reason() {
    let mut s = Snapshot::default();
    apply(&mut s, discovered(vec![broker(1, 10, 7)]), Moment(0));
    let name = "kafka_vitals_collector_success{broker=\"1\",collector=\"progress\"}";
    apply(&mut s, round(10, 7, Told::Progress(Err(Failure::new("denied", "run as its user")))), Moment(1000));
    assert_eq!(series(&s, Moment(1000), name), Some(0.0));
    assert_eq!(s.brokers[0].progress.reason(Moment(1000)).as_deref(), Some("run as its user"));
    apply(&mut s, round(10, 7, Told::Progress(Ok(ProgressReport::default()))), Moment(2000));
    assert_eq!(series(&s, Moment(2000), name), Some(1.0));
}
