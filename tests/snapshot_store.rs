//! Readings when collectors fail, brokers end and brokers return.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kafka_vitals::collect::cluster::count::count;
use kafka_vitals::collect::cluster::{self, Cluster};
use kafka_vitals::collect::discovery::{self, Found};
use kafka_vitals::collect::frame::{self, Collector};
use kafka_vitals::collect::log_dirs::LogDirs;
use kafka_vitals::collect::process::{Process, ProcessReadings};
use kafka_vitals::collect::progress::{Progress, Readings};
use kafka_vitals::collect::snapshot_store::{Update, apply};
use kafka_vitals::collect::threads::Threads;
use kafka_vitals::expose::metrics;
use kafka_vitals::expose::vitals::unknown;
use kafka_vitals::kafka::wire::{METADATA_VERSION, Metadata};
use kafka_vitals::model::EvidenceStatus;
use kafka_vitals::model::{Broker, ProcessKey};
use kafka_vitals::model::{
    ClusterCounts, ClusterSource, CollectorName, Deadlock, DeadlockedThread, Label, LockQueue,
    LogDirSpace, Loop, MatchQuality, MissingThread, Moment, Peer, PeerProbe, PoolFindings, Probe,
    ProbeError, ProbeReport, ProcessVitals, ProgressReport, Snapshot, Stall, ThreadReport,
};
use kafka_vitals::model::{Failure, Reason};
use kafka_vitals::threads::known_issues::known_issues;
use kafka_vitals::verdict::View;
use kafka_vitals::verdict::evaluate::Evaluator;

const SECOND: Duration = Duration::from_secs(1);

fn broker(id: i32, pid: u32, start_ticks: u64) -> (Arc<Broker>, String) {
    let broker = Broker {
        id: Some(id),
        ..Broker::unknown(ProcessKey { pid, start_ticks })
    };
    (Arc::new(broker), id.to_string())
}

fn discovered(brokers: Vec<(Arc<Broker>, String)>) -> Update {
    let label = |(broker, label): (_, String)| (broker, label.into());
    labelled(brokers.into_iter().map(label).collect())
}

fn labelled(brokers: Vec<(Arc<Broker>, Label)>) -> Update {
    let found = Found {
        brokers: Ok(brokers),
        left_out: 0,
        hidden: None,
        warnings: Vec::new(),
        memory_map_limit: Ok(65530),
        exporter: Err(Failure::new(Reason::Internal, "not read in this test")),
    };
    discovery::update(found, 5 * SECOND, Duration::from_millis(3))
}

/// The end of one run of a collector.
fn run<C: Collector>(pid: u32, start_ticks: u64, result: Result<C::Value, Failure>) -> Update {
    let process = ProcessKey { pid, start_ticks };
    frame::update::<C>(process, result, SECOND, Duration::from_millis(2))
}

fn fds(pid: u32, start_ticks: u64, count: u64) -> Update {
    let vitals = ProcessVitals {
        state: 'S',
        resident_bytes: 1 << 20,
        fd_limit_soft: Some(1000),
        fd_limit_hard: None,
    };
    let readings = ProcessReadings {
        open_fds: Ok(count),
        vitals: Ok(vitals),
    };
    run::<Process>(pid, start_ticks, Ok(readings))
}

fn dump(pid: u32, deadlocked: bool) -> Update {
    let thread = |thread: &str, held_by: &str| DeadlockedThread {
        thread: thread.into(),
        wants: "Lock".into(),
        held_by: held_by.into(),
        frames: vec![],
    };
    let cycle = vec![thread("a", "b"), thread("b", "a")];
    let deadlock = Deadlock {
        cycle,
        waiting: vec![thread("c", "a")],
        reported: true,
        ..Deadlock::default()
    };
    let deadlocks = if deadlocked { vec![deadlock] } else { vec![] };
    let report = ThreadReport {
        deadlocks: deadlocks.into(),
        ..ThreadReport::default()
    };
    run::<Threads>(pid, 7, Ok(report))
}

fn not_understood(pid: u32) -> Update {
    let report = ThreadReport {
        not_understood: vec!["1 BLOCKED thread".into()],
        ..ThreadReport::default()
    };
    run::<Threads>(pid, 7, Ok(report))
}

