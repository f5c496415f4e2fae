//! Which replicas are missed, where Metadata does not distinguish them from those that a reassignment adds (KIP-352): those
//! that a partition had when all of them were last in the ISR. The metadata log says it itself.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Partitions that are known, of some 20 bytes each. Beyond it every replica is missed.
const MOST: usize = 20_000;
/// So many more than there are show that topics were deleted.
const STALE: usize = 1024;

/// The partitions of which one broker is a replica, from one Metadata response to the next.
#[derive(Debug, Default)]
pub struct Whole {
    /// How many replicas were in the ISR, by the hash of topic and index.
    known: BTreeMap<u64, u16>,
    /// After the first response: until then nothing can be known of a reassignment.
    has_first: bool,
}

/// How many replicas are to be in the ISR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub replicas: usize,
    /// This broker is being added.
    pub is_new: bool,
}

impl Whole {
    /// Takes in a partition of which the broker is a replica.
    pub fn take(&mut self, topic: &str, index: i32, replicas: usize, in_sync: usize) -> Expected {
        let key = key(topic, index);
        if in_sync >= replicas || !self.has_first {
            if self.known.len() < MOST || self.known.contains_key(&key) {
                let count = u16::try_from(replicas).unwrap_or(u16::MAX);
                self.known.insert(key, count);
            }
            return Expected {
                replicas,
                is_new: false,
            };
        }
        self.expected(key, replicas, in_sync)
    }

    /// Whether a reassignment adds replicas to the partition, as far as it is known.
    pub fn grows(&self, topic: &str, index: i32, replicas: usize, in_sync: usize) -> bool {
        let is_short = self.has_first && in_sync < replicas;
        is_short && self.expected(key(topic, index), replicas, in_sync).replicas < replicas
    }

    fn expected(&self, key: u64, replicas: usize, in_sync: usize) -> Expected {
        let known = self.known.get(&key).map(|count| usize::from(*count));
        let is_new = known.is_none() && self.known.len() < MOST;
        let before = match (known, is_new) {
            (Some(count), _) => count,
            (None, true) => in_sync,
            (None, false) => replicas,
        };
        Expected {
            replicas: before.min(replicas),
            is_new,
        }
    }

    /// After the last partition of a response, with how many it took in.
    pub fn end(&mut self, taken: usize) {
        self.has_first = self.known.len() <= taken + STALE;
        if !self.has_first {
            self.known.clear();
        }
    }
}

fn key(topic: &str, index: i32) -> u64 {
    let mut hasher = DefaultHasher::new();
    (topic, index).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missed(whole: &mut Whole, topic: &str, replicas: usize, in_sync: usize) -> usize {
        let expected = whole.take(topic, 0, replicas, in_sync).replicas;
        whole.end(8);
        expected.saturating_sub(in_sync)
    }

    #[test]
    fn replicas_that_are_added_are_not_missed_until_they_have_been_in_the_isr() {
        let mut whole = Whole::default();
        // What it was before nobody knows.
        assert_eq!(missed(&mut whole, "short from the start", 3, 2), 1);
        assert_eq!(missed(&mut whole, "t", 1, 1), 0);
        // 1 -> 3 under a throttle, one after the other.
        for in_sync in [1, 1, 2] {
            assert_eq!(missed(&mut whole, "t", 3, in_sync), 0);
        }
        assert_eq!(missed(&mut whole, "t", 3, 3), 0);
        assert_eq!(missed(&mut whole, "t", 3, 1), 2);
        // 3 replicas are to be replaced by 3 others, and one of the old ones leaves.
        assert_eq!(missed(&mut whole, "t", 3, 3), 0);
        assert_eq!(missed(&mut whole, "t", 6, 3), 0);
        assert_eq!(missed(&mut whole, "t", 6, 2), 1);
        // Fewer than before.
        assert_eq!(missed(&mut whole, "t", 2, 2), 0);
        assert_eq!(missed(&mut whole, "t", 2, 1), 1);
        // This broker becomes a replica of a partition that it had no part in.
        assert_eq!(missed(&mut whole, "new", 3, 2), 0);
        assert!(whole.take("new", 0, 3, 2).is_new);
    }

    #[test]
    fn partitions_of_deleted_topics_are_forgotten() {
        let mut whole = Whole::default();
        for index in 0..3000 {
            whole.take("deleted", index, 2, 2);
        }
        whole.end(3000);
        assert_eq!(missed(&mut whole, "t", 2, 2), 0);
        assert_eq!(whole.known.len(), 0);
        // As at the start.
        assert_eq!(missed(&mut whole, "t", 2, 1), 1);
    }
}
