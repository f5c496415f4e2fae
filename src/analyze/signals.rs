//! What was found about one broker.

use std::collections::BTreeSet;

use super::explanation::{Fact, Source};
use super::names::Name;
use crate::model::NamedIssue;

/// What was found about one broker.
#[derive(Default)]
pub(super) struct Signals {
    pub(super) facts: Vec<Signal>,
    /// Indexes into [`Analysis::deadlocks`](super::dumps::Analysis::deadlocks).
    pub(super) deadlocks: Vec<usize>,
    /// Those of stalls, and those that an exporter named.
    pub(super) known_issues: Vec<NamedIssue>,
    /// More than a file's name shows that a dump with a deadlock or a stall is this broker's.
    pub(super) dump_is_certain: bool,
    /// It was gray (alive, not working) when its bundle was saved.
    pub(super) gray_in_bundle: bool,
    pub(super) version: Option<String>,
}

pub(super) struct Signal {
    pub(super) fact: Fact,
    /// Brokers that suffer from it, where any are known.
    pub(super) affected: BTreeSet<Name>,
}

impl Fact {
    pub(super) fn against(self, against: Option<Source>) -> Signal {
        Signal {
            fact: Fact { against, ..self },
            affected: BTreeSet::new(),
        }
    }

    /// It explains, and speaks against no broker.
    pub(super) fn alone(self) -> Signal {
        self.against(None)
    }
}

impl Signal {
    pub(super) fn affecting(self, affected: impl IntoIterator<Item = Name>) -> Signal {
        Signal {
            affected: affected.into_iter().collect(),
            ..self
        }
    }
}
