//! The partitions that the broker leads, one at a time, for a Fetch that takes the lock of each in turn.

use crate::kafka::wire::groups::TopicPartition;
use crate::kafka::wire::{Item, Metadata};

/// A partition that the broker leads: each of them in turn.
#[derive(Debug, Default)]
pub(super) struct Led {
    pub partition: Option<TopicPartition>,
    /// How many it led.
    of: u64,
    next: u64,
    /// Rounds until it is the turn of another one.
    rounds: u32,
}

/// As rarely as the groups are read.
const LED_EVERY: u32 = 6;

impl Led {
    /// Which of the partitions comes next, if it is time for another one.
    pub(super) fn turn(&mut self) -> Option<u64> {
        let due = self.rounds == 0;
        self.rounds = self.rounds.checked_sub(1).unwrap_or(LED_EVERY - 1);
        due.then(|| self.next.checked_rem(self.of).unwrap_or(0))
    }

    /// `found` is None where none was searched for.
    pub(super) fn remember(&mut self, of: u64, found: Option<Option<TopicPartition>>) {
        self.of = of;
        if let Some(partition) = found {
            self.partition = partition;
            self.next = self.next.wrapping_add(1);
        }
    }
}

/// The partition that is the `nth` of those which broker `id` leads, from 0.
pub(super) fn led(metadata: Metadata<'_>, id: i32, nth: u64) -> Option<TopicPartition> {
    let led = metadata.filter_map(|item| match item {
        Ok(Item::Partition(partition)) if partition.leader == id => Some(partition),
        _ => None,
    });
    let mut led = led.skip(usize::try_from(nth).unwrap_or(0));
    led.next().map(|one| (one.topic.into(), one.index))
}
