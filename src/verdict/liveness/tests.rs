#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::*;
use crate::model::Broker;
use crate::model::{
    ClusterCounts, Listener, MetadataLog, Peer, PeerProbe, Probe, ProbeError, ProbeReport,
    ProcessVitals, Reading, Reason, Registration,
};
use crate::verdict::finding::{RestartRequired, UnavailableBroker};

const START: Moment = Moment(10_000_000);

struct Scene {
    liveness: Liveness,
    snapshot: Snapshot,
    diagnosis: Diagnosis,
    evidence: EvidenceProgress,
    now: Moment,
}

fn broker(pid: u32) -> BrokerSnapshot {
    let broker = Broker {
        id: Some(2),
        ..Broker::unknown(ProcessKey {
            pid,
            start_ticks: 1,
        })
    };
    let vitals = ProcessVitals {
        state: 'S',
        resident_bytes: 1,
        fd_limit_soft: None,
        fd_limit_hard: None,
    };
    let valid_for = Duration::from_secs(100_000);
    let process = Reading::Known {
        value: vitals,
        at: START,
        valid_for,
    };
    BrokerSnapshot {
        process,
        ..BrokerSnapshot::new(Arc::new(broker), "2".into())
    }
}

fn diagnosed(pid: u32, state: BrokerState, seen_for: Option<u64>) -> BrokerDiagnosis {
    let last = |seconds: u64| START.plus(Duration::from_secs(seconds));
    BrokerDiagnosis {
        label: "2".into(),
        process: ProcessKey {
            pid,
            start_ticks: 1,
        },
        state,
        since: START,
        sentence: format!("Broker 2 is {}.", state.name()),
        restart_required: seen_for.map(|s| RestartRequired {
            what: "they hang".into(),
            first: START,
            last: last(s),
        }),
        ..BrokerDiagnosis::default()
    }
}

fn deadlocked() -> Scene {
    let mut scene = deadlocked_without_cluster();
    scene.cluster(0);
    scene
}

/// A deadlocked broker that knows nothing about its cluster.
fn deadlocked_without_cluster() -> Scene {
    let diagnosis = Diagnosis {
        brokers: vec![diagnosed(10, BrokerState::Gray, Some(15))],
        at: START,
        ..Diagnosis::default()
    };
    let snapshot = Snapshot {
        brokers: vec![Arc::new(broker(10))],
        ..Snapshot::default()
    };
    Scene {
        liveness: Liveness::default(),
        snapshot,
        diagnosis,
        evidence: EvidenceProgress::Saved,
        now: START,
    }
}

impl Scene {
    fn answer(&mut self) -> Answer {
        let evidence = self.evidence;
        self.liveness
            .answers(&self.snapshot, &self.diagnosis, |_| evidence, self.now)
            .remove(0)
    }

    fn later(&mut self, seconds: u64) -> Answer {
        self.now = self.now.plus(Duration::from_secs(seconds));
        self.answer()
    }

    fn cluster(&mut self, isr_leader_alone: u64) {
        let counts = ClusterCounts {
            leader: 9,
            isr_leader_alone,
            partitions: 9,
            ..ClusterCounts::default()
        };
        let valid_for = Duration::from_secs(100_000);
        Arc::make_mut(&mut self.snapshot.brokers[0]).cluster = Reading::Known {
            value: counts,
            at: START,
            valid_for,
        };
    }

    fn peers(&mut self, silent: &[i32], reason: Reason) {
        self.peers_of(0, silent, reason);
    }

    fn peers_of(&mut self, at: usize, silent: &[i32], reason: Reason) {
        let peer = |id: &i32| {
            let error = ProbeError {
                reason,
                accepted: true,
                message: "no answer".into(),
            };
            let success = Probe {
                duration: Duration::ZERO,
                error: None,
            };
            PeerProbe {
                peer: Peer {
                    id: *id,
                    host: "h".into(),
                    port: 1,
                },
                api: Some(Probe {
                    error: Some(error),
                    ..success.clone()
                }),
                connect: success,
                cut: None,
            }
        };
        let report = ProbeReport {
            api: Some(Probe {
                duration: Duration::ZERO,
                error: None,
            }),
            peers: silent.iter().map(peer).collect(),
            ..ProbeReport::default()
        };
        let valid_for = Duration::from_secs(100_000);
        Arc::make_mut(&mut self.snapshot.brokers[at]).probes = Reading::Known {
            value: report,
            at: START,
            valid_for,
        };
    }
}

