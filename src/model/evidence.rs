//! Which evidence is saved for which broker, and where.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Moment, ProcessKey};

/// The state of the evidence of every broker.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EvidenceStatus {
    /// Why no evidence is saved at all.
    pub off: Option<String>,
    /// By label; without brokers that were never gray.
    pub brokers: BTreeMap<String, BrokerEvidence>,
}

/// The evidence of one broker.
#[derive(Debug, Clone, PartialEq)]
pub struct BrokerEvidence {
    pub process: ProcessKey,
    /// The newest complete bundle of this process.
    pub newest: Option<SavedBundle>,
    /// The number of bundles for this label since the exporter started.
    pub total: u64,
    /// Why the last one could not be written.
    pub failure: Option<String>,
}

/// One complete bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedBundle {
    pub path: PathBuf,
    /// When writing started.
    pub at: Moment,
}

/// The progress of saving the evidence of one broker process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvidenceProgress {
    Pending,
    Saved,
    /// Switched off, or it could not be written.
    None,
}

impl EvidenceStatus {
    /// The newest bundle of the process, unless it is older than `since`.
    pub fn newest_since(&self, process: ProcessKey, since: Moment) -> Option<&SavedBundle> {
        let newest = self.of(process)?.newest.as_ref();
        newest.filter(|newest| newest.at >= since)
    }

    /// Why the process has no new bundle: evidence is off, or the last attempt failed.
    pub fn failure(&self, process: ProcessKey) -> Option<&str> {
        let failed = || self.of(process)?.failure.as_ref();
        self.off.as_ref().or_else(failed).map(String::as_str)
    }

    /// The progress for a problem that was seen `first` at that time.
    pub fn progress(&self, process: ProcessKey, first: Moment) -> EvidenceProgress {
        if self.off.is_some() {
            EvidenceProgress::None
        } else if self.newest_since(process, first).is_some() {
            EvidenceProgress::Saved
        } else if self.failure(process).is_some() {
            EvidenceProgress::None
        } else {
            EvidenceProgress::Pending
        }
    }

    /// The evidence of one process; None until a bundle was tried.
    pub fn of(&self, process: ProcessKey) -> Option<&BrokerEvidence> {
        self.brokers
            .values()
            .find(|evidence| evidence.process == process)
    }
}
