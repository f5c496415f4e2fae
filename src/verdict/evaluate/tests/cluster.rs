//! What the cluster's Metadata and the probes of peers show.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::model::{CutPath, Elsewhere, LostFollower};

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
            cut: None,
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

/// Counts in which partitions lack this broker, by leader, and those that it leads lack followers.
fn lacking(behind: &[i32], lost: &[(i32, Elsewhere)], alone: u64) -> ClusterCounts {
    let lost = lost.iter().map(|(id, elsewhere)| {
        let lost = LostFollower {
            partitions: 2,
            elsewhere: *elsewhere,
        };
        (*id, lost)
    });
    let lost: BTreeMap<i32, LostFollower> = lost.collect();
    ClusterCounts {
        not_in_isr: 3 * behind.len() as u64,
        behind_alone: behind.iter().map(|leader| (*leader, 3)).collect(),
        under_replicated: if lost.is_empty() { 0 } else { 4 },
        isr_leader_alone: alone,
        lost_followers: lost,
        ..cluster(&[1, 2, 3])
    }
}

#[test]
fn a_broker_that_several_leaders_lack_is_behind_unless_it_catches_up_after_its_start() {
    let found = |scene: &mut Scene, behind: &'static [i32]| {
        let diagnosis = scene.after(6, move |broker, now| {
            broker.cluster = known(lacking(behind, &[], 0), now);
        });
        (diagnosis.state, active(&diagnosis))
    };
    let behind = (BrokerState::Suspect, vec![FindingId::ReplicaBehind]);
    let well = (BrokerState::Healthy, vec![]);
    assert_eq!(found(&mut scene(), &[1, 3]), behind);
    // One leader may be at fault itself.
    assert_eq!(found(&mut scene(), &[1]), well);
    let mut young = scene();
    let started = young.now.minus(Duration::from_secs(1200));
    young.broker = process(10, started);
    assert_eq!(found(&mut young, &[1, 3]), well);
    // It has caught up, and falls behind again.
    young.after(1, |_, _| ());
    assert_eq!(found(&mut young, &[1, 3]), behind);
    assert_eq!(found(&mut young, &[]), well);
}

