//! How long something must last before it counts, and how long it counts.

use super::*;
use crate::model::{FdKinds, LogLine, LogReport, LogSignatureCount, ProcessVitals, Severity};

#[test]
fn probes_and_signals_must_last_and_clean_readings_acquit_levels() {
    type Change = fn(&mut BrokerSnapshot, Moment);
    let silent: Change =
        |broker, now| broker.probes = known(probe(Some((Reason::Timeout, true))), now);
    let unsupported: Change =
        |broker, now| broker.probes = known(probe(Some((Reason::Unsupported, true))), now);
    let unreachable: Change =
        |broker, now| broker.probes = known(probe(Some((Reason::Timeout, false))), now);
    let no_progress: Change = |broker, now| {
        let suspect = Suspect {
            thread_id: 1,
            thread: "t".into(),
            pool: "request_handler".into(),
            disk_wait: None,
        };
        broker.progress = known(
            ProgressReport {
                suspects: vec![suspect],
                threads: 9,
            },
            now,
        );
    };
    let no_dump = |broker: &mut BrokerSnapshot, now| {
        no_progress(broker, now);
        broker.threads = known(ThreadReport::default(), Moment(36_842_000));
    };
    let close_wait = |acquitted: bool| {
        move |broker: &mut BrokerSnapshot, now: Moment| {
            let mut pulse = SocketPulse {
                unread_close_wait: 30,
                ..SocketPulse::default()
            };
            pulse.server.get_mut(TcpState::CloseWait).connections = 40;
            broker.sockets = known(pulse, now);
            if !acquitted {
                // The dump is older.
                broker.threads = known(ThreadReport::default(), Moment(now.0.min(36_842_000)));
            }
        }
    };
    let (piled, explained) = (close_wait(false), close_wait(true));
    type Changed<'a> = &'a dyn Fn(&mut BrokerSnapshot, Moment);
    let table: [(&str, u64, Changed, BrokerState); 12] = [
        (
            "one failed probe, until the next",
            5,
            &silent,
            BrokerState::Suspect,
        ),
        ("two failed probes", 8, &silent, BrokerState::Gray),
        (
            "a listener that cannot be asked",
            20,
            &unsupported,
            BrokerState::Healthy,
        ),
        ("a moment in state T", 1, &stopped, BrokerState::Healthy),
        (
            "a connection that times out",
            20,
            &unreachable,
            BrokerState::Suspect,
        ),
        ("stopped", 4, &stopped, BrokerState::Gray),
        (
            "threads without progress, before their dump",
            3,
            &no_dump,
            BrokerState::Healthy,
        ),
        (
            "threads without progress, and no dump follows",
            5,
            &no_dump,
            BrokerState::Suspect,
        ),
        (
            "threads without progress, and a clean dump",
            5,
            &no_progress,
            BrokerState::Healthy,
        ),
        ("a burst of CLOSE_WAIT", 10, &piled, BrokerState::Healthy),
        ("CLOSE_WAIT that stays", 17, &piled, BrokerState::Suspect),
        (
            "CLOSE_WAIT with a clean dump since",
            20,
            &explained,
            BrokerState::Healthy,
        ),
    ];
    for (name, seconds, change, expected) in table {
        let mut scene = scene();
        assert_eq!(scene.after(seconds, change).state, expected, "{name}");
        // Afterwards everything clears after its own time.
        assert_eq!(
            scene.after(20, |_, _| {}).state,
            BrokerState::Healthy,
            "{name}, over"
        );
    }
}

/// The broker stays gray until its pauses are fewer than those of the finding.
#[test]
fn a_jvm_that_pauses_most_of_the_time_is_suspect_and_then_gray() {
    let total = std::cell::Cell::new(Duration::ZERO);
    let pausing = |share: u64| {
        let total = &total;
        move |broker: &mut BrokerSnapshot, now: Moment| {
            total.set(total.get() + Duration::from_millis(share * 10));
            broker.jvm_pauses = known(total.get(), now);
        }
    };
    let mut scene = scene();
    assert_eq!(scene.after(20, pausing(40)).state, BrokerState::Healthy);
    let diagnosis = scene.after(10, pausing(60));
    assert_eq!(diagnosis.state, BrokerState::Suspect);
    let facts = facts_of(diagnosis, FindingId::JvmPaused).unwrap();
    assert_eq!(facts, ["at safepoints for 60 % of the last 10 s"]);
    let diagnosis = scene.after(10, pausing(90));
    assert_eq!(diagnosis.state, BrokerState::Gray);
    // More than half of the window since the sixth second at 60 %.
    assert_eq!(
        diagnosis.sentence,
        "Broker 2 is alive but its JVM pauses most of the time since 10:14:28 UTC: \
         at safepoints for 90 % of the last 10 s."
    );
    assert_eq!(scene.after(10, pausing(60)).state, BrokerState::Gray);
    assert_eq!(scene.after(10, pausing(10)).state, BrokerState::Suspect);
    assert_eq!(scene.after(10, pausing(10)).state, BrokerState::Healthy);
}

