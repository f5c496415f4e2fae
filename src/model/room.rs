//! The one budget of bytes for all that is in flight from outside: frames of brokers, dumps of JVMs.

use tokio::sync::{Semaphore, SemaphorePermit};

/// The bytes of all answers that are being received or read. With some 12 MiB at rest and what is kept of each answer, the
/// exporter stays below 128 MiB.
pub const BUDGET: usize = 36 << 20;
/// Permits stand for so many bytes, because a semaphore hands out 32 bits of them.
const UNIT: usize = 1 << 10;
const UNITS: usize = BUDGET / UNIT;

static LEFT: Semaphore = Semaphore::const_new(UNITS);
/// What of it brokers of other users than the first may take: they may send much on purpose.
static LEFT_TO_OTHERS: Semaphore = Semaphore::const_new(UNITS / 2);

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub struct Room {
    /// Of the part for other users than the first.
    share: Option<Part>,
    whole: Part,
}

#[derive(Debug)]
struct Part {
    budget: &'static Semaphore,
    units: usize,
    held: Option<SemaphorePermit<'static>>,
}

impl Default for Room {
    fn default() -> Room {
        Room {
            share: None,
            whole: Part::new(&LEFT, UNITS),
        }
    }
}

impl Room {
    /// Of a budget that others use up.
    #[cfg(test)]
    pub fn of_nothing() -> Room {
        Room {
            share: None,
            whole: Part::new(Box::leak(Box::new(Semaphore::new(0))), UNITS),
        }
    }

    /// For an answer of a broker that another user's come before.
    pub fn of_others() -> Room {
        Room {
            share: Some(Part::new(&LEFT_TO_OTHERS, UNITS / 2)),
            ..Room::default()
        }
    }

    /// Takes out what this holds.
    pub fn take(&mut self) -> Room {
        let empty = |part: &Part| Part::new(part.budget, part.units);
        let empty = Room {
            share: self.share.as_ref().map(empty),
            whole: empty(&self.whole),
        };
        std::mem::replace(self, empty)
    }

    /// In units of the budget.
    pub fn held(&self) -> usize {
        self.whole.held()
    }

    /// Waits until this has room for `bytes`; at once where it has. What it holds stays when this is dropped earlier.
    /// More than the budget is as much as the budget: whatever is as large is in flight alone.
    pub async fn grow_to(&mut self, bytes: usize) {
        let units = bytes.div_ceil(UNIT);
        if let Some(share) = &mut self.share {
            share.grow_to(units).await;
        }
        self.whole.grow_to(units).await;
    }
}

impl Part {
    fn new(budget: &'static Semaphore, units: usize) -> Part {
        Part {
            budget,
            units,
            held: None,
        }
    }

    fn held(&self) -> usize {
        self.held.as_ref().map_or(0, SemaphorePermit::num_permits)
    }

    async fn grow_to(&mut self, units: usize) {
        let missing = units.min(self.units).saturating_sub(self.held());
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
        let room = || Room {
            share: None,
            whole: Part::new(budget, UNITS),
        };
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

    #[tokio::test]
    async fn brokers_of_other_users_leave_half_to_those_of_the_first() {
        let semaphore = |units| -> &Semaphore { Box::leak(Box::new(Semaphore::new(units))) };
        let (budget, for_others) = (semaphore(UNITS), semaphore(UNITS / 2));
        let room = |share: bool| Room {
            share: share.then(|| Part::new(for_others, UNITS / 2)),
            whole: Part::new(budget, UNITS),
        };
        let (mut fakes, mut real) = ([room(true), room(true)], room(false));
        fakes[0].grow_to(BUDGET / 2).await;
        let wait = Duration::from_millis(20);
        let more = tokio::time::timeout(wait, fakes[1].grow_to(1)).await;
        assert!(more.is_err());
        real.grow_to(BUDGET / 2).await;
        drop(real);
        let taken = fakes[0].take();
        assert_eq!((taken.held(), fakes[0].held()), (UNITS / 2, 0));
        drop(taken);
        fakes[0].grow_to(1).await;
        fakes[1].grow_to(BUDGET / 2 - UNIT).await;
        assert_eq!(budget.available_permits(), UNITS / 2);
    }
}
