//! What requires a restart, and what follows one.

use super::*;
use crate::model::AcceptQueue;

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

#[test]
fn a_likely_deadlock_is_suspect_once_it_stands_and_requires_no_restart() {
    let mut scene = scene();
    let since = scene.now.plus(Duration::from_secs(1));
    let likely = LikelyDeadlock {
        thread: "closer".into(),
        waits_in: "java.lang.Thread.join".into(),
        holds: Some("x.L".into()),
        blocked: vec!["worker".into()],
        may_await: Some("worker".into()),
        since,
        ..LikelyDeadlock::default()
    };
    let report = ThreadReport {
        likely_deadlocks: vec![likely],
        ..ThreadReport::default()
    };
    let shown = |broker: &mut BrokerSnapshot, now| broker.threads = known(report.clone(), now);
    let young = scene.after(10, shown);
    assert_eq!(
        (young.state, active(&young)),
        (BrokerState::Healthy, vec![])
    );
    let stands = scene.after(1, shown);
    assert_eq!(
        (stands.state, active(&stands), stands.restart_required),
        (BrokerState::Suspect, vec![FindingId::LikelyDeadlock], None)
    );
    assert_eq!(
        stands.sentence,
        "Broker 2 works only in part since 10:14:13 UTC: closer waits in java.lang.Thread.join and holds x.L, which worker \
         wants: if it waits for worker, neither continues."
    );
    assert_eq!(scene.after(1, |_, _| {}).state, BrokerState::Healthy);
}

/// What was not understood refutes no deadlock, and is no reason to call a broker healthy.
#[test]
fn a_dump_that_was_not_understood_decides_nothing() {
    let report = ThreadReport {
        not_understood: vec!["1 BLOCKED thread".into()],
        ..ThreadReport::default()
    };
    let mut scene = scene();
    let diagnosis = scene.after(5, |broker, now| {
        broker.threads = known(report.clone(), now);
        broker.probes = Reading::default();
    });
    assert_eq!(diagnosis.state, BrokerState::Unknown);
    let evaluated = |id| diagnosis.evaluated.contains(&id);
    assert!(!evaluated(FindingId::JvmDeadlock) && !evaluated(FindingId::LockCycle));
    // An answer to a request acquits it, as without any dump.
    let answers = scene.after(5, |broker, now| broker.threads = known(report.clone(), now));
    assert_eq!(answers.state, BrokerState::Healthy);
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
        (BrokerState::Starting, 0)
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
        BrokerState::Starting
    );
    assert_eq!(scene.after(20, silent).state, BrokerState::Gray);
}

#[test]
fn a_young_process_that_has_served_and_no_longer_listens_ends() {
    let mut scene = scene();
    scene.broker = process(11, scene.now);
    assert_eq!(scene.after(10, |_, _| {}).state, BrokerState::Healthy);
    let refused = |broker: &mut BrokerSnapshot, now| {
        broker.probes = known(probe(Some((Reason::Refused, false))), now)
    };
    let ending = scene.after(20, refused);
    assert_eq!(ending.state, BrokerState::Closed);
    assert!(
        ending.sentence.contains("has not listened since")
            && ending.remedy.contains("it is shutting down"),
        "{}",
        ending.sentence
    );
}

/// A node that is controller as well listens for the other controllers long before it serves clients.
#[test]
fn a_broker_that_refuses_is_not_healthy_because_another_listener_of_it_is_open() {
    let refused = |broker: &mut BrokerSnapshot, now| {
        broker.probes = known(probe(Some((Reason::Refused, false))), now);
        broker.cluster = Reading::unknown("refused");
        let controller = AcceptQueue {
            listener: "CONTROLLER".into(),
            length: 0,
            limit: Some(50),
        };
        broker.accept_queues = known(vec![controller], now);
    };
    let mut scene = scene();
    scene.broker = process(11, scene.now);
    let starting = scene.after(5, refused);
    assert_eq!(starting.state, BrokerState::Starting);
    assert!(
        starting.sentence.starts_with("Broker 2 is starting"),
        "{}",
        starting.sentence
    );
    scene.broker.accept_queues = Reading::default();
    assert_eq!(scene.after(5, |_, _| {}).state, BrokerState::Healthy);
    // It has served, or has run for long.
    let later = scene.after(5, refused);
    assert_eq!(
        (later.state, later.sentence.as_str()),
        (
            BrokerState::Unknown,
            "Broker 2 is unknown: 127.0.0.1:9092: refused."
        )
    );
    assert!(later.remedy.contains("at which address it listens"));
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
        (BrokerState::Ended, 0, 0)
    );
    scene.broker = process(11, scene.now);
    let back = scene.now;
    let refused = |broker: &mut BrokerSnapshot, now| {
        broker.probes = known(probe(Some((Reason::Refused, false))), now)
    };
    let starting = scene.after(3, refused);
    assert_eq!(starting.state, BrokerState::Starting);
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
        "is down (its process has ended)",
        "restarted as process 11",
        "is starting",
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
