//! The one budget of bytes for all that is in flight from outside: frames of brokers, dumps of JVMs.

use tokio::sync::{Semaphore, SemaphorePermit};

/// The bytes of all answers that are being received or read. With some 12 MiB at rest and what is kept of each answer, the
/// exporter stays below 128 MiB.
pub const BUDGET: usize = 56 << 20;
/// Permits stand for so many bytes, because a semaphore hands out 32 bits of them.
const UNIT: usize = 1 << 10;
const UNITS: usize = BUDGET / UNIT;

static LEFT: Semaphore = Semaphore::const_new(UNITS);

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub struct Room {
    budget: &'static Semaphore,
    held: Option<SemaphorePermit<'static>>,
}

impl Default for Room {
    fn default() -> Room {
        Room {
            budget: &LEFT,
            held: None,
        }
    }
}

impl Room {
    /// Of a budget that others use up.
    #[cfg(test)]
    pub fn of_nothing() -> Room {
        Room {
            budget: Box::leak(Box::new(Semaphore::new(0))),
            held: None,
        }
    }

    /// In units of the budget.
    pub fn held(&self) -> usize {
        self.held.as_ref().map_or(0, SemaphorePermit::num_permits)
    }

    /// Waits until this has room for `bytes`; at once where it has. What it holds stays when this is dropped earlier.
    /// More than the budget is as much as the budget: whatever is as large is in flight alone.
    pub async fn grow_to(&mut self, bytes: usize) {
        let missing = bytes.div_ceil(UNIT).min(UNITS).saturating_sub(self.held());
        let Ok(missing) = u32::try_from(missing) else {
            return;
        };
        if missing == 0 {
            return;
        }
        // The semaphore is never closed.
        if let Ok(more) = self.budget.acquire_many(missing).await {
            match &mut self.held {
                Some(held) => held.merge(more),
                none => *none = Some(more),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_wants_room_waits_for_it_and_what_is_dropped_is_given_back() {
        let budget: &Semaphore = Box::leak(Box::new(Semaphore::new(UNITS)));
        let room = || Room { budget, held: None };
        let (mut first, mut second) = (room(), room());
        first.grow_to(BUDGET / 2).await;
        second.grow_to(BUDGET / 2).await;
        let wait = Duration::from_millis(20);
        let more = tokio::time::timeout(wait, second.grow_to(BUDGET / 2 + 1)).await;
        assert!(more.is_err());
        second.grow_to(BUDGET / 2).await;
        drop(first);
        second.grow_to(usize::MAX).await;
        assert_eq!(budget.available_permits(), 0);
        drop(second);
        assert_eq!(budget.available_permits(), UNITS);
    }
}
