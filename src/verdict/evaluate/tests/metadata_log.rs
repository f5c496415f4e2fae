//! What a KRaft node's replica of the metadata log shows.

use std::collections::BTreeSet;

use super::*;
use crate::model::{MetadataLog, Registration, Role};
use crate::verdict::unavailable::UnavailableBrokers;

const FENCED: Registration = Registration {
    fenced: true,
    in_controlled_shutdown: false,
};
const ENDING: Registration = Registration {
    fenced: false,
    in_controlled_shutdown: true,
};
const ENDED: Registration = Registration {
    fenced: true,
    in_controlled_shutdown: true,
};

/// Three brokers that are well, and a record that has just arrived.
fn log(now: Moment) -> MetadataLog {
    let counts = ClusterCounts {
        source: ClusterSource::Log,
        under_min_isr: Some(0),
        at_min_isr: Some(0),
        reassigning: Some(0),
        ..cluster(&[1, 2, 3])
    };
    MetadataLog {
        counts: Some(counts),
        brokers: Arc::new([1, 2, 3].map(|id| (id, Registration::default())).into()),
        end_offset: 1000,
        arrived: now,
        written: now,
        pulse: Some(Duration::from_millis(500)),
    }
}

/// The log after `change`, and neither Metadata nor an answer to a request.
fn log_alone(change: impl Fn(&mut MetadataLog, Moment)) -> impl Fn(&mut BrokerSnapshot, Moment) {
    move |broker, now| {
        let mut log = log(now);
        change(&mut log, now);
        broker.metadata_log = known(log, now);
        broker.cluster = Reading::unknown("needs credentials");
        broker.probes = Reading::unknown("needs credentials");
    }
}

fn counts(change: impl Fn(&mut ClusterCounts)) -> impl Fn(&mut BrokerSnapshot, Moment) {
    log_alone(move |log, _| change(log.counts.as_mut().unwrap()))
}

fn registered(own: Registration) -> impl Fn(&mut BrokerSnapshot, Moment) {
    log_alone(move |log, _| {
        Arc::make_mut(&mut log.brokers).insert(2, own);
    })
}

#[test]
fn partitions_are_counted_by_the_log_while_requests_are_not_answered() {
    let under = |counts: &mut ClusterCounts| {
        counts.under_min_isr = Some(3);
        counts.under_replicated = 3;
        counts.offline = 1;
        counts.absent = [7].into();
    };
    let diagnosis = scene().after(61, counts(under));
    assert_eq!(diagnosis.state, BrokerState::Unknown);
    let found = active(&diagnosis);
    let expected = [
        FindingId::OfflinePartitions,
        FindingId::UnderMinIsr,
        FindingId::UnderReplicated,
    ];
    assert_eq!(found, expected);
    let facts = &diagnosis.findings[1].facts;
    assert_eq!(facts[0], "3 of the 10 partitions that it leads");
    assert_eq!(facts[1], "down: broker 7");
    // No Metadata response has it: it is unknown, not 0.
    let unknown = scene().after(20, |_, _| {}).evaluated;
    assert!(!unknown.contains(&FindingId::UnderMinIsr));
}

#[test]
fn a_dedicated_controller_counts_for_the_cluster_alone() {
    let mut scene = scene();
    let own = Arc::make_mut(&mut scene.broker.broker);
    (own.id, own.roles) = (Some(3000), BTreeSet::from([Role::Controller]));
    let diagnosis = scene.after(20, counts(|counts| counts.offline = 1));
    assert_eq!(active(&diagnosis), [FindingId::OfflinePartitions]);
    for led in [
        FindingId::UnderMinIsr,
        FindingId::IsrLeaderAlone,
        FindingId::UnderReplicated,
        FindingId::BrokerFenced,
    ] {
        assert!(!diagnosis.evaluated.contains(&led), "{led:?}");
    }
}

/// Nobody knows then which partitions it leads.
#[test]
fn a_broker_whose_id_is_unknown_has_no_counts_of_its_own() {
    let mut scene = scene();
    log_alone(|_, _| {})(&mut scene.broker, scene.now);
    assert!(scene.broker.own_partitions(scene.now).is_some());
    Arc::make_mut(&mut scene.broker.broker).id = None;
    assert!(scene.broker.own_partitions(scene.now).is_none());
    assert!(scene.broker.partitions(scene.now).is_some());
}

