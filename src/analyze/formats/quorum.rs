//! The metadata quorum as `kafka-metadata-quorum describe --status` and `--replication` print it.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use super::Pattern;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Quorum {
    /// None: not printed. Negative: there is none.
    pub leader: Option<i32>,
    pub voters: BTreeSet<i32>,
    pub observers: BTreeSet<i32>,
    /// Records that the slowest voter lacks.
    pub max_lag: Option<u64>,
    pub replicas: Vec<Replica>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Replica {
    pub id: i32,
    /// Records that it lacks.
    pub lag: u64,
    /// How long before the newest time in the table, or before now where the tool prints that, it had everything.
    pub caught_up_ms_ago: Option<u64>,
    pub is_leader: bool,
}

/// Rows of one text that are kept.
const MOST: usize = 10_000;

static STATUS: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"^ \s* (?<key> LeaderId | MaxFollowerLag | CurrentVoters | CurrentObservers ) : \s* (?<value> .*? ) \s* $",
    )
});

/// Lists are `[1,2]`, from 3.9 on `[{"id": 1, "directoryId": "...", "endpoints": [...]}]`.
static ID: LazyLock<Pattern> = LazyLock::new(|| Pattern::new(r#""id" \s* : \s* (?<id>\d+)"#));

/// None where the text has neither form.
pub fn read(text: &str) -> Option<Quorum> {
    let mut found = Quorum::default();
    let mut columns: Option<Columns> = None;
    // With the time that is printed, or how long ago that is.
    let mut rows: Vec<(Replica, Option<Time>)> = Vec::new();
    for line in text.lines() {
        if let Some([key, value]) = STATUS.groups(line) {
            match key {
                "LeaderId" => found.leader = value.parse().ok(),
                "MaxFollowerLag" => found.max_lag = value.parse().ok(),
                "CurrentVoters" => found.voters = ids(value),
                _ => found.observers = ids(value),
            }
        } else if line.contains("NodeId") && line.contains("LogEndOffset") {
            columns = Columns::of(line);
            // The times of an earlier table are old beside those of the last one.
            rows.clear();
            found.voters.clear();
            found.observers.clear();
        } else if let Some(row) = columns.as_ref().and_then(|columns| columns.row(line))
            && rows.len() < MOST
        {
            let (role, replica, time) = row;
            if role == "Observer" {
                found.observers.insert(replica.id);
            } else {
                found.voters.insert(replica.id);
            }
            if replica.is_leader {
                found.leader = Some(replica.id);
            }
            rows.push((replica, time));
        }
    }
    let at = |(_, time): &(Replica, Option<Time>)| match time {
        Some(Time::At(time)) => Some(*time),
        _ => None,
    };
    let newest = rows.iter().filter_map(at).max();
    let replicas = rows.into_iter().map(|(replica, time)| Replica {
        caught_up_ms_ago: match time {
            Some(Time::At(time)) => newest.map(|newest| newest - time),
            Some(Time::Ago(ago)) => Some(ago),
            None => None,
        },
        ..replica
    });
    found.replicas = replicas.collect();
    (found != Quorum::default()).then_some(found)
}

enum Time {
    /// Milliseconds since 1970.
    At(u64),
    Ago(u64),
}

/// The places of the columns that are used.
struct Columns {
    id: usize,
    lag: usize,
}

impl Columns {
    fn of(header: &str) -> Option<Columns> {
        let place = |name| {
            header
                .split_ascii_whitespace()
                .position(|word| word == name)
        };
        Some(Columns {
            id: place("NodeId")?,
            lag: place("Lag")?,
        })
    }

    /// The role, the replica without its time, and when it had everything.
    fn row<'a>(&self, line: &'a str) -> Option<(&'a str, Replica, Option<Time>)> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let role = *words.last()?;
        if !matches!(role, "Leader" | "Follower" | "Observer" | "Voter") {
            return None;
        }
        let replica = Replica {
            id: words.get(self.id)?.parse().ok()?,
            lag: words.get(self.lag)?.parse().ok()?,
            caught_up_ms_ago: None,
            is_leader: role == "Leader",
        };
        // The times are `1700000000000` or, with --human-readable, `5 ms ago`; -1 is unknown. The last one counts.
        let times = words.get(self.lag + 1..)?;
        let last = times.iter().rev().find_map(|word| word.parse::<i64>().ok());
        let last = last.and_then(|time| u64::try_from(time).ok());
        let time = last.map(match times.contains(&"ago") {
            true => Time::Ago,
            false => Time::At,
        });
        Some((role, replica, time))
    }
}

fn ids(value: &str) -> BTreeSet<i32> {
    if value.contains('{') {
        return ID
            .all_groups(value)
            .filter_map(|[id]| id.parse().ok())
            .take(MOST)
            .collect();
    }
    let list = value.trim_matches(['[', ']']).split(',');
    list.filter_map(|id| id.trim().parse().ok())
        .take(MOST)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// As 3.3 and 3.9 print it.
    #[test]
    fn the_status() {
        let text = "ClusterId:              fMCL8kv1SWm87L_Md-I2hg\n\
                    LeaderId:               3002\n\
                    LeaderEpoch:            2\n\
                    HighWatermark:          10\n\
                    MaxFollowerLag:         7\n\
                    MaxFollowerLagTimeMs:   -1\n\
                    CurrentVoters:          [3000,3001,3002]\n\
                    CurrentObservers:       [0,1,2]\n";
        let expected = Quorum {
            leader: Some(3002),
            voters: BTreeSet::from([3000, 3001, 3002]),
            observers: BTreeSet::from([0, 1, 2]),
            max_lag: Some(7),
            replicas: Vec::new(),
        };
        assert_eq!(read(text), Some(expected));
        let newer = "LeaderId:               -1\n\
                     CurrentVoters:          [{\"id\": 1, \"directoryId\": \"UvhQ1WcEQxOSMsQ3-1lfFg\", \"endpoints\": [\"CONTROLLER://h:9093\"]}]\n\
                     CurrentObservers:       []\n";
        let newer = read(newer).unwrap();
        assert_eq!(
            (newer.leader, newer.voters, newer.observers),
            (Some(-1), BTreeSet::from([1]), BTreeSet::new())
        );
        assert_eq!(read("Leader: 3\nLeaderIdx: 4\n"), None);
    }

    #[test]
    fn the_replicas() {
        let replica = |id, lag, ago, is_leader| Replica {
            id,
            lag,
            caught_up_ms_ago: ago,
            is_leader,
        };
        let old = "NodeId\tLogEndOffset\tLag\tLastFetchTimestamp\tLastCaughtUpTimestamp\tStatus  \t\n\
                   1     \t1234        \t0  \t1700000060000     \t1700000060000        \tLeader  \t\n\
                   2     \t1230        \t4  \t1700000059900     \t1700000010000        \tFollower\t\n\
                   3     \t0           \t1234\t-1               \t-1                   \tObserver\t\n";
        let found = read(old).unwrap();
        let expected = [
            replica(1, 0, Some(0), true),
            replica(2, 4, Some(50_000), false),
            replica(3, 1234, None, false),
        ];
        assert_eq!((found.replicas, found.leader), (expected.into(), Some(1)));
        assert_eq!(found.observers, BTreeSet::from([3]));
        // A minute later, and node 3 is gone.
        let later = "NodeId\tLogEndOffset\tLag\tLastFetchTimestamp\tLastCaughtUpTimestamp\tStatus\n\
                     1\t2000\t0\t1700000120000\t1700000120000\tLeader\n\
                     2\t1999\t1\t1700000119990\t1700000119900\tFollower\n";
        let found = read(&format!("{old}{later}")).unwrap();
        assert_eq!(
            found.replicas,
            [
                replica(1, 0, Some(0), true),
                replica(2, 1, Some(100), false)
            ]
        );
        assert_eq!(
            (found.voters, found.observers),
            (BTreeSet::from([1, 2]), BTreeSet::new())
        );
        let new = "NodeId  DirectoryId             LogEndOffset  Lag  LastFetchTimestamp  LastCaughtUpTimestamp  Status\n\
                   1       UvhQ1WcEQxOSMsQ3-1lfFg  1234          0    5 ms ago            5 ms ago               Leader\n\
                   2       AvhQ1WcEQxOSMsQ3-1lfFg  1230          4    100 ms ago          50000 ms ago           Follower\n";
        let expected = [
            replica(1, 0, Some(5), true),
            replica(2, 4, Some(50_000), false),
        ];
        assert_eq!(read(new).unwrap().replicas, expected);
    }
}