/// One failed probe is not enough, however rarely probes run.
#[test]
fn a_second_probe_must_fail_too() {
    let silent = |broker: &mut BrokerSnapshot, now| {
        broker.probes = known(probe(Some((Reason::Timeout, true))), now)
    };
    let mut scene = scene();
    let status = CollectorStatus {
        interval: Duration::from_secs(20),
        ..CollectorStatus::default()
    };
    let collectors = &mut scene.broker.collectors;
    collectors.insert(CollectorName::Cluster, status);
    assert_eq!(scene.after(20, silent).state, BrokerState::Suspect);
    assert_eq!(scene.after(2, silent).state, BrokerState::Gray);
}

/// Where discovery hangs, a broker whose process has ended does not stay what it was.
#[test]
fn the_state_before_the_end_is_kept_while_its_reason_is_read() {
    let mut scene = scene();
    assert_eq!(scene.after(16, |_, _| ()).state, BrokerState::Healthy);
    let ended = scene.now;
    let gone = |broker: &mut BrokerSnapshot, _| {
        broker.last = Some(LastReadings {
            at: ended,
            ..LastReadings::default()
        });
        broker.process = Reading::unknown("gone");
        broker.threads = Reading::unknown("gone");
        broker.probes = Reading::unknown("gone");
    };
    assert_eq!(scene.after(8, gone).state, BrokerState::Healthy);
    assert_eq!(scene.after(8, gone).state, BrokerState::Unknown);
}

#[test]
fn a_finding_outlives_its_readings_for_a_while() {
    let mut scene = scene();
    let offline = |broker: &mut BrokerSnapshot, now| {
        broker.cluster = known(
            ClusterCounts {
                offline: 1,
                ..cluster(&[1, 2, 3])
            },
            now,
        );
    };
    assert_eq!(
        active(&scene.after(16, offline)),
        [FindingId::OfflinePartitions]
    );
    let unread = |broker: &mut BrokerSnapshot, _| broker.cluster = Reading::unknown("silent");
    assert_eq!(
        active(&scene.after(100, unread)),
        [FindingId::OfflinePartitions]
    );
    let diagnosis = scene.after(30, unread);
    assert!(
        active(&diagnosis).is_empty()
            && !diagnosis.evaluated.contains(&FindingId::OfflinePartitions)
    );
    // A process that has ended loses its findings at once.
    assert_eq!(
        active(&scene.after(16, offline)),
        [FindingId::OfflinePartitions]
    );
    scene.broker.ended = Some(scene.now);
    assert_eq!(active(&scene.evaluate()), []);
}

#[test]
fn a_broker_without_one_of_its_log_dirs_works_only_in_part() {
    let mut scene = scene();
    let given_up = |broker: &mut BrokerSnapshot, now| {
        broker.offline_log_dirs = known(vec!["/data1".into()], now);
    };
    assert_eq!(
        active(&scene.after(1, given_up)),
        [],
        "it may be at its end"
    );
    let diagnosis = scene.after(3, given_up);
    assert_eq!(diagnosis.state, BrokerState::Suspect);
    let fact = "log dir /data1 is offline: the broker has released its lock";
    assert_eq!(
        facts_of(diagnosis, FindingId::LogDirFailed).unwrap(),
        [fact]
    );
    let none = |broker: &mut BrokerSnapshot, now| broker.offline_log_dirs = known(vec![], now);
    assert_eq!(active(&scene.after(3, none)), []);
    // Its log may say it first.
    let at = scene.now;
    let said = move |broker: &mut BrokerSnapshot, now| {
        let line = LogLine {
            at,
            text: "Stopping serving replicas in dir /data1".into(),
            peer: None,
        };
        let count = LogSignatureCount {
            count: 1,
            last: Some(line),
            ..LogSignatureCount::none(Severity::Critical)
        };
        let report = LogReport {
            signatures: [("log_dir_offline".to_owned(), count)].into(),
            ..LogReport::default()
        };
        broker.log = known(report.into(), now);
    };
    let facts = facts_of(scene.after(3, said), FindingId::LogDirFailed).unwrap();
    assert_eq!(facts, ["its log: Stopping serving replicas in dir /data1"]);
    // Where it has all locks long after that, another broker writes to the same file.
    let all_locked = |broker: &mut BrokerSnapshot, now| {
        said(broker, now);
        none(broker, now);
    };
    assert_eq!(active(&scene.after(20, all_locked)), []);
}

#[test]
fn handles_that_run_out_come_with_the_kinds_of_which_there_are_most() {
    let mut scene = scene();
    let near = |broker: &mut BrokerSnapshot, now| {
        let vitals = ProcessVitals {
            state: 'S',
            fd_limit_soft: Some(1000),
            fd_limit_hard: None,
            resident_bytes: 0,
        };
        broker.process = known(vitals, now);
        broker.open_fds = known(990, now);
        let kinds = FdKinds {
            socket: 900,
            jar: 70,
            other: 20,
            ..FdKinds::default()
        };
        broker.fd_kinds = known(kinds, now);
    };
    let facts = facts_of(scene.after(15, near), FindingId::FileHandleExhaustion).unwrap();
    assert_eq!(
        facts.last().unwrap(),
        "most of them, when last counted: 900 of kind socket, 70 of kind jar"
    );
}