#[test]
fn a_log_that_stands_still_gives_way_to_metadata() {
    let now = scene().now;
    let broker = |silence: u64, pulse: Option<u64>, metadata: bool| {
        let mut broker = scene().broker;
        let mut replica = log(now);
        replica.arrived = now.minus(Duration::from_secs(silence));
        replica.pulse = pulse.map(Duration::from_millis);
        let counts = replica.counts.as_mut().unwrap();
        (counts.offline, counts.absent) = (5, [9].into());
        broker.metadata_log = known(replica, now);
        let counts = ClusterCounts {
            offline: 1,
            absent: [3].into(),
            ..cluster(&[1, 2])
        };
        broker.cluster = match metadata {
            true => known(counts, now),
            false => Reading::unknown("needs credentials"),
        };
        broker
    };
    let table = [
        ("records arrive", 6, Some(500), true, true),
        ("it stands still", 7, Some(500), true, false),
        ("nothing else is known", 7, Some(500), false, true),
        ("records are rare", 39, Some(10_000), true, true),
        ("four are missing", 40, Some(10_000), true, false),
        ("none is ever due", 600, None, true, true),
    ];
    for (what, silence, pulse, metadata, by_log) in table {
        let broker = broker(silence, pulse, metadata);
        let offline = broker.partitions(now).unwrap().offline;
        assert_eq!(offline, if by_log { 5 } else { 1 }, "{what}");
        let absent: Vec<i32> = broker.absent(now).unwrap().iter().copied().collect();
        assert_eq!(absent, if by_log { [9] } else { [3] }, "{what}");
        assert_eq!(broker.registrations(now).is_some(), by_log, "{what}");
        let mut others = UnavailableBrokers::default();
        others.update(&broker, now);
        let down = down(&others.list());
        assert_eq!(down, if by_log { [9] } else { [3] }, "{what}");
    }
    // Metadata that shows no topic has no counts.
    let mut hidden = broker(10, Some(500), true);
    let none = ClusterCounts {
        partitions: 0,
        ..cluster(&[1])
    };
    hidden.cluster = known(none, now);
    assert_eq!(hidden.partitions(now).unwrap().offline, 5);
}

/// A cluster without topics is known to have none, while Metadata may only hide them.
#[test]
fn no_partition_at_all_is_a_count_of_the_log() {
    let none = scene().after(1, counts(|counts| counts.partitions = 0));
    assert!(none.evaluated.contains(&FindingId::OfflinePartitions));
    let mut fresh = scene();
    fresh.broker.cluster = known(
        ClusterCounts {
            partitions: 0,
            ..cluster(&[1])
        },
        fresh.now,
    );
    let evaluated = fresh.evaluate().evaluated;
    assert!(!evaluated.contains(&FindingId::OfflinePartitions));
}

#[test]
fn a_broker_that_runs_and_is_fenced_is_gray_and_is_not_to_be_restarted() {
    let diagnosis = scene().after(2, registered(FENCED));
    assert_eq!(diagnosis.state, BrokerState::Healthy);
    let mut scene = scene();
    let diagnosis = scene.after(4, registered(FENCED));
    assert_eq!(diagnosis.state, BrokerState::Gray);
    assert_eq!(active(&diagnosis), [FindingId::BrokerFenced]);
    assert_eq!(diagnosis.restart_required, None);
    assert!(
        diagnosis
            .sentence
            .starts_with("Broker 2 is alive but fenced by the controller since"),
        "{diagnosis:?}"
    );
    assert_eq!(diagnosis.remedy, "See what is found below.");
    let facts = &diagnosis.findings[0].facts;
    assert_eq!(facts[1], "no other broker is fenced");
    let over = scene.after(11, registered(Registration::default()));
    assert_eq!(over.state, BrokerState::Healthy);
}

