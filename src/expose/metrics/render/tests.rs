use std::sync::Arc;

use super::*;
use crate::model::{Broker, ProcessKey};
use crate::model::{ClusterCounts, PartitionState};

/// Two clusters on one host may have partitions with the same name.
#[test]
fn every_broker_exports_its_partitions() {
    let led_by = |id: i32, isr: u32| {
        let key = ProcessKey {
            pid: id as u32,
            start_ticks: 1,
        };
        let mut broker = BrokerSnapshot::new(Arc::new(Broker::unknown(key)), id.to_string().into());
        let state = PartitionState {
            topic: "t".into(),
            partition: 0,
            leader: Some(id),
            replicas: 3,
            isr,
        };
        let value = ClusterCounts {
            partitions: 1,
            under_replicated_partitions: [state].into(),
            ..ClusterCounts::default()
        };
        broker.cluster = Reading::Known {
            value,
            at: Moment(0),
            valid_for: Duration::from_secs(15),
        };
        Arc::new(broker)
    };
    let snapshot = Snapshot {
        brokers: vec![led_by(1, 1), led_by(9, 2)],
        ..Snapshot::default()
    };
    let view = View {
        snapshot: Arc::new(snapshot),
        ..View::default()
    };
    let text = render(&view, &EvidenceStatus::default(), Moment(1000));
    for series in [
        "{broker=\"1\",topic=\"t\",partition=\"0\"} 1",
        "{broker=\"9\",topic=\"t\",partition=\"0\"} 2",
    ] {
        assert!(
            text.contains(&format!("kafka_vitals_partition_isr_replicas{series}\n")),
            "{series}: {text}"
        );
    }
}

#[test]
fn what_would_not_be_seen_in_a_label_is_escaped() {
    let mut broker = BrokerSnapshot::new(Arc::default(), "1".into());
    broker.broker = Arc::new(Broker {
        kafka_version: Some("2.8\u{202e}1.9\u{1b}[2J\n".into()),
        ..Broker::default()
    });
    let snapshot = Snapshot {
        brokers: vec![Arc::new(broker)],
        ..Snapshot::default()
    };
    let view = View {
        snapshot: Arc::new(snapshot),
        ..View::default()
    };
    let text = render(&view, &EvidenceStatus::default(), Moment(1000));
    let escaped = r#"kafka_version="2.8\\u{202e}1.9\\u{1b}[2J\n""#;
    assert!(text.contains(escaped), "{text}");
}

#[test]
fn an_empty_snapshot_counts_nothing() {
    let text = render(&View::default(), &EvidenceStatus::default(), Moment(1000));
    let families: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        families,
        [format!(
            "kafka_vitals_build_info{{version=\"{}\",revision=\"{}\"}} 1",
            env!("CARGO_PKG_VERSION"),
            env!("KAFKA_VITALS_REVISION")
        )]
    );
}
