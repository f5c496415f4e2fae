//! What the metadata log of a KRaft node says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ClusterCounts, Moment};

/// What a KRaft node's own replica of `__cluster_metadata` says. The node's request handlers have no part in it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MetadataLog {
    /// From the point of view of this node; a dedicated controller leads nothing. None while a migration from ZooKeeper
    /// is under way, because ZooKeeper then has the truth.
    pub counts: Option<ClusterCounts>,
    /// Every broker that is registered, by id.
    pub brokers: Arc<BTreeMap<i32, Registration>>,
    /// The offset after the last record that the replica has.
    pub end_offset: i64,
    /// When the exporter saw the newest record arrive.
    pub arrived: Moment,
    /// What the leader wrote into that record.
    pub written: Moment,
    /// The time between the newest two NoOp records, which the leader writes while nothing else changes. None where none
    /// was seen (`metadata.max.idle.interval.ms=0`, or a metadata version before 3.3): silence then says nothing.
    #[serde(default)]
    pub pulse: Option<Duration>,
}

/// A replica that gets nothing for so long stands still, if records are due: two a second by default.
const SILENCE: Duration = Duration::from_secs(7);
/// So many records must be missing.
const MISSED_PULSES: u32 = 4;

impl MetadataLog {
    /// Whether records arrive as they are due. Where none is ever due, silence says nothing.
    pub fn is_current(&self, now: Moment) -> bool {
        let longest = |pulse: Duration| SILENCE.max(pulse.saturating_mul(MISSED_PULSES));
        let silence = now.since(self.arrived);
        self.pulse.is_none_or(|pulse| silence < longest(pulse))
    }

    /// Whether nothing has arrived for so long that a replica that has more shows that this one stands still.
    pub fn is_silent(&self, now: Moment) -> bool {
        now.since(self.arrived) >= SILENCE
    }
}

/// What the controller has decided about a registered broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Registration {
    /// It serves nobody: it leads nothing and is in no ISR.
    pub fenced: bool,
    /// It has asked for leave to end.
    pub in_controlled_shutdown: bool,
}