fn failed_dump(pid: u32) -> Update {
    let failure = Failure::new(Reason::Timeout, "no dump in time");
    run::<Threads>(pid, 7, Err(failure))
}

/// A run of the collector `progress` that has read the pauses alone.
fn pauses(result: Result<Duration, Failure>) -> Update {
    let readings = Readings {
        progress: None,
        pauses: Some(result),
        pools: None,
    };
    run::<Progress>(10, 7, Ok(readings))
}

fn progress(result: Result<ProgressReport, Failure>) -> Update {
    let readings = Readings {
        progress: Some(result),
        pauses: None,
        pools: None,
    };
    run::<Progress>(10, 7, Ok(readings))
}

/// Returns a snapshot where broker 1 was found as process 10 and nothing else is known.
fn with_broker_1() -> Snapshot {
    let mut snapshot = Snapshot::default();
    apply(&mut snapshot, discovered(vec![broker(1, 10, 7)]), Moment(0));
    snapshot
}

/// Returns the value of one series, or None if it is absent.
fn series(snapshot: &Snapshot, now: Moment, name: &str) -> Option<f64> {
    let text = metrics::render(
        &View::of(&mut Evaluator::default(), Arc::new(snapshot.clone()), now),
        &EvidenceStatus::default(),
        now,
    );
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(line.parse().unwrap())
}

#[test]
fn a_reading_older_than_three_intervals_is_absent() {
    let mut s = with_broker_1();
    let name = "kafka_vitals_open_file_handles{broker=\"1\"}";
    assert_eq!(series(&s, Moment(0), name), None);
    apply(&mut s, fds(10, 7, 84), Moment(1000));
    assert_eq!(series(&s, Moment(4000), name), Some(84.0));
    assert_eq!(series(&s, Moment(4001), name), None);
    assert_eq!(
        series(
            &s,
            Moment(9000),
            "kafka_vitals_reading_age_seconds{broker=\"1\",collector=\"process\"}"
        ),
        Some(8.0)
    );
    assert_eq!(
        series(
            &s,
            Moment(4000),
            "kafka_vitals_file_handle_limit{broker=\"1\",bound=\"hard\"}"
        ),
        Some(f64::INFINITY)
    );
}

#[test]
fn a_failed_reading_is_unknown_with_its_reason() {
    let mut s = with_broker_1();
    apply(&mut s, fds(10, 7, 84), Moment(1000));
    let denied = || Failure::new(Reason::Denied, "/proc/10/fd: permission denied");
    apply(&mut s, run::<Process>(10, 7, Err(denied())), Moment(2000));
    assert_eq!(
        series(
            &s,
            Moment(2000),
            "kafka_vitals_open_file_handles{broker=\"1\"}"
        ),
        None
    );
    assert_eq!(
        series(
            &s,
            Moment(2000),
            "kafka_vitals_collector_success{broker=\"1\",collector=\"process\"}"
        ),
        Some(0.0)
    );
    assert_eq!(
        s.brokers[0].open_fds.reason(Moment(2000)).unwrap(),
        "/proc/10/fd: permission denied"
    );
}

