//! The cluster's state from one Metadata response about 5,000 partitions.

use std::hint::black_box;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataResponse, TopicName};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, StrBytes};
use kafka_vitals::collect::cluster::count;
use kafka_vitals::kafka::wire::Metadata;
use kafka_vitals::snapshot::ClusterSource;
use lab::Cell;

use crate::contest::{Bench, call, contest, contestant, cost_of, milliseconds, row};
use crate::report::{Bar, Row};
use crate::worker;

const VERSION: i16 = 1;
const PARTITIONS: usize = 5_000;
const PER_TOPIC: usize = 50;
const BROKERS: i32 = 6;

pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    let body = response()?;
    let counts = count(Metadata::new(&body, VERSION), 1, ClusterSource::Own, None)?;
    ensure!(counts.partitions == PARTITIONS as u64 && counts.under_replicated > 0, "{counts:?}");
    let mut decoding = [
        call(bench, "ours", || {
            black_box(count(Metadata::new(black_box(&body), VERSION), 1, ClusterSource::Own, None).ok());
        }),
        call(bench, "kafka-protocol", || {
            let mut bytes = black_box(&body).as_slice();
            black_box(MetadataResponse::decode(&mut bytes, VERSION).ok());
        }),
    ];
    contest(bench.count(15, 1), &mut decoding)?;
    let alone = "the same, decoded and counted alone";
    let alone = row(alone, "ms", "kafka-protocol, decoded", Bar::None, &decoding);
    drop(decoding);

    let rounds = bench.count(50, 5);
    let broker = Broker::start(body)?;
    let cell = Cell::outside()?;
    let mut whole = vec![contestant("ours", || {
        let asked = broker.asked.load(Ordering::SeqCst);
        let command = worker::command(["metadata", &rounds.to_string(), &broker.address], &[]);
        let (cpu, printed) = cost_of(&cell, command)?;
        ensure!(printed.trim() == PARTITIONS.to_string(), "{printed} partitions, not {PARTITIONS}");
        let asked = broker.asked.load(Ordering::SeqCst) - asked;
        ensure!(asked == rounds, "{asked} Metadata requests for {rounds} rounds");
        Ok(milliseconds(cpu) / rounds as f64)
    })];
    contest(bench.count(9, 2), &mut whole)?;
    Ok(vec![
        Row {
            subject: format!("{PARTITIONS} partitions asked for (one request), decoded, counted"),
            unit: "ms",
            ours: whole[0].median(),
            floor: None,
            bar: Bar::Most(10.0),
            beside: Vec::new(),
        },
        alone,
    ])
}

/// Three replicas each; every seventh partition is not whole.
fn response() -> Result<Vec<u8>> {
    let text = |text: String| StrBytes::from_string(text);
    // They are probed as peers: nobody listens on tcpmux.
    let brokers = (1..=BROKERS).map(|id| {
        MetadataResponseBroker::default().with_node_id(BrokerId(id)).with_host(text("127.0.0.1".into())).with_port(1)
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
            .with_name(Some(TopicName(text(format!("orders.v{topic}.events-by-customer")))))
            .with_partitions((topic * PER_TOPIC..(topic + 1) * PER_TOPIC).map(partition).collect())
    });
    let message = MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_controller_id(BrokerId(1))
        .with_topics(topics.collect());
    let mut bytes = Vec::new();
    message.encode(&mut bytes, VERSION)?;
    Ok(bytes)
}

/// Answers ApiVersions and Metadata on loopback; its thread waits for connections until this process ends.
struct Broker {
    address: String,
    asked: Arc<AtomicUsize>,
}

impl Broker {
    fn start(body: Vec<u8>) -> Result<Broker> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // The client's end is the end of its connection.
                let _ = serve(stream, &body, &counter);
            }
        });
        Ok(Broker { address, asked })
    }
}

fn serve(mut stream: TcpStream, metadata: &[u8], asked: &AtomicUsize) -> io::Result<()> {
    // Error 0 and one entry: Metadata in the versions 0 to 2.
    let versions = [0, 0, 0, 0, 0, 1, 0, 3, 0, 0, 0, 2];
    stream.set_nodelay(true)?;
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut request)?;
        let is_metadata = request[..2] == [0, 3];
        asked.fetch_add(usize::from(is_metadata), Ordering::SeqCst);
        let body = if is_metadata { metadata } else { &versions };
        let mut answer = (body.len() as u32 + 4).to_be_bytes().to_vec();
        answer.extend(&request[4..8]);
        answer.extend(body);
        stream.write_all(&answer)?;
    }
}