#[test]
fn a_restart_needs_two_dumps_that_show_the_same() {
    assert!(deadlocked().answer().restart);
    let table = [
        (BrokerState::Gray, Some(9), "a second thread dump"),
        (BrokerState::Gray, None, "Broker 2 is gray."),
        (BrokerState::Healthy, None, "Broker 2 is healthy."),
        (BrokerState::Suspect, Some(15), "Broker 2 is suspect."),
        (BrokerState::Ended, None, "Broker 2 is ended."),
        (BrokerState::Unknown, None, "Broker 2 is unknown."),
    ];
    for (state, seen_for, reason) in table {
        let mut scene = deadlocked();
        scene.diagnosis.brokers = vec![diagnosed(10, state, seen_for)];
        let answer = scene.answer();
        assert!(
            !answer.restart && answer.text().contains(reason),
            "{state:?} {seen_for:?}: {answer:?}"
        );
    }
    let mut scene = deadlocked();
    scene.liveness = Liveness::new(LivenessSettings {
        enabled: false,
        ..LivenessSettings::default()
    });
    assert!(!scene.answer().restart);
}

#[test]
fn a_restart_waits_for_the_evidence_but_not_forever() {
    let mut scene = deadlocked();
    scene.evidence = EvidenceProgress::Pending;
    assert!(
        scene
            .answer()
            .reason
            .contains("the evidence is being saved")
    );
    assert!(!scene.later(14).restart);
    assert!(scene.later(1).restart);
    for evidence in [EvidenceProgress::Saved, EvidenceProgress::None] {
        let mut scene = deadlocked();
        scene.evidence = evidence;
        assert!(scene.answer().restart, "{evidence:?}");
    }
}

#[test]
fn another_broker_that_is_down_prevents_it_for_ten_minutes_at_most() {
    let mut scene = deadlocked();
    let other = |id, until| UnavailableBroker {
        id,
        since: START,
        until,
    };
    scene.diagnosis.brokers[0].unavailable = vec![other(3, None)];
    assert!(
        scene
            .later(10)
            .reason
            .contains("broker 3 is down or restarting")
    );
    assert!(!scene.later(589).restart);
    assert!(scene.later(1).restart);
    let mut scene = deadlocked();
    scene.diagnosis.brokers[0].unavailable = vec![other(3, Some(START)), other(1, Some(Moment(0)))];
    assert!(
        scene
            .answer()
            .reason
            .contains("broker 3 has just come back")
    );
    assert!(scene.later(60).restart);
}

#[test]
fn without_the_cluster_s_state_it_waits_as_long_unless_it_was_the_only_broker() {
    let mut scene = deadlocked_without_cluster();
    assert!(
        scene
            .answer()
            .reason
            .contains("whether another broker is down is unknown")
    );
    assert!(!scene.later(599).restart);
    assert!(scene.later(1).restart);
    let mut scene = deadlocked_without_cluster();
    scene.diagnosis.brokers[0].only_broker = true;
    assert!(scene.answer().restart);
}

#[test]
fn several_silent_brokers_go_one_at_a_time_in_the_order_of_their_ids() {
    let mut scene = deadlocked();
    scene.peers(&[1, 3, 4], Reason::Timeout);
    assert!(
        scene
            .answer()
            .reason
            .contains("2 silent brokers with higher ids go first")
    );
    assert!(!scene.later(359).restart);
    assert!(scene.later(1).restart);
    let mut scene = deadlocked();
    scene.peers(&[0, 1], Reason::Timeout);
    assert!(scene.answer().restart, "the highest id goes first");
    let mut scene = deadlocked();
    scene.peers(&[3, 4], Reason::Slow);
    assert!(scene.answer().restart, "late answers are answers");
}

#[test]
fn a_restart_that_did_not_help_is_not_repeated_at_once() {
    let mut scene = deadlocked();
    assert!(scene.answer().restart);
    assert!(
        scene.later(30).restart,
        "the same process until it is restarted"
    );
    scene.snapshot.brokers = vec![Arc::new(broker(11))];
    scene.cluster(0);
    scene.diagnosis.brokers = vec![diagnosed(11, BrokerState::Gray, Some(15))];
    assert!(
        scene
            .later(60)
            .reason
            .contains("restarted recently for the same reason")
    );
    assert!(!scene.later(539).restart);
    assert!(scene.later(1).restart);
}

#[test]
fn alone_in_the_isr_is_mentioned_and_prevents_nothing() {
    let mut scene = deadlocked();
    scene.cluster(4);
    let answer = scene.later(100);
    assert!(
        answer.restart
            && answer
                .reason
                .contains("It is alone in the ISR of 4 partitions"),
        "{answer:?}"
    );
}

