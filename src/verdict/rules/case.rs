//! What the rules check.

use crate::model::{BrokerSnapshot, Moment, Snapshot};
use crate::verdict::finding_state::RuleResult;
use crate::verdict::memory::Memory;

/// What a rule may use.
#[derive(Debug)]
pub struct Case<'a> {
    pub snapshot: &'a Snapshot,
    pub broker: &'a BrokerSnapshot,
    pub memory: &'a Memory,
    pub now: Moment,
}

impl Case<'_> {
    /// The groups whose coordinator the broker is, or was when it last answered.
    pub(super) fn groups(&self) -> Option<String> {
        let (report, _) = self.broker.groups.last()?;
        let named = report.named()?;
        Some(format!("it coordinates the groups {named}"))
    }
}

/// Present with these facts, absent without any.
pub(super) fn present_if(facts: impl IntoIterator<Item = String>) -> RuleResult {
    let facts: Vec<String> = facts.into_iter().collect();
    if facts.is_empty() {
        RuleResult::Absent
    } else {
        RuleResult::Present(facts)
    }
}
