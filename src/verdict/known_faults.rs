//! The finding `known_issue_exposed`: it follows from the release and the settings of a broker alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::finding_state::RuleResult::{self, Absent, Present, Unknown};
use crate::model::Broker;
use crate::threads::known_issues::exposure::{exposures, remedy};

/// The result for one process. To compare every later release with every known fault costs more than all other rules
/// together, so it is kept as long as the broker is the same.
#[derive(Debug, Default)]
pub(super) struct KnownFaults(Option<(Arc<Broker>, RuleResult)>);

impl KnownFaults {
    pub(super) fn update(&mut self, broker: &Arc<Broker>) {
        match &mut self.0 {
            Some((of, _)) if Arc::ptr_eq(of, broker) => {}
            // Found again by discovery.
            Some((of, _)) if **of == **broker => *of = Arc::clone(broker),
            other => *other = Some((Arc::clone(broker), known_issue_exposed(broker))),
        }
    }

    pub(super) fn result(&self) -> RuleResult {
        let result = self.0.as_ref().map(|(_, result)| result.clone());
        result.unwrap_or(Unknown)
    }
}

fn known_issue_exposed(broker: &Broker) -> RuleResult {
    let Ok(known) = exposures(broker) else {
        return Unknown;
    };
    if known.exposed.is_empty() {
        return Absent;
    }
    let mut facts = vec![remedy(broker, known.release, &known.exposed).text()];
    facts.extend(known.exposed.iter().map(|issue| {
        let fixed = issue.fixed_after(known.release);
        let fixed = fixed.map_or_else(String::new, |fixed| format!(", fixed in {fixed}"));
        format!("{}: {}{fixed}", issue.key, issue.title)
    }));
    let mut perhaps: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (issue, why) in &known.perhaps {
        perhaps.entry(*why).or_default().push(&issue.key);
    }
    for (why, issues) in perhaps {
        facts.push(format!("perhaps {}: {why}", issues.join(", ")));
    }
    if known.not_searched > 0 {
        facts.push(format!(
            "{} other known faults were not searched in {}",
            known.not_searched, known.release
        ));
    }
    Present(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_follows_what_discovery_finds() {
        let of_version = |version: &str| {
            let kafka_version = Some(version.to_owned());
            Arc::new(Broker {
                kafka_version,
                ..Broker::default()
            })
        };
        let (old, unknown) = (of_version("0.10.1.0"), of_version("none"));
        let mut known = KnownFaults::default();
        assert_eq!(known.result(), Unknown);
        known.update(&old);
        let first = known.result();
        assert!(matches!(first, Present(_)), "{first:?}");
        known.update(&of_version("0.10.1.0"));
        assert_eq!(known.result(), first);
        known.update(&unknown);
        assert_eq!(known.result(), Unknown);
        known.update(&old);
        assert_eq!(known.result(), first);
    }
}
