//! The consumer groups that a broker coordinates.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::named::named;
use super::text::{cut, first_of};
use super::visible;

/// Names of groups that are kept, for the case that their coordinator falls silent.
pub const GROUPS_NAMED: usize = 64;

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

/// How many records of a topic a group has not committed yet, in all partitions for which it has committed an offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupLag {
    pub group: Arc<str>,
    pub topic: Arc<str>,
    pub records: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

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
