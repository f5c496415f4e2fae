//! Known faults: those that a broker has, and those that it may meet.

use super::*;
use crate::model::{Loop, MatchQuality, MissingThread, Mode, Role};
use crate::threads::known_issues::matching_loop;

/// The broker of the scene with another version, a KRaft node that is broker and controller.
fn of_version(version: &str) -> Scene {
    let mut scene = scene();
    let broker = Broker {
        kafka_version: Some(version.to_owned()),
        mode: Some(Mode::KRaft),
        roles: [Role::Broker, Role::Controller].into(),
        ..(*scene.broker.broker).clone()
    };
    scene.broker.broker = Arc::new(broker);
    scene
}

/// A dump lacks this thread.
fn lacks(thread: &str, now: Moment) -> ThreadReport {
    let gone = MissingThread {
        pool: "raft_io".into(),
        thread: thread.into(),
        count: 1,
        since: now,
    };
    ThreadReport {
        missing: Some(PoolFindings {
            found: vec![gone],
            pools: ["raft_io".into()].into(),
        }),
        ..ThreadReport::default()
    }
}

fn keys(diagnosis: &BrokerDiagnosis) -> Vec<&str> {
    let known = diagnosis.known_issues.iter();
    known
        .map(|known| {
            assert_eq!(known.by, MatchQuality::Similar);
            known.issue.as_str()
        })
        .collect()
}

#[test]
fn the_end_of_the_raft_thread_is_named_where_the_version_has_the_fault() {
    let thread = "kafka-1-raft-io-thread";
    for (version, key) in [("3.4.0", Some("KAFKA-14644")), ("3.4.1", None)] {
        let mut scene = of_version(version);
        let diagnosis = scene.after(1, |broker, now| {
            broker.threads = known(lacks(thread, now), now);
        });
        assert_eq!(keys(&diagnosis), Vec::from_iter(key), "{version}");
        let facts = facts_of(diagnosis, FindingId::MissingThread).unwrap();
        let named = facts[0].contains("as by KAFKA-14644");
        assert_eq!(named, key.is_some(), "{facts:?}");
    }
}

#[test]
fn a_loop_is_named() {
    let frames = ["k.TransactionStateManager.loadTransactionMetadata(T.scala:1)".to_owned()];
    let name = "transaction-log-manager-0";
    let diagnosis = of_version("2.4.0").after(1, |broker, now| {
        let found = Loop {
            thread: name.into(),
            since: now,
            frames: frames.to_vec(),
            known_issues: matching_loop(name, &frames),
        };
        let report = ThreadReport {
            loops: vec![found],
            ..ThreadReport::default()
        };
        broker.threads = known(report, now);
    });
    assert_eq!(keys(&diagnosis), ["KAFKA-9065", "KAFKA-17941"]);
    assert_eq!(diagnosis.state, BrokerState::Suspect);
    let facts = facts_of(diagnosis, FindingId::EndlessLoop).unwrap();
    assert_eq!(
        facts,
        [
            "transaction-log-manager-0 uses a core and does not come out of one method, as by KAFKA-9065, KAFKA-17941: \
             k.TransactionStateManager.loadTransactionMetadata(T.scala:1)"
        ]
    );
}

/// A thread that has ended for a known reason does not make a deadlock a known one.
#[test]
fn the_verdict_names_what_the_deadlock_is_and_nothing_else() {
    let mut scene = of_version("3.4.0");
    let diagnosis = scene.after(1, |broker, now| {
        broker.deadlock = Some(deadlock(["a", "b"], now, now));
        broker.threads = known(lacks("kafka-raft-io-thread", now), now);
    });
    assert_eq!(keys(&diagnosis), ["KAFKA-14644"]);
    let sentence = &diagnosis.sentence;
    assert!(sentence.contains("alive but deadlocked"), "{sentence}");
    assert!(!sentence.contains("KAFKA-"), "{sentence}");
}

#[test]
fn what_a_broker_may_meet_begins_with_the_release_to_move_to() {
    let facts = |version| {
        let diagnosis = of_version(version).after(1, |_, _| {});
        let is_known = diagnosis.evaluated.contains(&FindingId::KnownIssueExposed);
        (is_known, facts_of(diagnosis, FindingId::KnownIssueExposed))
    };
    let (_, of_known) = facts("4.2.0");
    let of_known = of_known.unwrap();
    let begins = |fact: &String| fact.split([':', ' ']).next().unwrap().to_owned();
    assert_eq!(of_known[0], "4.2.2 is the next release with none of these");
    let keys: Vec<String> = of_known[1..].iter().map(begins).collect();
    assert_eq!(keys, ["KAFKA-20247", "KAFKA-20726", "perhaps"]);
    assert!(of_known[1].ends_with(", fixed in 4.2.1"), "{}", of_known[1]);
    assert!(
        of_known[3].starts_with("perhaps KAFKA-20505, KAFKA-20302: "),
        "{}",
        of_known[3]
    );
    assert_eq!(facts("4.2.2"), (true, None));
    // A vendor's build: unknown, not free of faults.
    assert_eq!(facts("4.2.0.redhat-1"), (false, None));
}