#[test]
fn a_deadlock_stands_until_a_clean_dump_or_another_process() {
    let name = "kafka_vitals_deadlock_detected{broker=\"1\"}";
    let mut s = with_broker_1();
    apply(&mut s, failed_dump(10), Moment(500));
    assert_eq!(
        series(&s, Moment(500), name),
        None,
        "no dump yet: unknown, not 0"
    );
    apply(&mut s, dump(10, false), Moment(1000));
    assert_eq!(series(&s, Moment(1000), name), Some(0.0));
    assert_eq!(
        series(&s, Moment(4001), name),
        None,
        "a clean dump says nothing of later"
    );
    apply(&mut s, dump(10, true), Moment(5000));
    apply(&mut s, failed_dump(10), Moment(6000));
    apply(&mut s, failed_dump(10), Moment(7000));
    assert_eq!(series(&s, Moment(60_000), name), Some(1.0));
    assert_eq!(
        series(
            &s,
            Moment(60_000),
            "kafka_vitals_deadlocked_threads{broker=\"1\"}"
        ),
        Some(2.0)
    );
    let failures = "kafka_vitals_thread_dump_failures_total{broker=\"1\",reason=\"timeout\"}";
    assert_eq!(series(&s, Moment(60_000), failures), Some(3.0));
    apply(&mut s, dump(10, true), Moment(61_000));
    assert_eq!(s.brokers[0].deadlock.as_ref().unwrap().since, Moment(5000));
    // What was not understood refutes nothing, and is no clean dump.
    apply(&mut s, not_understood(10), Moment(61_500));
    assert_eq!(series(&s, Moment(61_500), name), Some(1.0));
    let mut never = with_broker_1();
    apply(&mut never, not_understood(10), Moment(1000));
    assert_eq!(series(&never, Moment(1000), name), None);
    let threads = "kafka_vitals_deadlocked_threads{broker=\"1\"}";
    assert_eq!(series(&never, Moment(1000), threads), None);
    let why = unknown(&never.brokers[0], Moment(1000));
    assert!(
        why.contains(&(
            "deadlock".to_owned(),
            "not understood: 1 BLOCKED thread".to_owned()
        )),
        "{why:?}"
    );
    let mut restarted = s.clone();
    apply(
        &mut restarted,
        discovered(vec![broker(1, 10, 8)]),
        Moment(62_000),
    );
    assert_eq!(series(&restarted, Moment(62_000), name), None);
    apply(&mut s, dump(10, false), Moment(62_000));
    assert_eq!(series(&s, Moment(62_000), name), Some(0.0));
}

#[test]
fn stalls_and_missing_threads_are_counted_by_pool_once_they_can_be_evaluated() {
    let stalled =
        |pool: &str| format!("kafka_vitals_stalled_threads{{broker=\"1\",pool=\"{pool}\"}}");
    let missing =
        |pool: &str| format!("kafka_vitals_missing_threads{{broker=\"1\",pool=\"{pool}\"}}");
    let waiters = "kafka_vitals_lock_waiters{broker=\"1\",lock_class=\"java.lang.Object\"}";
    let mut s = with_broker_1();
    apply(&mut s, dump(10, false), Moment(1000));
    assert_eq!(
        series(&s, Moment(1000), &stalled("request_handler")),
        None,
        "one dump is not enough"
    );
    let stall = |threads: &[&str], frame: &str| Stall {
        pool: "request_handler".into(),
        threads: threads.iter().map(|thread| (*thread).to_owned()).collect(),
        since: Moment(1000),
        lock_class: Some("kafka.Lock".into()),
        frame: Some(frame.into()),
        ..Stall::default()
    };
    let queue = |waiters: &[&str]| LockQueue {
        lock_class: "java.lang.Object".into(),
        waiters: waiters.iter().map(|thread| (*thread).to_owned()).collect(),
        waiters_left_out: 0,
        owner: None,
        owner_frames: vec![],
    };
    let pools = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let cleaner = MissingThread {
        pool: "log_cleaner".into(),
        thread: "cleaner-0".into(),
        count: 1,
        since: Moment(1000),
    };
    let report = ThreadReport {
        stalls: Some(PoolFindings {
            found: vec![stall(&["a", "b"], "x"), stall(&["c"], "y")],
            pools: pools(&["request_handler", "network"]),
        }),
        missing: Some(PoolFindings {
            found: vec![cleaner],
            pools: pools(&["log_cleaner", "acceptor"]),
        }),
        convoys: vec![queue(&["a", "b"]), queue(&["c", "d", "e"])],
        ..ThreadReport::default()
    };
    apply(&mut s, run::<Threads>(10, 7, Ok(report)), Moment(20_000));
    let table = [
        (stalled("request_handler"), Some(3.0)),
        (stalled("network"), Some(0.0)),
        (stalled("log_cleaner"), None),
        (missing("log_cleaner"), Some(1.0)),
        (missing("acceptor"), Some(0.0)),
        (missing("request_handler"), None),
        (waiters.to_owned(), Some(5.0)),
    ];
    for (name, expected) in table {
        assert_eq!(series(&s, Moment(20_000), &name), expected, "{name}");
        assert_eq!(
            series(&s, Moment(20_000 + 3001), &name),
            None,
            "{name}, too old"
        );
    }
}

