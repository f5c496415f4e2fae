//! The newest readings together with what they mean.

use std::sync::Arc;

use super::evaluate::Evaluator;
use super::finding::{BrokerDiagnosis, Diagnosis};
use super::liveness;
use crate::model::{BrokerSnapshot, Moment, Snapshot};

/// What pages, metrics, probes and evidence are rendered from.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub snapshot: Arc<Snapshot>,
    pub diagnosis: Arc<Diagnosis>,
    /// The answer to a liveness probe for each running broker.
    pub live: Arc<[liveness::Answer]>,
    /// Whether the readings come from a recording, so that nothing here is current.
    pub replayed: bool,
}

impl View {
    /// Evaluates the next snapshot after those that `evaluator` has seen.
    pub fn of(evaluator: &mut Evaluator, snapshot: Arc<Snapshot>, now: Moment) -> View {
        let diagnosis = Arc::new(evaluator.evaluate(&snapshot, now));
        View {
            snapshot,
            diagnosis,
            live: Arc::default(),
            replayed: false,
        }
    }

    /// Each broker's readings with its verdict.
    pub fn brokers(&self) -> impl Iterator<Item = (&BrokerSnapshot, &BrokerDiagnosis)> {
        let known = |broker: &'_ BrokerSnapshot| self.diagnosis.of(broker.broker.process);
        self.snapshot
            .brokers
            .iter()
            .filter_map(move |broker| Some((&**broker, known(broker)?)))
    }
}
