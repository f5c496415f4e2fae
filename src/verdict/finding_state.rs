//! When the result of a rule becomes a finding, and when the finding ends.

use std::time::Duration;

use super::finding::{Finding, FindingId};
use crate::model::{Moment, text};

/// How long a finding outlives the last reading that could confirm or refute it.
pub(super) const KEPT_UNKNOWN: Duration = Duration::from_secs(120);

/// What one rule says about one broker now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleResult {
    /// The readings that decide are unknown.
    Unknown,
    Absent,
    /// With the facts, a sentence each.
    Present(Vec<String>),
}

/// The state of one rule.
#[derive(Debug, Default)]
pub struct FindingState {
    pub active: Option<Finding>,
    /// Since when the rule contradicts `active`.
    pub changing_since: Option<Moment>,
    /// When the rule last had a known result.
    pub evaluated: Option<Moment>,
}

impl FindingState {
    /// Whether the rule says something that has not held for long enough to count.
    pub(super) fn is_pending(&self) -> bool {
        self.changing_since.is_some() && self.active.is_none()
    }

    /// Takes in a result. Returns true if the finding starts with it, false if the finding ends.
    pub fn update(
        &mut self,
        id: FindingId,
        result: RuleResult,
        holds_for: Duration,
        clears_after: Duration,
        max_hold: Option<Duration>,
        now: Moment,
    ) -> Option<bool> {
        let facts = match result {
            RuleResult::Unknown => {
                let forget = self.evaluated.is_none_or(|at| now.since(at) > KEPT_UNKNOWN);
                if forget {
                    self.changing_since = None;
                }
                return (forget && self.active.take().is_some()).then_some(false);
            }
            RuleResult::Absent => None,
            RuleResult::Present(facts) => Some(facts.into_iter().map(text::message).collect()),
        };
        self.evaluated = Some(now);
        if facts.is_some() == self.active.is_some() {
            self.changing_since = None;
            if let (Some(active), Some(facts)) = (&mut self.active, facts) {
                (active.facts, active.last_seen) = (facts, None);
            }
            return None;
        }
        let since = *self.changing_since.get_or_insert(now);
        if let Some(active) = &mut self.active {
            active.last_seen = Some(since);
        }
        let needed = if facts.is_some() {
            holds_for
        } else {
            clears_after
        };
        let needed = max_hold.map_or(needed, |longest| needed.min(longest));
        if now.since(since) < needed {
            return None;
        }
        self.changing_since = None;
        self.active = facts.map(|facts| Finding {
            id,
            since,
            last_seen: None,
            facts,
        });
        Some(self.active.is_some())
    }
}
