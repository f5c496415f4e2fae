#![allow(clippy::unwrap_used, clippy::expect_used)]

mod addresses;
mod counts;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataResponse, TopicName};
use kafka_protocol::protocol::{Encodable, StrBytes};

use tokio::sync::Notify;

use super::address::own_address;
use super::peers::UNLISTED;
use super::*;
use lab::fake_broker::{Answer, FakeBroker, offers_metadata};

use crate::analyze::formats::topics::{self, Partition};
use crate::kafka::wire::Metadata;
use crate::model::{Listener, Peer, ProcessKey, Role, SecurityProtocol};
use tokio::time::Duration;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Lets the oracle encode the Metadata response of a cluster with these live brokers. A partition without a leader has the
/// error `offline`.
fn response_in(version: i16, live: &[Peer], partitions: &[Partition<'_>], offline: i16) -> Vec<u8> {
    let ids = |list: &str| topics::ids(list).map(BrokerId).collect::<Vec<_>>();
    let brokers = live.iter().map(|peer| {
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(peer.id))
            .with_host(text(&peer.host))
            .with_port(peer.port.into())
    });
    let topics = partitions
        .chunk_by(|one, other| one.topic == other.topic)
        .map(|partitions| {
            let name = partitions[0].topic;
            let partitions = partitions.iter().map(|partition| {
                MetadataResponsePartition::default()
                    .with_error_code(partition.leader.map_or(offline, |_| 0))
                    .with_partition_index(partition.partition as i32)
                    .with_leader_id(BrokerId(partition.leader.unwrap_or(-1)))
                    .with_replica_nodes(ids(partition.replicas))
                    .with_isr_nodes(ids(partition.isr))
            });
            MetadataResponseTopic::default()
                .with_name(Some(TopicName(text(name))))
                .with_partitions(partitions.collect())
        });
    let response = MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_topics(topics.collect());
    let mut body = Vec::new();
    response.encode(&mut body, version).unwrap();
    body
}

