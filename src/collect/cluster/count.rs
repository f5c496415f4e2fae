//! Counts the partitions of a Metadata response from the point of view of one broker. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::relations::Relations;
use super::whole::{Expected, Whole};
use crate::kafka::wire::{self, Item, Metadata, Partition, WireError};
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
    let mut pass = Pass::of(id);
    pass.read(metadata.clone(), |pass, topic, seen| {
        pass.partition(topic, seen, whole);
    })?;
    pass.end(whole);
    if pass.is_short() {
        pass.relate(metadata, whole)?;
    }
    Ok(pass.counts(source, own_silence))
}

/// The partitions that a broker is a replica of, by topic, before they are counted.
pub(super) type Kept = Vec<(Arc<str>, Seen)>;

/// Counts the partitions that broker `id` is no replica of, and keeps the others for a source that knows more of them. Where
/// they are more than `most`, all are counted and None is kept.
pub(super) fn count_others(
    metadata: Metadata<'_>,
    id: i32,
    most: usize,
    whole: &mut Whole,
) -> Result<(Pass, Option<Kept>), WireError> {
    let mut pass = Pass::of(id);
    let mut kept = Some(Kept::new());
    pass.read(metadata.clone(), |pass, topic, seen| match &mut kept {
        Some(some) if seen.is_replica && some.len() < most => {
            let before = some.last().filter(|(before, _)| **before == *topic);
            let topic = before.map_or_else(|| topic.into(), |(before, _)| Arc::clone(before));
            some.push((topic, seen));
        }
        Some(_) if seen.is_replica => {
            for (topic, seen) in kept.take().into_iter().flatten() {
                pass.partition(&topic, seen, whole);
            }
            pass.partition(topic, seen, whole);
        }
        _ => pass.partition(topic, seen, whole),
    })?;
    // Whether those that are kept lack replicas is not known yet.
    if kept.is_some() || pass.is_short() {
        pass.relate(metadata, whole)?;
    }
    Ok((pass, kept))
}

/// What decides how a partition is counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub index: i32,
    pub leader: Option<i32>,
    /// The leader lives, but the response does not name it.
    pub is_hidden: bool,
    pub replicas: usize,
    /// Those that are not live.
    pub down: usize,
    pub in_sync: usize,
    /// Whether the broker is a replica, and in the ISR.
    pub is_replica: bool,
    pub is_in_sync: bool,
}

impl Seen {
    fn of(partition: &Partition<'_>, id: i32, down: usize) -> Seen {
        Seen {
            index: partition.index,
            // Errors only repeat leader and ISR, and differ between versions, so all others are ignored.
            leader: (partition.leader >= 0).then_some(partition.leader),
            is_hidden: partition.error == wire::LISTENER_NOT_FOUND,
            replicas: partition.replicas.len(),
            down,
            in_sync: partition.isr.len(),
            is_replica: partition.replicas.contains(id),
            is_in_sync: partition.isr.contains(id),
        }
    }
}

/// A count that is under way.
pub(super) struct Pass {
    pub(super) id: i32,
    live: Vec<i32>,
    counts: ClusterCounts,
    not_in_isr_by_leader: BTreeMap<i32, u64>,
    followed_by_leader: BTreeMap<i32, u64>,
    under_replicated: Vec<PartitionState>,
    /// Partitions of which the broker is a replica.
    replicated: usize,
}

impl Pass {
    fn of(id: i32) -> Pass {
        Pass {
            id,
            live: Vec::new(),
            counts: ClusterCounts::default(),
            not_in_isr_by_leader: BTreeMap::new(),
            followed_by_leader: BTreeMap::new(),
            under_replicated: Vec::new(),
            replicated: 0,
        }
    }

    /// Hands each partition to `each`, with its topic.
    fn read(
        &mut self,
        metadata: Metadata<'_>,
        mut each: impl FnMut(&mut Pass, &str, Seen),
    ) -> Result<(), WireError> {
        let mut listed = Vec::new();
        for item in metadata {
            match item? {
                Item::Broker { id, host, port } => listed.push((id, host, port)),
                // All brokers come before the controller.
                Item::Controller(_) => {
                    self.live = listed.iter().map(|(id, ..)| *id).collect();
                    self.live.sort_unstable();
                    let listed = std::mem::take(&mut listed);
                    self.counts.live_brokers = with_hosts_of_ring(self.id, listed);
                }
                // A topic with an error (just created, or being deleted) has no partitions.
                Item::Topic { .. } => {}
                Item::Partition(partition) => {
                    self.counts.partitions += 1;
                    let mut down = 0;
                    for replica in partition.replicas.iter() {
                        if self.is_live(replica) {
                            continue;
                        }
                        down += 1;
                        if self.counts.absent.len() < ABSENT_LISTED {
                            self.counts.absent.insert(replica);
                        }
                    }
                    let seen = Seen::of(&partition, self.id, down);
                    each(self, partition.topic, seen);
                }
            }
        }
        Ok(())
    }

