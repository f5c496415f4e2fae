#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::*;
use crate::model::{ClusterCounts, ClusterSource, MetadataLog, PoolTime, Reading, Registration};

#[test]
fn pools_show_their_share_of_a_core_and_of_the_time_waiting() {
    let time = |cores, waiting| PoolTime {
        cores,
        waiting,
        ..PoolTime::default()
    };
    let pools = [
        ("request_handler", time(Some(3.4), Some(0.25))),
        ("network", time(Some(0.004), Some(0.02))),
        ("acceptor", time(Some(0.5), Some(0.5))),
    ];
    let known = |value| Reading::Known {
        value: Arc::new(value),
        at: Moment(0),
        valid_for: std::time::Duration::from_secs(3),
    };
    let mut broker = BrokerSnapshot::default();
    let words = |broker: &BrokerSnapshot| -> Vec<String> {
        let vitals = super::pools(broker, Moment(1000));
        let text = |vital: &Vital| [&vital.value[..], &vital.notes.join(", ")].join("; ");
        vitals.iter().map(text).collect()
    };
    assert_eq!(words(&broker), [""; 0]);
    broker.pools = known(pools.map(|(name, time)| (name.to_owned(), time)).into());
    assert_eq!(
        words(&broker),
        [
            "340 % of a core; waiting for one 25 % of the time",
            "under 1 % of a core; waiting for one 2 % of the time"
        ]
    );
    // One reading has no share yet.
    broker.pools = known([("network".to_owned(), time(None, None))].into());
    assert_eq!(words(&broker), [""; 0]);
}

#[test]
fn the_metadata_log_shows_its_age_and_the_brokers_that_are_not_well() {
    let registration = |id| Registration {
        fenced: id > 9,
        in_controlled_shutdown: id == 2,
    };
    let counts = ClusterCounts {
        source: ClusterSource::Log,
        leader: 5,
        under_min_isr: Some(2),
        absent: [10, 99].into(),
        partitions: 20,
        ..ClusterCounts::default()
    };
    let log = MetadataLog {
        counts: Some(counts),
        brokers: Arc::new((1..20).map(|id| (id, registration(id))).collect()),
        end_offset: 4711,
        arrived: Moment(800),
        ..MetadataLog::default()
    };
    let broker = BrokerSnapshot {
        metadata_log: Reading::Known {
            value: log,
            at: Moment(1000),
            valid_for: std::time::Duration::from_secs(3),
        },
        ..BrokerSnapshot::default()
    };
    let diagnosis = BrokerDiagnosis::default();
    let all = vitals(&Snapshot::default(), &broker, &diagnosis, Moment(1000));
    let text = |name: &str| {
        let vital = all.iter().find(|vital| vital.name == name).unwrap();
        [&vital.value[..], &vital.notes.join(", ")].join("; ")
    };
    assert_eq!(
        text("Partitions"),
        "leads 5; 2 under min-ISR, source: metadata log"
    );
    assert_eq!(
        text("Brokers"),
        "9 live; fenced: 10, fenced unused: 11, 12, 13, 14, 15, 16, 17, 18 and 1 more, controlled shutdown: 2, missing from the cluster's metadata: 99"
    );
    assert_eq!(text("Metadata log"), "offset 4,711; last record 200 ms ago");
}