/// What only resembles a known fault is not named where the broker's version is without the fault.
#[test]
fn a_probable_match_is_named_where_the_version_may_have_the_fault() {
    let similar = |key: &str| {
        let issue = known_issues().iter().find(|issue| issue.key == key);
        issue.unwrap().named(MatchQuality::Similar)
    };
    let member = |wants: &str| DeadlockedThread {
        thread: "kafka-request-handler-1".into(),
        wants: wants.into(),
        held_by: "kafka-request-handler-1".into(),
        frames: Vec::new(),
    };
    // As KAFKA-6042 has it.
    let group = "kafka.coordinator.group.GroupMetadata";
    let report = ThreadReport {
        deadlocks: Arc::new([Deadlock {
            cycle: vec![member(group), member(group)],
            ..Deadlock::default()
        }]),
        stalls: Some(PoolFindings {
            found: vec![Stall {
                known_issues: vec![similar("KAFKA-7697")],
                ..Stall::default()
            }],
            ..PoolFindings::default()
        }),
        loops: vec![Loop {
            thread: "transaction-log-manager-0".into(),
            since: Moment(0),
            frames: Vec::new(),
            known_issues: vec![similar("KAFKA-9065"), similar("KAFKA-17941")],
        }],
        ..ThreadReport::default()
    };
    let all = ["KAFKA-6042", "KAFKA-7697", "KAFKA-9065", "KAFKA-17941"];
    let table = [
        (None, &all[..]),
        (Some("0.11.0.1"), &all[..]),
        (Some("2.1.0"), &all[1..]),
        (Some("2.1.1"), &all[2..]),
        (Some("2.5.0"), &all[3..]),
        (Some("4.0.0"), &all[4..]),
    ];
    for (version, expected) in table {
        let found = Broker {
            id: Some(1),
            kafka_version: version.map(str::to_owned),
            ..Broker::unknown(ProcessKey {
                pid: 10,
                start_ticks: 7,
            })
        };
        let mut s = Snapshot::default();
        let found = discovered(vec![(Arc::new(found), "1".to_owned())]);
        apply(&mut s, found, Moment(0));
        apply(&mut s, run::<Threads>(10, 7, Ok(report.clone())), Moment(1));
        let broker = &s.brokers[0];
        let (dump, _) = broker.threads.last().unwrap();
        let of_stalls = dump.stalls.iter().flat_map(|stalls| &stalls.found);
        let named: Vec<&str> = broker
            .deadlock
            .iter()
            .flat_map(|deadlock| &deadlock.known_issues)
            .chain(of_stalls.flat_map(|stall| &stall.known_issues))
            .chain(dump.loops.iter().flat_map(|found| &found.known_issues))
            .map(|known| known.issue.as_str())
            .collect();
        assert_eq!(named, expected, "{version:?}");
    }
}

#[test]
fn a_broker_that_ended_is_reported_until_it_is_back() {
    let mut s = Snapshot::default();
    apply(
        &mut s,
        discovered(vec![broker(1, 10, 7), broker(2, 11, 7)]),
        Moment(0),
    );
    apply(&mut s, fds(10, 7, 84), Moment(1000));
    apply(&mut s, dump(10, false), Moment(1000));
    apply(&mut s, discovered(vec![broker(2, 11, 7)]), Moment(2000));
    assert_eq!(s.brokers.len(), 2);
    // The result of a run that was under way when the process ended is ignored.
    apply(&mut s, fds(10, 7, 84), Moment(2500));
    let fds_of_1 = "kafka_vitals_open_file_handles{broker=\"1\"}";
    let success = "kafka_vitals_collector_success{broker=\"1\",collector=\"process\"}";
    assert_eq!(series(&s, Moment(2500), fds_of_1), None);
    assert_eq!(series(&s, Moment(2500), success), None, "it has not failed");
    let mut back = s.clone();
    apply(
        &mut back,
        discovered(vec![broker(1, 12, 90), broker(2, 11, 7)]),
        Moment(3000),
    );
    apply(&mut back, fds(12, 90, 70), Moment(3100));
    assert_eq!(back.brokers.len(), 2);
    assert_eq!(series(&back, Moment(3100), fds_of_1), Some(70.0));
    apply(
        &mut s,
        discovered(vec![broker(2, 11, 7)]),
        Moment(2000 + 30 * 86_400_000),
    );
    assert_eq!(s.brokers.len(), 2);
}

