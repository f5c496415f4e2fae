//! A group whose coordinator deadlocks: named, with a lag that is unknown, until another broker coordinates it.

use std::collections::BTreeMap;
use std::time::Duration;

use lab::client::Connection;
use lab::{Cluster, deadlock};

use crate::support::groups::{lag_by_the_exporter, lag_by_the_tool, member, produce};
use crate::support::{Exporter, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);

/// A group with a member that has committed an offset, of the broker that will deadlock.
pub struct Watched {
    name: String,
    lag: BTreeMap<String, f64>,
    _member: Connection,
}

impl Watched {
    pub fn start(cluster: &Cluster, exporter: &Exporter) -> Watched {
        produce(cluster, deadlock::TOPIC, 2000);
        let sick = deadlock::coordinator(cluster, "mm").unwrap();
        let partition =
            |name: &str| deadlock::offsets_partition(name, cluster.offsets_partitions());
        let mut names = (0..).map(|n| format!("app-{n}"));
        let name = names
            .find(|name| partition(name) == partition("mm"))
            .unwrap();
        let member = member(cluster, sick, &name, deadlock::TOPIC);
        let lag = lag_by_the_tool(cluster, &name);
        assert!(lag.values().sum::<f64>() > 0.0, "{lag:?}");
        wait_for("the lag", PATIENCE, || {
            lag_by_the_exporter(&exporter.metrics(), &name) == lag
        });
        Watched {
            name,
            lag,
            _member: member,
        }
    }

    pub fn is_named(&self, exporter: &Exporter) {
        wait_for("the lag to be unknown", PATIENCE, || {
            lag_by_the_exporter(&exporter.metrics(), &self.name).is_empty()
        });
        wait_for("the group to be named", PATIENCE, || {
            let page = exporter.page();
            page.contains(&self.name) && page.contains("state and lag unknown")
        });
        let answer = exporter.get("/api/v1/brokers").1;
        let fact = format!("it coordinates the groups {}", self.name);
        assert!(answer.contains(&fact), "{answer}");
    }

    pub fn is_right_again(&self, cluster: &Cluster, exporter: &Exporter) {
        wait_for("the lag to be known again", PATIENCE, || {
            lag_by_the_exporter(&exporter.metrics(), &self.name) == self.lag
        });
        assert_eq!(lag_by_the_tool(cluster, &self.name), self.lag);
    }
}
