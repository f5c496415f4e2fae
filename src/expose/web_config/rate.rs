//! A token bucket.

use std::time::{Duration, Instant};

use super::parse::RateLimit;

/// A [`RateLimit`] and what is left of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    limit: RateLimit,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn full(limit: RateLimit, now: Instant) -> Bucket {
        Bucket {
            limit,
            tokens: f64::from(limit.burst),
            at: now,
        }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at);
        self.at = now;
        let interval = self.limit.interval.max(Duration::from_nanos(1));
        let grown = self.tokens + passed.as_secs_f64() / interval.as_secs_f64();
        self.tokens = grown.min(f64::from(self.limit.burst));
        let taken = self.tokens >= 1.0;
        if taken {
            self.tokens -= 1.0;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_one_for_each_interval() {
        let limit = RateLimit {
            interval: Duration::from_millis(100),
            burst: 3,
        };
        let start = Instant::now();
        let mut bucket = Bucket::full(limit, start);
        let taken: Vec<bool> = [0, 0, 0, 0, 99, 100, 101, 1000, 1000, 1000, 1000]
            .map(|at| bucket.take(start + Duration::from_millis(at)))
            .into();
        let expected = [
            true, true, true, false, false, true, false, true, true, true, false,
        ];
        assert_eq!(taken, expected);
    }
}
