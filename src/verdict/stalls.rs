//! What stalled threads mean for their broker: whether it works no more, or works in part.

use std::time::Duration;

use crate::model::{Moment, Stall};

/// A wait for another broker ends after 30 s (`replica.socket.timeout.ms`, `controller.socket.timeout.ms`): whatever lasts
/// longer is no wait for a time-out.
const OUTLASTS: Duration = Duration::from_secs(35);

/// Whether a stall makes the broker gray: its threads wait for a lock, or are half of the pool. Fewer ones make it gray
/// only where `clients` of the broker suffer and no time-out ends the wait, and so do those that wait for another broker:
/// that one is to be mended, whatever stands here.
pub(super) fn decides(stall: &Stall, clients: bool, now: Moment) -> bool {
    // Where an earlier version recorded it, the size of the pool is unknown.
    let half = 2 * stall.threads.len() >= stall.of;
    let here = stall.awaits_brokers.is_empty() && (is_at_lock(stall) || half);
    here || (clients && now.since(stall.since) >= OUTLASTS)
}

/// Whether it waits for a lock, not for an event such as a condition, a latch, a permit or a notification.
pub(super) fn is_at_lock(stall: &Stall) -> bool {
    let events = [
        "ConditionObject",
        "CountDownLatch",
        "Semaphore",
        "CompletableFuture",
        "FutureTask",
    ];
    let class = stall.lock_class.as_deref();
    let notified = stall
        .frames
        .first()
        .is_some_and(|frame| frame.starts_with("java.lang.Object.wait"));
    class.is_some_and(|class| !events.iter().any(|event| class.contains(event))) && !notified
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stall(threads: usize, of: usize, lock: &str, awaits: &[i32]) -> Stall {
        Stall {
            threads: vec![String::new(); threads],
            of,
            lock_class: Some(lock.into()),
            awaits_brokers: awaits.iter().copied().collect(),
            since: Moment(1_000_000),
            ..Stall::default()
        }
    }

    #[test]
    fn a_lock_or_half_of_the_pool_decides_and_a_wait_for_another_broker_does_not() {
        let latch = "java.util.concurrent.CountDownLatch$Sync";
        let table = [
            (stall(1, 8, "java.lang.Object", &[]), true),
            (stall(1, 8, latch, &[]), false),
            (stall(3, 8, latch, &[]), false),
            (stall(4, 8, latch, &[]), true),
            (stall(1, 1, latch, &[]), true),
            // Recorded by an earlier version.
            (stall(1, 0, latch, &[]), true),
            (stall(1, 8, latch, &[219]), false),
            (stall(8, 8, latch, &[219]), false),
            (stall(7, 8, "java.lang.Object", &[219]), false),
        ];
        for (stall, expected) in table {
            let at = |seconds: u64| Moment(1_000_000 + seconds * 1000);
            assert_eq!(decides(&stall, true, at(34)), expected, "{stall:?}");
            assert_eq!(decides(&stall, false, at(900)), expected, "{stall:?}");
            assert!(decides(&stall, true, at(35)), "{stall:?}");
        }
    }
}
