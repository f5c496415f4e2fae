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
    let down: Vec<i32> = diagnosis
        .unavailable
        .iter()
        .filter(|other| other.until.is_none())
        .map(|other| other.id)
        .collect();
    assert_eq!(down, [7]);
}
