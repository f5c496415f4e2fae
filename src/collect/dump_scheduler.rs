//! When a thread dump is due: at its interval, and earlier on suspicion, within the time for which the JVM may be stopped.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::adaptive_interval::{AdaptiveInterval, LONGEST};

/// Between two dumps, the newer of them on suspicion.
const FLOOR: Duration = Duration::from_secs(2);
/// After the first dump that shows a deadlock, whatever the budget: what is deadlocked is stopped anyway, and a probe may
/// restart the broker only when two dumps 10 s apart show the same.
const CONFIRM: Duration = Duration::from_secs(11);
/// After the first dump that lacks threads, and for so many dumps: absence counts once a second one shows it, and for a
/// fetcher once Metadata read since then still demands it.
const LACK: Duration = Duration::from_secs(5);
const LACK_DUMPS: u32 = 4;
/// Unused pauses of so long a time may be used later.
const SAVED: Duration = Duration::from_secs(60);

/// The plan of one broker's dumps.
#[derive(Debug)]
pub struct DumpScheduler {
    interval: AdaptiveInterval,
    /// Share of the time for which dumps may stop the JVM.
    ceiling: f64,
    /// Pause, in seconds, that may be caused now; negative after a dump that cost more than what was saved.
    credit: f64,
    /// What the most expensive of the last dumps cost, in seconds.
    cost: f64,
    last: Option<Instant>,
    /// The suspects that dumps since found nothing wrong with, and how often.
    cleared: BTreeSet<u32>,
    clean: u32,
    deadlocked: bool,
    /// Shown by one dump only.
    unconfirmed: bool,
    /// The process was stopped, so that nothing was asked.
    stopped: bool,
    /// How many of the last dumps in a row lacked threads that are not known as missing yet.
    lacking: u32,
}

impl DumpScheduler {
    pub fn new(configured: Duration, ceiling: f64) -> DumpScheduler {
        DumpScheduler {
            interval: AdaptiveInterval::new(configured, ceiling),
            ceiling,
            credit: SAVED.as_secs_f64() * ceiling,
            cost: 0.0,
            last: None,
            cleared: BTreeSet::new(),
            clean: 0,
            deadlocked: false,
            unconfirmed: false,
            stopped: false,
            lacking: 0,
        }
    }

    /// The interval at which dumps are taken while nothing is suspected.
    pub fn interval(&self) -> Duration {
        self.interval.interval()
    }

    /// Records a dump: when it started, the pause that it cost where that is known, the suspects then, and whether it shows
    /// a deadlock (None where it failed).
    pub fn taken(
        &mut self,
        at: Instant,
        pause: Option<Duration>,
        suspects: &BTreeSet<u32>,
        deadlocked: Option<bool>,
    ) {
        self.credit = self.credit_at(at);
        self.last = Some(at);
        self.stopped = false;
        if let Some(pause) = pause {
            self.interval.spent(pause);
            self.cost = pause.as_secs_f64().max(self.cost * 0.7);
            self.credit -= pause.as_secs_f64();
        }
        if let Some(deadlocked) = deadlocked {
            self.unconfirmed = deadlocked && !self.deadlocked;
            self.deadlocked = deadlocked;
        }
        if suspects.is_empty() || self.deadlocked {
            self.clean = 0;
            self.cleared.clear();
        } else if suspects.is_subset(&self.cleared) {
            self.clean = self.clean.saturating_add(1);
        } else {
            self.clean = 1;
            self.cleared.extend(suspects);
        }
    }

    /// Records whether the last dump lacks threads whose absence another one is to confirm.
    pub fn lacks(&mut self, some: bool) {
        self.lacking = if some {
            self.lacking.saturating_add(1)
        } else {
            0
        };
    }

    /// Charges a pause that a dump outside of this plan has caused.
    pub fn charge(&mut self, pause: Duration) {
        self.credit -= pause.as_secs_f64();
    }

    /// Records that the process was stopped at `at`: no request was made, so that the next attempt may come soon.
    pub fn stopped(&mut self, at: Instant) {
        self.credit = self.credit_at(at);
        self.last = Some(at);
        self.stopped = true;
    }