#[test]
fn a_broker_that_starts_or_ends_is_fenced_and_well() {
    // It starts: never unfenced, for nearly as long as a start may take.
    let young = |age: u64| {
        let mut scene = scene();
        let started = scene.now.minus(Duration::from_secs(age));
        Arc::make_mut(&mut scene.broker.broker).started = Some(started);
        scene
    };
    let starting = young(1).after(590, registered(FENCED));
    assert!(active(&starting).is_empty(), "{starting:?}");
    let never_unfenced = young(1).after(615, registered(FENCED));
    assert_eq!(active(&never_unfenced), [FindingId::BrokerFenced]);
    // The registration of the killed process before it is no time of being unfenced.
    let mut killed = young(1);
    killed.after(8, registered(Registration::default()));
    assert!(active(&killed.after(60, registered(FENCED))).is_empty());
    // It has been unfenced, and is fenced again within its first ten minutes.
    let mut unfenced = young(20);
    unfenced.after(20, registered(Registration::default()));
    let again = unfenced.after(11, registered(FENCED));
    assert_eq!(active(&again), [FindingId::BrokerFenced]);
    // It ends.
    for of in [ENDING, ENDED] {
        let ending = scene().after(30, registered(of));
        assert!(active(&ending).is_empty(), "{of:?}: {ending:?}");
    }
    // It does not come to an end.
    let endless = scene().after(615, registered(ENDED));
    assert_eq!(active(&endless), [FindingId::BrokerFenced]);
    // Its log is being recovered, or its listeners are closed.
    let closed = |broker: &mut BrokerSnapshot, now: Moment| {
        registered(FENCED)(broker, now);
        broker.probes = known(probe(Some((Reason::Refused, false))), now);
    };
    assert_eq!(scene().after(30, closed).state, BrokerState::Starting);
    let no_listener = |broker: &mut BrokerSnapshot, now: Moment| {
        registered(FENCED)(broker, now);
        broker.accept_queues = known(Vec::new(), now);
    };
    assert!(active(&scene().after(30, no_listener)).is_empty());
    // While a cluster migrates, ZooKeeper has the truth.
    let migrating = log_alone(|log, _| {
        log.counts = None;
        Arc::make_mut(&mut log.brokers).insert(2, FENCED);
    });
    let migrating = scene().after(30, migrating);
    assert!(!migrating.evaluated.contains(&FindingId::BrokerFenced));
}

#[test]
fn a_replica_stands_still_where_records_are_due_or_others_have_them() {
    let silent = |seconds: u64, pulse: Option<u64>| {
        move |log: &mut MetadataLog, now: Moment| {
            log.arrived = now.minus(Duration::from_secs(seconds));
            log.pulse = pulse.map(Duration::from_millis);
        }
    };
    let stalled = |seconds, pulse, ahead: Option<(&str, Option<u32>)>| {
        let mut scene = scene();
        let own = Arc::make_mut(&mut scene.broker.broker);
        (own.cluster_id, own.owner) = (Some("A".into()), Some(1001));
        let change = log_alone(silent(seconds, pulse));
        let mut last = BrokerDiagnosis::default();
        for _ in 0..7 {
            scene.now = scene.now.plus(Duration::from_secs(1));
            scene.all_well();
            change(&mut scene.broker, scene.now);
            let mut other = process(11, Moment(1_000_000));
            let node = Arc::make_mut(&mut other.broker);
            node.cluster_id = ahead.map(|(cluster, _)| cluster.into());
            node.owner = ahead.and_then(|(_, owner)| owner);
            let mut theirs = log(scene.now);
            theirs.end_offset += 5;
            other.metadata_log = known(theirs, scene.now);
            other.label = "3".into();
            scene.snapshot.brokers = vec![Arc::new(scene.broker.clone()), Arc::new(other)];
            let mut all = scene.evaluator.evaluate(&scene.snapshot, scene.now);
            last = all.brokers.remove(0);
        }
        let found = last.findings.first();
        found.map(|found| (found.id, found.facts.join("; ")))
    };
    let mut alone = scene();
    let diagnosis = alone.after(7, log_alone(silent(11, Some(500))));
    assert_eq!(diagnosis.state, BrokerState::Suspect);
    let said = "Broker 2 acts on an old state of its cluster since ";
    assert!(diagnosis.sentence.starts_with(said), "{diagnosis:?}");
    let (id, fact) = stalled(11, Some(500), None).unwrap();
    assert_eq!(id, FindingId::MetadataStalled);
    assert_eq!(
        fact,
        "no record for 11 s after offset 1000, while one is due every 500 ms: the controllers have no quorum, or it does not reach them"
    );
    let (_, fact) = stalled(11, None, Some(("A", Some(1001)))).unwrap();
    assert_eq!(
        fact,
        "no record for 11 s after offset 1000, while the replica of node 3 has reached 1005"
    );
    let quiet = [
        ("records arrive", stalled(6, Some(500), None)),
        ("records are rare", stalled(30, Some(10_000), None)),
        ("none is ever due", stalled(600, None, None)),
        (
            "another cluster",
            stalled(600, None, Some(("B", Some(1001)))),
        ),
        ("another user", stalled(600, None, Some(("A", Some(2001))))),
    ];
    for (what, found) in quiet {
        assert_eq!(found, None, "{what}");
    }
    // A node that has just started does not follow the log yet.
    let mut young = scene();
    let started = young.now.minus(Duration::from_secs(30));
    Arc::make_mut(&mut young.broker.broker).started = Some(started);
    let diagnosis = young.after(20, log_alone(silent(60, Some(500))));
    assert!(active(&diagnosis).is_empty(), "{diagnosis:?}");
}

