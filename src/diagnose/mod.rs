//! What the readings mean. No input or output; time is an argument.

pub mod dump;
pub mod finding;
pub mod forecast;
pub mod known_issues;
pub mod missing;
pub mod pools;
pub mod progress;
pub mod rules;
pub mod stalls;
pub mod verdict;
pub mod wait_graph;

use std::sync::Arc;

use crate::snapshot::Snapshot;
use finding::Diagnosis;

/// What pages, metrics, probes and evidence are made of: readings, and what they mean.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub snapshot: Arc<Snapshot>,
    pub diagnosis: Arc<Diagnosis>,
}
