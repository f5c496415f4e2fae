//! Lag from committed offsets and end offsets. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::kafka::wire::groups::{self as kafka, TopicPartition};
use crate::model::GroupLag;

/// Series of one broker.
pub(super) const MOST_LAGS: usize = 1000;
/// Committed offsets that are held at a time.
pub(super) const MOST_COMMITS: usize = 50_000;

/// Why the lag of a group in a topic is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    GroupAcl,
    TopicAcl,
    /// Another broker leads a partition, and this one has no replica of it, or one that is behind.
    Elsewhere,
    /// Before 0.10.2 a broker says only what members of a group have committed.
    NoMembers,
    /// The answer about the group or its partitions is longer than is read.
    TooLong,
    /// There was no time to ask for an end, or the answer did not have it.
    Unsaid,
    /// Another error of Kafka.
    Kafka(i16),
}

impl Why {
    pub(super) fn of_error(code: i16) -> Why {
        match code {
            kafka::GROUP_AUTHORIZATION => Why::GroupAcl,
            kafka::TOPIC_AUTHORIZATION => Why::TopicAcl,
            kafka::NOT_LEADER | kafka::UNKNOWN_TOPIC_OR_PARTITION => Why::Elsewhere,
            code => Why::Kafka(code),
        }
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Why::GroupAcl => f.write_str("the ACLs allow no Describe on the group"),
            Why::TopicAcl => f.write_str("the ACLs allow no Describe on the topic"),
            Why::Elsewhere => f.write_str("another broker leads, and no replica here is in sync"),
            Why::NoMembers => f.write_str("before 0.10.2, offsets without a member are unknown"),
            Why::TooLong => f.write_str("the broker's answer is longer than is read"),
            Why::Unsaid => f.write_str("the broker did not say an end within the time of a round"),
            Why::Kafka(code) => write!(f, "the broker answered with Kafka's error {code}"),
        }
    }
}

/// The offset that a group has committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Commit {
    pub group: Arc<str>,
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: Result<i64, Why>,
}

/// The offset after the last record of each partition.
pub(super) type Ends = BTreeMap<TopicPartition, Result<i64, Why>>;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lags {
    /// The first of them, by group and topic.
    pub known: Vec<GroupLag>,
    pub left_out: u64,
    pub unknown: u64,
    pub why: Option<Why>,
}

impl Lags {
    pub(super) fn add_unknown(&mut self, why: Why) {
        self.unknown += 1;
        self.why.get_or_insert(why);
    }

    /// Adds up each group's lag in each topic. One unknown part makes the sum unknown.
    pub(super) fn add(&mut self, mut commits: Vec<Commit>, ends: &Ends) {
        commits.sort();
        // A broker that names a partition twice must not count twice.
        commits.dedup_by(|one, other| key(one) == key(other) && one.partition == other.partition);
        for of_topic in commits.chunk_by(|one, other| key(one) == key(other)) {
            let add = |sum: u64, one| Ok(sum.saturating_add(lag(one, ends)?));
            let sum: Result<u64, Why> = of_topic.iter().try_fold(0, add);
            let Some(first) = of_topic.first() else {
                continue;
            };
            match sum {
                Err(why) => self.add_unknown(why),
                Ok(_) if self.known.len() == MOST_LAGS => self.left_out += 1,
                Ok(records) => self.known.push(GroupLag {
                    group: Arc::clone(&first.group),
                    topic: Arc::clone(&first.topic),
                    records,
                }),
            }
        }
    }
}

fn key(commit: &Commit) -> (&str, &str) {
    (&commit.group, &commit.topic)
}

fn lag(commit: &Commit, ends: &Ends) -> Result<u64, Why> {
    let partition = (Arc::clone(&commit.topic), commit.partition);
    let end = ends.get(&partition).copied().unwrap_or(Err(Why::Unsaid))?;
    // Records that were committed and read since the end was asked for.
    Ok(u64::try_from(end.saturating_sub(commit.offset?)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(group: &str, topic: &str, partition: i32, offset: Result<i64, Why>) -> Commit {
        Commit {
            group: group.into(),
            topic: topic.into(),
            partition,
            offset,
        }
    }

    fn ends(of: &[(&str, i32, Result<i64, Why>)]) -> Ends {
        let end = |(topic, partition, end): &(&str, i32, _)| (((*topic).into(), *partition), *end);
        of.iter().map(end).collect()
    }

    fn known(lags: &Lags) -> Vec<String> {
        let one = |lag: &GroupLag| format!("{} {} {}", lag.group, lag.topic, lag.records);
        lags.known.iter().map(one).collect()
    }

    #[test]
    fn lags_are_added_up_by_topic_and_one_unknown_part_makes_them_unknown() {
        let ends = ends(&[
            ("orders", 0, Ok(100)),
            ("orders", 1, Ok(50)),
            ("bills", 0, Ok(7)),
            ("bills", 1, Err(Why::Elsewhere)),
            ("secret", 0, Err(Why::TopicAcl)),
        ]);
        let commits = vec![
            commit("b", "orders", 1, Ok(50)),
            commit("a", "orders", 0, Ok(90)),
            commit("a", "orders", 1, Ok(45)),
            // Twice, as only a hostile broker says it.
            commit("a", "orders", 1, Ok(45)),
            // Read and committed after the end was asked for.
            commit("c", "bills", 0, Ok(9)),
            commit("a", "bills", 0, Ok(1)),
            commit("a", "bills", 1, Ok(1)),
            commit("a", "secret", 0, Ok(1)),
            commit("a", "gone", 0, Ok(1)),
            commit("d", "orders", 0, Err(Why::Kafka(42))),
        ];
        let mut lags = Lags::default();
        lags.add(commits, &ends);
        assert_eq!(known(&lags), ["a orders 15", "b orders 0", "c bills 0"]);
        assert_eq!((lags.left_out, lags.unknown), (0, 4));
        assert_eq!(lags.why, Some(Why::Elsewhere));
    }

    #[test]
    fn series_are_bounded_and_the_rest_is_counted() {
        let topic: Arc<str> = "orders".into();
        let ends: Ends = [((Arc::clone(&topic), 0), Ok(5))].into();
        let group = |n: usize| commit(&format!("group-{n:04}"), &topic, 0, Ok(1));
        let mut lags = Lags::default();
        lags.add((0..1200).map(group).collect(), &ends);
        assert_eq!((lags.known.len(), lags.left_out), (1000, 200));
        assert_eq!(&*lags.known[999].group, "group-0999");
    }

    #[test]
    fn no_offset_overflows() {
        let ends = ends(&[0, 1, 2].map(|index| ("t", index, Ok(i64::MAX))));
        let commits = vec![
            commit("g", "t", 0, Ok(i64::MIN)),
            commit("g", "t", 1, Ok(0)),
            commit("g", "t", 2, Ok(0)),
        ];
        let mut lags = Lags::default();
        lags.add(commits, &ends);
        assert_eq!(known(&lags), [format!("g t {}", u64::MAX)]);
    }
}
