//! Counts the cluster's state in one Metadata response about 5,000 partitions.

use std::hint::black_box;

use anyhow::{Result, ensure};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataResponse, TopicName};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, StrBytes};
use kafka_vitals::collect::cluster::count::count;
use kafka_vitals::kafka::wire::Metadata;
use kafka_vitals::model::ClusterSource;
use lab::Cell;
use lab::fake_broker::{Answer, FakeBroker};

use crate::contest::{Bench, call, contest, contestant, cost_of, milliseconds, row};
use crate::report::{Bar, Row};
use crate::worker;

/// Decodes the same body into its structures, and counts nothing.
const FLOOR: &str = "kafka-protocol, decoded";
const VERSION: i16 = 1;
const PARTITIONS: usize = 5_000;
const PER_TOPIC: usize = 50;
const BROKERS: i32 = 6;

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let body = response()?;
    let counts = count(Metadata::new(&body, VERSION), 1, ClusterSource::Own, None)?;
    ensure!(
        counts.partitions == PARTITIONS as u64 && counts.under_replicated > 0,
        "{counts:?}"
    );
    let kafka_protocol = || {
        let mut bytes = black_box(&body).as_slice();
        black_box(MetadataResponse::decode(&mut bytes, VERSION).ok());
    };
    let mut decoding = [
        call(bench, "ours", || {
            black_box(
                count(
                    Metadata::new(black_box(&body), VERSION),
                    1,
                    ClusterSource::Own,
                    None,
                )
                .ok(),
            );
        }),
        call(bench, "kafka-protocol", kafka_protocol),
    ];
    contest(bench.count(15, 1), &mut decoding)?;
    let alone = row(
        "the same, decoded and counted alone",
        "ms",
        FLOOR,
        Bar::Ratio(0.5),
        &decoding,
    );

    let rounds = bench.count(50, 5);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let answer = body.clone();
    let broker = runtime.block_on(FakeBroker::with_metadata(move |_| {
        Answer::Body(answer.clone())
    }));
    let asked = || broker.asked().iter().filter(|asked| asked.api == 3).count();
    let cell = Cell::outside()?;
    let ours = contestant("ours", || {
        let before = asked();
        let command = worker::command(["metadata", &rounds.to_string(), &broker.address], &[]);
        let (cpu, printed) = cost_of(&cell, command)?;
        ensure!(
            printed.trim() == PARTITIONS.to_string(),
            "{printed} partitions, not {PARTITIONS}"
        );
        let asked = asked() - before;
        ensure!(
            asked == rounds,
            "{asked} Metadata requests for {rounds} rounds"
        );
        Ok(milliseconds(cpu) / rounds as f64)
    });
    let mut probe = [ours, call(bench, "kafka-protocol", kafka_protocol)];
    contest(bench.count(9, 2), &mut probe)?;
    let whole = format!("{PARTITIONS} partitions asked for (one request), decoded, counted");
    Ok(vec![
        row(whole, "ms", FLOOR, Bar::Ratio(1.0), &probe),
        alone,
    ])
}

/// Encodes partitions with three replicas each; every seventh is under-replicated.
fn response() -> Result<Vec<u8>> {
    let text = |text: String| StrBytes::from_string(text);
    // They are probed as peers: no process listens on tcpmux.
    let brokers = (1..=BROKERS).map(|id| {
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(id))
            .with_host(text("127.0.0.1".into()))
            .with_port(1)
    });
    let partition = |index: usize| {
        let replica = |offset: usize| BrokerId(((index + offset) % BROKERS as usize) as i32 + 1);
        let in_sync = if index.is_multiple_of(7) { 2 } else { 3 };
        MetadataResponsePartition::default()
            .with_partition_index((index % PER_TOPIC) as i32)
            .with_leader_id(replica(0))
            .with_replica_nodes((0..3).map(replica).collect())
            .with_isr_nodes((0..in_sync).map(replica).collect())
    };
    let topics = (0..PARTITIONS / PER_TOPIC).map(|topic| {
        MetadataResponseTopic::default()
            .with_name(Some(TopicName(text(format!(
                "orders.v{topic}.events-by-customer"
            )))))
            .with_partitions(
                (topic * PER_TOPIC..(topic + 1) * PER_TOPIC)
                    .map(partition)
                    .collect(),
            )
    });
    let message = MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_controller_id(BrokerId(1))
        .with_topics(topics.collect());
    let mut bytes = Vec::new();
    message.encode(&mut bytes, VERSION)?;
    Ok(bytes)
}
