//! Two views of one cluster: Metadata, and the node's own metadata log.

use crate::model::{BrokerSnapshot, ClusterSource, Moment};

/// What both views count. `None` where a view cannot count it: a reassignment adds replicas, and Metadata does not
/// distinguish those from missing ones.
pub type Counts = [Option<u64>; 4];

const NAMES: [&str; 4] = [
    "partitions of the cluster",
    "partitions that it leads",
    "offline partitions",
    "under-replicated partitions that it leads",
];

#[derive(Debug)]
pub struct Views {
    pub log: Counts,
    metadata: Counts,
    /// When Metadata was read.
    pub read: Moment,
    /// Whose Metadata.
    who: String,
}

impl Views {
    /// Both views, where both are known.
    pub fn of(broker: &BrokerSnapshot, now: Moment) -> Option<Views> {
        let log = broker.metadata_log.fresh(now)?.counts.as_ref()?;
        let metadata = broker.cluster.fresh(now)?;
        let (_, read) = broker.cluster.last()?;
        let still = log.reassigning == Some(0);
        let [of_log, of_metadata] = [log, metadata].map(|counts| {
            let under_replicated = still.then_some(counts.under_replicated);
            [
                Some(counts.partitions),
                Some(counts.leader),
                Some(counts.offline),
                under_replicated,
            ]
        });
        let who = match metadata.source {
            ClusterSource::Peer(id) => format!("broker {id}"),
            _ => "this broker".to_owned(),
        };
        Some(Views {
            log: of_log,
            metadata: of_metadata,
            read,
            who,
        })
    }

    /// Each difference in a sentence.
    pub fn differences(&self) -> Vec<String> {
        let both = std::iter::zip(self.metadata, self.log);
        std::iter::zip(NAMES, both)
            .filter(|(_, (metadata, log))| metadata != log)
            .filter_map(|(what, (metadata, log))| {
                let (metadata, log, who) = (metadata?, log?, &self.who);
                Some(format!(
                    "{what}: {metadata} by the Metadata of {who}, {log} by the metadata log"
                ))
            })
            .collect()
    }
}
