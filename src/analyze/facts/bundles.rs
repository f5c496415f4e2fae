//! What the exporter saved and found at the time.

use super::gathering::{Gathering, fact};
use crate::analyze::artifact::File;
use crate::analyze::bundle::Bundle;
use crate::analyze::explanation::{FactKind, Source};
use crate::analyze::names::Name;
use crate::verdict::finding::BrokerState;

impl Gathering<'_> {
    pub(super) fn bundle(&mut self, bundle: &Bundle<'_>) {
        let name = bundle.id().map(Name::Id);
        if let Some(signals) = self.of(name.as_ref()) {
            signals.version.clone_from(&bundle.manifest.kafka_version);
            signals.gray_in_bundle |= bundle.says_gray();
        }
        let against = bundle.says_gray().then_some(Source::Exporter);
        self.add(name.as_ref(), bundle.fact().against(against));
    }

    pub(super) fn found(&mut self, file: &File<'_>, owner: Option<&Name>) {
        let Some(found) = &file.found else { return };
        if let Some(signals) = self.of(owner) {
            signals.gray_in_bundle |= found.state == BrokerState::Gray;
            signals.known_issues.extend_from_slice(&found.known_issues);
        }
        let against = matches!(found.state, BrokerState::Gray | BrokerState::Suspect);
        let figures = [("findings", found.findings.len() as u64)];
        let fact = fact(FactKind::Found, file, found.text(), &figures);
        self.add(owner, fact.against(against.then_some(Source::Exporter)));
    }
}