    /// When the next dump is due if these threads remain suspected.
    pub fn due(&self, suspects: &BTreeSet<u32>) -> Option<Instant> {
        let last = self.last?;
        if self.stopped {
            return Some((last + FLOOR).max(self.affordable()?));
        }
        if self.unconfirmed {
            return Some(last + CONFIRM);
        }
        let interval = self.interval.interval();
        let regular = last
            + match self.lacking {
                1 => interval.min(LACK),
                2..=LACK_DUMPS => interval.min(FLOOR),
                _ => interval,
            };
        // A deadlock shows nothing new at once: it only draws in more threads.
        if suspects.is_empty() || self.deadlocked {
            return Some(regular.max(self.affordable()?));
        }
        // Those that a dump has cleared may wait, the longer the more often it did; new ones may not.
        let known = suspects.is_subset(&self.cleared);
        let doubled = if known {
            2_u32.saturating_pow(self.clean.min(16))
        } else {
            1
        };
        Some(
            (last + FLOOR.saturating_mul(doubled))
                .min(regular)
                .max(self.affordable()?),
        )
    }

    /// When there is credit for one more dump like the last ones.
    fn affordable(&self) -> Option<Instant> {
        let missing = (self.cost.min(self.most()) - self.credit).max(0.0);
        let wait = Duration::try_from_secs_f64(missing / self.ceiling).unwrap_or(SAVED);
        self.last.map(|last| last + wait.min(LONGEST))
    }

    fn most(&self) -> f64 {
        (SAVED.as_secs_f64() * self.ceiling).max(self.cost)
    }

