#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::model::Broker;
use crate::model::{
    ClusterCounts, ClusterSource, Deadlock, DeadlockedThread, LogDirSpace, Peer, PeerProbe,
    PoolFindings, Probe, ProbeError, ProbeReport, ProcessVitals, ProgressReport, SocketPulse,
    StandingDeadlock, Suspect, TcpState, ThreadReport,
};
use crate::model::{CollectorName, CollectorStatus};
use crate::model::{Reading, Reason, Stall};
use crate::verdict::finding::FindingId;
use crate::verdict::memory::STARTING;

const VALID: Duration = Duration::from_secs(15);

/// One broker whose readings are set by hand, evaluated second by second.
struct Scene {
    evaluator: Evaluator,
    snapshot: Snapshot,
    broker: BrokerSnapshot,
    now: Moment,
}

fn known<T>(value: T, at: Moment) -> Reading<T> {
    Reading::Known {
        value,
        at,
        valid_for: VALID,
    }
}

fn scene() -> Scene {
    let mut scene = Scene {
        evaluator: Evaluator::default(),
        snapshot: Snapshot::default(),
        broker: process(10, Moment(1_000_000)),
        now: Moment(36_842_000),
    };
    scene.all_well();
    scene
}

fn process(pid: u32, started: Moment) -> BrokerSnapshot {
    let key = ProcessKey {
        pid,
        start_ticks: 1,
    };
    let broker = Broker {
        id: Some(2),
        started: Some(started),
        ..Broker::unknown(key)
    };
    BrokerSnapshot::new(Arc::new(broker), "2".into())
}

fn cluster(live: &[i32]) -> ClusterCounts {
    let peer = |id: &i32| Peer {
        id: *id,
        host: "h".into(),
        port: 9092,
    };
    let live_brokers = live.iter().map(peer).collect();
    ClusterCounts {
        live_brokers,
        leader: 10,
        partitions: 30,
        ..ClusterCounts::default()
    }
}

fn probe(failure: Option<(Reason, bool)>) -> ProbeReport {
    let error = failure.map(|(reason, accepted)| ProbeError {
        reason,
        accepted,
        message: format!("127.0.0.1:9092: {reason}"),
    });
    ProbeReport {
        api: Probe {
            duration: Duration::from_millis(3),
            error,
        },
        metadata: None,
        peers: Vec::new(),
    }
}

fn deadlock(threads: [&str; 2], since: Moment, confirmed: Moment) -> StandingDeadlock {
    let member = |thread: &str, held_by: &str| DeadlockedThread {
        thread: thread.into(),
        wants: "Lock".into(),
        held_by: held_by.into(),
        frames: Vec::new(),
    };
    let [a, b] = threads;
    let deadlocks = Arc::new([Deadlock {
        cycle: vec![member(a, b), member(b, a)],
        waiting: Vec::new(),
        reported: true,
        ..Deadlock::default()
    }]);
    StandingDeadlock {
        more: Default::default(),
        since,
        confirmed,
        deadlocks,
        known_issues: Vec::new(),
    }
}

fn vitals(state: char) -> ProcessVitals {
    ProcessVitals {
        state,
        resident_bytes: 1,
        fd_limit_soft: Some(1000),
        fd_limit_hard: None,
    }
}

fn stopped(broker: &mut BrokerSnapshot, now: Moment) {
    broker.process = known(vitals('T'), now);
}

impl Scene {
    /// Everything is known and well.
    fn all_well(&mut self) {
        let now = self.now;
        self.broker.process = known(vitals('S'), now);
        self.broker.open_fds = known(100, now);
        self.broker.sockets = known(SocketPulse::default(), now);
        self.broker.cluster = known(cluster(&[1, 2, 3]), now);
        self.broker.probes = known(probe(None), now);
        self.broker.progress = known(ProgressReport::default(), now);
        self.broker.threads = known(ThreadReport::default(), now);
    }

    fn evaluate(&mut self) -> BrokerDiagnosis {
        self.snapshot.brokers = vec![Arc::new(self.broker.clone())];
        self.evaluator
            .evaluate(&self.snapshot, self.now)
            .brokers
            .remove(0)
    }