/// Any process can look like a broker for a moment.
#[test]
fn only_brokers_that_served_are_remembered_and_a_bounded_number_of_them() {
    let mut s = Snapshot::default();
    let all: Vec<_> = (0..100).map(|n| broker(n, 100 + n as u32, 7)).collect();
    apply(&mut s, discovered(all), Moment(0));
    for pid in 110..200 {
        apply(&mut s, dump(pid, false), Moment(1000));
        apply(&mut s, fds(pid - 10, 7, 84), Moment(1000));
    }
    // Later the dumps fail, and one ends after the other.
    for n in 0..100 {
        let left = (n + 1..100).map(|n| broker(n, 100 + n as u32, 7)).collect();
        apply(&mut s, failed_dump(100 + n as u32), Moment(1500));
        apply(&mut s, discovered(left), Moment(2000 + n as u64));
    }
    let ids: Vec<_> = s.brokers.iter().filter_map(|b| b.broker.id).collect();
    assert_eq!(ids, Vec::from_iter(68..100), "the 32 that ended last");
    // None of another user takes the place of one.
    let strangers: Vec<_> = (200..300).map(|n| broker(n, 100 + n as u32, 7)).collect();
    let outranked = strangers.into_iter().map(|(broker, text)| {
        let outranked = true;
        (broker, Label { text, outranked })
    });
    apply(&mut s, labelled(outranked.collect()), Moment(3000));
    for pid in 300..400 {
        apply(&mut s, dump(pid, false), Moment(4000));
    }
    apply(&mut s, discovered(vec![]), Moment(5000));
    let ids: Vec<_> = s.brokers.iter().filter_map(|b| b.broker.id).collect();
    assert_eq!(ids, Vec::from_iter(68..100));
}

#[test]
fn a_failed_discovery_forgets_no_broker() {
    let mut s = with_broker_1();
    let failed = Found {
        left_out: 0,
        hidden: None,
        brokers: Err(Failure::new(Reason::Denied, "/proc: permission denied")),
        warnings: Vec::new(),
        memory_map_limit: Ok(1),
        exporter: Err(Failure::new(Reason::Internal, "not read in this test")),
    };
    let failed = discovery::update(failed, SECOND, SECOND);
    apply(&mut s, failed, Moment(1000));
    assert_eq!(s.brokers.len(), 1);
    assert!(s.brokers[0].ended.is_none());
    assert_eq!(
        series(
            &s,
            Moment(1000),
            "kafka_vitals_collector_success{broker=\"\",collector=\"discovery\"}"
        ),
        Some(0.0)
    );
}

#[test]
fn pauses_of_the_jvm_are_reported_in_seconds_or_not_at_all() {
    let mut s = with_broker_1();
    let name = "kafka_vitals_jvm_pause_seconds_total{broker=\"1\"}";
    assert_eq!(series(&s, Moment(0), name), None);
    apply(
        &mut s,
        pauses(Ok(Duration::from_millis(2250))),
        Moment(1000),
    );
    assert_eq!(series(&s, Moment(4000), name), Some(2.25));
    assert_eq!(series(&s, Moment(4001), name), None);
    apply(
        &mut s,
        pauses(Err(Failure::new(Reason::Absent, "no performance data"))),
        Moment(5000),
    );
    assert_eq!(series(&s, Moment(5000), name), None);
}

#[test]
fn progress_that_cannot_be_read_is_reported_with_its_reason() {
    let mut s = with_broker_1();
    let name = "kafka_vitals_collector_success{broker=\"1\",collector=\"progress\"}";
    apply(
        &mut s,
        progress(Err(Failure::new(Reason::Denied, "run as its user"))),
        Moment(1000),
    );
    assert_eq!(series(&s, Moment(1000), name), Some(0.0));
    assert_eq!(
        s.brokers[0].progress.reason(Moment(1000)).as_deref(),
        Some("run as its user")
    );
    apply(
        &mut s,
        progress(Ok(ProgressReport::default())),
        Moment(2000),
    );
    assert_eq!(series(&s, Moment(2000), name), Some(1.0));
}

