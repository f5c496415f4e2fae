//! The share of time that a JVM stands at safepoints, from the counter that grows when a pause ends.

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::Moment;

/// Garbage collection of a healthy JVM takes a few percent of so long.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// The counter is read once a second.
const MOST_SAMPLES: usize = 64;

/// The newest readings of one JVM's counter.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    /// The oldest first; the first one is before the window.
    samples: VecDeque<(Moment, Duration)>,
}

impl Pauses {
    /// Takes in a reading, unless it is older than the newest.
    pub(super) fn push(&mut self, at: Moment, total: Duration) {
        if self.samples.back().is_some_and(|(last, _)| *last >= at) {
            return;
        }
        self.samples.push_back((at, total));
        let is_before_window = |sample: Option<&(Moment, Duration)>| {
            sample.is_some_and(|(before, _)| at.since(*before) >= WINDOW)
        };
        while is_before_window(self.samples.get(1)) || self.samples.len() > MOST_SAMPLES {
            self.samples.pop_front();
        }
    }

    /// The share of the window, 0 to 1, in which all threads stood; None until readings span it.
    pub(super) fn share(&self) -> Option<f64> {
        let (first, last) = (self.samples.front()?.0, self.samples.back()?.0);
        if last.since(first) < WINDOW {
            return None;
        }
        // A pause ended before the reading that shows it, and may have started before the reading before that one.
        let (mut paused, mut earlier, mut left) = (Duration::ZERO, Duration::ZERO, WINDOW);
        for ((from, before), (to, after)) in
            self.samples.iter().zip(self.samples.iter().skip(1)).rev()
        {
            let span = to.since(*from);
            let all = earlier + after.saturating_sub(*before);
            let here = all.min(span);
            // Where readings are rare, nobody knows when within a long span the pauses were.
            let inside = span.min(left);
            paused += here.mul_f64(inside.div_duration_f64(span));
            (earlier, left) = (all - here, left - inside);
        }
        Some(paused.as_secs_f64() / WINDOW.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// The share after readings of the counter in seconds, one each second.
    fn share(totals: &[f64]) -> Option<f64> {
        let mut pauses = Pauses::default();
        for (second, total) in (0..).zip(totals) {
            let at = Moment(1_000_000 + second * 1000);
            pauses.push(at, Duration::from_secs_f64(*total));
        }
        pauses.share()
    }

    #[test]
    fn the_share_is_that_of_the_last_ten_seconds() {
        let steady = |each: f64| -> Vec<f64> { (0..=15).map(|n| f64::from(n) * each).collect() };
        let near = |totals: &[f64], expected: f64| {
            let share = share(totals).unwrap();
            assert!((share - expected).abs() < 1e-9, "{share}, not {expected}");
        };
        near(&steady(0.0), 0.0);
        near(&steady(0.02), 0.02);
        near(&steady(0.93), 0.93);
        // Pauses of 1.5 s: each shows in the reading after its end alone.
        near(
            &[0.0, 0.0, 1.5, 1.5, 3.0, 3.0, 4.5, 4.5, 6.0, 6.0, 7.5],
            0.75,
        );
        // One pause of 30 s took all of the window when it ended, and less and less of the later ones.
        let mut one = vec![0.0; 11];
        one.push(30.0);
        near(&one, 1.0);
        one.extend([30.0; 4]);
        near(&one, 0.6);
        one.extend([30.0; 6]);
        near(&one, 0.0);
        // What a pause took before the window does not count.
        near(&[[0.0, 5.0].as_slice(), &[5.0; 9]].concat(), 0.1);
    }

    /// As with `intervals: {progress: 1m}`, or beside a host that lets the exporter run rarely.
    #[test]
    fn rare_readings_accuse_no_healthy_jvm() {
        let share = |readings: &[(u64, f64)]| {
            let mut pauses = Pauses::default();
            for (second, total) in readings {
                let at = Moment(1_000_000 + second * 1000);
                pauses.push(at, Duration::from_secs_f64(*total));
            }
            pauses.share().unwrap()
        };
        let near = |share: f64, expected: f64| {
            assert!((share - expected).abs() < 1e-9, "{share}, not {expected}");
        };
        // 15 % of the time.
        near(share(&[(0, 0.0), (60, 9.0)]), 0.15);
        near(share(&[(0, 0.0), (8, 1.2), (16, 2.4)]), 0.15);
        near(share(&[(0, 0.0), (60, 54.0)]), 0.9);
        // One pause of 30 s, which ended before the last reading.
        near(share(&[(0, 0.0), (20, 0.0), (40, 30.0)]), 1.0);
    }

    #[test]
    fn readings_that_do_not_span_the_window_say_nothing() {
        assert_eq!(share(&[]), None);
        assert_eq!(share(&[1.0; 10]), None);
        assert_eq!(share(&[1.0; 11]), Some(0.0));
    }

    #[test]
    fn few_readings_are_kept_however_many_come() {
        let mut pauses = Pauses::default();
        for n in 0..10_000 {
            pauses.push(Moment(1_000_000 + n), Duration::ZERO);
        }
        assert!(pauses.samples.len() <= MOST_SAMPLES);
        pauses.push(Moment(1), Duration::from_secs(9));
        assert!(pauses.samples.back().unwrap().0 > Moment(1_000_000));
    }
}
