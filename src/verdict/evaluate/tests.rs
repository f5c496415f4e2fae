#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;
mod groups;
mod known_faults;
mod lasting;
mod listeners;
mod metadata_log;
mod restarts;
mod stalls;

use super::*;
use crate::model::Broker;
use crate::model::{
    ClusterCounts, ClusterSource, Deadlock, DeadlockedThread, LastReadings, LikelyDeadlock,
    LogDirSpace, Peer, PeerProbe, PoolFindings, Probe, ProbeError, ProbeReport, ProcessVitals,
    ProgressReport, SocketPulse, StandingDeadlock, Suspect, TcpState, ThreadReport,
};
use crate::model::{CollectorName, CollectorStatus};
use crate::model::{OwnRegistration, ZooKeeperReport};
use crate::model::{Reading, Reason, Stall};
use crate::verdict::finding::{FindingId, UnavailableBroker};
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
        api: Some(Probe {
            duration: Duration::from_millis(3),
            error,
        }),
        ..ProbeReport::default()
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

/// The ids of the brokers that are down.
fn down(others: &[UnavailableBroker]) -> Vec<i32> {
    let down = others.iter().filter(|other| other.until.is_none());
    down.map(|other| other.id).collect()
}

/// The facts of a finding, if it is active.
fn facts_of(diagnosis: BrokerDiagnosis, id: FindingId) -> Option<Vec<String>> {
    let mut findings = diagnosis.findings.into_iter();
    Some(findings.find(|found| found.id == id)?.facts)
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
fn a_disk_of_which_a_twentieth_is_free_is_full_whatever_its_size() {
    for (free_bytes, total_bytes, full) in [
        (1 << 20, 1 << 40, true),
        (50 << 30, 1000 << 30, true),
        (51 << 30, 1000 << 30, false),
        (50 << 20, 1000 << 20, true),
        (51 << 20, 1000 << 20, false),
        // Some file systems report no size.
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

/// Two seconds after SIGCONT the headline must not say that the process is stopped.
#[test]
fn a_headline_that_is_over_says_since_when() {
    let mut scene = scene();
    let diagnosis = scene.after(4, stopped);
    let (sentence, remedy) = (diagnosis.sentence, diagnosis.remedy);
    assert_eq!(
        sentence,
        "Broker 2 is stopped by a signal since 10:14:03 UTC."
    );
    assert_eq!(remedy, "Continue it: kill -CONT 10.");
    let finding = &diagnosis.findings[0];
    assert_eq!(finding.clearing(scene.now), "");
    assert!(
        finding
            .what_to_do(diagnosis.process)
            .contains("`kill -CONT 10` continues it")
    );

    let diagnosis = scene.after(2, |_, _| {});
    let clearing = " (clearing, last seen 1 s ago)";
    assert_eq!(
        (diagnosis.state, diagnosis.sentence, diagnosis.remedy),
        (
            BrokerState::Gray,
            format!("Broker 2 is stopped by a signal since 10:14:03 UTC{clearing}."),
            "Wait.".to_owned()
        )
    );
    assert_eq!(diagnosis.findings[0].clearing(scene.now), clearing);
    // It may be stopped again meanwhile.
    let diagnosis = scene.after(1, stopped);
    assert_eq!(diagnosis.sentence, sentence);
    let diagnosis = scene.after(3, |_, _| {});
    assert_eq!(diagnosis.state, BrokerState::Healthy);
}

/// What is still seen explains the state, not what is over.
#[test]
fn of_two_causes_the_one_that_is_still_seen_is_in_the_headline() {
    let mut scene = scene();
    let silent = |broker: &mut BrokerSnapshot, now| {
        broker.probes = known(probe(Some((Reason::Timeout, true))), now);
    };
    scene.after(12, |broker, now| {
        stopped(broker, now);
        silent(broker, now);
    });
    let diagnosis = scene.after(1, silent);
    let both = [FindingId::ProcessStopped, FindingId::ApiUnresponsive];
    assert_eq!(active(&diagnosis), both);
    let expected = "accepts connections and answers nothing since";
    assert!(diagnosis.sentence.contains(expected), "{diagnosis:?}");
}