#[test]
fn probes_and_space_are_reported_as_far_as_they_are_known() {
    let failed = |reason: Reason| ProbeError {
        reason,
        accepted: reason == Reason::Timeout,
        message: "m".into(),
    };
    let probe = |reason: Option<Reason>| Probe {
        duration: Duration::from_millis(1500),
        error: reason.map(failed),
    };
    let peer = |id, connect, api: Option<Option<Reason>>| PeerProbe {
        peer: Peer {
            id,
            host: "h".into(),
            port: 1,
        },
        connect: probe(connect),
        api: api.map(probe),
        cut: None,
    };
    let report = ProbeReport {
        api: Some(probe(Some(Reason::Timeout))),
        peers: vec![
            peer(2, None, Some(None)),
            peer(3, None, Some(Some(Reason::Timeout))),
            peer(4, Some(Reason::Refused), None),
        ],
        ..ProbeReport::default()
    };
    let space = LogDirSpace {
        dir: "/data/a".into(),
        free_bytes: 5 << 30,
        total_bytes: 9 << 30,
    };
    let missing = Failure::new(Reason::Io, "/data/b does not exist");
    let mut s = with_broker_1();
    let probes = cluster::Update::Probes(Box::new(report));
    apply(&mut s, run::<Cluster>(10, 7, Ok(probes)), Moment(0));
    let spaces = (vec![space], Some(missing.clone()));
    apply(&mut s, run::<LogDirs>(10, 7, Ok(spaces)), Moment(0));
    let table = [
        (
            "log_dir_size_bytes{broker=\"1\",dir=\"/data/a\"}",
            Some((9_u64 << 30) as f64),
        ),
        ("probe_success{broker=\"1\",path=\"api\"}", Some(0.0)),
        (
            "probe_duration_seconds{broker=\"1\",path=\"api\"}",
            Some(1.5),
        ),
        ("probe_success{broker=\"1\",path=\"metadata\"}", None),
        (
            "peer_probe_success{broker=\"1\",peer=\"2\",stage=\"api\"}",
            Some(1.0),
        ),
        (
            "peer_probe_success{broker=\"1\",peer=\"3\",stage=\"connect\"}",
            Some(1.0),
        ),
        (
            "peer_probe_success{broker=\"1\",peer=\"3\",stage=\"api\"}",
            Some(0.0),
        ),
        (
            "peer_probe_success{broker=\"1\",peer=\"4\",stage=\"connect\"}",
            Some(0.0),
        ),
        (
            "peer_probe_success{broker=\"1\",peer=\"4\",stage=\"api\"}",
            None,
        ),
        (
            "log_dir_free_bytes{broker=\"1\",dir=\"/data/a\"}",
            Some(5368709120.0),
        ),
    ];
    for (name, expected) in table {
        let name = format!("kafka_vitals_{name}");
        assert_eq!(series(&s, Moment(3000), &name), expected, "{name}");
        assert_eq!(series(&s, Moment(3001), &name), None, "{name}, too old");
    }
    let success = |s: &Snapshot, collector: &str| {
        series(
            s,
            Moment(1),
            &format!("kafka_vitals_collector_success{{broker=\"1\",collector=\"{collector}\"}}"),
        )
    };
    assert_eq!(success(&s, "log_dirs"), Some(0.0), "/data/b is unknown");
    let spaces = (vec![], Some(missing));
    apply(&mut s, run::<LogDirs>(10, 7, Ok(spaces)), Moment(1));
    assert_eq!(
        s.brokers[0].log_dirs.reason(Moment(1)).as_deref(),
        Some("/data/b does not exist")
    );

    let mut s = with_broker_1();
    apply(
        &mut s,
        frame::not_read::<Cluster>(
            ProcessKey {
                pid: 10,
                start_ticks: 7,
            },
            "a dedicated controller",
        ),
        Moment(0),
    );
    assert_eq!(
        s.brokers[0].probes.reason(Moment(0)).as_deref(),
        Some("a dedicated controller")
    );
    assert_eq!(
        s.brokers[0].cluster.reason(Moment(0)).as_deref(),
        Some("a dedicated controller")
    );
    assert_eq!(success(&s, "cluster"), None, "nothing failed");
}

