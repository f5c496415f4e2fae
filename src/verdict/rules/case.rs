//! What the rules check.

use crate::model::{BrokerSnapshot, Moment, Snapshot};
use crate::verdict::memory::Memory;

/// What a rule may use.
#[derive(Debug)]
pub struct Case<'a> {
    pub snapshot: &'a Snapshot,
    pub broker: &'a BrokerSnapshot,
    pub memory: &'a Memory,
    pub now: Moment,
}