#[test]
fn a_fenced_broker_counts_as_down_until_it_is_back() {
    let of_three = |of: Registration| {
        log_alone(move |log, _| {
            let brokers = Arc::make_mut(&mut log.brokers);
            brokers.insert(3, of);
            // Removed long ago and never unregistered: nobody misses it.
            brokers.insert(9, FENCED);
        })
    };
    let mut scene = scene();
    let well = Registration::default();
    for (of, expected) in [
        (well, vec![]),
        (ENDING, vec![3]),
        (ENDED, vec![3]),
        (well, vec![]),
    ] {
        let diagnosis = scene.after(1, of_three(of));
        assert_eq!(down(&diagnosis.unavailable), expected, "{of:?}");
    }
}

/// Until Metadata has shown a topic, access rights may hide all.
#[test]
fn a_new_cluster_without_topics_is_no_agreement() {
    let both = |metadata: u64, of_log: u64| {
        move |broker: &mut BrokerSnapshot, now: Moment| {
            let counts = |partitions| ClusterCounts {
                partitions,
                leader: 0,
                ..cluster(&[1, 2, 3])
            };
            let mut replica = log(now);
            replica.counts = Some(counts(of_log));
            broker.metadata_log = known(replica, now);
            broker.cluster = known(counts(metadata), now);
        }
    };
    for (shown, expected) in [(0, false), (3, true)] {
        let mut scene = scene();
        scene.after(10, both(shown, shown));
        let diagnosis = scene.after(60, both(0, 6));
        let found = active(&diagnosis).contains(&FindingId::ViewsDiverge);
        assert_eq!(found, expected, "{shown} shown at first");
    }
}

#[test]
fn metadata_that_differs_from_a_settled_log_for_half_a_minute_is_found() {
    // Metadata shows so many offline partitions, the log so many, after both have agreed for some seconds.
    let found = |agreed: u64, seconds: u64, log_says: &dyn Fn(Moment) -> u64| {
        let mut scene = scene();
        let both = |offline: u64, of_log: u64| {
            move |broker: &mut BrokerSnapshot, now: Moment| {
                let mut replica = log(now);
                replica.counts.as_mut().unwrap().offline = of_log;
                broker.metadata_log = known(replica, now);
                let counts = ClusterCounts {
                    offline,
                    ..cluster(&[1, 2, 3])
                };
                broker.cluster = known(counts, now);
            }
        };
        scene.after(agreed, both(0, 0));
        let mut last = BrokerDiagnosis::default();
        for _ in 0..seconds {
            let says = log_says(scene.now);
            last = scene.after(1, both(0, says));
        }
        facts_of(last, FindingId::ViewsDiverge)
    };
    let fact = "offline partitions: 0 by the Metadata of this broker, 2 by the metadata log";
    assert_eq!(found(5, 45, &|_| 2), Some(vec![fact.to_owned()]));
    assert_eq!(found(5, 30, &|_| 2), None, "not for long enough");
    assert_eq!(found(0, 60, &|_| 2), None, "they never agreed");
    let changes = |now: Moment| 1 + now.0 / 1000 % 2;
    assert_eq!(found(5, 60, &changes), None, "the log changes all the time");
}
