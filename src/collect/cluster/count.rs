//! Counts the partitions of a Metadata response from the point of view of one broker. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::relations::Relations;
use super::whole::{Expected, Whole};
use crate::kafka::wire::{self, Item, Metadata, WireError};
use crate::model::{ABSENT_LISTED, ClusterCounts, ClusterSource, PartitionState, Peer};

/// Brokers after the own one whose hosts are kept: 8 of them are probed, fewer where some share an address.
const HOSTS_KEPT: usize = 64;
/// Entries of [`ClusterCounts::under_replicated_partitions`]; the rest is only counted.
pub(in crate::collect) const UNDER_REPLICATED_LISTED: usize = 100;

/// Counts from the point of view of broker `id`. `own_silence` is why the response comes from another broker.
pub fn count(
    metadata: Metadata<'_>,
    id: i32,
    source: ClusterSource,
    own_silence: Option<String>,
) -> Result<ClusterCounts, WireError> {
    count_after(metadata, id, source, own_silence, &mut Whole::default())
}

/// As [`count`], with what earlier responses showed of the replicas.
pub fn count_after(
    metadata: Metadata<'_>,
    id: i32,
    source: ClusterSource,
    own_silence: Option<String>,
    whole: &mut Whole,
) -> Result<ClusterCounts, WireError> {
    let again = metadata.clone();
    let mut replicated = 0;
    let mut counts = ClusterCounts {
        source,
        own_silence,
        ..ClusterCounts::default()
    };
    let mut lowest_live = false;
    let (mut listed_brokers, mut live) = (Vec::new(), Vec::new());
    let mut not_in_isr_by_leader = BTreeMap::new();
    let mut followed_by_leader = BTreeMap::new();
    let mut under_replicated = Vec::new();
    for item in metadata {
        let partition = match item? {
            Item::Broker { id, host, port } => {
                live.push(id);
                listed_brokers.push((id, host, port));
                continue;
            }
            // All brokers come before the controller.
            Item::Controller(_) => {
                live.sort_unstable();
                lowest_live = live.first() == Some(&id);
                continue;
            }
            // A topic with an error (just created, or being deleted) has no partitions.
            Item::Topic { .. } => continue,
            Item::Partition(partition) => partition,
        };
        counts.partitions += 1;
        for replica in partition.replicas.iter() {
            if counts.absent.len() < ABSENT_LISTED && live.binary_search(&replica).is_err() {
                counts.absent.insert(replica);
            }
        }
        // Other errors only repeat leader and ISR, and differ between versions, so they are ignored.
        let leader = (partition.leader >= 0).then_some(partition.leader);
        let (replicas, in_sync) = (partition.replicas.len(), partition.isr.len());
        let holds = partition.replicas.contains(id);
        replicated += usize::from(holds);
        let expected = match holds {
            true => whole.take(partition.topic, partition.index, replicas, in_sync),
            false => Expected {
                replicas,
                grows: false,
                is_new: false,
            },
        };
        let live_leader = leader.filter(|leader| live.binary_search(leader).is_ok());
        if let Some(leader) = live_leader.filter(|leader| *leader != id && holds) {
            *followed_by_leader.entry(leader).or_default() += 1;
        }
        let short = in_sync < expected.replicas;
        // Without a leader the ISR is usually empty. No live broker is in it, because that one would lead.
        if holds && !expected.is_new && !partition.isr.contains(id) {
            counts.not_in_isr += 1;
            // At most one entry for each broker that the response lists.
            if let Some(leader) = live_leader {
                *not_in_isr_by_leader.entry(leader).or_default() += 1;
            }
        }
        let listed = match leader {
            // The leader lives, but the response does not name it.
            None if partition.error == wire::LISTENER_NOT_FOUND => false,
            None => {
                counts.offline += 1;
                lowest_live
            }
            Some(leader) if leader == id => {
                counts.leader += 1;
                counts.under_replicated += u64::from(short);
                let alone = short && in_sync == 1 && partition.isr.contains(id);
                counts.isr_leader_alone += u64::from(alone);
                short
            }
            Some(_) => false,
        };
        if !listed {
            continue;
        }
        if under_replicated.len() == UNDER_REPLICATED_LISTED {
            counts.under_replicated_left_out += 1;
            continue;
        }
        under_replicated.push(PartitionState {
            topic: partition.topic.to_owned(),
            partition: partition.index,
            leader,
            // An id has four bytes, and a message at most 2 GiB.
            replicas: u32::try_from(expected.replicas).unwrap_or(u32::MAX),
            isr: u32::try_from(in_sync).unwrap_or(u32::MAX),
        });
    }
    whole.end(replicated);
    if counts.not_in_isr > 0 || counts.under_replicated > 0 {
        let mut relations = Relations::new(id, &live);
        for item in again {
            let Item::Partition(partition) = item? else {
                continue;
            };
            let (replicas, in_sync) = (partition.replicas.len(), partition.isr.len());
            let grows = || whole.grows(partition.topic, partition.index, replicas, in_sync);
            if partition.replicas.contains(id) && grows() {
                continue;
            }
            for replica in partition.replicas.iter() {
                relations.add(partition.leader, replica, partition.isr.contains(replica));
            }
        }
        relations.put(&mut counts);
    }
    Ok(ClusterCounts {
        live_brokers: with_hosts_of_ring(id, listed_brokers),
        not_in_isr_by_leader: Arc::new(not_in_isr_by_leader),
        followed_by_leader: Arc::new(followed_by_leader),
        under_replicated_partitions: under_replicated.into(),
        ..counts
    })
}

/// The listed brokers, with the hosts of the own one and of those that come next on the ring. Nobody asks for the others, and
/// a list may have 10,000 hosts of 255 bytes.
pub(in crate::collect) fn with_hosts_of_ring(
    own: i32,
    listed: Vec<(i32, &str, u16)>,
) -> Arc<[Peer]> {
    let mut ring: Vec<usize> = (0..listed.len()).collect();
    ring.sort_by_key(|&at| listed.get(at).map(|(id, ..)| (*id < own, *id)));
    let mut kept = vec![false; listed.len()];
    // The own one comes first.
    for at in ring.into_iter().take(HOSTS_KEPT + 1) {
        kept[at] = true;
    }
    let none: Arc<str> = Arc::default();
    std::iter::zip(listed, kept)
        .map(|((id, host, port), kept)| Peer {
            id,
            host: match kept {
                true => host.into(),
                false => Arc::clone(&none),
            },
            port,
        })
        .collect()
}