    /// `seconds` later, with everything well except what `change` sets each second.
    fn after(
        &mut self,
        seconds: u64,
        mut change: impl FnMut(&mut BrokerSnapshot, Moment),
    ) -> BrokerDiagnosis {
        for _ in 0..seconds {
            self.now = self.now.plus(Duration::from_secs(1));
            self.all_well();
            change(&mut self.broker, self.now);
            self.evaluate();
        }
        self.evaluate()
    }
}

fn active(diagnosis: &BrokerDiagnosis) -> Vec<FindingId> {
    diagnosis
        .findings
        .iter()
        .map(|finding| finding.id)
        .collect()
}

#[test]
fn known_good_readings_are_healthy_and_old_ones_unknown() {
    let mut scene = scene();
    let diagnosis = scene.evaluate();
    assert_eq!(
        (diagnosis.state, diagnosis.sentence.as_str()),
        (BrokerState::Healthy, "Broker 2 is healthy.")
    );
    assert!(
        diagnosis.evaluated.contains(&FindingId::JvmDeadlock)
            && !diagnosis.evaluated.contains(&FindingId::StalledPool)
    );
    scene.now = scene.now.plus(VALID * 2);
    assert_eq!(scene.evaluate().state, BrokerState::Unknown);
}

#[test]
fn a_deadlock_is_gray_at_once_and_requires_a_restart_once_two_dumps_show_it() {
    let mut scene = scene();
    let since = scene.now.plus(Duration::from_secs(1));
    let diagnosis = scene.after(1, |broker, now| {
        broker.deadlock = Some(deadlock(["a", "b"], since, now))
    });
    assert_eq!(diagnosis.state, BrokerState::Gray);
    assert_eq!(
        diagnosis.sentence,
        "Broker 2 is alive but deadlocked since 10:14:03 UTC."
    );
    assert_eq!(
        diagnosis.restart_required.unwrap().seen_for(),
        Duration::ZERO
    );
    let diagnosis = scene.after(15, |broker, now| {
        broker.deadlock = Some(deadlock(["a", "b"], since, now))
    });
    assert_eq!(
        diagnosis.restart_required.unwrap().seen_for(),
        Duration::from_secs(15)
    );
    // Another cycle starts over.
    let diagnosis = scene.after(1, |broker, now| {
        broker.deadlock = Some(deadlock(["a", "c"], since, now))
    });
    assert_eq!(
        diagnosis.restart_required.unwrap().seen_for(),
        Duration::ZERO
    );
    let diagnosis = scene.after(1, |broker, _| broker.deadlock = None);
    assert_eq!(
        (diagnosis.state, diagnosis.restart_required),
        (BrokerState::Healthy, None)
    );
}

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

/// Kafka opens its port seconds before it serves it, longer on a busy machine.
#[test]
fn a_young_process_is_starting_until_it_has_answered() {
    let mut scene = scene();
    scene.broker = process(11, scene.now);
    assert_eq!(
        scene
            .after(1, |broker, _| broker.probes = Reading::default())
            .state,
        BrokerState::Unknown
    );
    let silent = |broker: &mut BrokerSnapshot, now| {
        broker.probes = known(probe(Some((Reason::Timeout, true))), now)
    };
    let starting = scene.after(60, silent);
    assert_eq!(
        (starting.state, starting.findings.len()),
        (BrokerState::Down, 0)
    );
    assert!(
        starting.sentence.starts_with("Broker 2 is starting"),
        "{}",
        starting.sentence
    );
    // A deadlock meanwhile counts.
    let since = scene.now;
    let hangs = scene.after(1, |broker, now| {
        silent(broker, now);
        broker.deadlock = Some(deadlock(["a", "b"], since, now));
    });
    assert_eq!(hangs.state, BrokerState::Gray);
    scene.broker.deadlock = None;
    assert_eq!(scene.after(3, |_, _| {}).state, BrokerState::Healthy);
    let silent_again = scene.after(20, silent);
    assert_eq!(
        (silent_again.state, active(&silent_again)),
        (BrokerState::Gray, vec![FindingId::ApiUnresponsive])
    );
    // So does silence long after the start.
    scene.broker = process(12, scene.now);
    assert_eq!(
        scene.after(STARTING.as_secs() - 5, silent).state,
        BrokerState::Down
    );
    assert_eq!(scene.after(20, silent).state, BrokerState::Gray);
}

