//! When a collector runs next: its interval under a cost ceiling, at moments that all collectors share.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// A collector that costs too much runs less often by itself, and returns to its interval when it is cheap again.
#[derive(Debug, Clone)]
pub struct AdaptiveInterval {
    configured: Duration,
    /// Share of the time that the collector may cost: CPU of one core, pause of the JVM, or work of the broker.
    ceiling: f64,
    /// Cost of a run, smoothed: one odd run must not stretch the interval tenfold.
    cost: Option<Duration>,
}

/// However expensive a collector is, it still runs.
pub(super) const LONGEST: Duration = Duration::from_secs(600);

impl AdaptiveInterval {
    pub fn new(configured: Duration, ceiling: f64) -> AdaptiveInterval {
        AdaptiveInterval {
            configured,
            ceiling,
            cost: None,
        }
    }

    /// Records what the newest run cost.
    pub fn spent(&mut self, cost: Duration) {
        self.cost = Some(match self.cost {
            None => cost,
            Some(before) => before.mul_f64(0.7) + cost.mul_f64(0.3),
        });
    }

    /// For a collector whose share depends on what else runs.
    pub(super) fn set_ceiling(&mut self, ceiling: f64) {
        self.ceiling = ceiling;
    }

    /// From the start of one run to the start of the next.
    pub fn interval(&self) -> Duration {
        let needed = self.cost.unwrap_or_default().div_f64(self.ceiling);
        self.configured.max(needed.min(LONGEST))
    }

    /// When the run after the one that started at `started` starts.
    pub fn next(&self, started: Instant) -> Instant {
        shared_moment(started, self.interval(), Instant::now())
    }
}

/// Returns the first shared moment that is `interval` after `started`; a missed one is skipped.
///
/// All runs start at the same moments, whole seconds or quarters of one: that wakes the exporter a few times a second,
/// however many brokers there are, and one snapshot shows what all of them read.
pub(super) fn shared_moment(started: Instant, interval: Duration, now: Instant) -> Instant {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let origin = *ORIGIN;
    let step = if interval >= SECOND && interval.subsec_nanos() == 0 {
        SECOND
    } else {
        QUARTER.min(interval).max(TIMER)
    };
    // A timer may fire a little early.
    let steps =
        |at: Instant| (at + TIMER).saturating_duration_since(origin).as_nanos() / step.as_nanos();
    let from = steps(started) + interval.as_nanos().div_ceil(step.as_nanos());
    let next = if from > steps(now) {
        from
    } else {
        steps(now) + 1
    };
    origin + step.saturating_mul(u32::try_from(next).unwrap_or(u32::MAX))
}

const SECOND: Duration = Duration::from_secs(1);
const QUARTER: Duration = Duration::from_millis(250);
/// As fine as timers are.
const TIMER: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cheap_collector_keeps_its_interval_and_an_expensive_one_stretches_it() {
        let mut interval = AdaptiveInterval::new(Duration::from_secs(1), 0.005);
        assert_eq!(interval.interval(), Duration::from_secs(1));
        interval.spent(Duration::from_millis(2));
        assert_eq!(interval.interval(), Duration::from_secs(1));
        for _ in 0..40 {
            interval.spent(Duration::from_millis(22));
        }
        // 22 ms at 0.5 % of a core: once in 4.4 s.
        assert!(
            (interval.interval().as_secs_f64() - 4.4).abs() < 0.05,
            "{:?}",
            interval.interval()
        );
        for _ in 0..40 {
            interval.spent(Duration::from_millis(1));
        }
        assert_eq!(interval.interval(), Duration::from_secs(1));
        interval.spent(Duration::from_secs(3600));
        assert_eq!(interval.interval(), LONGEST);
    }

    #[test]
    fn runs_start_at_shared_moments_and_skip_missed_ones() {
        let second = |seconds: f64| Duration::from_secs_f64(seconds);
        // A shared moment, some time after the first.
        let start = shared_moment(Instant::now() + second(100.0), SECOND, Instant::now());
        for (started, interval, now, next) in [
            (0.0, 1.0, 0.1, 1.0),
            (0.0, 30.0, 0.1, 30.0),
            (0.0, 0.25, 0.01, 0.25),
            // The first run started when its broker was found.
            (0.7, 1.0, 0.8, 1.0),
            (0.7, 0.25, 0.71, 0.75),
            // A little early, and a little late.
            (0.9995, 1.0, 1.01, 2.0),
            (1.01, 1.0, 1.02, 2.0),
            // Above its ceiling, so not earlier than that allows.
            (0.0, 4.4, 0.1, 4.5),
            (0.0, 0.437, 0.1, 0.5),
            // Shorter than the shared step.
            (0.0, 0.1, 0.05, 0.1),
            // The machine slept.
            (0.0, 1.0, 60.3, 61.0),
            (0.0, 0.25, 60.3, 60.5),
        ] {
            let found = shared_moment(
                start + second(started),
                second(interval),
                start + second(now),
            );
            let expected = start + second(next);
            assert_eq!(found, expected, "{started} {interval} {now}");
        }
    }
}
