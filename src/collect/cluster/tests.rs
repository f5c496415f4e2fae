#![allow(clippy::unwrap_used, clippy::expect_used)]

mod addresses;
mod counts;
mod listeners;
mod ring;
mod silence;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataResponse, TopicName};
use kafka_protocol::protocol::{Encodable, StrBytes};

use tokio::sync::Notify;

use super::count::count;
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
        ..Partition::default()
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
                advertised: None,
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
    retry_tls: Duration::from_millis(20),
    retry_login: Duration::from_secs(300),
    renew_tls: Duration::from_secs(3600),
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
    let (report, counts) = collector.probe().await?;
    collector.confirm(counts, false, &report.peers, None).await
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