    fn credit_at(&self, now: Instant) -> f64 {
        let since = self
            .last
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        (self.credit + since.as_secs_f64() * self.ceiling).min(self.most())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CEILING: f64 = 0.002;
    const INTERVAL: Duration = Duration::from_secs(15);

    fn suspects(threads: &[u32]) -> BTreeSet<u32> {
        threads.iter().copied().collect()
    }

    /// Seconds from `start` of each dump until `end`, with these suspects all the time.
    fn dumps(
        start: Instant,
        scheduler: &mut DumpScheduler,
        suspects: &BTreeSet<u32>,
        pause: Duration,
        end: u64,
    ) -> Vec<u64> {
        let mut at = start;
        let mut taken = Vec::new();
        while at < start + Duration::from_secs(end) {
            scheduler.taken(at, Some(pause), suspects, Some(false));
            taken.push((at - start).as_secs());
            at = scheduler.due(suspects).unwrap();
        }
        taken
    }

    #[test]
    fn suspects_that_dumps_clear_are_asked_after_less_and_less_often() {
        let start = Instant::now();
        let mut scheduler = DumpScheduler::new(INTERVAL, CEILING);
        let pause = Duration::from_millis(2);
        assert_eq!(
            dumps(start, &mut scheduler, &suspects(&[7]), pause, 60),
            [0, 4, 12, 27, 42, 57]
        );
        // A new suspect gets its dump at the floor.
        let last = scheduler.last.unwrap();
        assert_eq!(scheduler.due(&suspects(&[7, 8])).unwrap() - last, FLOOR);
        // And so does the old one, when it was above suspicion in between.
        scheduler.taken(last, Some(pause), &suspects(&[]), Some(false));
        assert_eq!(scheduler.due(&suspects(&[7])).unwrap() - last, FLOOR);
        assert_eq!(scheduler.due(&suspects(&[])).unwrap() - last, INTERVAL);
    }

    #[test]
    fn a_deadlock_is_confirmed_once_and_then_dumped_at_the_interval_only() {
        let start = Instant::now();
        let mut scheduler = DumpScheduler::new(INTERVAL, CEILING);
        // More than all that was saved.
        let pause = Duration::from_millis(400);
        scheduler.taken(start, Some(pause), &suspects(&[1, 2]), Some(true));
        assert_eq!(
            scheduler.due(&suspects(&[1, 2, 3])).unwrap() - start,
            CONFIRM
        );
        // A failed dump clears nothing, and confirms nothing.
        scheduler.taken(start, None, &suspects(&[1, 2]), None);
        assert_eq!(
            scheduler.due(&suspects(&[1, 2, 3])).unwrap() - start,
            CONFIRM
        );
        scheduler.taken(start, Some(pause), &suspects(&[1, 2]), Some(true));
        assert!(scheduler.due(&suspects(&[1, 2, 3])).unwrap() - start >= pause.div_f64(CEILING));

        let mut scheduler = DumpScheduler::new(INTERVAL, CEILING);
        for _ in 0..2 {
            scheduler.taken(
                start,
                Some(Duration::from_millis(2)),
                &suspects(&[1]),
                Some(true),
            );
        }
        assert_eq!(
            scheduler.due(&suspects(&[1, 2, 3])).unwrap() - start,
            INTERVAL
        );
    }

    #[test]
    fn threads_that_a_dump_lacks_are_soon_checked_again_some_times() {
        let start = Instant::now();
        let mut scheduler = DumpScheduler::new(INTERVAL, CEILING);
        let mut at = start;
        let mut taken = Vec::new();
        for _ in 0..7 {
            scheduler.taken(
                at,
                Some(Duration::from_millis(2)),
                &suspects(&[]),
                Some(false),
            );
            scheduler.lacks(true);
            taken.push((at - start).as_secs());
            at = scheduler.due(&suspects(&[])).unwrap();
        }
        assert_eq!(taken, [0, 5, 7, 9, 11, 26, 41]);
        scheduler.lacks(false);
        scheduler.lacks(true);
        let last = scheduler.last.unwrap();
        assert_eq!(scheduler.due(&suspects(&[])).unwrap() - last, LACK);
    }

    #[test]
    fn other_dumps_use_the_same_budget() {
        let start = Instant::now();
        let mut scheduler = DumpScheduler::new(INTERVAL, CEILING);
        let pause = Duration::from_millis(60);
        scheduler.taken(start, Some(pause), &suspects(&[]), Some(false));
        assert_eq!(scheduler.due(&suspects(&[])).unwrap() - start, INTERVAL * 2);
        // Three dumps of evidence: of the 120 ms that were saved nothing is left for a fifth one.
        scheduler.charge(pause * 3);
        let due = scheduler.due(&suspects(&[7])).unwrap() - start;
        let missing = pause * 4 + pause - Duration::from_millis(120);
        let wait = missing.div_f64(CEILING);
        assert!(
            (due.as_secs_f64() - wait.as_secs_f64()).abs() < 0.001,
            "{due:?}"
        );
    }

    #[test]
    fn a_process_that_was_stopped_is_soon_tried_again() {
        let start = Instant::now();
        let mut scheduler = DumpScheduler::new(INTERVAL, CEILING);
        scheduler.stopped(start);
        assert_eq!(scheduler.due(&suspects(&[])).unwrap() - start, FLOOR);
        scheduler.taken(
            start + FLOOR,
            Some(Duration::from_millis(2)),
            &suspects(&[]),
            Some(false),
        );
        assert_eq!(
            scheduler.due(&suspects(&[])).unwrap() - start,
            FLOOR + INTERVAL
        );
    }

    #[test]
    fn whatever_is_suspected_the_pauses_stay_within_the_budget() {
        for pause in [1, 10, 60, 300, 5000] {
            let pause = Duration::from_millis(pause);
            let start = Instant::now();
            let mut scheduler = DumpScheduler::new(INTERVAL, CEILING);
            let (mut at, mut count, hours) = (start, 0_u32, 5 * 3600);
            while at < start + Duration::from_secs(hours) {
                count += 1;
                // New suspects each time: never held back by what was cleared.
                scheduler.taken(at, Some(pause), &suspects(&[count]), Some(false));
                at = scheduler.due(&suspects(&[count + 1])).unwrap();
            }
            let share = pause.as_secs_f64() * f64::from(count) / hours as f64;
            // LONGEST bounds the interval from above: a JVM that stands for 5 s a dump is asked every 10 minutes.
            let most = if pause > Duration::from_secs(1) {
                pause.as_secs_f64() / 600.0
            } else {
                CEILING
            };
            assert!(share <= most * 1.05, "{pause:?}: {count} dumps, {share}");
            assert!(count >= 30, "{pause:?}: {count} dumps");
        }
    }
}