    fn is_live(&self, id: i32) -> bool {
        self.live.binary_search(&id).is_ok()
    }

    /// After the last partition. An answer without any, as of a broker that has just started, shows nothing of the replicas.
    pub(super) fn end(&self, whole: &mut Whole) {
        if self.counts.partitions > 0 {
            whole.end(self.replicated);
        }
    }

    /// Whether ISRs that concern the broker lack replicas.
    fn is_short(&self) -> bool {
        self.counts.not_in_isr > 0 || self.counts.under_replicated > 0
    }

    /// Finds who is to blame for the replicas that ISRs lack.
    fn relate(&mut self, metadata: Metadata<'_>, whole: &Whole) -> Result<(), WireError> {
        let mut relations = Relations::new(self.id, &self.live);
        for item in metadata {
            let Item::Partition(partition) = item? else {
                continue;
            };
            let (replicas, in_sync) = (partition.replicas.len(), partition.isr.len());
            let grows = || whole.grows(partition.topic, partition.index, replicas, in_sync);
            if partition.replicas.contains(self.id) && grows() {
                continue;
            }
            relations.partition(
                partition.leader,
                partition.replicas.iter(),
                partition.isr.iter(),
            );
        }
        relations.put(&mut self.counts);
        Ok(())
    }

    pub(super) fn partition(&mut self, topic: &str, seen: Seen, whole: &mut Whole) {
        self.replicated += usize::from(seen.is_replica);
        let expected = match seen.is_replica {
            true => whole.take(topic, seen.index, seen.replicas, seen.in_sync),
            false => Expected {
                replicas: seen.replicas,
                is_new: false,
            },
        };
        // A broker that is down is not being added: a controller of KRaft gives it replicas of new topics.
        let expected_replicas = match expected.is_new {
            true => (expected.replicas + seen.down).min(seen.replicas),
            false => expected.replicas,
        };
        let short = seen.in_sync < expected_replicas;
        let live_leader = seen.leader.filter(|leader| self.is_live(*leader));
        if let Some(leader) = live_leader.filter(|leader| *leader != self.id && seen.is_replica) {
            *self.followed_by_leader.entry(leader).or_default() += 1;
        }
        // Without a leader the ISR is usually empty. No live broker is in it, because that one would lead.
        if seen.is_replica && !expected.is_new && !seen.is_in_sync {
            self.counts.not_in_isr += 1;
            // At most one entry for each broker that the response lists.
            if let Some(leader) = live_leader {
                *self.not_in_isr_by_leader.entry(leader).or_default() += 1;
            }
        }
        let listed = match seen.leader {
            None if seen.is_hidden => false,
            None => {
                self.counts.offline += 1;
                // One broker lists those that nobody leads.
                self.live.first() == Some(&self.id)
            }
            Some(leader) if leader == self.id => {
                self.counts.leader += 1;
                self.counts.under_replicated += u64::from(short);
                let alone = short && seen.in_sync == 1 && seen.is_in_sync;
                self.counts.isr_leader_alone += u64::from(alone);
                short
            }
            Some(_) => false,
        };
        if !listed {
            return;
        }
        if self.under_replicated.len() == UNDER_REPLICATED_LISTED {
            self.counts.under_replicated_left_out += 1;
            return;
        }
        self.under_replicated.push(PartitionState {
            topic: topic.to_owned(),
            partition: seen.index,
            leader: seen.leader,
            // An id has four bytes, and a message at most 2 GiB.
            replicas: u32::try_from(expected_replicas).unwrap_or(u32::MAX),
            isr: u32::try_from(seen.in_sync).unwrap_or(u32::MAX),
        });
    }

    pub(super) fn counts(
        self,
        source: ClusterSource,
        own_silence: Option<String>,
    ) -> ClusterCounts {
        ClusterCounts {
            source,
            own_silence,
            not_in_isr_by_leader: Arc::new(self.not_in_isr_by_leader),
            followed_by_leader: Arc::new(self.followed_by_leader),
            under_replicated_partitions: self.under_replicated.into(),
            ..self.counts
        }
    }
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
