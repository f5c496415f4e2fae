//! Who is to blame for replicas that ISRs lack: a follower that several leaders lack, or a leader that lacks followers which
//! others have. Pure.

use std::collections::BTreeMap;

use crate::model::{ABSENT_LISTED, ClusterCounts, Elsewhere, LostFollower};

/// What the replicas of live leaders come to for one broker.
#[derive(Debug)]
pub(in crate::collect) struct Relations<'a> {
    id: i32,
    /// Sorted.
    live: &'a [i32],
    /// Of each live broker, in the same order.
    brokers: Vec<Relation>,
    /// Those that [`Relations::partition`] has taken in.
    partitions: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Relation {
    /// Of the partitions that it leads, those that lack this broker, and all live replicas that they lack.
    lacks_own: u64,
    lacks: u64,
    /// The partitions led by this broker that lack it.
    lost: u64,
    /// Whether partitions of other leaders have it in the ISR, or lack it.
    in_sync_elsewhere: bool,
    behind_elsewhere: bool,
    /// The newest partition that has it in the ISR, from 1.
    in_isr_of: usize,
}

impl<'a> Relations<'a> {
    pub(in crate::collect) fn new(id: i32, live: &'a [i32]) -> Relations<'a> {
        Relations {
            id,
            live,
            brokers: vec![Relation::default(); live.len()],
            partitions: 0,
        }
    }

    /// Takes in a partition whose replicas are all expected in the ISR. The time grows with the length of the lists, not with
    /// their product, because an answer may have millions of ids for one partition.
    pub(in crate::collect) fn partition(
        &mut self,
        leader: i32,
        replicas: impl Iterator<Item = i32>,
        isr: impl Iterator<Item = i32>,
    ) {
        self.partitions += 1;
        for id in isr {
            if let Some(broker) = self.at(id).and_then(|at| self.brokers.get_mut(at)) {
                broker.in_isr_of = self.partitions;
            }
        }
        for id in replicas {
            if let Some(broker) = self.at(id).and_then(|at| self.brokers.get(at)) {
                let in_sync = broker.in_isr_of == self.partitions;
                self.add(leader, id, in_sync);
            }
        }
    }

    fn at(&self, id: i32) -> Option<usize> {
        self.live.binary_search(&id).ok()
    }

    /// Takes in a replica that is expected in the ISR. Those that are not live are missed by everybody.
    pub(in crate::collect) fn add(&mut self, leader: i32, replica: i32, in_sync: bool) {
        let (Some(leads), Some(follows)) = (self.at(leader), self.at(replica)) else {
            return;
        };
        if leads == follows {
            return;
        }
        if !in_sync && let Some(leader) = self.brokers.get_mut(leads) {
            leader.lacks += 1;
            leader.lacks_own += u64::from(replica == self.id);
        }
        if let Some(follower) = self.brokers.get_mut(follows) {
            let elsewhere = leader != self.id;
            follower.lost += u64::from(!elsewhere && !in_sync);
            follower.in_sync_elsewhere |= elsewhere && in_sync;
            follower.behind_elsewhere |= elsewhere && !in_sync;
        }
    }

    pub(in crate::collect) fn put(self, counts: &mut ClusterCounts) {
        let all = || std::iter::zip(self.live.iter().copied(), &self.brokers);
        let alone = all().filter(|(_, of)| of.lacks_own > 0 && of.lacks == of.lacks_own);
        let alone = alone.map(|(leader, of)| (leader, of.lacks_own));
        counts.behind_alone = alone.take(ABSENT_LISTED).collect();
        let lost = all().filter(|(_, of)| of.lost > 0).map(|(follower, of)| {
            let elsewhere = match (of.behind_elsewhere, of.in_sync_elsewhere) {
                (true, _) => Elsewhere::Behind,
                (false, true) => Elsewhere::InSync,
                (false, false) => Elsewhere::Unknown,
            };
            let partitions = of.lost;
            let lost = LostFollower {
                partitions,
                elsewhere,
            };
            (follower, lost)
        });
        counts.lost_followers = lost.take(ABSENT_LISTED).collect::<BTreeMap<_, _>>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leader, replicas, ISR.
    type Partition<'a> = (i32, &'a [i32], &'a [i32]);
    /// Follower, partitions, elsewhere.
    type Lost = (i32, u64, Elsewhere);

    /// As broker 3 sees them; brokers 1 to 4 are live.
    fn seen_by_3(partitions: &[Partition<'_>]) -> ClusterCounts {
        let mut relations = Relations::new(3, &[1, 2, 3, 4]);
        for (leader, replicas, isr) in partitions {
            relations.partition(*leader, replicas.iter().copied(), isr.iter().copied());
        }
        let mut counts = ClusterCounts::default();
        relations.put(&mut counts);
        counts
    }

    #[test]
    fn a_follower_is_behind_alone_where_the_leader_has_all_others() {
        let dead_fetcher = seen_by_3(&[
            (1, &[1, 2, 3], &[1, 2]),
            (1, &[1, 3], &[1]),
            (2, &[2, 3, 1], &[2, 1]),
            // Broker 9 is down.
            (4, &[4, 3, 9], &[4]),
        ]);
        let expected = BTreeMap::from([(1, 2), (2, 1), (4, 1)]);
        assert_eq!(dead_fetcher.behind_alone, expected);
        // Leader 1 lacks all its followers, leader 2 none.
        let slow_leader = seen_by_3(&[
            (1, &[1, 2, 3], &[1]),
            (2, &[2, 3, 1], &[2, 3, 1]),
            (3, &[3, 1], &[3, 1]),
        ]);
        assert_eq!(slow_leader.behind_alone, BTreeMap::new());
    }

    #[test]
    fn a_leader_knows_whether_its_lost_followers_are_in_sync_elsewhere() {
        let lost = |partitions: &[Partition<'_>]| -> Vec<Lost> {
            let lost = seen_by_3(partitions).lost_followers;
            let lost = lost.into_iter();
            lost.map(|(id, of)| (id, of.partitions, of.elsewhere))
                .collect()
        };
        let table: [(&[Partition<'_>], &[Lost]); 4] = [
            (
                &[
                    (3, &[3, 1, 2], &[3]),
                    (3, &[3, 1], &[3]),
                    (1, &[1, 2], &[1, 2]),
                    (2, &[2, 1], &[2, 1]),
                ],
                &[(1, 2, Elsewhere::InSync), (2, 1, Elsewhere::InSync)],
            ),
            // It is behind everywhere.
            (
                &[(3, &[3, 1, 2], &[3, 2]), (2, &[2, 1], &[2])],
                &[(1, 1, Elsewhere::Behind)],
            ),
            // It follows nobody else.
            (&[(3, &[3, 1, 2], &[3, 2])], &[(1, 1, Elsewhere::Unknown)]),
            // It is down.
            (&[(3, &[3, 9], &[3])], &[]),
        ];
        for (partitions, expected) in table {
            assert_eq!(lost(partitions), expected, "{partitions:?}");
        }
    }
}
