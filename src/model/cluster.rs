//! A cluster from the point of view of one broker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::named::named;

/// Which broker reported the cluster's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClusterSource {
    /// The broker itself.
    #[default]
    Own,
    /// Another broker of the cluster, by id, because this one is silent or suspect.
    Peer(i32),
    /// The node's own replica of the metadata log, without any request.
    Log,
    /// ZooKeeper says what the ISRs and leaders of this broker's partitions are, because it is silent or suspect; a peer
    /// says which partitions there are.
    ZooKeeper,
}

/// Counts over one Metadata response or over the metadata log, from the point of view of one broker.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ClusterCounts {
    pub source: ClusterSource,
    /// Why the broker itself was not the source.
    pub own_silence: Option<String>,
    /// Brokers that the response lists. It is shared, like the other parts whose size the broker decides, so that
    /// publishing a snapshot copies none of them.
    pub live_brokers: Arc<[Peer]>,
    /// Brokers that hold replicas and are not live, the first few.
    #[serde(default)]
    pub absent: BTreeSet<i32>,
    /// Partitions that this broker leads.
    pub leader: u64,
    /// How many of those have fewer replicas in the ISR than assigned.
    pub under_replicated: u64,
    /// How many of those have only the leader in the ISR and more than one replica assigned.
    pub isr_leader_alone: u64,
    /// Partitions of the cluster that this broker is a replica of without being in the ISR.
    pub not_in_isr: u64,
    /// How many of those each live leader leads.
    pub not_in_isr_by_leader: Arc<BTreeMap<i32, u64>>,
    /// Partitions of which this broker is a follower, by their live leader.
    #[serde(default)]
    pub followed_by_leader: Arc<BTreeMap<i32, u64>>,
    /// Of these leaders those whose partitions lack no other live replica, the first few.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub behind_alone: BTreeMap<i32, u64>,
    /// The live followers that partitions led by this broker lack, the first few.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lost_followers: BTreeMap<i32, LostFollower>,
    /// Partitions of the whole cluster that have no leader.
    pub offline: u64,
    /// How many of those that it leads have fewer replicas in the ISR than `min.insync.replicas`: writes with acks=all
    /// fail. None is unknown.
    #[serde(default)]
    pub under_min_isr: Option<u64>,
    /// How many of those that it leads would be so if one replica more were missing.
    #[serde(default)]
    pub at_min_isr: Option<u64>,
    /// How many of those that it leads are being moved to other brokers. None is unknown.
    #[serde(default)]
    pub reassigning: Option<u64>,
    /// Partitions of the whole cluster; with 0 no topic was visible, and no count above means anything.
    pub partitions: u64,
    /// Under-replicated partitions led by this broker (or offline, if it is the lowest live id), the first few.
    pub under_replicated_partitions: Arc<[PartitionState]>,
    /// How many more there are.
    pub under_replicated_left_out: u64,
}

impl ClusterCounts {
    /// What two views of the cluster must agree on: partitions, led ones, offline ones, under-replicated ones.
    pub fn view(&self) -> [u64; 4] {
        [
            self.partitions,
            self.leader,
            self.offline,
            self.under_replicated,
        ]
    }
}

/// A broker as Metadata names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub id: i32,
    /// At most 255 bytes: the decoder refuses a longer name. Empty for brokers that are too far on the ring to be asked.
    pub host: Arc<str>,
    pub port: u16,
}

/// A live broker that ISRs of one leader lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostFollower {
    /// How many partitions of that leader.
    pub partitions: u64,
    pub elsewhere: Elsewhere,
}

named! {
    /// How a follower keeps up with other live leaders.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Elsewhere {
        /// It is in the ISR of partitions of others and misses in none.
        InSync = "in_sync",
        Behind = "behind",
        /// It follows no other.
        Unknown = "unknown",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    pub topic: String,
    pub partition: i32,
    /// None is offline.
    pub leader: Option<i32>,
    pub replicas: u32,
    pub isr: u32,
}