#[test]
fn zeros_that_were_not_counted_are_absent() {
    // Metadata 1: brokers 1 and 2 at h:9092 without a rack, controller 1; then no topic, or t with partition 0 of 1.
    let broker_at = |id| [&[0, 0, 0, id, 0, 1, b'h', 0, 0, 0x23, 0x84, 0xff, 0xff][..]].concat();
    let brokers = [
        &[0, 0, 0, 2][..],
        &broker_at(1),
        &broker_at(2),
        &[0, 0, 0, 1],
    ]
    .concat();
    let replicas_in_sync = [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1];
    let topic = [
        &[
            0, 0, 0, 1, 0, 0, 0, 1, b't', 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0,
        ][..],
        &replicas_in_sync,
    ]
    .concat();
    let mut s = with_broker_1();
    for (topics, counted) in [(&[0; 4][..], None), (&topic[..], Some(0.0))] {
        let body = [&brokers, topics].concat();
        let counts = count(
            Metadata::new(&body, METADATA_VERSION),
            1,
            ClusterSource::Own,
            None,
        )
        .unwrap();
        let counts = cluster::Update::Counts(Ok(Box::new(counts)));
        apply(&mut s, run::<Cluster>(10, 7, Ok(counts)), Moment(1));
        let offline = "kafka_vitals_offline_partitions";
        for name in [
            "under_replicated_partitions",
            "isr_leader_alone_partitions",
            "not_in_isr_partitions",
        ] {
            let name = format!("kafka_vitals_{name}{{broker=\"1\"}}");
            assert_eq!(series(&s, Moment(1), &name), counted, "{name}");
        }
        assert_eq!(series(&s, Moment(1), offline), counted);
        let success = "kafka_vitals_collector_success{broker=\"1\",collector=\"cluster\"}";
        assert_eq!(
            series(&s, Moment(1), success),
            Some(counted.map_or(0.0, |_| 1.0))
        );
        let error = s.brokers[0].collectors[&CollectorName::Cluster]
            .error
            .as_deref()
            .unwrap_or("");
        assert_eq!(
            error.contains("no topic is visible"),
            counted.is_none(),
            "{error}"
        );
        assert_eq!(
            s.brokers[0]
                .cluster
                .fresh(Moment(1))
                .unwrap()
                .live_brokers
                .len(),
            2,
            "who lives is known"
        );
    }
}

/// A broker decides how long these lists are, and a snapshot is copied at each publish.
#[test]
fn snapshots_share_the_lists_that_a_broker_can_make_long() {
    let peer = |id| Peer {
        id,
        host: "h".repeat(255).into(),
        port: 9092,
    };
    let counts = ClusterCounts {
        live_brokers: (0..10_000).map(peer).collect(),
        not_in_isr_by_leader: Arc::new((0..10_000).map(|id| (id, 1)).collect()),
        partitions: 1,
        ..ClusterCounts::default()
    };
    let mut newest = with_broker_1();
    let update = cluster::Update::Counts(Ok(Box::new(counts.clone())));
    apply(&mut newest, run::<Cluster>(10, 7, Ok(update)), Moment(1));
    let published: Vec<Snapshot> = (0..100)
        .map(|count| {
            apply(&mut newest, fds(10, 7, count), Moment(1));
            newest.clone()
        })
        .collect();
    for snapshot in published {
        let kept = snapshot.brokers[0].cluster.fresh(Moment(1)).unwrap();
        assert!(Arc::ptr_eq(&kept.live_brokers, &counts.live_brokers));
        assert!(Arc::ptr_eq(
            &kept.not_in_isr_by_leader,
            &counts.not_in_isr_by_leader
        ));
        assert!(Arc::ptr_eq(
            &kept.under_replicated_partitions,
            &counts.under_replicated_partitions
        ));
    }
}

