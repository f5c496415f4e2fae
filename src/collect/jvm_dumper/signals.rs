//! When a JVM may get SIGQUIT again, which makes it open its attach socket.

use std::time::{Duration, Instant};

use crate::model::Reason;

/// A JVM that took SIGQUIT and opened no socket may have printed a dump to its output instead.
const PAUSE: Duration = Duration::from_secs(600);
/// After the first such failure alone: where another client, as one of a second pid namespace with the same `/tmp`, took
/// its trigger file away meanwhile, the next signal succeeds. A second dump in a log harms nobody, one a minute does.
const FIRST_PAUSE: Duration = Duration::from_secs(8);
/// A JVM whose listener died prints nothing: it only lacks the handle for a new socket.
const REVIVAL_PAUSE: Duration = Duration::from_secs(60);

/// The signals to one JVM that opened no socket.
#[derive(Debug, Default)]
pub(super) struct Signals {
    until: Option<Instant>,
    /// Failures since the last answer.
    failures: u32,
}

impl Signals {
    pub(super) fn are_allowed(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// The JVM has answered.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// It was signalled, and there is no dump for this reason.
    pub(super) fn failed(&mut self, reason: Reason, now: Instant) {
        let pause = match (reason, self.failures) {
            (Reason::ListenerDead, _) => REVIVAL_PAUSE,
            (_, 0) => FIRST_PAUSE,
            _ => PAUSE,
        };
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + pause);
    }

    /// The child ended without saying whether it signalled.
    pub(super) fn perhaps_failed(&mut self, now: Instant) {
        self.until = Some(now + REVIVAL_PAUSE);
    }

    /// For a message: how long none is sent.
    pub(super) fn text(&self, now: Instant) -> String {
        let left = self
            .until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        match left.is_zero() {
            true => String::new(),
            false => format!(
                " (the next signal in {} s at the earliest)",
                left.as_secs() + 1
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds at which a JVM that never opens a socket is signalled, with a dump due each 15 s.
    fn signalled(reason: Reason, end: u64) -> Vec<u64> {
        let start = Instant::now();
        let mut signals = Signals::default();
        let due = (0..end).step_by(15);
        due.filter(|second| {
            let now = start + Duration::from_secs(*second);
            let allowed = signals.are_allowed(now);
            if allowed {
                // At the end of the attempt.
                signals.failed(reason, now + Duration::from_secs(5));
            }
            allowed
        })
        .collect()
    }

    #[test]
    fn a_first_attach_that_fails_is_tried_again_within_30_s_and_then_seldom() {
        assert_eq!(signalled(Reason::Timeout, 1300), [0, 15, 630, 1245]);
        assert_eq!(signalled(Reason::ListenerDead, 200), [0, 75, 150]);
    }

    #[test]
    fn an_answer_allows_another_soon_retry() {
        let now = Instant::now();
        let mut signals = Signals::default();
        signals.failed(Reason::Timeout, now);
        assert_eq!(
            signals.text(now),
            " (the next signal in 9 s at the earliest)"
        );
        signals.succeeded();
        signals.failed(Reason::Timeout, now);
        assert!(signals.are_allowed(now + FIRST_PAUSE));
        signals.failed(Reason::Timeout, now);
        assert!(!signals.are_allowed(now + FIRST_PAUSE));
        assert_eq!(signals.text(now + PAUSE), "");
    }
}
