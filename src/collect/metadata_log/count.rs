//! Counts the partitions of a metadata log's state from the point of view of one node, by the definitions of
//! `kafka-topics --describe`, but for the cap of `min.insync.replicas`. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::collect::cluster::count::{UNDER_REPLICATED_LISTED, with_hosts_of_ring};
use crate::collect::cluster::relations::Relations;
use crate::kafka::metadata_log::image::{Image, Partition, Replica, ReplicaRole, Topic};
use crate::model::{ABSENT_LISTED, ClusterCounts, ClusterSource, PartitionState, Registration};

/// Counts for the node `id`. `own_min_isr` is what its file says about `min.insync.replicas`, or Kafka's default; None is
/// unknown. With `is_capped` no partition needs more replicas in the ISR than it has.
pub fn count(image: &Image, id: i32, own_min_isr: Option<u32>, is_capped: bool) -> ClusterCounts {
    // Sorted, as the map is.
    let unfenced = image.brokers().iter().filter(|(_, state)| !state.fenced);
    let live: Vec<i32> = unfenced.clone().map(|(id, _)| *id).collect();
    let mut pass = Pass {
        id,
        live: &live,
        counts: ClusterCounts {
            source: ClusterSource::Log,
            reassigning: Some(0),
            ..ClusterCounts::default()
        },
        not_in_isr_by_leader: BTreeMap::new(),
        listed: Vec::new(),
    };
    let (mut under, mut at) = (Some(0), Some(0));
    for topic in image.topics() {
        let min_isr = image.min_isr(&topic.name, id).or(own_min_isr);
        for (index, partition) in topic.partitions() {
            if !pass.partition(topic, index, partition) {
                continue;
            }
            let in_sync = partition.in_sync();
            let most = match is_capped {
                true => partition.replicas.len() as u64,
                false => u64::MAX,
            };
            let compared = min_isr.map(|least| (in_sync as u64).cmp(&u64::from(least).min(most)));
            let add = |sum: &mut Option<u64>, wanted| {
                *sum = sum
                    .zip(compared)
                    .map(|(sum, is)| sum + u64::from(is == wanted));
            };
            add(&mut under, std::cmp::Ordering::Less);
            add(&mut at, std::cmp::Ordering::Equal);
        }
    }
    if pass.counts.not_in_isr > 0 || pass.counts.under_replicated > 0 {
        let mut relations = Relations::new(id, &live);
        for (_, partition) in image.topics().flat_map(Topic::partitions) {
            let expected = |replica: &&Replica| replica.role != ReplicaRole::Adding;
            for replica in partition.replicas.iter().filter(expected) {
                relations.add(partition.leader, replica.id, replica.in_sync);
            }
        }
        relations.put(&mut pass.counts);
    }
    let none: &str = "";
    let listed = unfenced.map(|(id, state)| {
        let endpoint = state.endpoint.as_ref();
        let (host, port) = endpoint.map_or((none, 0), |(host, port)| (&**host, *port));
        (*id, host, port)
    });
    ClusterCounts {
        live_brokers: with_hosts_of_ring(id, listed.collect()),
        not_in_isr_by_leader: Arc::new(pass.not_in_isr_by_leader),
        under_replicated_partitions: pass.listed.into(),
        under_min_isr: under,
        at_min_isr: at,
        ..pass.counts
    }
}

/// What the controller says of each broker.
pub(super) fn registrations(image: &Image) -> BTreeMap<i32, Registration> {
    let brokers = image.brokers().iter();
    let registration = brokers.map(|(id, state)| {
        let registration = Registration {
            fenced: state.fenced,
            in_controlled_shutdown: state.in_controlled_shutdown,
        };
        (*id, registration)
    });
    registration.collect()
}

struct Pass<'a> {
    id: i32,
    live: &'a [i32],
    counts: ClusterCounts,
    not_in_isr_by_leader: BTreeMap<i32, u64>,
    listed: Vec<PartitionState>,
}

impl Pass<'_> {
    fn is_live(&self, id: i32) -> bool {
        self.live.binary_search(&id).is_ok()
    }

    /// Returns whether the node leads the partition.
    fn partition(&mut self, topic: &Topic, index: i32, partition: &Partition) -> bool {
        let id = self.id;
        let leader = Some(partition.leader).filter(|leader| self.is_live(*leader));
        let (expected, in_sync) = (partition.expected(), partition.in_sync());
        self.counts.partitions += 1;
        for replica in &partition.replicas {
            if self.counts.absent.len() < ABSENT_LISTED && !self.is_live(replica.id) {
                self.counts.absent.insert(replica.id);
            }
            if replica.id == id && !replica.in_sync && replica.role != ReplicaRole::Adding {
                self.counts.not_in_isr += 1;
                if let Some(leader) = leader {
                    *self.not_in_isr_by_leader.entry(leader).or_default() += 1;
                }
            }
        }
        let short = in_sync < expected;
        let leads = leader == Some(id);
        if leads {
            let counts = &mut self.counts;
            counts.leader += 1;
            counts.under_replicated += u64::from(short);
            counts.isr_leader_alone +=
                u64::from(short && in_sync == 1 && is_in_sync(partition, id));
            let moved = u64::from(partition.is_reassigned());
            counts.reassigning = counts.reassigning.map(|sum| sum + moved);
        }
        self.counts.offline += u64::from(leader.is_none());
        // One node lists those that nobody leads.
        let lists = match leader {
            Some(_) => leads && short,
            None => self.live.first() == Some(&id),
        };
        if lists && self.listed.len() < UNDER_REPLICATED_LISTED {
            // A topic name has 249 bytes and a list as many ids as a batch has room for.
            self.listed.push(PartitionState {
                topic: topic.name.to_string(),
                partition: index,
                leader,
                replicas: u32::try_from(expected).unwrap_or(u32::MAX),
                isr: u32::try_from(in_sync).unwrap_or(u32::MAX),
            });
        } else if lists {
            self.counts.under_replicated_left_out += 1;
        }
        leads
    }
}

fn is_in_sync(partition: &Partition, id: i32) -> bool {
    let mut replicas = partition.replicas.iter();
    replicas.any(|replica| replica.id == id && replica.in_sync)
}
