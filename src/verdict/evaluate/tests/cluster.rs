//! What the cluster's Metadata and the probes of peers show.

use super::*;

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
    // Others report it because this broker is silent: this broker is the cause.
    for source in [ClusterSource::Peer(1), ClusterSource::ZooKeeper] {
        let diagnosis = scene.after(1, |broker, now| {
            let counts = ClusterCounts {
                source,
                under_replicated: 4,
                ..cluster(&[1, 2, 3])
            };
            broker.cluster = known(counts, now);
        });
        assert!(diagnosis.findings[0].facts[1].contains("check this one, not its followers"));
    }
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
        let connect = probe(Some((Reason::Refused, false))).api.unwrap();
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
    assert_eq!(down(&diagnosis.unavailable), [7]);
}

fn zookeeper(registration: OwnRegistration) -> ZooKeeperReport {
    ZooKeeperReport {
        server: "z:2181".into(),
        brokers: Arc::new([1, 3].into()),
        controller: Some(1),
        registration,
    }
}

#[test]
fn a_broker_that_answers_and_is_not_registered_is_gray_after_a_minute() {
    let mut scene = scene();
    let missing = |broker: &mut BrokerSnapshot, now| {
        broker.zookeeper = known(zookeeper(OwnRegistration::Missing), now);
    };
    assert_eq!(scene.after(60, missing).state, BrokerState::Healthy);
    let diagnosis = scene.after(1, missing);
    assert_eq!(
        (diagnosis.state, active(&diagnosis)),
        (BrokerState::Gray, vec![FindingId::NotRegistered])
    );
    assert_eq!(
        diagnosis.findings[0].facts,
        [
            "it answers in 3 ms, and ZooKeeper (z:2181) does not list 2",
            "ZooKeeper lists broker 1, 3"
        ]
    );
    assert!(
        diagnosis
            .sentence
            .starts_with("Broker 2 answers, but has not been registered in ZooKeeper since "),
        "{}",
        diagnosis.sentence
    );
    assert_eq!(
        (&*diagnosis.remedy, diagnosis.restart_required),
        (FindingId::NotRegistered.kind().what_to_do, None)
    );
    let back = |broker: &mut BrokerSnapshot, now| {
        let registration = OwnRegistration::Registered {
            since: now,
            endpoint: "PLAINTEXT://h:9092".into(),
        };
        broker.zookeeper = known(zookeeper(registration), now);
    };
    assert_eq!(scene.after(11, back).state, BrokerState::Healthy);
    // ZooKeeper may have lost all.
    let alone = scene.after(70, |broker, now| {
        let mut report = zookeeper(OwnRegistration::Missing);
        report.brokers = Default::default();
        broker.zookeeper = known(report, now);
    });
    let fact = "ZooKeeper lists no broker at all: check ZooKeeper first";
    assert_eq!(alone.findings[0].facts[1], fact);
    // A broker that is silent, or about which ZooKeeper says nothing, is not accused of this.
    let mut silent = |broker: &mut BrokerSnapshot, now| {
        missing(broker, now);
        broker.probes = known(probe(Some((Reason::Timeout, true))), now);
    };
    assert_eq!(
        active(&scene.after(70, &mut silent)),
        [FindingId::ApiUnresponsive]
    );
}

#[test]
fn a_silent_broker_that_zookeeper_lists_is_registered_but_dead() {
    let mut scene = scene();
    let registered = |registration: &OwnRegistration| {
        let report = zookeeper(registration.clone());
        move |broker: &mut BrokerSnapshot, now| {
            broker.zookeeper = known(report.clone(), now);
            broker.probes = known(probe(Some((Reason::Timeout, true))), now);
        }
    };
    let (since, endpoint) = (Moment(36_000_000), "PLAINTEXT://h:9092".to_owned());
    let own = OwnRegistration::Registered {
        since,
        endpoint: endpoint.clone(),
    };
    // Where nothing was asked, it may be silent.
    let unasked = scene.after(1, |broker, now| {
        registered(&own)(broker, now);
        broker.probes = Reading::unknown("needs credentials");
    });
    assert!(!unasked.evaluated.contains(&FindingId::RegisteredButDead));
    assert_eq!(active(&scene.after(5, registered(&own))), []);
    let diagnosis = scene.after(2, registered(&own));
    assert_eq!(
        (diagnosis.state, active(&diagnosis)),
        (
            BrokerState::Gray,
            vec![FindingId::ApiUnresponsive, FindingId::RegisteredButDead]
        )
    );
    assert_eq!(
        diagnosis.findings[1].facts,
        ["ZooKeeper (z:2181) lists it with PLAINTEXT://h:9092 since 10:00:00 UTC"]
    );
    for other in [
        OwnRegistration::Missing,
        OwnRegistration::Earlier { since, endpoint },
    ] {
        let diagnosis = scene.after(1, registered(&other));
        assert_eq!(
            active(&diagnosis),
            [FindingId::ApiUnresponsive],
            "{other:?}"
        );
    }
}

#[test]
fn a_broker_that_says_something_else_than_a_peer_for_half_a_minute_is_found() {
    // The peer is asked with the broker, and says that partitions are under-replicated; or it was asked long before.
    let found = |seconds: u64, age: u64| {
        let mut scene = scene();
        let both = |shrunk: u64| {
            move |broker: &mut BrokerSnapshot, now: Moment| {
                let peer = ClusterCounts {
                    source: ClusterSource::Peer(1),
                    under_replicated: shrunk,
                    ..cluster(&[1, 2, 3])
                };
                broker.peer_view = known(peer, now.minus(Duration::from_secs(age)));
            }
        };
        scene.after(1, both(0));
        let diagnosis = scene.after(seconds, both(4));
        facts_of(diagnosis, FindingId::ViewsDiverge)
    };
    let fact = "under-replicated partitions that it leads: 0 by the Metadata of this broker, 4 by the Metadata of broker 1";
    assert_eq!(found(32, 0), Some(vec![fact.to_owned()]));
    assert_eq!(found(29, 0), None);
    assert_eq!(found(60, 11), None);
}