fn response(live: &[Peer], partitions: &[Partition<'_>]) -> Vec<u8> {
    response_in(1, live, partitions, 5)
}

fn peers(ids: &[i32]) -> Vec<Peer> {
    ids.iter().copied().map(elsewhere).collect()
}

fn elsewhere(id: i32) -> Peer {
    Peer {
        id,
        host: format!("192.168.1.{id}").into(),
        port: 9092,
    }
}

fn partition<'a>(partition: u32, leader: i32, replicas: &'a str, isr: &'a str) -> Partition<'a> {
    Partition {
        topic: "t",
        partition,
        leader: Some(leader),
        replicas,
        isr,
    }
}

fn counted(live: &[i32], partitions: &[Partition<'_>], id: i32) -> ClusterCounts {
    counted_in(&response(&peers(live), partitions), id)
}

fn counted_in(body: &[u8], id: i32) -> ClusterCounts {
    count(Metadata::new(body, 1), id, ClusterSource::Own, None).unwrap()
}

/// Returns leader, under-replicated, leader alone, not in ISR, offline, partitions.
fn figures(counts: &ClusterCounts) -> [u64; 6] {
    let ClusterCounts {
        leader,
        under_replicated,
        isr_leader_alone,
        not_in_isr,
        offline,
        partitions,
        ..
    } = counts;
    [
        *leader,
        *under_replicated,
        *isr_leader_alone,
        *not_in_isr,
        *offline,
        *partitions,
    ]
}

fn broker(
    id: Option<i32>,
    listeners: &[(&str, Option<SecurityProtocol>, Option<&str>, u16)],
) -> Broker {
    let listener =
        |(name, protocol, host, port): &(&str, Option<SecurityProtocol>, Option<&str>, u16)| {
            Listener {
                name: (*name).into(),
                protocol: *protocol,
                host: host.map(str::to_owned),
                port: *port,
                controller: *name == "CONTROLLER",
            }
        };
    let listeners = listeners.iter().map(listener).collect();
    Broker {
        id,
        listeners,
        ..Broker::unknown(ProcessKey {
            pid: 77,
            start_ticks: 1,
        })
    }
}

const FAST: Timing = Timing {
    deadline: Duration::from_millis(500),
    late: Duration::from_millis(5),
    silence: Duration::from_secs(600),
    retry_first: Duration::from_millis(5),
    retry_last: Duration::from_millis(20),
};

fn peer_of(id: i32, broker: &FakeBroker) -> Peer {
    let (host, port) = broker.address.split_once(':').unwrap();
    Peer {
        id,
        host: host.into(),
        port: port.parse().unwrap(),
    }
}

/// Answers Metadata with `body`, and closes connections instead once `closes` is set.
async fn answering(body: Vec<u8>, closes: &Arc<AtomicBool>) -> FakeBroker {
    let closes = Arc::clone(closes);
    FakeBroker::with_metadata(move |_| match closes.load(Ordering::SeqCst) {
        true => Answer::Close,
        false => Answer::Body(body.clone()),
    })
    .await
}

fn collector(own: &FakeBroker) -> ClusterClient {
    let address = Some(own.address.clone());
    let collector = ClusterClient::new(
        Arc::new(broker(Some(2), &[])),
        address,
        None,
        OwnConnections::default(),
    );
    ClusterClient {
        timing: FAST,
        ..collector
    }
}

/// Runs a round as the frame does.
async fn collect(collector: &mut ClusterClient) -> Result<ClusterCounts, Failure> {
    match collector.probe().await? {
        (report, Err(silence)) => collector.ask_peer(silence, &report.peers).await,
        (_, counts) => counts,
    }
}

#[tokio::test]
async fn while_the_broker_is_silent_a_peer_is_asked_and_then_the_broker_again() {
    let silent = Arc::new(AtomicBool::new(false));
    let partitions = [partition(0, 2, "2,3", "2"), partition(1, 3, "3,2", "3")];

    // Broker 3 answers nothing, broker 1 does: the ring goes from 2 to 3 and then to 1.
    let dead = FakeBroker::start(|_| Answer::Silence).await;
    let seen = Arc::new(OnceLock::new());
    let sees = seen.clone();
    let alive =
        FakeBroker::with_metadata(move |_| Answer::Body(Vec::clone(sees.get().unwrap()))).await;
    let body = response(&[peer_of(1, &alive), peer_of(3, &dead)], &partitions);
    seen.set(body.clone()).unwrap();
    let own = answering(body, &silent).await;

    let mut collector = collector(&own);
    let first = collect(&mut collector).await.unwrap();
    assert_eq!(
        (first.source, first.own_silence),
        (ClusterSource::Own, None)
    );
    assert_eq!(
        (first.leader, first.isr_leader_alone, first.not_in_isr),
        (1, 1, 1)
    );
    assert_eq!(
        (dead.asked().len(), alive.asked().len()),
        (0, 0),
        "no peer is known before"
    );

    silent.store(true, Ordering::SeqCst);
    let second = collect(&mut collector).await.unwrap();
    assert_eq!(second.source, ClusterSource::Peer(1));
    let silence = second.own_silence.unwrap();
    assert!(
        silence.starts_with("broker 2 (pid 77): 127.0.0.1:"),
        "{silence}"
    );
    assert!(
        silence.contains("closed the connection before it answered Metadata"),
        "{silence}"
    );
    assert_eq!(
        (second.leader, second.isr_leader_alone, second.not_in_isr),
        (1, 1, 1)
    );

    silent.store(false, Ordering::SeqCst);
    while collect(&mut collector)
        .await
        .is_ok_and(|counts| counts.source != ClusterSource::Own)
    {}
    assert_eq!(dead.asked().len(), 1, "the silent peer was asked once");
    let metadata =
        |broker: &FakeBroker| broker.asked().iter().filter(|asked| asked.api == 3).count();
    assert!(metadata(&alive) >= 1 && alive.asked().iter().all(|asked| asked.connection == 0));
}

#[tokio::test]
async fn each_peer_has_a_probe_for_connecting_and_one_for_the_answer() {
    let silent = FakeBroker::start(|_| Answer::Silence).await;
    let closing = FakeBroker::start(|_| Answer::Close).await;
    let well = FakeBroker::with_metadata(|_| Answer::Silence).await;
    let gone = peer_of(6, &FakeBroker::start(|_| Answer::Silence).await);
    let all = [
        gone,
        peer_of(5, &closing),
        peer_of(4, &silent),
        peer_of(3, &well),
        elsewhere(2),
    ];
    let listed = Arc::new(Mutex::new(response(&all, &[])));
    let listing = listed.clone();
    let own =
        FakeBroker::with_metadata(move |_| Answer::Body(listing.lock().unwrap().clone())).await;
    let mut collector = collector(&own);
    assert_eq!(collector.probe().await.unwrap().0.peers, []);
    // A broker that is not listed any more stays on the ring.
    *listed.lock().unwrap() = response(&all[1..], &[]);
    let expected = [
        (3, "", true, Some(("", false))),
        (4, "", true, Some(("timeout", true))),
        (5, "", true, Some(("closed", true))),
        (6, "refused", false, None),
    ];
    for _ in 0..3 {
        let (report, _) = collector.probe().await.unwrap();
        let seen = report.peers.iter().map(|probe| {
            let [connect, api] = [Some(&probe.connect), probe.api.as_ref()].map(|probe| {
                probe.map(|probe| {
                    probe
                        .error
                        .as_ref()
                        .map_or(("", false), |e| (e.reason.name(), e.accepted))
                })
            });
            let (reason, _) = connect.unwrap();
            (probe.peer.id, reason, probe.connect.success(), api)
        });
        assert_eq!(seen.collect::<Vec<_>>(), expected);
        assert!(report.api.success() && report.metadata.unwrap().success());
    }
    assert_eq!(silent.asked().len(), 1);
}

#[tokio::test]
async fn a_broker_that_hangs_is_asked_once_however_long_it_hangs() {
    let partitions = [partition(0, 2, "2,1", "2")];
    let body = response(&peers(&[2]), &partitions);
    let peer = answering(body, &Arc::default()).await;
    let body = response(&[elsewhere(2), peer_of(1, &peer)], &partitions);
    let own = FakeBroker::with_metadata(move |asked| match asked.correlation {
        2 => Answer::Body(body.clone()),
        _ => Answer::Silence,
    })
    .await;
    let mut collector = collector(&own);
    assert_eq!(
        collect(&mut collector).await.unwrap().source,
        ClusterSource::Own
    );
    for _ in 0..20 {
        let counts = collect(&mut collector).await.unwrap();
        assert_eq!(
            (counts.source, counts.isr_leader_alone),
            (ClusterSource::Peer(1), 1)
        );
        assert!(
            counts
                .own_silence
                .unwrap()
                .contains("has not answered Metadata for")
        );
    }
    assert_eq!(
        own.asked().len(),
        4,
        "twice ApiVersions and Metadata, the last without an answer"
    );
    assert!(peer.asked().iter().all(|asked| asked.connection == 0));
}

/// What the exporter costs a broker that hangs for ten minutes, as its own broker and as the peer of another.
#[tokio::test]
async fn ten_minutes_of_silence_cost_one_request_and_one_connection_for_each_role() {
    let mute = Arc::new(AtomicBool::new(false));
    let listed = Arc::new(OnceLock::new());
    let broker_that_falls_silent = || {
        let (mute, listed) = (mute.clone(), listed.clone());
        FakeBroker::start(move |asked| match asked.api {
            _ if mute.load(Ordering::SeqCst) => Answer::Silence,
            18 => Answer::Body(offers_metadata()),
            _ => Answer::Body(Vec::clone(listed.get().unwrap())),
        })
    };
    let brokers = [
        broker_that_falls_silent().await,
        broker_that_falls_silent().await,
    ];
    listed
        .set(response(
            &[peer_of(1, &brokers[0]), peer_of(2, &brokers[1])],
            &[],
        ))
        .unwrap();
    let mut watching = [1, 2].map(|id| {
        let address = brokers[id as usize - 1].address.clone();
        ClusterClient::new(
            Arc::new(broker(Some(id), &[])),
            Some(address),
            None,
            OwnConnections::default(),
        )
    });
    for _ in 0..2 {
        for collector in &mut watching {
            assert!(collect(collector).await.is_ok());
        }
    }
    let before = brokers.each_ref().map(|broker| broker.asked().len());
    mute.store(true, Ordering::SeqCst);
    // From here on there are no answers, so none is missed while time jumps.
    tokio::time::pause();
    let silence = Instant::now();
    let mut most_open = [BTreeSet::new(), BTreeSet::new()];
    while silence.elapsed() < Duration::from_secs(660) {
        let next = Instant::now() + Duration::from_secs(5);
        for collector in &mut watching {
            let (report, counts) = collector.probe().await.unwrap();
            let error = report.api.error.as_ref().unwrap();
            assert_eq!(
                (error.reason, error.accepted, &report.metadata),
                (Reason::Timeout, true, &None)
            );
            assert!(
                collector
                    .ask_peer(counts.unwrap_err(), &report.peers)
                    .await
                    .is_err()
            );
        }
        for (broker, (before, connections)) in
            std::iter::zip(&brokers, std::iter::zip(before, &mut most_open))
        {
            let unanswered: Vec<usize> = broker.asked()[before..]
                .iter()
                .map(|asked| asked.connection)
                .collect();
            connections.extend(broker.asked().iter().map(|asked| asked.connection));
            let most = if silence.elapsed() < Duration::from_secs(600) {
                2
            } else {
                4
            };
            assert!(
                unanswered.len() <= most && connections.len() <= most,
                "{:?}: {unanswered:?}",
                silence.elapsed()
            );
            assert_eq!(
                unanswered.iter().collect::<BTreeSet<_>>().len(),
                unanswered.len(),
                "one for each connection"
            );
        }
        tokio::time::sleep_until(next).await;
    }
    assert_eq!(
        most_open.map(|connections| connections.len()),
        [4, 4],
        "after ten minutes each makes a new connection"
    );
}

#[tokio::test]
async fn peers_on_the_loopback_of_another_network_are_not_asked() {
    let partitions = [partition(0, 2, "2,1", "2")];
    let other = FakeBroker::start(|_| Answer::Silence).await;
    let body = response(&[elsewhere(2), peer_of(1, &other)], &partitions);
    let silent = Arc::new(AtomicBool::new(false));
    let own = answering(body, &silent).await;
    let mut collector = collector(&own);
    collector.set_network(Ok(false));
    assert_eq!(
        collect(&mut collector).await.unwrap().source,
        ClusterSource::Own
    );
    silent.store(true, Ordering::SeqCst);
    assert_eq!(
        collect(&mut collector).await.unwrap_err().reason,
        Reason::Closed
    );
    assert_eq!(other.asked().len(), 0);
}

/// As a hostile container names them: in forms that only the resolver understands, and at ports of other services.
#[tokio::test]
async fn a_container_leads_to_no_service_of_the_host() {
    let service = FakeBroker::start(|_| Answer::Silence).await;
    let port = service.address.rsplit_once(':').unwrap().1;
    let named = |host: &str| Listener {
        name: "PLAINTEXT".into(),
        protocol: Some(SecurityProtocol::Plaintext),
        host: Some(host.into()),
        port: port.parse().unwrap(),
        controller: false,
    };
    for host in ["127.1", "2130706433", "localhost"] {
        let broker = Broker {
            id: Some(1),
            listeners: vec![named(host)],
            ..Broker::unknown(ProcessKey::default())
        };
        let mut client =
            ClusterClient::new(Arc::new(broker), None, None, OwnConnections::default());
        client.set_network(Ok(false));
        let reason = match client.probe().await {
            Ok((probes, _)) => probes.api.error.unwrap().reason,
            Err(failure) => failure.reason,
        };
        assert_eq!(reason, Reason::OtherNetwork, "{host}");
    }
    let peer = |id, host: &str, port| Peer {
        id,
        host: host.into(),
        port,
    };
    let mut peers = Peers {
        elsewhere: true,
        ..Peers::default()
    };
    let port = port.parse().unwrap();
    let listed = [
        peer(2, "127.1", port),
        peer(3, "192.0.2.1", 22),
        peer(4, "192.0.2.1", 1023),
    ];
    peers.remember(1, "", &listed);
    let own = OwnConnections::default().into();
    let probes = peers.probe(&own, Timing::default()).await;
    let asked: Vec<_> = probes
        .iter()
        .map(|probe| (probe.peer.id, probe.connect.error.as_ref().unwrap().reason))
        .collect();
    assert_eq!(asked, [(2, Reason::OtherNetwork)]);
    assert_eq!(service.asked().len(), 0);
}

#[tokio::test]
async fn a_broker_at_the_own_address_is_no_peer() {
    let listed = Arc::new(Mutex::new(Vec::new()));
    let listing = listed.clone();
    let own =
        FakeBroker::with_metadata(move |_| Answer::Body(Vec::clone(&listing.lock().unwrap())))
            .await;
    let mut collector = collector(&own);
    // Brokers that all advertise the same listener; then a list without the own broker; then a list with the own broker
    // at another name of its address.
    let named = |id| Peer {
        host: "LocalHost".into(),
        ..peer_of(id, &own)
    };
    let lists = [
        vec![peer_of(1, &own), peer_of(2, &own)],
        vec![peer_of(1, &own)],
        vec![named(1), named(2)],
    ];
    for list in lists {
        *listed.lock().unwrap() = response(&list, &[partition(0, 2, "2,1", "2,1")]);
        assert_eq!(*collect(&mut collector).await.unwrap().live_brokers, *list);
        assert_eq!(collector.probe().await.unwrap().0.peers, []);
    }
    assert!(own.asked().iter().all(|asked| asked.connection == 0));
}

#[tokio::test]
async fn without_a_visible_topic_the_peers_are_still_known() {
    let peer = FakeBroker::with_metadata(|_| Answer::Silence).await;
    let body = response(&[elsewhere(2), peer_of(1, &peer)], &[]);
    let own = answering(body, &Arc::default()).await;
    let mut collector = collector(&own);
    let counts = collect(&mut collector).await.unwrap();
    assert_eq!(
        collector.probe().await.unwrap().0.peers.len(),
        1,
        "the ring has it"
    );
    let failure = no_topic(&collector.broker, &counts).unwrap();
    let expected = "broker 2 (pid 77): no topic is visible to the exporter: none exists, or the ANONYMOUS user lacks Describe on topics, which the ACLs should allow";
    assert_eq!(
        (failure.reason, failure.message.as_str()),
        (Reason::NoTopic, expected)
    );
}

#[tokio::test]
async fn a_broker_that_answers_late_is_slow_and_not_silent() {
    let go = Arc::new(Notify::new());
    let late = go.clone();
    let own = FakeBroker::start(move |_| Answer::Held(late.clone(), offers_metadata())).await;
    let mut collector = collector(&own);
    let error = |report: ProbeReport| report.api.error.map(|error| error.reason).unwrap();
    assert_eq!(
        error(collector.probe().await.unwrap().0),
        Reason::Timeout,
        "no answer has come yet"
    );
    for _ in 0..2 {
        go.notify_one();
        let until = Instant::now() + Duration::from_secs(60);
        collector.read_late(until).await;
        assert!(Instant::now() < until, "it ends with the answer");
        let (report, counts) = collector.probe().await.unwrap();
        let (took, failure) = (report.api.duration, counts.unwrap_err());
        assert!(
            took > FAST.deadline
                && failure
                    .message
                    .contains(&format!("took {} ms", took.as_millis()))
        );
        assert_eq!(
            (error(report), failure.reason),
            (Reason::Slow, Reason::Slow)
        );
    }
    // Now it hangs.
    assert_eq!(error(collector.probe().await.unwrap().0), Reason::Timeout);
}

#[tokio::test]
async fn a_broker_without_an_id_is_not_asked() {
    let own = FakeBroker::start(|_| Answer::Silence).await;
    let mut collector = collector(&own);
    collector.broker = Arc::new(broker(None, &[]));
    assert_eq!(
        collect(&mut collector).await.unwrap_err().reason,
        Reason::NoId
    );
    assert_eq!(own.asked(), []);
}

#[tokio::test(start_paused = true)]
async fn the_ring_starts_above_the_own_id_and_keeps_brokers_that_were_listed_recently() {
    let mut ring = Peers::default();
    let ids = |ring: &Peers| {
        ring.ring
            .iter()
            .map(|(peer, _)| peer.id)
            .collect::<Vec<_>>()
    };
    ring.remember(
        5,
        "127.0.0.1:9092",
        &peers(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
    );
    assert_eq!(ids(&ring), [6, 7, 8, 9, 10, 11, 1, 2]);
    tokio::time::advance(UNLISTED / 2).await;
    ring.remember(5, "127.0.0.1:9092", &peers(&[4, 9, 7, 5]));
    assert_eq!(
        ids(&ring),
        [6, 7, 8, 9, 10, 11, 1, 2],
        "brokers that are not listed any more may come back"
    );
    tokio::time::advance(UNLISTED / 2).await;
    ring.remember(5, "127.0.0.1:9092", &peers(&[5]));
    assert_eq!(
        ids(&ring),
        [6, 7, 8, 9, 10, 11, 1, 2],
        "a list with only the own broker does not empty the ring"
    );
    ring.remember(5, "127.0.0.1:9092", &peers(&[4, 9, 7, 5]));
    assert_eq!(ids(&ring), [7, 9, 4]);
}
