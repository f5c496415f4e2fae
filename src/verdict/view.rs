//! The newest readings together with what they mean.

use std::sync::Arc;

use super::evaluate::Evaluator;
use super::finding::{BrokerDiagnosis, Diagnosis};
use super::liveness;
use crate::model::{BrokerSnapshot, Moment, Snapshot};

/// What pages, metrics, probes and evidence are made of: readings, and what they mean.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub snapshot: Arc<Snapshot>,
    pub diagnosis: Arc<Diagnosis>,
    /// What a liveness probe is told of each running broker.
    pub live: Arc<[liveness::Answer]>,
    /// The readings are those of a recording: nothing here is of now.
    pub replayed: bool,
}

impl View {
    /// The next snapshot, judged after all that `judge` has seen.
    pub fn of(judge: &mut Evaluator, snapshot: Arc<Snapshot>, now: Moment) -> View {
        let diagnosis = Arc::new(judge.judge(&snapshot, now));
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