#[test]
fn a_restart_is_followed_until_the_broker_is_in_every_isr() {
    let mut scene = scene();
    let since = scene.now;
    scene.after(3, |broker, now| {
        broker.deadlock = Some(deadlock(["a", "b"], since, now))
    });
    scene.broker.ended = Some(scene.now);
    let down = scene.evaluate();
    assert_eq!(
        (down.state, down.findings.len(), down.evaluated.len()),
        (BrokerState::Down, 0, 0)
    );
    scene.broker = process(11, scene.now);
    let back = scene.now;
    let refused = |broker: &mut BrokerSnapshot, now| {
        broker.probes = known(probe(Some((Reason::Refused, false))), now)
    };
    let starting = scene.after(3, refused);
    assert_eq!(starting.state, BrokerState::Down);
    assert!(
        starting.sentence.starts_with("Broker 2 is starting"),
        "{}",
        starting.sentence
    );
    let behind = |broker: &mut BrokerSnapshot, now| {
        broker.cluster = known(
            ClusterCounts {
                not_in_isr: 7,
                ..cluster(&[1, 2, 3])
            },
            now,
        );
    };
    let returning = scene.after(5, behind);
    assert_eq!(returning.state, BrokerState::Healthy);
    assert_eq!(
        returning.recovery,
        Some(Recovery {
            from: BrokerState::Gray,
            back,
            in_every_isr: None
        })
    );
    assert!(
        returning.sentence.contains("still missing in 7 ISRs"),
        "{}",
        returning.sentence
    );
    let recovered = scene.after(1, |_, _| {});
    assert!(
        recovered.sentence.contains("has recovered"),
        "{}",
        recovered.sentence
    );
    let is_of_finding = |change: &Change| {
        matches!(
            change,
            Change::FindingStarted { .. } | Change::FindingEnded { .. }
        )
    };
    let changes: Vec<String> = scene
        .evaluator
        .timeline
        .iter()
        .filter(|event| !is_of_finding(&event.change))
        .map(|event| event.change.to_string())
        .collect();
    let expected = [
        "is gray (alive, not working)",
        "is down",
        "restarted as process 11",
        "is down",
        "is healthy",
        "recovered: it is in every ISR again",
    ];
    assert_eq!(changes, expected);
    // A process that was only stopped is back when it continues.
    scene.after(5, stopped);
    let continued = scene.after(5, |_, _| {});
    // That is known once the finding has been gone for 2 s, in the third second.
    assert_eq!(
        scene.now.since(continued.recovery.unwrap().back),
        Duration::from_secs(2)
    );
    // An hour later the recovery is no longer shown.
    scene.now = scene.now.plus(REMEMBERED);
    scene.all_well();
    assert_eq!(scene.evaluate().sentence, "Broker 2 is healthy.");
}

#[test]
fn followers_that_are_down_explain_a_small_isr() {
    let mut scene = scene();
    scene.evaluate();
    let missing = |live: &'static [i32]| {
        move |broker: &mut BrokerSnapshot, now: Moment| {
            broker.cluster = known(
                ClusterCounts {
                    under_replicated: 4,
                    ..cluster(live)
                },
                now,
            );
        }
    };
    let diagnosis = scene.after(61, missing(&[1, 2]));
    assert_eq!(
        (diagnosis.state, active(&diagnosis)),
        (BrokerState::Healthy, vec![FindingId::UnderReplicated])
    );
    assert!(
        diagnosis.findings[0].facts[1].contains("down: broker 3"),
        "{diagnosis:?}"
    );
    let diagnosis = scene.after(1, missing(&[1, 2, 3]));
    assert_eq!(
        diagnosis.findings[0].facts[1],
        "every broker of the cluster is live"
    );
    let unavailable = scene.evaluate().unavailable;
    let other = unavailable.iter().find(|other| other.id == 3).unwrap();
    assert_eq!((other.id, other.until), (3, Some(scene.now)));
    // A peer reports it because this broker is silent: this broker is the cause.
    let diagnosis = scene.after(1, |broker, now| {
        let counts = ClusterCounts {
            source: ClusterSource::Peer(1),
            under_replicated: 4,
            ..cluster(&[1, 2, 3])
        };
        broker.cluster = known(counts, now);
    });
    assert!(diagnosis.findings[0].facts[1].contains("check this one, not its followers"));
}

