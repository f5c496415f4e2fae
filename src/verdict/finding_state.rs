//! When a judgement becomes a finding, and when the finding ends.

use std::time::Duration;

use super::finding::{Finding, FindingId};
use crate::model::Moment;

/// What cannot be judged any more is forgotten after so long.
pub const FROZEN: Duration = Duration::from_secs(120);

/// What one rule says of one broker now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// What would tell could not be read.
    Unknown,
    Absent,
    /// With the facts, a sentence each.
    Present(Vec<String>),
}

/// Where one rule stands.
#[derive(Debug, Default)]
pub struct FindingState {
    pub active: Option<Finding>,
    /// Since when it says the opposite of what counts.
    pub turning: Option<Moment>,
    pub judged: Option<Moment>,
}

impl FindingState {
    /// Takes a judgement in; whether the finding has begun (true) or ended with it.
    pub fn take(
        &mut self,
        id: FindingId,
        judgement: Judgement,
        holds_for: Duration,
        clears_after: Duration,
        max_hold: Option<Duration>,
        now: Moment,
    ) -> Option<bool> {
        let facts = match judgement {
            Judgement::Unknown => {
                let forget = self.judged.is_none_or(|at| now.since(at) > FROZEN);
                if forget {
                    self.turning = None;
                }
                return (forget && self.active.take().is_some()).then_some(false);
            }
            Judgement::Absent => None,
            Judgement::Present(facts) => Some(facts),
        };
        self.judged = Some(now);
        if facts.is_some() == self.active.is_some() {
            self.turning = None;
            if let (Some(active), Some(facts)) = (&mut self.active, facts) {
                active.facts = facts;
            }
            return None;
        }
        let since = *self.turning.get_or_insert(now);
        let needed = if facts.is_some() {
            holds_for
        } else {
            clears_after
        };
        let needed = max_hold.map_or(needed, |longest| needed.min(longest));
        if now.since(since) < needed {
            return None;
        }
        self.turning = None;
        self.active = facts.map(|facts| Finding { id, since, facts });
        Some(self.active.is_some())
    }
}