#[test]
fn a_leader_whose_followers_are_in_sync_elsewhere_is_named_and_one_whose_followers_restart_is_not()
{
    use Elsewhere::{Behind, InSync, Unknown};
    type Lost<'a> = &'a [(i32, Elsewhere)];
    let table: [(Lost<'_>, u64, bool, &str); 6] = [
        (
            &[(1, InSync), (3, InSync)],
            2,
            true,
            "brokers 1, 3 are live and in sync with other leaders: check this broker",
        ),
        (
            &[(1, InSync)],
            2,
            false,
            "broker 1 is live and in sync with other leaders: check this broker and the network",
        ),
        (
            &[(1, InSync), (3, Behind)],
            2,
            false,
            "broker 3 is live and misses in the ISRs of other leaders too: check that one",
        ),
        (
            &[(3, Behind)],
            0,
            false,
            "broker 3 is live and misses in the ISRs of other leaders too: check that one",
        ),
        (
            &[(1, Unknown), (3, Unknown)],
            2,
            false,
            "every broker of the cluster is live",
        ),
        (
            &[(1, InSync), (3, InSync)],
            0,
            false,
            "brokers 1, 3 are live",
        ),
    ];
    for (lost, alone, expected, cause) in table {
        let lacks = |broker: &mut BrokerSnapshot, now| {
            broker.cluster = known(lacking(&[], lost, alone), now);
        };
        let diagnosis = scene().after(3, lacks);
        let state = match expected {
            true => BrokerState::Suspect,
            false => BrokerState::Healthy,
        };
        let is_found = active(&diagnosis).contains(&FindingId::FollowersLost);
        assert_eq!((diagnosis.state, is_found), (state, expected), "{lost:?}");
        let facts = facts_of(scene().after(61, lacks), FindingId::UnderReplicated).unwrap();
        assert!(facts[1].starts_with(cause), "{facts:?}");
    }
    // Broker 3 was down, and is in the ISRs of one leader before those of the other.
    let mut scene = scene();
    scene.evaluate();
    scene.after(10, |broker, now| {
        broker.cluster = known(cluster(&[1, 2]), now)
    });
    let lacks = |broker: &mut BrokerSnapshot, now| {
        broker.cluster = known(lacking(&[], &[(1, InSync), (3, InSync)], 2), now);
    };
    let found = |diagnosis| facts_of(diagnosis, FindingId::FollowersLost).is_some();
    assert_eq!(scene.after(10, lacks).state, BrokerState::Healthy);
    // After a long outage that takes more than minutes.
    assert!(!found(scene.after(1800, lacks)));
    // Once all its ISRs were complete, it is this leader again.
    scene.after(1, |_, _| ());
    assert!(found(scene.after(3, lacks)));
}

/// A report in which these peers are asked; the path to some is cut.
fn peers(all: &[(i32, Option<CutPath>)]) -> ProbeReport {
    let mut report = probe(None);
    let answer = report.api.clone().unwrap();
    report.peers.extend(all.iter().map(|(id, cut)| PeerProbe {
        peer: Peer {
            id: *id,
            host: "h".into(),
            port: 9092,
        },
        connect: match cut {
            None => answer.clone(),
            Some(_) => probe(Some((Reason::Unreachable, false))).api.unwrap(),
        },
        api: cut.is_none().then(|| answer.clone()),
        cut: *cut,
    }));
    report
}

#[test]
fn a_path_that_is_cut_is_found_at_once_with_its_direction_and_ends_with_the_heal() {
    let table = [
        (
            CutPath::To,
            "from broker 2 to broker 3: packets are not acknowledged",
        ),
        (
            CutPath::From,
            "from broker 3 to broker 2: no packet arrives",
        ),
        (CutPath::Unknown, "between broker 2 and broker 3"),
    ];
    for (cut, expected) in table {
        let mut scene = scene();
        let report = peers(&[(1, None), (3, Some(cut))]);
        let diagnosis = scene.after(1, move |broker, now| {
            broker.probes = known(report.clone(), now);
        });
        assert_eq!(
            (diagnosis.state, active(&diagnosis)),
            (BrokerState::Healthy, vec![FindingId::PathCut])
        );
        let fact = &diagnosis.findings[0].facts[0];
        assert!(fact.starts_with(expected), "{fact}");
        let diagnosis = scene.after(4, |broker, now| {
            broker.probes = known(peers(&[(1, None), (3, None)]), now);
        });
        assert_eq!(active(&diagnosis), []);
    }
}

#[test]
fn a_broker_that_cannot_reach_most_live_peers_is_cut_off_and_one_that_misses_down_ones_is_not() {
    let (cut, none) = (Some(CutPath::From), None);
    let table: [(&[_], &[i32], bool); 6] = [
        (&[(1, cut), (3, cut)], &[], true),
        (&[(1, cut), (3, cut), (4, none)], &[], true),
        // One alone may be at fault itself, and of four two.
        (&[(1, none), (3, cut)], &[], false),
        (&[(1, cut)], &[], false),
        (&[(1, cut), (3, cut), (4, none), (5, none)], &[], false),
        // The controller knows that it is down.
        (&[(1, cut), (3, cut)], &[3], false),
    ];
    for (asked, absent, expected) in table {
        let mut scene = scene();
        let (report, absent) = (
            peers(asked),
            absent.iter().copied().collect::<BTreeSet<_>>(),
        );
        let diagnosis = scene.after(1, move |broker, now| {
            broker.probes = known(report.clone(), now);
            let counts = ClusterCounts {
                absent: absent.clone(),
                ..cluster(&[1, 2, 3])
            };
            broker.cluster = known(counts, now);
        });
        let state = match expected {
            true => BrokerState::Suspect,
            false => BrokerState::Healthy,
        };
        let is_cut_off = active(&diagnosis).contains(&FindingId::CutOff);
        assert_eq!(
            (diagnosis.state, is_cut_off),
            (state, expected),
            "{asked:?}"
        );
        if expected {
            assert!(diagnosis.sentence.contains("is cut off from other brokers"));
        }
    }
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

/// What a peer counts, asked just now: its live brokers, and how many partitions broker 2 leads.
fn seen_by_peer(live: &'static [i32], leader: u64) -> impl Fn(&mut BrokerSnapshot, Moment) {
    move |broker, now| {
        let counts = ClusterCounts {
            source: ClusterSource::Peer(1),
            leader,
            ..cluster(live)
        };
        broker.peer_view = known(counts, now);
    }
}

#[test]
fn a_broker_that_answers_and_is_listed_by_nobody_is_gray_within_seconds() {
    let mut first = scene();
    assert_eq!(
        first.after(2, seen_by_peer(&[1, 2, 3], 10)).state,
        BrokerState::Healthy
    );
    let diagnosis = first.after(3, seen_by_peer(&[1, 3], 10));
    assert_eq!(
        (diagnosis.state, active(&diagnosis)),
        (BrokerState::Gray, vec![FindingId::StaleView])
    );
    let fact = "it answers, and broker 1 lists the live brokers 1, 3 without it";
    assert_eq!(diagnosis.findings[0].facts, [fact]);
    assert!(
        diagnosis
            .sentence
            .starts_with("Broker 2 acts on an old state of its cluster since")
    );
    assert_eq!(diagnosis.restart_required, None);
    // No peer can be asked any more.
    assert_eq!(first.after(60, |_, _| ()).state, BrokerState::Gray);
    let back = first.after(4, seen_by_peer(&[1, 2, 3], 10));
    assert_eq!((back.state, active(&back)), (BrokerState::Healthy, vec![]));
    // It ends, and answers nothing any more.
    let silent = |broker: &mut BrokerSnapshot, now| {
        seen_by_peer(&[1, 3], 10)(broker, now);
        broker.probes = known(probe(Some((Reason::Refused, false))), now);
    };
    assert_eq!(active(&first.after(3, silent)), []);
    // It was never listed: it starts.
    let mut starting = scene();
    assert_eq!(active(&starting.after(10, seen_by_peer(&[1, 3], 10))), []);
    // The process of its id that was killed was listed.
    let mut young = scene();
    young.broker = process(10, young.now);
    young.after(8, seen_by_peer(&[1, 2, 3], 10));
    assert_eq!(active(&young.after(10, seen_by_peer(&[1, 3], 10))), []);
}

#[test]
fn a_broker_that_does_not_know_what_it_leads_is_gray_and_one_that_knows_before_the_peer_is_not() {
    let all: &[i32] = &[1, 2, 3];
    let mut stale = scene();
    stale.after(2, seen_by_peer(all, 10));
    // A single check may fall into an election.
    let (first, at) = (seen_by_peer(all, 4), stale.now);
    let once =
        |broker: &mut BrokerSnapshot, _: Moment| first(broker, at.plus(Duration::from_secs(1)));
    assert_eq!(stale.after(6, once).state, BrokerState::Healthy);
    let diagnosis = stale.after(7, seen_by_peer(all, 4));
    assert_eq!(diagnosis.state, BrokerState::Gray);
    let facts = facts_of(diagnosis, FindingId::StaleView).unwrap();
    let fact = "it says that it leads 10 partitions, as it did before, while broker 1 has seen that change to 4";
    assert_eq!(facts, [fact]);
    // Its own view has changed, and the peer's is old.
    let mut ahead = scene();
    ahead.after(2, seen_by_peer(all, 10));
    let diagnosis = ahead.after(20, |broker, now| {
        seen_by_peer(all, 10)(broker, now);
        let counts = ClusterCounts {
            leader: 4,
            ..cluster(&[1, 2, 3])
        };
        broker.cluster = known(counts, now);
    });
    assert_eq!(diagnosis.state, BrokerState::Healthy);
    // They never agreed: access rights may hide topics.
    assert_eq!(
        scene().after(20, seen_by_peer(all, 4)).state,
        BrokerState::Healthy
    );
}

/// The collector of ZooKeeper has run, with this failure.
fn asked_zookeeper(failure: Option<&str>) -> impl Fn(&mut BrokerSnapshot, Moment) {
    let status = CollectorStatus {
        success: Some(failure.is_none()),
        error: failure.map(str::to_owned),
        ..CollectorStatus::default()
    };
    move |broker, _| {
        let name = CollectorName::ZooKeeper;
        broker.collectors.insert(name, status.clone());
    }
}

#[test]
fn a_broker_that_loses_zookeeper_is_suspect_and_gray_if_it_is_cut_off_as_well() {
    let failure = "ZooKeeper: 10.0.0.9:2181: no answer";
    let mut first = scene();
    first.after(1, asked_zookeeper(None));
    assert_eq!(
        first.after(4, asked_zookeeper(Some(failure))).state,
        BrokerState::Healthy
    );
    let diagnosis = first.after(1, asked_zookeeper(Some(failure)));
    assert_eq!(diagnosis.state, BrokerState::Suspect);
    assert_eq!(active(&diagnosis), [FindingId::ZooKeeperUnreachable]);
    assert_eq!(diagnosis.findings[0].facts, [failure]);
    let cut = |broker: &mut BrokerSnapshot, now| {
        asked_zookeeper(Some(failure))(broker, now);
        let cut = Some(CutPath::From);
        broker.probes = known(peers(&[(1, cut), (3, cut)]), now);
    };
    let diagnosis = first.after(1, cut);
    assert_eq!(diagnosis.state, BrokerState::Gray);
    let said = "Broker 2 is alive but cut off from its cluster since ";
    assert!(
        diagnosis.sentence.starts_with(said),
        "{}",
        diagnosis.sentence
    );
    assert_eq!(
        first.after(6, asked_zookeeper(None)).state,
        BrokerState::Healthy
    );
    // It has never answered: the exporter may not reach it from here.
    let mut never = scene();
    assert_eq!(active(&never.after(20, asked_zookeeper(Some(failure)))), []);
}

#[test]
fn a_broker_that_was_registered_is_gray_after_two_readings() {
    let mut scene = scene();
    scene.after(1, |broker, now| {
        let registration = OwnRegistration::Registered {
            since: Moment(1_000_000),
            endpoint: "h:9092".into(),
        };
        broker.zookeeper = known(zookeeper(registration), now);
    });
    let missing = |broker: &mut BrokerSnapshot, now| {
        broker.zookeeper = known(zookeeper(OwnRegistration::Missing), now);
    };
    assert_eq!(scene.after(6, missing).state, BrokerState::Healthy);
    assert_eq!(scene.after(1, missing).state, BrokerState::Gray);
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