#[test]
fn a_disk_below_1_gib_is_full_and_one_without_a_size_is_not() {
    for (free_bytes, total_bytes, full) in [
        (1 << 20, 1 << 40, true),
        (2 << 30, 1 << 40, false),
        (0, 0, false),
    ] {
        let space = LogDirSpace {
            dir: "/data".into(),
            free_bytes,
            total_bytes,
        };
        let filled =
            |broker: &mut BrokerSnapshot, now| broker.log_dirs = known(vec![space.clone()], now);
        assert_eq!(
            !active(&scene().after(61, filled)).is_empty(),
            full,
            "{free_bytes} of {total_bytes}"
        );
    }
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
fn a_peer_that_cannot_be_connected_to_is_found_with_its_direction() {
    let mut scene = scene();
    let refused = |broker: &mut BrokerSnapshot, now| {
        let mut report = probe(None);
        let peer = Peer {
            id: 3,
            host: "h".into(),
            port: 9092,
        };
        let connect = probe(Some((Reason::Refused, false))).api;
        report.peers.push(PeerProbe {
            peer,
            connect,
            api: None,
        });
        broker.probes = known(report, now);
    };
    let diagnosis = scene.after(16, refused);
    assert_eq!(
        (diagnosis.state, active(&diagnosis)),
        (BrokerState::Healthy, vec![FindingId::PeerUnreachable])
    );
    assert_eq!(
        diagnosis.findings[0].facts,
        ["from broker 2 to broker 3: 127.0.0.1:9092: refused"]
    );
    let other = diagnosis
        .unavailable
        .iter()
        .find(|other| other.id == 3)
        .unwrap();
    assert_eq!(other.until, None);
}

#[test]
fn a_broker_that_holds_replicas_and_was_never_live_is_down() {
    let mut scene = scene();
    let diagnosis = scene.after(9, |broker, now| {
        broker.cluster = known(
            ClusterCounts {
                absent: [7].into(),
                ..cluster(&[1, 2])
            },
            now,
        );
    });
    let down: Vec<i32> = diagnosis
        .unavailable
        .iter()
        .filter(|other| other.until.is_none())
        .map(|other| other.id)
        .collect();
    assert_eq!(down, [7]);
}

#[test]
fn a_restart_is_required_for_stalls_at_locks_that_nothing_unblocks() {
    let stall = |class: &str, frame: &str, unblocked_by: Option<&str>| Stall {
        pool: "request_handler".into(),
        threads: vec!["kafka-request-handler-0".into()],
        since: Moment(36_842_000),
        lock_class: Some(class.into()),
        unblocked_by: unblocked_by.map(str::to_owned),
        frames: vec![frame.into()],
        ..Stall::default()
    };
    let park = "jdk.internal.misc.Unsafe.park(Native Method)";
    let read_lock = "java.util.concurrent.locks.ReentrantReadWriteLock$NonfairSync";
    let table = [
        (stall(read_lock, park, None), true),
        (
            stall("java.util.concurrent.CountDownLatch$Sync", park, None),
            false,
        ),
        (
            stall(
                "java.util.concurrent.locks.AbstractQueuedSynchronizer$ConditionObject",
                park,
                None,
            ),
            false,
        ),
        (
            stall(
                "org.apache.zookeeper.ClientCnxn$Packet",
                "java.lang.Object.wait(Native Method)",
                None,
            ),
            false,
        ),
        (stall(read_lock, park, Some("kafka-scheduler-0")), false),
    ];
    for (stall, expected) in table {
        let mut scene = scene();
        let stalls = Some(PoolFindings {
            found: vec![stall.clone()],
            pools: ["request_handler".into()].into(),
        });
        let report = ThreadReport {
            stalls,
            ..ThreadReport::default()
        };
        let diagnosis = scene.after(15, |broker, now| {
            broker.threads = known(report.clone(), now)
        });
        assert_eq!(diagnosis.state, BrokerState::Gray);
        assert_eq!(diagnosis.restart_required.is_some(), expected, "{stall:?}");
    }
}
