//! The one budget of bytes for all that is in flight from outside: frames of brokers, dumps of JVMs.

use super::shares::{Share, Shares};

/// The bytes of all answers that are being received or read. With some 12 MiB at rest and what is kept of each answer, the
/// exporter stays below 128 MiB.
pub const BUDGET: usize = 36 << 20;
/// Permits stand for so many bytes, because a semaphore hands out 32 bits of them.
const UNIT: usize = 1 << 10;
const UNITS: usize = BUDGET / UNIT;

static ALL: Shares = of_units();

/// Half of it for brokers of other users than the first.
const fn of_units() -> Shares {
    Shares::new(UNITS, UNITS / 2)
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub struct Room(Share);

impl Default for Room {
    fn default() -> Room {
        Room(ALL.none(false))
    }
}

impl Room {
    /// Of a budget that others use up.
    #[cfg(test)]
    pub fn of_nothing() -> Room {
        let shares = Box::leak(Box::new(of_units()));
        shares.use_up();
        Room(shares.none(false))
    }

    /// For an answer of a broker that another user's come before.
    pub fn of_others() -> Room {
        Room(ALL.none(true))
    }

    /// Takes out what this holds.
    pub fn take(&mut self) -> Room {
        Room(self.0.take())
    }

    /// In units of the budget.
    pub fn held(&self) -> usize {
        self.0.held()
    }

    /// Waits until this has room for `bytes`; at once where it has. What it holds stays when this is dropped earlier.
    /// More than the budget is as much as the budget: whatever is as large is in flight alone.
    pub async fn grow_to(&mut self, bytes: usize) {
        self.0.grow_to(bytes.div_ceil(UNIT)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_wants_room_waits_for_it_and_what_is_dropped_is_given_back() {
        let budget: &Shares = Box::leak(Box::new(of_units()));
        let room = || Room(budget.none(false));
        let (mut first, mut second) = (room(), room());
        first.grow_to(BUDGET / 2).await;
        second.grow_to(BUDGET / 2).await;
        let wait = Duration::from_millis(20);
        let more = tokio::time::timeout(wait, second.grow_to(BUDGET / 2 + 1)).await;
        assert!(more.is_err());
        second.grow_to(BUDGET / 2).await;
        drop(first);
        second.grow_to(usize::MAX).await;
        assert_eq!(budget.left(), 0);
        drop(second);
        assert_eq!(budget.left(), UNITS);
    }

    #[tokio::test]
    async fn brokers_of_other_users_leave_half_to_those_of_the_first() {
        let budget: &Shares = Box::leak(Box::new(of_units()));
        let room = |of_others| Room(budget.none(of_others));
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
        assert_eq!(budget.left(), UNITS / 2);
    }
}
