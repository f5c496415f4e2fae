//! As `tests/groups.rs`, with other versions.

use lab::{Cluster, ClusterOptions};

use super::support::groups::groups_are_as_the_tool_says;
use super::support::versions::fast_exporter;

fn agrees(version: &str) {
    let cluster = Cluster::start(ClusterOptions::new(version)).unwrap();
    let exporter = fast_exporter(cluster.cell());
    groups_are_as_the_tool_says(&cluster, &exporter, false);
}

tests! { agrees:
    groups_3_9_1("3.9.1");
}
