//! What a broker lists and describes: the groups of consumers among all others, and what their members have. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::kafka::wire::WireError;
use crate::kafka::wire::groups::{self, Described, Listed, TopicPartition};
use crate::model::{GROUPS_NAMED, GroupState, Moment, Rebalance};

/// Groups of one broker that are distinguished; the rest is only counted.
pub(super) const MOST_GROUPS: usize = 10_000;
/// A longer name of a group is only counted. Kafka knows no bound.
const MOST_NAME_BYTES: usize = 255;
/// Groups in one answer, of which some tens are asked for.
const MOST_DESCRIBED: usize = 1000;

/// The groups of consumers in one answer, by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// None where the version does not say the state.
    pub groups: BTreeMap<Arc<str>, Option<GroupState>>,
    pub left_out: u64,
}

impl Listing {
    /// Returns Kafka's error code as well.
    pub(super) fn read(body: &[u8], version: i16) -> Result<(i16, Listing), WireError> {
        let mut listing = Listing::default();
        let error = groups::list_groups(body, version, |listed| listing.add(listed))?;
        Ok((error, listing))
    }

    /// How many groups are in each state: those that are only counted as well.
    pub(super) fn states(&self) -> BTreeMap<GroupState, u64> {
        let mut states = BTreeMap::new();
        if !self.groups.is_empty() {
            states.extend(GroupState::ALL.map(|state| (state, 0)));
        }
        for state in self.groups.values() {
            let state = state.unwrap_or(GroupState::Unknown);
            *states.entry(state).or_default() += 1;
        }
        if self.left_out > 0 {
            *states.entry(GroupState::Unknown).or_default() += self.left_out;
        }
        states
    }

    /// The first groups that are in a rebalance `now`, and since when they were in every answer up to the one `before`.
    pub(super) fn rebalances(&self, before: &[Rebalance], now: Moment) -> Arc<[Rebalance]> {
        let rebalance = |(group, state): (&Arc<str>, &Option<GroupState>)| {
            let state = state.filter(|state| state.stops_members())?;
            let already = before.iter().find(|one| one.group == *group);
            Some(Rebalance {
                group: Arc::clone(group),
                state,
                since: already.map_or(now, |one| one.since),
                answers: already.map_or(1, |one| one.answers.saturating_add(1)),
            })
        };
        let all = self.groups.iter().filter_map(rebalance);
        all.take(GROUPS_NAMED).collect()
    }

    fn add(&mut self, listed: Listed<'_>) {
        // One without members that has only committed offsets has no protocol. Others are those of Connect and the like.
        if !matches!(listed.protocol, "consumer" | "") {
            return;
        }
        if self.groups.len() == MOST_GROUPS || listed.group.len() > MOST_NAME_BYTES {
            self.left_out += 1;
            return;
        }
        let state = listed.state.map(GroupState::of_kafka);
        self.groups.insert(listed.group.into(), state);
    }
}

/// A group by DescribeGroups.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Detail {
    pub group: Arc<str>,
    /// Kafka's error code.
    pub error: i16,
    pub state: GroupState,
    /// Sorted; None if some of it could not be read.
    pub assigned: Option<Vec<TopicPartition>>,
}

impl Detail {
    /// Keeps no more than `room` partitions that members have.
    pub(super) fn read(body: &[u8], room: usize) -> Result<Vec<Detail>, WireError> {
        let mut details: Vec<Detail> = Vec::new();
        let (mut assigned_in_all, mut is_full) = (0, false);
        groups::describe_groups(body, |described| match described {
            _ if is_full => {}
            Described::Group { .. } if details.len() == MOST_DESCRIBED => is_full = true,
            Described::Group {
                error,
                group,
                state,
            } => details.push(Detail {
                group: group.into(),
                error,
                state: GroupState::of_kafka(state),
                assigned: Some(Vec::new()),
            }),
            Described::Assigned { topic, partition } => {
                let Some(detail) = details.last_mut() else {
                    return;
                };
                assigned_in_all += 1;
                if assigned_in_all > room {
                    detail.assigned = None;
                } else if let Some(assigned) = &mut detail.assigned {
                    let before = assigned.last().filter(|(before, _)| **before == *topic);
                    let topic = before.map_or_else(|| topic.into(), |(same, _)| Arc::clone(same));
                    assigned.push((topic, partition));
                }
            }
            Described::Unreadable => {
                if let Some(detail) = details.last_mut() {
                    detail.assigned = None;
                }
            }
        })?;
        for assigned in details.iter_mut().filter_map(|one| one.assigned.as_mut()) {
            assigned.sort();
            assigned.dedup();
        }
        Ok(details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(states: &[(&str, GroupState)]) -> Listing {
        let groups = states.iter();
        Listing {
            groups: groups
                .map(|(name, state)| ((*name).into(), Some(*state)))
                .collect(),
            left_out: 0,
        }
    }

    #[test]
    fn a_rebalance_lasts_from_the_first_of_the_answers_that_all_have_it() {
        use GroupState::{CompletingRebalance, PreparingRebalance, Reconciling, Stable};
        let of = |group: &str, state, since, answers| Rebalance {
            group: group.into(),
            state,
            since: Moment(since),
            answers,
        };
        let first = listing(&[("a", PreparingRebalance), ("b", Stable), ("c", Reconciling)]);
        let first = first.rebalances(&[], Moment(30));
        assert_eq!(*first, [of("a", PreparingRebalance, 30, 1)]);
        let second = listing(&[("a", CompletingRebalance), ("b", PreparingRebalance)]);
        let second = second.rebalances(&first, Moment(60));
        assert_eq!(
            *second,
            [
                of("a", CompletingRebalance, 30, 2),
                of("b", PreparingRebalance, 60, 1)
            ]
        );
        let third = listing(&[("a", Stable), ("b", PreparingRebalance)]);
        let third = third.rebalances(&second, Moment(90));
        assert_eq!(*third, [of("b", PreparingRebalance, 60, 2)]);
    }
}
