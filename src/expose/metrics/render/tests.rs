use std::sync::Arc;

use super::*;
use crate::model::{Broker, ProcessKey, Role};
use crate::model::{ClusterCounts, MetadataLog, PartitionState, Registration};
use crate::model::{GroupLag, GroupState, GroupsReport};

/// The metrics of a host with these brokers.
fn rendered(brokers: impl IntoIterator<Item = BrokerSnapshot>, now: Moment) -> String {
    let snapshot = Snapshot {
        brokers: brokers.into_iter().map(Arc::new).collect(),
        ..Snapshot::default()
    };
    let view = View {
        snapshot: Arc::new(snapshot),
        ..View::default()
    };
    render(&view, &EvidenceStatus::default(), now)
}

#[track_caller]
fn has(text: &str, series: &str) {
    let line = format!("kafka_vitals_{series}\n");
    assert!(text.contains(&line), "{series}: {text}");
}

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
        broker
    };
    let text = rendered([led_by(1, 1), led_by(9, 2)], Moment(1000));
    for series in [
        "{broker=\"1\",topic=\"t\",partition=\"0\"} 1",
        "{broker=\"9\",topic=\"t\",partition=\"0\"} 2",
    ] {
        has(&text, &format!("partition_isr_replicas{series}"));
    }
}

#[test]
fn what_would_not_be_seen_in_a_label_is_escaped() {
    let mut broker = BrokerSnapshot::new(Arc::default(), "1".into());
    broker.broker = Arc::new(Broker {
        kafka_version: Some("2.8\u{202e}1.9\u{1b}[2J\n".into()),
        ..Broker::default()
    });
    let text = rendered([broker], Moment(1000));
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

/// A node whose metadata log has the counts and, of `brokers`, every second one fenced.
fn node(roles: &[Role], counts: ClusterCounts, brokers: i32) -> String {
    let mut broker = BrokerSnapshot::new(Arc::default(), "1".into());
    let node = Arc::make_mut(&mut broker.broker);
    (node.id, node.roles) = (Some(1), roles.iter().copied().collect());
    let registration = |id| Registration {
        fenced: id % 2 == 0,
        in_controlled_shutdown: id == 1,
    };
    let brokers = (1..=brokers).map(|id| (id, registration(id))).collect();
    let value = MetadataLog {
        counts: Some(counts),
        brokers: Arc::new(brokers),
        end_offset: 4711,
        arrived: Moment(1000),
        written: Moment(900),
        pulse: None,
    };
    broker.metadata_log = Reading::Known {
        value,
        at: Moment(1000),
        valid_for: Duration::from_secs(3),
    };
    rendered([broker], Moment(3500))
}

#[test]
fn the_metadata_log_is_exported_with_its_age_and_the_brokers_that_are_not_well() {
    let counts = ClusterCounts {
        leader: 5,
        under_min_isr: Some(2),
        offline: 3,
        partitions: 20,
        absent: [2, 7].into(),
        ..ClusterCounts::default()
    };
    let text = node(&[Role::Broker], counts, 3);
    for series in [
        "leader_partitions{broker=\"1\"} 5",
        "under_min_isr_partitions{broker=\"1\"} 2",
        "offline_partitions 3",
        "metadata_log_offset{broker=\"1\"} 4711",
        "metadata_log_age_seconds{broker=\"1\"} 2.5",
        "cluster_brokers{broker=\"1\",state=\"registered\"} 2",
        "cluster_brokers{broker=\"1\",state=\"fenced\"} 1",
        "cluster_brokers{broker=\"1\",state=\"unregistered\"} 1",
        "cluster_broker_state{broker=\"1\",id=\"1\",state=\"controlled_shutdown\"} 1",
        "cluster_broker_state{broker=\"1\",id=\"2\",state=\"fenced\"} 1",
        "cluster_broker_state{broker=\"1\",id=\"7\",state=\"missing\"} 1",
        "series_left_out{what=\"cluster_broker_state\"} 0",
    ] {
        has(&text, series);
    }
    // Unknown, not 0.
    for name in ["at_min_isr_partitions", "reassigning_partitions"] {
        assert!(!text.contains(name), "{text}");
    }
    assert_eq!(text.matches("cluster_broker_state{").count(), 3);
}

#[test]
fn a_dedicated_controller_exports_the_counts_of_the_cluster_alone() {
    let counts = ClusterCounts {
        offline: 3,
        partitions: 20,
        under_min_isr: Some(0),
        ..ClusterCounts::default()
    };
    let text = node(&[Role::Controller], counts, 3);
    has(&text, "offline_partitions 3");
    has(&text, "cluster_brokers{broker=\"1\",state=\"fenced\"} 1");
    for name in [
        "leader_partitions{",
        "under_min_isr",
        "under_replicated",
        "not_in_isr",
    ] {
        assert!(!text.contains(name), "{name}: {text}");
    }
}

#[test]
fn series_of_brokers_that_are_not_well_are_bounded() {
    let text = node(&[Role::Broker], ClusterCounts::default(), 1000);
    assert_eq!(text.matches("cluster_broker_state{broker").count(), 64);
    // 500 are fenced, and broker 1 shuts down.
    has(&text, "series_left_out{what=\"cluster_broker_state\"} 437");
    has(&text, "cluster_brokers{broker=\"1\",state=\"fenced\"} 500");
}

/// A broker with groups of which one has these lags.
fn coordinator(id: &str, lags: usize) -> BrokerSnapshot {
    let mut broker = BrokerSnapshot::new(Arc::default(), id.into());
    let report = GroupsReport {
        names: ["orders"].into_iter().map(Arc::from).collect(),
        total: 1,
        states: GroupState::ALL
            .map(|state| (state, u64::from(state == GroupState::Stable)))
            .into(),
        lags: (0..lags)
            .map(|n| GroupLag {
                group: "orders".into(),
                topic: format!("t{n:04}").into(),
                records: 7,
            })
            .collect(),
        lags_left_out: 2,
        ..GroupsReport::default()
    };
    broker.groups = Reading::Known {
        value: report,
        at: Moment(1000),
        valid_for: Duration::from_secs(90),
    };
    broker
}

#[test]
fn lag_is_bounded_over_all_brokers_and_the_rest_is_counted() {
    let text = rendered([coordinator("1", 600), coordinator("2", 600)], Moment(2000));
    let series = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(series("kafka_vitals_consumer_group_lag{"), 1000);
    for line in [
        "series_left_out{what=\"consumer_group_lag\"} 204",
        "consumer_groups{broker=\"2\",state=\"stable\"} 1",
        "consumer_groups{broker=\"2\",state=\"dead\"} 0",
        "consumer_group_lag{broker=\"1\",group=\"orders\",topic=\"t0000\"} 7",
    ] {
        has(&text, line);
    }
}

#[test]
fn nothing_is_exported_of_the_groups_of_a_silent_broker() {
    let mut broker = coordinator("1", 3);
    let Some((report, _)) = broker.groups.last() else {
        panic!("it is known")
    };
    broker.groups = Reading::Known {
        value: report.silent("it hangs"),
        at: Moment(1000),
        valid_for: Duration::from_secs(90),
    };
    let text = rendered([broker], Moment(2000));
    assert!(!text.contains("consumer_group"), "{text}");
}
