//! Partitions as `kafka-topics --describe` of 0.8 to 4.x prints them.

use std::sync::LazyLock;

use super::Pattern;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Partition<'a> {
    pub topic: &'a str,
    pub partition: u32,
    /// None where the partition is offline.
    pub leader: Option<i32>,
    /// For [`ids`].
    pub replicas: &'a str,
    /// For [`ids`]; may be empty.
    pub isr: &'a str,
    /// For [`ids`]: replicas of which no data is lost though they left the ISR (`Elr:`), else those that left it last
    /// (`LastKnownElr:`).
    pub eligible: &'a str,
    /// For [`ids`]: replicas that are offline, as Confluent prints them.
    pub offline: &'a str,
}

/// The partitions in a text. Other lines are skipped.
pub fn partitions(text: &str) -> impl Iterator<Item = Partition<'_>> {
    text.lines().filter_map(partition)
}

/// The ids in `217,218,219`; what is not a number is skipped.
pub fn ids(list: &str) -> impl Iterator<Item = i32> {
    list.split(',').filter_map(|id| id.trim().parse().ok())
}

/// A value may be empty, and tabs became blanks in what was copied from a terminal.
static PARTITION: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"Topic: \s+ (?<topic>\S+) \s .*? Partition: \s+ (?<partition>\d+)
          \s+ Leader: (?: \s+ (?<leader>[^\s:]+) )? \s+ Replicas: \s+ (?<replicas>\S+)
          \s+ Isr: (?: \s+ (?<isr>[\d,]+) )?",
    )
});

fn partition(line: &str) -> Option<Partition<'_>> {
    let [topic, partition, leader, replicas, isr] = PARTITION.groups(line)?;
    Some(Partition {
        topic,
        partition: partition.parse().ok()?,
        leader: leader.parse().ok().filter(|id| *id >= 0),
        replicas,
        isr,
        eligible: match list_after(line, [" Elr:", "\tElr:"]) {
            "" => list_after(line, [" LastKnownElr:", "\tLastKnownElr:"]),
            eligible => eligible,
        },
        offline: list_after(line, [" Offline:", "\tOffline:"]),
    })
}

/// The list of ids after one of two keys; empty where there is none.
fn list_after<'a>(line: &'a str, keys: [&str; 2]) -> &'a str {
    let rest = keys.iter().find_map(|key| Some(line.split_once(key)?.1));
    let word = rest.and_then(|rest| rest.split_ascii_whitespace().next());
    let is_list = |word: &&str| {
        word.bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b',')
    };
    word.filter(is_list).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Compared with the lab's own reader, on the output of the real kafka-topics.
    #[test]
    fn the_lab_reads_the_same() {
        let files = [
            include_str!("../../../tests/fixtures/kafka/0.10.1.0-one-stopped.describe.txt"),
            include_str!("../../../tests/fixtures/kafka/4.3.0-one-stopped.describe.txt"),
        ];
        for text in files {
            let expected = lab::cli_tools::described_partitions(text);
            assert!(expected.iter().any(|row| row.leader.is_none()) || expected.len() > 50);
            assert_eq!(expected.len(), partitions(text).count());
            for (row, own) in std::iter::zip(expected, partitions(text)) {
                assert_eq!(
                    (row.topic.as_str(), row.partition, row.leader),
                    (own.topic, own.partition as i32, own.leader)
                );
                assert_eq!(
                    (row.replicas, row.isr),
                    (ids(own.replicas).collect(), ids(own.isr).collect())
                );
            }
        }
        // Blanks for tabs, as a terminal shows them, and an empty ISR.
        let copied = "        Topic: t       Partition: 0    Leader: none     Replicas: 218,217   Isr:    Elr: 2";
        let none = Partition {
            topic: "t",
            partition: 0,
            leader: None,
            replicas: "218,217",
            isr: "",
            eligible: "2",
            offline: "",
        };
        assert_eq!(partition(copied), Some(none));
        let lists = |line| partition(line).map(|row| (row.isr, row.eligible, row.offline));
        assert_eq!(
            lists(
                "\tTopic: t\tPartition: 0\tLeader: none\tReplicas: 1,2\tIsr: \tElr: \tLastKnownElr: 2"
            ),
            Some(("", "2", ""))
        );
        assert_eq!(
            lists(
                "\tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 1,2,3\tIsr: 1\tOffline: 2,3\tLiveObservers: "
            ),
            Some(("1", "", "2,3"))
        );
        assert_eq!(
            lists("Topic: t Partition: 0 Leader: 1 Replicas: 1,2 Isr: 1,2 Offline: "),
            Some(("1,2", "", ""))
        );
    }
}