/// Adds a gray broker of this host with this id and owner, whose listener has the port 9000 + id.
fn neighbour(scene: &mut Scene, pid: u32, id: i32, owner: u32) {
    let broker = Broker {
        id: Some(id),
        owner: Some(owner),
        listeners: vec![Listener {
            name: "P".into(),
            protocol: None,
            host: None,
            port: 9000 + id as u16,
            controller: false,
            advertised: None,
        }],
        ..(*broker(pid).broker).clone()
    };
    let snapshot = BrokerSnapshot::new(Arc::new(broker), format!("{id}@{pid}").into());
    scene.snapshot.brokers.push(Arc::new(snapshot));
    let diagnosed = diagnosed(pid, BrokerState::Gray, Some(15));
    scene.diagnosis.brokers.push(diagnosed);
}

/// A deadlocked broker 2 of user 1001, whose Metadata lists the brokers 3 and 4 at the ports 9003 and 9004.
fn deadlocked_among_others() -> Scene {
    let mut scene = deadlocked();
    let first = Arc::make_mut(&mut scene.snapshot.brokers[0]);
    Arc::make_mut(&mut first.broker).owner = Some(1001);
    let peer = |id: i32| Peer {
        id,
        host: "h".into(),
        port: 9000 + id as u16,
    };
    let counts = ClusterCounts {
        partitions: 9,
        live_brokers: [peer(3), peer(4)].into(),
        ..ClusterCounts::default()
    };
    first.cluster = Reading::Known {
        value: counts,
        at: START,
        valid_for: Duration::from_secs(100_000),
    };
    scene
}

#[test]
fn gray_brokers_of_the_host_are_waited_for_if_user_and_cluster_are_the_same() {
    let table = [
        ("of its cluster", 3, 1001, true),
        ("of a stranger", 3, 2001, false),
        ("of another cluster", 7, 1001, false),
    ];
    for (what, id, owner, waits) in table {
        let mut scene = deadlocked_among_others();
        neighbour(&mut scene, 11, id, owner);
        assert_eq!(!scene.answer().restart, waits, "{what}");
    }
    let mut scene = deadlocked_among_others();
    neighbour(&mut scene, 11, 3, 1001);
    neighbour(&mut scene, 12, 3, 1001);
    let answer = scene.answer();
    assert!(
        answer
            .reason
            .contains("a silent broker with a higher id goes first"),
        "{answer:?}"
    );
    // A listener elsewhere: the cluster's broker 3 is another process.
    let mut scene = deadlocked_among_others();
    neighbour(&mut scene, 11, 3, 1001);
    let other = Arc::make_mut(&mut scene.snapshot.brokers[1]);
    Arc::make_mut(&mut other.broker).listeners[0].port = 9999;
    assert!(scene.answer().restart);
}

/// Three processes of another user that claim to be the broker itself, and bring silent peers of their own.
#[test]
fn fakes_hold_no_restart_up() {
    let mut scene = deadlocked_among_others();
    for pid in 11..14 {
        neighbour(&mut scene, pid, 2, 2001);
        scene.peers_of(
            pid as usize - 10,
            &[5, 6, 7, 8, 9, 10, 11, 12],
            Reason::Timeout,
        );
    }
    assert!(scene.answer().restart);
}

#[test]
fn all_turns_together_are_bounded() {
    let mut scene = deadlocked();
    scene.peers(&Vec::from_iter(3..1000), Reason::Timeout);
    assert!(!scene.answer().restart);
    assert!(!scene.later(1799).restart);
    assert!(scene.later(1).restart);
}

#[test]
fn a_stranger_answers_for_its_label_alone() {
    let answer = |label: &str, id, outranked| Answer {
        process: ProcessKey::default(),
        label: label.into(),
        id: Some(id),
        outranked,
        restart: false,
        sentence: String::new(),
        reason: String::new(),
    };
    let both = [answer("1", 1, false), answer("1@mallory", 1, true)];
    let label =
        |answers: &[Answer], name| answer_for(answers, name).map(|answer| answer.label.clone());
    for name in [None, Some("1")] {
        assert_eq!(label(&both, name).unwrap(), "1", "{name:?}");
    }
    assert_eq!(label(&both, Some("1@mallory")).unwrap(), "1@mallory");
    // While the broker is down, nobody takes its place.
    assert_eq!(label(&both[1..], None), Err(NoAnswer::NoBroker));
    let unknown = NoAnswer::UnknownName("1".into());
    assert_eq!(label(&both[1..], Some("1")), Err(unknown));
    // Brokers of one user, as before.
    let two = [answer("1@9092", 1, false), answer("1@9093", 1, false)];
    assert_eq!(label(&two, Some("1")), Err(NoAnswer::Ambiguous));
    assert_eq!(label(&two, None), Err(NoAnswer::Ambiguous));
    assert_eq!(label(&two[..1], Some("1")).unwrap(), "1@9092");
}

