//! The consumer groups that a broker coordinates.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::named::named;
use super::text::{cut, first_of};
use super::{Moment, visible};

/// Names of groups that are kept, for the case that their coordinator falls silent.
pub const GROUPS_NAMED: usize = 64;

/// Lags of a broker that a recording has.
pub(super) const LAGS_RECORDED: usize = 32;

named! {
    /// The state of a group, in Kafka's words.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum GroupState {
        /// Its members share the partitions.
        Stable = "stable",
        /// Of the protocol before KIP-848: members join.
        PreparingRebalance = "preparing_rebalance",
        /// Likewise: the members wait for what its leader assigns.
        CompletingRebalance = "completing_rebalance",
        /// Of KIP-848: the coordinator computes the assignment.
        Assigning = "assigning",
        /// Likewise: members give up and take over partitions.
        Reconciling = "reconciling",
        /// It has offsets and no members.
        Empty = "empty",
        /// It is being removed.
        Dead = "dead",
        /// The broker did not say it, or in a word that is not known here.
        Unknown = "unknown",
    }
}

impl GroupState {
    /// Whether no member gets records in it. Under KIP-848 members go on while the group reconciles.
    pub fn stops_members(self) -> bool {
        matches!(
            self,
            GroupState::PreparingRebalance | GroupState::CompletingRebalance
        )
    }

    /// From the word in a response, as `PreparingRebalance`.
    pub fn of_kafka(word: &str) -> GroupState {
        // Its name before 1.1.
        if word == "AwaitingSync" {
            return GroupState::CompletingRebalance;
        }
        let same = |state: &GroupState| {
            let name = state.name().chars().filter(|c| *c != '_');
            name.eq(word.chars().map(|c| c.to_ascii_lowercase()))
        };
        GroupState::ALL
            .into_iter()
            .find(same)
            .unwrap_or(GroupState::Unknown)
    }
}

/// What a broker says of the groups that it coordinates; other brokers coordinate the rest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupsReport {
    /// The first of their names; while the broker is silent, those of its last answer.
    pub names: Arc<[Arc<str>]>,
    pub total: u64,
    /// Why the broker has not been asked, or has not answered, since. Nothing below is known then.
    pub silence: Option<Arc<str>>,
    pub states: BTreeMap<GroupState, u64>,
    /// The first of the groups whose members wait for each other.
    #[serde(default, skip_serializing_if = "<[Rebalance]>::is_empty")]
    pub rebalances: Arc<[Rebalance]>,
    /// By group and topic.
    pub lags: Arc<[GroupLag]>,
    /// How many more there are, with groups whose offsets were not asked for because there are too many.
    pub lags_left_out: u64,
    /// How many groups and topics have a lag that could not be read.
    pub unknown_lags: u64,
    /// Why, of the first of them.
    pub why_unknown: Option<Arc<str>>,
}

impl GroupsReport {
    /// The same groups, of a broker that does not answer.
    pub fn silent(&self, why: impl Into<Arc<str>>) -> GroupsReport {
        GroupsReport {
            names: Arc::clone(&self.names),
            total: self.total,
            silence: Some(why.into()),
            ..GroupsReport::default()
        }
    }

    /// The same with at most so many lags, of which the others are counted.
    pub(super) fn with_largest_lags(&self, most: usize) -> GroupsReport {
        let mut lags: Vec<&GroupLag> = self.lags.iter().collect();
        lags.sort_by_key(|lag| std::cmp::Reverse(lag.records));
        lags.truncate(most);
        lags.sort_by_key(|lag| (&lag.group, &lag.topic));
        let left_out = self.lags.len() - lags.len();
        GroupsReport {
            lags: lags.into_iter().cloned().collect(),
            lags_left_out: self.lags_left_out.saturating_add(left_out as u64),
            ..self.clone()
        }
    }

    /// Some names, and how many more there are; None without any.
    pub fn named(&self) -> Option<String> {
        let all = usize::try_from(self.total).unwrap_or(usize::MAX);
        // A name may be as long as the broker likes.
        let names = self
            .names
            .iter()
            .map(|name| cut(visible(name).into_owned(), 64));
        (all > 0).then(|| first_of(names, all))
    }
}

/// A rebalance of a group, in which its members get no records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebalance {
    pub group: Arc<str>,
    pub state: GroupState,
    /// Since every answer has found it in a rebalance.
    pub since: Moment,
    /// How many answers those are.
    #[serde(default)]
    pub answers: u32,
}

/// How many records of a topic a group has not committed yet, in all partitions for which it has committed an offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupLag {
    pub group: Arc<str>,
    pub topic: Arc<str>,
    pub records: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;
    use crate::model::{BrokerSnapshot, Moment, Reading};

    /// The words of `ConsumerGroupState` and `GroupState` in Kafka's source.
    #[test]
    fn states_have_kafkas_words() {
        for (word, state) in [
            ("Stable", GroupState::Stable),
            ("PreparingRebalance", GroupState::PreparingRebalance),
            ("CompletingRebalance", GroupState::CompletingRebalance),
            ("AwaitingSync", GroupState::CompletingRebalance),
            ("Assigning", GroupState::Assigning),
            ("Reconciling", GroupState::Reconciling),
            ("Empty", GroupState::Empty),
            ("Dead", GroupState::Dead),
            ("NotReady", GroupState::Unknown),
            ("", GroupState::Unknown),
        ] {
            assert_eq!(GroupState::of_kafka(word), state, "{word}");
        }
    }

    #[test]
    fn a_recording_has_the_largest_lags_and_the_number_of_the_others() {
        let lag = |n: u64| GroupLag {
            group: format!("g{n:03}").into(),
            topic: "t".into(),
            records: n,
        };
        let mut broker = BrokerSnapshot {
            groups: Reading::Known {
                value: GroupsReport {
                    lags: (0..1000).map(lag).collect(),
                    lags_left_out: 5,
                    ..GroupsReport::default()
                },
                at: Moment(1),
                valid_for: Duration::from_secs(90),
            },
            ..BrokerSnapshot::default()
        };
        let recorded = |broker: &BrokerSnapshot| -> BrokerSnapshot {
            serde_json::from_str(&serde_json::to_string(broker).unwrap()).unwrap()
        };
        broker = recorded(&broker);
        let (report, _) = broker.groups.last().unwrap();
        let expected: Vec<GroupLag> = (968..1000).map(lag).collect();
        assert_eq!((&*report.lags, report.lags_left_out), (&*expected, 973));
        // What fits is as it was.
        assert_eq!(recorded(&broker), broker);
    }

    #[test]
    fn a_silent_broker_keeps_the_names_alone() {
        let report = GroupsReport {
            names: ["a", "b"].into_iter().map(Arc::from).collect(),
            total: 3,
            states: [(GroupState::Stable, 3)].into(),
            lags: [GroupLag {
                group: "a".into(),
                topic: "t".into(),
                records: 0,
            }]
            .into(),
            ..GroupsReport::default()
        };
        let silent = report.silent("it hangs");
        assert_eq!(silent.named().as_deref(), Some("a, b and 1 more"));
        assert_eq!(silent.silence.as_deref(), Some("it hangs"));
        assert!(silent.states.is_empty() && silent.lags.is_empty());
        assert_eq!(GroupsReport::default().named(), None);
    }
}