/// Runs `work` and returns the lines that it logs, without the time.
fn logged(work: impl FnOnce()) -> Vec<String> {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .without_time()
        .with_ansi(false)
        .with_target(false);
    tracing::subscriber::with_default(
        subscriber.with_writer(move || writer.clone()).finish(),
        work,
    );
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn a_failure_is_logged_when_it_begins_and_when_it_ends() {
    let mut s = Snapshot::default();
    let found = logged(|| apply(&mut s, discovered(vec![broker(1, 10, 7)]), Moment(0)));
    assert_eq!(
        found,
        ["INFO found a broker broker=\"1\" pid=10 version=\"unknown\""]
    );
    let denied = || Failure::new(Reason::Denied, "broker 1: /proc/10/fd\n may not be read");
    let begins = logged(|| {
        apply(&mut s, fds(10, 7, 84), Moment(1000));
        for at in 2..60 {
            let denied = run::<Process>(10, 7, Err(denied()));
            apply(&mut s, denied, Moment(at * 1000));
        }
    });
    let line = "WARN broker 1: /proc/10/fd  may not be read broker=\"1\" collector=\"process\" reason=\"denied\"";
    assert_eq!(begins, [line]);
    let ends = logged(|| (60..70).for_each(|at| apply(&mut s, fds(10, 7, 84), Moment(at * 1000))));
    assert_eq!(
        ends,
        ["INFO the collector works again broker=\"1\" collector=\"process\""]
    );
    let gone = logged(|| {
        let gone = || Failure::new(Reason::Gone, "broker 1 has ended or was restarted");
        apply(&mut s, run::<Process>(10, 7, Err(gone())), Moment(70_000));
        (70..80).for_each(|at| apply(&mut s, discovered(vec![]), Moment(at * 1000)));
    });
    assert_eq!(
        gone,
        ["WARN the broker's process 10 has ended broker=\"1\""]
    );
}

#[test]
fn a_broker_without_an_id_is_forgotten_a_minute_after_its_end() {
    let unnamed = Broker::unknown(ProcessKey {
        pid: 10,
        start_ticks: 7,
    });
    let mut s = Snapshot::default();
    apply(
        &mut s,
        discovered(vec![(Arc::new(unnamed), "pid-10".into()), broker(1, 11, 7)]),
        Moment(0),
    );
    apply(&mut s, dump(10, false), Moment(0));
    apply(&mut s, dump(11, false), Moment(0));
    let labels = |s: &Snapshot| {
        s.brokers
            .iter()
            .map(|broker| broker.label.clone())
            .collect::<Vec<_>>()
    };
    for (at, expected) in [
        (1000, &["1", "pid-10"][..]),
        (60_999, &["1", "pid-10"]),
        (61_000, &["1"]),
    ] {
        apply(&mut s, discovered(vec![]), Moment(at));
        assert_eq!(labels(&s), expected, "{at}");
    }
}

#[test]
fn a_deadlock_is_logged_when_it_is_first_seen_and_when_it_is_gone() {
    let mut s = with_broker_1();
    let seen = logged(|| (1..9).for_each(|at| apply(&mut s, dump(10, true), Moment(at))));
    assert_eq!(
        seen,
        [
            "ERROR threads of the broker are deadlocked: restart it broker=\"1\" threads=[\"a\", \"b\"]"
        ]
    );
    let failed = logged(|| (9..15).for_each(|at| apply(&mut s, failed_dump(10), Moment(at))));
    assert_eq!(
        failed,
        ["WARN no dump in time broker=\"1\" collector=\"threads\" reason=\"timeout\""]
    );
    let gone = logged(|| (15..20).for_each(|at| apply(&mut s, dump(10, false), Moment(at))));
    let works = "INFO the collector works again broker=\"1\" collector=\"threads\"";
    assert_eq!(gone, ["INFO the deadlock is gone broker=\"1\"", works]);
}

#[test]
fn facts_about_a_broker_are_logged_when_they_change() {
    let with = |id: Option<i32>, label: &str, problem: &str| {
        let unknown = Broker::unknown(ProcessKey {
            pid: 10,
            start_ticks: 7,
        });
        let broker = Broker {
            id,
            problems: vec![problem.to_owned()],
            ..unknown
        };
        (Arc::new(broker), label.to_owned())
    };
    let mut s = Snapshot::default();
    let lines = logged(|| {
        apply(
            &mut s,
            discovered(vec![with(None, "pid-10", "id unknown")]),
            Moment(0),
        );
        apply(
            &mut s,
            discovered(vec![with(None, "pid-10", "id unknown")]),
            Moment(1),
        );
        apply(
            &mut s,
            discovered(vec![with(Some(1001), "1001", "no jar")]),
            Moment(2),
        );
        apply(
            &mut s,
            discovered(vec![with(Some(1001), "1001", "no jar")]),
            Moment(3),
        );
    });
    let golden = [
        "INFO found a broker broker=\"pid-10\" pid=10 version=\"unknown\"",
        "WARN id unknown broker=\"pid-10\"",
        "INFO the broker's label is another broker=\"1001\" pid=10 before=\"pid-10\"",
        "WARN no jar broker=\"1001\"",
    ];
    assert_eq!(lines, golden);
}