/// The metadata log of cluster A, in which broker 2 and these are registered.
fn log(serving: &[i32], fenced: &[i32]) -> Reading<MetadataLog> {
    let registered = |fenced| {
        let registration = Registration {
            fenced,
            in_controlled_shutdown: false,
        };
        move |id: &i32| (*id, registration)
    };
    let serving = [2].iter().chain(serving).map(registered(false));
    let brokers = serving.chain(fenced.iter().map(registered(true)));
    Reading::Known {
        value: MetadataLog {
            counts: Some(ClusterCounts {
                isr_leader_alone: 4,
                partitions: 9,
                ..ClusterCounts::default()
            }),
            brokers: Arc::new(brokers.collect()),
            ..MetadataLog::default()
        },
        at: START,
        valid_for: Duration::from_secs(100_000),
    }
}

#[test]
fn the_metadata_log_knows_the_cluster_unless_it_stands_still() {
    let mut scene = deadlocked_without_cluster();
    Arc::make_mut(&mut scene.snapshot.brokers[0]).metadata_log = log(&[1], &[3]);
    let answer = scene.answer();
    assert!(answer.restart, "{answer:?}");
    assert!(answer.reason.contains("alone in the ISR of 4 partitions"));
    scene.diagnosis.brokers[0].findings = vec![Finding {
        id: FindingId::MetadataStalled,
        last_seen: None,
        since: START,
        facts: Vec::new(),
    }];
    let unknown = "whether another broker is down is unknown";
    assert!(scene.answer().reason.contains(unknown));
}

/// Without credentials no peer is asked: siblings with the same deadlock may remain registered and unfenced.
#[test]
fn registered_brokers_that_nothing_asks_may_be_silent() {
    let mut scene = deadlocked_without_cluster();
    Arc::make_mut(&mut scene.snapshot.brokers[0]).metadata_log = log(&[1, 3, 4], &[5]);
    let answer = scene.answer();
    let text =
        "2 brokers with higher ids go first, 2 of which may be silent because nothing asks them";
    assert!(answer.reason.contains(text), "{answer:?}");
    assert!(!scene.later(359).restart);
    assert!(scene.later(1).restart);
    // One that is asked is known.
    for (reason, waits) in [(Reason::Timeout, 360), (Reason::Slow, 180)] {
        let mut scene = deadlocked_without_cluster();
        Arc::make_mut(&mut scene.snapshot.brokers[0]).metadata_log = log(&[1, 3, 4], &[5]);
        scene.peers(&[4], reason);
        assert!(!scene.answer().restart);
        assert!(!scene.later(waits - 1).restart, "{reason:?}");
        assert!(scene.later(1).restart, "{reason:?}");
    }
    // As many as a broker probes, however many there are.
    let mut scene = deadlocked_without_cluster();
    Arc::make_mut(&mut scene.snapshot.brokers[0]).metadata_log = log(&Vec::from_iter(3..99), &[]);
    assert!(!scene.answer().restart);
    assert!(!scene.later(8 * 180 - 1).restart);
    assert!(scene.later(1).restart);
}

/// A deadlocked broker 2 of user 1001 in cluster A with this log, and a gray one of this host.
fn deadlocked_beside(
    (id, owner, cluster): (i32, u32, Option<&str>),
    log: Reading<MetadataLog>,
) -> Scene {
    let mut scene = deadlocked_without_cluster();
    neighbour(&mut scene, 11, id, owner);
    let own = Arc::make_mut(&mut scene.snapshot.brokers[0]);
    own.metadata_log = log;
    let node = Arc::make_mut(&mut own.broker);
    (node.owner, node.cluster_id) = (Some(1001), Some("A".into()));
    let other = Arc::make_mut(&mut scene.snapshot.brokers[1]);
    Arc::make_mut(&mut other.broker).cluster_id = cluster.map(str::to_owned);
    scene
}

#[test]
fn a_healthy_broker_of_the_host_is_not_silent_if_user_and_cluster_are_the_same() {
    let table = [("A", 1001, false), ("B", 1001, true), ("A", 2001, true)];
    for (cluster, owner, waits) in table {
        let mut scene = deadlocked_beside((3, owner, Some(cluster)), log(&[3], &[]));
        scene.diagnosis.brokers[1].state = BrokerState::Healthy;
        assert_eq!(!scene.answer().restart, waits, "{cluster} {owner}");
    }
}

#[test]
fn the_metadata_log_names_the_gray_brokers_of_the_host_that_go_first() {
    let table = [
        (3, Some("A"), 1001, true),
        (3, Some("B"), 1001, false),
        (3, None, 1001, false),
        (3, Some("A"), 2001, false),
        (4, Some("A"), 1001, false),
    ];
    for (id, cluster, owner, waits) in table {
        let answer = deadlocked_beside((id, owner, cluster), log(&[], &[3])).answer();
        assert_eq!(
            !answer.restart, waits,
            "{id} {cluster:?} {owner}: {answer:?}"
        );
    }
}
