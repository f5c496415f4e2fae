//! The consumer groups of real brokers, against `kafka-consumer-groups`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use lab::{Cluster, ClusterOptions};
use support::groups::{groups_are_as_the_tool_says, groups_of_0_10_are_as_the_tool_says};
use support::versions::fast_exporter;

#[test]
fn groups_of_0_10_1_0() {
    let cluster = Cluster::start(ClusterOptions::new("0.10.1.0")).unwrap();
    let exporter = fast_exporter(cluster.cell());
    groups_of_0_10_are_as_the_tool_says(&cluster, &exporter);
}

#[test]
fn groups_of_4_3_0_of_both_protocols() {
    let cluster = Cluster::start(ClusterOptions::new("4.3.0")).unwrap();
    let exporter = fast_exporter(cluster.cell());
    groups_are_as_the_tool_says(&cluster, &exporter, true);
}
