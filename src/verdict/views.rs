//! Two views of one cluster: that of Metadata, and that of the node's own metadata log, or of a peer's Metadata where there
//! is no such log.

use std::time::Duration;

use crate::model::{BrokerSnapshot, ClusterSource, Moment};

/// What both views count. `None` where a view cannot count it: a reassignment adds replicas, and Metadata does not
/// distinguish those from missing ones.
pub type Counts = [Option<u64>; 4];

/// As [`crate::model::ClusterCounts::view`] has them.
const NAMES: [&str; 4] = [
    "partitions of the cluster",
    "partitions that it leads",
    "offline partitions",
    "under-replicated partitions that it leads",
];

/// Two Metadata responses that were read further apart are not compared.
pub(super) const TOGETHER: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Views {
    /// That of the metadata log, or of a peer.
    pub other: Counts,
    metadata: Counts,
    /// When Metadata was read.
    pub read: Moment,
    /// Whose views `metadata` and `other` are.
    sources: [ClusterSource; 2],
    /// Whether `other` is the metadata log, which changes before Metadata does.
    pub is_log: bool,
}

impl Views {
    /// Both views, where both are known.
    pub fn of(broker: &BrokerSnapshot, now: Moment) -> Option<Views> {
        let metadata = broker.cluster.fresh(now)?;
        let (_, read) = broker.cluster.last()?;
        let of_log = broker.metadata_log.fresh(now);
        let of_log = of_log.and_then(|log| log.counts.as_ref());
        let other = match of_log {
            Some(log) => log,
            None => {
                let (peer, at) = broker.peer_view.last()?;
                let together = at.since(read).max(read.since(at)) <= TOGETHER;
                let is_own = metadata.source == ClusterSource::Own;
                Some(peer).filter(|_| together && is_own)?
            }
        };
        let still = of_log.is_none_or(|log| log.reassigning == Some(0));
        let [other_counts, metadata_counts] = [other, metadata].map(|counts| {
            let mut view = counts.view().map(Some);
            view[3] = view[3].filter(|_| still);
            view
        });
        Some(Views {
            other: other_counts,
            metadata: metadata_counts,
            read,
            sources: [metadata.source, other.source],
            is_log: of_log.is_some(),
        })
    }

    /// Whether both show the same topics. In a new cluster both show none, which says nothing of what access rights hide.
    pub fn agree(&self) -> bool {
        self.metadata[0].is_some_and(|partitions| partitions > 0) && self.differences().is_empty()
    }

    /// Each difference in a sentence.
    pub fn differences(&self) -> Vec<String> {
        let both = std::iter::zip(self.metadata, self.other);
        std::iter::zip(NAMES, both)
            .filter(|(_, (metadata, other))| metadata != other)
            .filter_map(|(what, (metadata, other))| {
                let (metadata, other) = (metadata?, other?);
                let [who, whose] = self.sources.map(whose);
                Some(format!("{what}: {metadata} by {who}, {other} by {whose}"))
            })
            .collect()
    }
}

fn whose(source: ClusterSource) -> String {
    match source {
        ClusterSource::Own => "the Metadata of this broker".to_owned(),
        ClusterSource::Peer(id) => format!("the Metadata of broker {id}"),
        ClusterSource::Log => "the metadata log".to_owned(),
        ClusterSource::ZooKeeper => "ZooKeeper".to_owned(),
    }
}
